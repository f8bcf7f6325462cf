"""What the server logs, and how: for people or as JSON, each recurring cause once a minute.

L1  No payload, no key, no address with its query: lines name routes, statuses and request ids.
L2  What the world can cause again and again is said once a minute, with how often it went unsaid.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal, get_args

from everyspan.clock import SYSTEM_CLOCK, Clock

LogFormat = Literal["text", "json"]
LOG_FORMATS: tuple[LogFormat, ...] = get_args(LogFormat)
LOG_LEVELS = ("debug", "info", "warning", "error")
PAUSE_S = 60.0
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_FIELDS = "%(asctime)s %(levelname)s %(name)s %(message)s"


def configure_logs(log_format: LogFormat, level: str) -> None:
    """Have the process's logs go to stderr, a line each; for a process that is the server.

    Args:
        level: One of LOG_LEVELS. `debug` logs every request.
    """
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        from pythonjsonlogger.json import JsonFormatter

        handler.setFormatter(
            JsonFormatter(
                _FIELDS,
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
                json_ensure_ascii=True,
            )
        )
    else:
        handler.setFormatter(logging.Formatter(_TEXT))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("everyspan").setLevel(level.upper())


class Sparse:
    """A logger for what recurs (L2). The causes are the caller's own words: few."""

    def __init__(self, log: logging.Logger, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._log = log
        self._clock = clock
        self._due_s: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def log(self, level: int, cause: str, text: str, *args: object) -> None:
        """Log a line, unless its cause was logged within the last minute; then count it."""
        now_s = self._clock.monotonic()
        if now_s < self._due_s.get(cause, now_s):
            self._unsaid[cause] = self._unsaid.get(cause, 0) + 1
            return
        self._due_s[cause] = now_s + PAUSE_S
        unsaid = self._unsaid.pop(cause, 0)
        if unsaid:
            text, args = f"{text} (and %d times more since the last line)", (*args, unsaid)
        self._log.log(level, text, *args)
