"""How many requests to one destination may be in flight.

BIC-TCP (Xu, Harfoush and Rhee, INFOCOM 2004), which remembers the level that held: after a refusal
the limit falls below it, comes back by halves of the way, and only later tries one more. Here that
is `PROBE_EVERY_S` after the fall at the earliest, and once `PROBE_EVERY` requests were stored
since: the share of requests spent on finding out is bounded at any speed. If one more holds for a
round, the capacity has grown: the limit doubles in a round, as it does at first (TCP's slow start).

A refusal of a request that was sent before the last fall says nothing new and is ignored. Measured
against TCP Reno's way: `docs/decisions/055`.
"""

from __future__ import annotations

LIMIT_AT_START = 4

FALL = 0.7
"""As in CUBIC, BIC's successor (RFC 9438, 4.6)."""

PROBE_EVERY = 120
"""Less than 1 %, with those that a step of the capacity costs."""

PROBE_EVERY_S = 10.0
"""So late is a growing capacity found out; half as long cost twice the refusals."""


class Limiter:
    """The number in force, and what moves it."""

    __slots__ = ("_ceiling", "_credit", "_fell_s", "_held", "_stored", "limit")

    def __init__(self, ceiling: int) -> None:
        self.limit = min(LIMIT_AT_START, ceiling)
        self._ceiling = ceiling
        # The level that held when one more did not; none is known yet.
        self._held = 0
        self._stored = 0
        self._credit = 0
        self._fell_s = float("-inf")

    def succeeded(self, *, saturated: bool, now_s: float) -> None:
        """Note a stored batch; `saturated` if the limit, not a lack of spans, held others back."""
        self._stored += 1
        if not saturated or self.limit >= self._ceiling:
            self._credit = 0
            return
        self._credit += 1
        above = self.limit - self._held
        if above > 1:
            # One more for each success doubles the limit in a round.
            self._rise(1)
        elif above and self._credit >= self.limit:
            self._rise(1 if above > 0 else (1 - above) // 2)
        elif not above and self._stored >= PROBE_EVERY and now_s >= self._fell_s + PROBE_EVERY_S:
            self._rise(1)

    def congested(self, *, in_flight: int, sent_s: float, now_s: float) -> None:
        """Note that a request sent at `sent_s`, with `in_flight` others under way, was refused."""
        if sent_s < self._fell_s:
            return
        self._held = max(1, min(in_flight, self.limit))
        self.limit = max(1, int(self._held * FALL))
        self._stored = self._credit = 0
        self._fell_s = now_s

    def _rise(self, by: int) -> None:
        self.limit = min(self._ceiling, self.limit + by)
        self._credit = 0
