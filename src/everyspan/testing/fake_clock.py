"""Time that goes on when a test says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from everyspan.errors import SettingsError

EPOCH_NS = 1_800_000_000_000_000_000
"""Some moment in 2027."""


class FakeClock:
    """A `Clock` whose time stands still between calls of `advance`; for any thread.

    `AsyncSpanQueue(clock=FakeClock())` lingers, waits and gives up by it. The deadlines of
    `flush` and `shutdown`, and what waits for a network, go by the machine's time as ever.
    """

    def __init__(self, time_ns: int = EPOCH_NS) -> None:
        self._began_ns = time_ns
        self._elapsed_s = 0.0
        self._lock = threading.Lock()
        self._timers: list[FakeTimer] = []

    def monotonic(self) -> float:
        """Return the seconds that were advanced so far."""
        return self._elapsed_s

    def time_ns(self) -> int:
        """Return Unix time in nanoseconds."""
        return self._began_ns + round(self._elapsed_s * 1e9)

    def call_at(
        self, loop: asyncio.AbstractEventLoop, when_s: float, call: Callable[[], object]
    ) -> FakeTimer:
        """Have `loop` call once time was advanced to `when_s`; see `Clock`."""
        timer = FakeTimer(self, loop, when_s, call)
        with self._lock:
            self._timers.append(timer)
        self._fire()
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass, and have what is due by then called, earliest first.

        Raises:
            SettingsError: `seconds` is negative, or no number.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
            raise SettingsError(f"time goes on: seconds must be at least 0, got {seconds!r}")
        with self._lock:
            self._elapsed_s += seconds
        self._fire()

    @property
    def waiting(self) -> int:
        """How many calls are still to come."""
        return len(self._timers)

    def forget(self, timer: FakeTimer) -> None:
        """Call a timer no more."""
        with self._lock:
            if timer in self._timers:
                self._timers.remove(timer)

    def _fire(self) -> None:
        with self._lock:
            due = [timer for timer in self._timers if timer.due_s <= self._elapsed_s]
            self._timers = [timer for timer in self._timers if timer.due_s > self._elapsed_s]
        for timer in sorted(due, key=lambda timer: timer.due_s):
            timer.fire()


class FakeTimer:
    """What `FakeClock.call_at` returns."""

    def __init__(
        self,
        clock: FakeClock,
        loop: asyncio.AbstractEventLoop,
        due_s: float,
        call: Callable[[], object],
    ) -> None:
        self.due_s = due_s
        self._clock = clock
        self._loop = loop
        self._call = call

    def cancel(self) -> None:
        """Do not call, if it has not been called yet."""
        self._clock.forget(self)

    def fire(self) -> None:
        """Have the loop call; one that is closed by now waits for nothing any more."""
        try:
            self._loop.call_soon_threadsafe(self._call)
        except RuntimeError:
            pass
