"""The end of the process: queues that still hold spans are drained, within their grace.

E1  Nothing is registered before the first offer (P10).
E2  `atexit` covers a process that ends; a `multiprocessing` finaliser covers its children, which
    leave without `atexit`.
E3  After a fork the child has nothing of its parent's, and what it inherits is never closed:
    closing an inherited selector would unregister the parent's wake-up.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import Protocol

_hooked_pid = 0
_pinned: list[object] = []


class Drainable(Protocol):
    """A queue, as seen from the end of the process."""

    def leave_soon(self) -> None:
        """Let the grace begin."""
        ...

    def leave(self) -> None:
        """Drain within the grace; afterwards every offer drains before it returns."""
        ...

    def forget(self) -> None:
        """Begin anew in a forked child."""
        ...


_queues: dict[int, Drainable] = {}
_after_fork: list[Callable[[], None]] = []
_at_the_end: list[Callable[[], None]] = []


def is_exiting() -> bool:
    """True once the main thread has finished: `atexit` callbacks run, or are about to."""
    return not threading.main_thread().is_alive()


def register(queue: Drainable) -> None:
    """Have a queue drained when the process ends."""
    global _hooked_pid
    _queues[id(queue)] = queue
    if _hooked_pid != os.getpid():
        _hooked_pid = os.getpid()
        atexit.register(_leave)
        util = sys.modules.get("multiprocessing.util")
        if util is not None:
            util.Finalize(None, _leave, exitpriority=100)


def unregister(queue: Drainable) -> None:
    """Forget a queue that holds nothing any more."""
    _queues.pop(id(queue), None)


def after_fork(forget: Callable[[], None]) -> None:
    """Have `forget` called in every forked child."""
    _after_fork.append(forget)


def at_the_end(call: Callable[[], None]) -> None:
    """Have `call` called when the queues have drained because the process ends."""
    _at_the_end.append(call)


def pin(thing: object) -> None:
    """Keep an inherited thing from being collected, and so closed."""
    _pinned.append(thing)


def _leave() -> None:
    queues = [*_queues.values()]
    # All of their graces run at once, and only once.
    for queue in queues:
        queue.leave_soon()
    for queue in queues:
        queue.leave()
    for call in _at_the_end:
        call()


def _in_child() -> None:
    queues = [*_queues.values()]
    _queues.clear()
    for queue in queues:
        queue.forget()
    for forget in _after_fork:
        forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
