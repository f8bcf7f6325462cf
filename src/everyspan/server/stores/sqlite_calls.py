"""Work handed from an event loop to a thread of the SQLite store, and its answer handed back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from typing import Any

import apsw

from everyspan.errors import StoreBusyError, StoreError


class Call:
    """Work, and the future its caller awaits; made on the caller's loop."""

    __slots__ = ("bytes", "deadline_s", "error", "future", "loop", "result", "work")

    def __init__(self, work: Callable[..., Any], *, size: int = 0, deadline_s: float = 0) -> None:
        self.work = work
        self.bytes = size
        self.deadline_s = deadline_s
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None


def answer(calls: Iterable[Call]) -> None:
    """Hand results to the loops that wait, with one wake-up a loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Call]] = {}
    for call in calls:
        by_loop.setdefault(call.loop, []).append(call)
    for loop, its in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, its)
        except RuntimeError:
            pass  # That loop is closed: nobody waits any more.


def _resolve(calls: list[Call]) -> None:
    for call in calls:
        if call.future.done():
            continue
        if call.error is not None:
            call.future.set_exception(call.error)
        else:
            call.future.set_result(call.result)


def to_store_error(error: apsw.Error) -> StoreError:
    """Return what a caller is told of an error of SQLite's."""
    if isinstance(error, apsw.BusyError):
        return StoreBusyError("another process holds the store", retry_after_s=1.0)
    if isinstance(error, apsw.FullError):
        return StoreError("the store failed: its disk is full, nothing was written")
    return StoreError(f"the store failed: {error}")


async def join(thread: threading.Thread) -> None:
    """Wait for a thread's end without holding the loop."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def wait() -> None:
        thread.join()
        loop.call_soon_threadsafe(ended.set_result, None)

    threading.Thread(target=wait, name="everyspan-join", daemon=True).start()
    await ended
