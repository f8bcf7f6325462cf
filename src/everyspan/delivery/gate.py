"""A lock that a span ended in the middle of its critical section cannot deadlock or corrupt.

G1  One thread at a time is inside, and never twice: a finalizer or signal handler that interrupts
    the holder on its own thread is turned away (`enter` is False) and leaves its work in
    `deferred`, which the holder does before it lets go.
G2  Nothing is encoded, logged or called back inside: what must be called is put into `after` and
    called once the lock is free.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

from everyspan.log import complain


class Gate:
    """See the module text. `with gate:` is for code that nothing of ours can have interrupted."""

    __slots__ = ("_busy", "_lock", "after", "deferred")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._busy = False
        # SimpleQueue.put is re-entrant, unlike anything built on a plain lock.
        self.deferred: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]] = SimpleQueue()
        self.after: list[Callable[[], object]] = []

    def enter(self) -> bool:
        """Wait for other threads and go in; False if this thread is inside already."""
        try:
            self._lock.acquire()
        except BaseException:
            # Ctrl-C right after the lock was taken: other threads must not wait for it for ever.
            if not self._busy and self._lock._is_owned():  # type: ignore[attr-defined]
                self._lock.release()
            raise
        if self._busy:
            self._lock.release()
            return False
        self._busy = True
        return True

    def leave(self) -> None:
        """Do what was deferred, let go, then call what is in `after`."""
        try:
            while True:
                self._busy = False
                # From here on an interruption finds the gate open and needs nobody.
                if self.deferred.empty():
                    break
                self._busy = True
                self._do_deferred()
        finally:
            self._busy = False
            self._lock.release()
        if self.after:
            self._call_after()

    def _do_deferred(self) -> None:
        while True:
            try:
                work, args = self.deferred.get_nowait()
            except Empty:
                return
            work(*args)

    def _call_after(self) -> None:
        while True:
            try:
                call = self.after.pop()
            except IndexError:
                # Another thread was faster: it calls.
                return
            try:
                call()
            except Exception as error:
                if isinstance(error, RecursionError):
                    # No stack left: whoever leaves next calls it.
                    self.after.append(call)
                    raise
                # No descriptors, perhaps: nothing of ours may raise into the agent (P2).
                complain("everyspan could not do what was left to do", error=error)
            except BaseException:
                # Ctrl-C: whoever leaves next calls it.
                self.after.append(call)
                raise

    def __enter__(self) -> None:
        entered = self.enter()
        assert entered, "the gate's holder came back to it"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()
