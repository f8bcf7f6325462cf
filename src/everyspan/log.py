"""What everyspan has to say in the agent's log: each cause at once, then once a minute (P4).

Never raises, and never shows the text of an exception: it may hold what an agent's payload held.
That of a user's own processor is the exception, since its author asks for it (`raised`).
"""

from __future__ import annotations

import logging
import os
import threading
from time import monotonic

logger = logging.getLogger("everyspan")
# Without a handler Python prints warnings to stderr: into the traced agent.
logger.addHandler(logging.NullHandler())

PAUSE_S = 60.0
"""How long a cause stays unsaid after it was said."""

CAUSES_MAX = 256
"""Causes remembered; with more, all of them may be said again."""

_due_s: dict[str, float] = {}
_said: dict[str, int] = {}
_unsaid: dict[str, int] = {}
# Re-entrant: a finalizer or a signal handler may complain too.
_lock = threading.RLock()


def complain(
    text: str,
    *args: object,
    cause: str | None = None,
    error: BaseException | None = None,
    raised: BaseException | None = None,
    level: int = logging.ERROR,
    lines: int = 1,
) -> None:
    """Log a line, unless its cause was logged within the last minute; then it is counted.

    Args:
        text, args: As for `logging`.
        cause: What is told apart; `text` where None.
        error: Shown by its class and the places it passed.
        raised: By a user's own processor: shown whole.
        lines: How often a minute the cause is logged.
    """
    try:
        unsaid = _take(text if cause is None else cause, lines)
        if unsaid is None:
            return
        if unsaid:
            text += " (and %d times more since the last line)"
            args += (unsaid,)
        if error is not None:
            text += "\n%s"
            args += (_shown(error),)
        logger.log(level, text, *args, exc_info=raised)
    except Exception:
        # The agent's own filter or handler: nobody else may stumble over it.
        pass


def _take(cause: str, lines: int) -> int | None:
    """Return how often the cause went unsaid, None where it stays so."""
    now_s = monotonic()
    with _lock:
        if _due_s.get(cause, now_s) > now_s:
            if _said[cause] < lines:
                _said[cause] += 1
                return 0
            _unsaid[cause] = _unsaid.get(cause, 0) + 1
            return None
        if len(_due_s) >= CAUSES_MAX:
            _clear()
        _due_s[cause] = now_s + PAUSE_S
        _said[cause] = 1
        return _unsaid.pop(cause, 0)


def _clear() -> None:
    _due_s.clear()
    _said.clear()
    _unsaid.clear()


def _shown(error: BaseException) -> str:
    from traceback import format_tb

    return "".join(format_tb(error.__traceback__)) + type(error).__name__


def forget() -> None:
    """Let every cause be said again; also in a forked child, whatever its parent was doing."""
    global _lock
    _lock = threading.RLock()
    _clear()


os.register_at_fork(after_in_child=forget)
