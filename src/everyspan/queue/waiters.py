"""Who waits for spans to have their answer, and when they are to be called.

Guarded by the queue's gate; the calls themselves are made after it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from everyspan.delivery.gate import Gate
from everyspan.delivery.lane import Lane
from everyspan.model.record import SpanRecord


class Waiter:
    """Somebody to call once the spans up to `seq_max` have their answer.

    `remaining` counts those spans; None waits until nothing at all is held. `hurried` are the lanes
    that were there when the waiting began, each with the losses that somebody had heard of by then.
    `given_up` counts spans that another waiter gave up meanwhile, by lane.
    """

    __slots__ = ("call", "given_up", "hurried", "remaining", "seq_max")

    def __init__(self, seq_max: int, remaining: int | None, call: Callable[[], object]) -> None:
        self.seq_max = seq_max
        self.remaining = remaining
        self.call = call
        self.hurried: dict[Lane, Mapping[str, int]] = {}
        self.given_up: dict[Lane, int] = {}


class Latch:
    """An event made of one C lock: Ctrl-C during `wait` cannot leave it half taken.

    `threading.Event` would keep its inner lock then, and `set` block the exporter for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.is_set = False

    def set(self) -> None:
        """Let the one who waits go on."""
        if not self.is_set:
            self.is_set = True
            self._lock.release()

    def wait(self, timeout_s: float) -> None:
        """Wait until it is set, at most so long; again only while it is not."""
        self._lock.acquire(timeout=timeout_s)


class Waiters:
    """All of a queue's; `is_empty` tells whether the queue holds nothing."""

    def __init__(self, gate: Gate, *, is_empty: Callable[[], bool]) -> None:
        self._gate = gate
        self._is_empty = is_empty
        self._waiters: list[Waiter] = []
        self._is_checking = False

    def add(self, waiter: Waiter) -> None:
        """Have a waiter called, at once if there is nothing to wait for; inside the gate."""
        self._waiters.append(waiter)
        self._check_later()

    def remove(self, waiter: Waiter) -> None:
        """Forget a waiter, called or not; inside the gate."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def gave_up(self, lane: Lane, spans: int) -> None:
        """Tell those who wait that one who waits no more gave up spans; inside the gate."""
        for waiter in self._waiters:
            waiter.given_up[lane] = waiter.given_up.get(lane, 0) + spans

    def settled(self, record: SpanRecord) -> None:
        """Note that a lane holds a record no more; inside the gate."""
        if not self._waiters:
            return
        if record.is_end:
            for waiter in self._waiters:
                if waiter.remaining is not None and record.seq <= waiter.seq_max:
                    waiter.remaining -= 1
        self._check_later()

    def _check_later(self) -> None:
        # Not now: the lane is in the middle of a batch.
        if not self._is_checking:
            self._is_checking = True
            self._gate.after.append(self._check)

    def _check(self) -> None:
        with self._gate:
            self._is_checking = False
            for waiter in [*self._waiters]:
                is_done = self._is_empty() if waiter.remaining is None else waiter.remaining <= 0
                if is_done:
                    self._waiters.remove(waiter)
                    self._gate.after.append(waiter.call)
