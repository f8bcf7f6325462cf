"""How many requests to one destination may be in flight.

Additive increase, multiplicative decrease, after a slow start (the congestion control of TCP
Reno): the limit doubles while a backlog fills it and nothing is refused; from the first sign of
congestion on it grows by one a round. A sign from a request that was sent before the last decrease
says nothing new and is ignored.
"""

from __future__ import annotations

LIMIT_AT_START = 4


class Limiter:
    """The number in force, and what moves it."""

    __slots__ = ("_ceiling", "_credit", "_decreased_s", "_slow_start", "limit")

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self.limit = min(LIMIT_AT_START, ceiling)
        self._credit = 0
        self._slow_start = True
        self._decreased_s = float("-inf")

    def succeeded(self, *, saturated: bool) -> None:
        """Note a stored batch; `saturated` if the limit, not a lack of spans, held others back."""
        if not saturated or self.limit >= self._ceiling:
            self._credit = 0
            return
        self._credit += 1
        if self._slow_start or self._credit >= self.limit:
            # One more for each success doubles the limit in a round.
            self.limit += 1
            self._credit = 0

    def congested(self, *, sent_s: float, now_s: float) -> None:
        """Note that a request sent at `sent_s` met an overloaded backend."""
        self._slow_start = False
        if sent_s >= self._decreased_s:
            self.limit = max(1, self.limit // 2)
            self._credit = 0
            self._decreased_s = now_s
