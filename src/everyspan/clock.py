"""Time behind a protocol, so that decisions are tested without waiting."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    # An event loop is what it costs to load (P10).
    import asyncio


class Timer(Protocol):
    """A call that is still to come."""

    def cancel(self) -> None:
        """Do not make it, if it has not been made yet; on the loop's thread."""
        ...


class Clock(Protocol):
    """Two readings of time, and what waits for it."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary point; never goes back."""
        ...

    def time_ns(self) -> int:
        """Unix time in nanoseconds; jumps when the machine's clock is set."""
        ...

    def call_at(
        self, loop: asyncio.AbstractEventLoop, when_s: float, call: Callable[[], object]
    ) -> Timer:
        """Have the running `loop` call, once, when `monotonic` has come to `when_s`."""
        ...


class SystemClock:
    """The machine's clocks."""

    monotonic = staticmethod(time.monotonic)
    time_ns = staticmethod(time.time_ns)

    def call_at(
        self, loop: asyncio.AbstractEventLoop, when_s: float, call: Callable[[], object]
    ) -> Timer:
        """Have the loop call; see `Clock`. A loop of the user's may go by a clock of its own."""
        return loop.call_later(max(0.0, when_s - self.monotonic()), call)


SYSTEM_CLOCK = SystemClock()
