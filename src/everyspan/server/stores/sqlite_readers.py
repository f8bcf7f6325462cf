"""The threads that read: a read-only connection each, and a deadline for every read."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import apsw

from everyspan.errors import StoreBusyError, StoreError
from everyspan.server.stores.sqlite_calls import Call, answer, join, to_store_error
from everyspan.server.stores.sqlite_file import open_reader

ASKED_MAX = 1_000
_T = TypeVar("_T")


class Deadline:
    """When a read must stop; asked by SQLite every few thousand steps."""

    def __init__(self, at_s: float) -> None:
        self.at_s = at_s

    def is_over(self) -> bool:
        return time.monotonic() > self.at_s

    def extend(self, seconds: float) -> None:
        self.at_s = time.monotonic() + seconds


class Readers:
    """Threads that answer reads in the order they are asked.

    Args:
        path: The store's file.
        name: The threads' name; each gets a number.
    """

    def __init__(self, path: str, name: str, *, threads: int) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._calls: deque[Call] = deque()
        self._closing = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{n}", daemon=True)
            for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def submit(
        self, work: Callable[[apsw.Connection, Deadline], _T], time_max_s: float
    ) -> _T:
        """Return what `work` does on one of the threads.

        Raises:
            StoreBusyError: ASKED_MAX others wait.
        """
        call = Call(work, deadline_s=time.monotonic() + time_max_s)
        with self._lock:
            if self._closing:
                raise StoreError("the store is closed")
            if len(self._calls) >= ASKED_MAX:
                raise StoreBusyError(f"{ASKED_MAX} reads wait", retry_after_s=1.0)
            self._calls.append(call)
            self._wake.notify()
        result: _T = await call.future
        return result

    async def close(self) -> None:
        """Answer what was asked, then end the threads."""
        with self._lock:
            self._closing = True
            self._wake.notify_all()
        for thread in self._threads:
            await join(thread)

    def _run(self) -> None:
        connection: apsw.Connection | None = None
        while call := self._next_call():
            try:
                if connection is None:
                    connection = open_reader(self._path)
                deadline = Deadline(call.deadline_s)
                connection.set_progress_handler(deadline.is_over, 2_000)
                call.result = call.work(connection, deadline)
            except apsw.Error as error:
                call.error = to_store_error(error)
            except Exception as error:
                call.error = error
            finally:
                if connection is not None and connection.in_transaction:
                    connection.execute("ROLLBACK")
            answer([call])
            # What a caller gave up must not keep its rows alive while this thread waits.
            del call
        if connection is not None:
            connection.close()

    def _next_call(self) -> Call | None:
        with self._lock:
            while True:
                while self._calls:
                    call = self._calls.popleft()
                    if not call.future.cancelled():
                        return call
                if self._closing:
                    return None
                self._wake.wait()
