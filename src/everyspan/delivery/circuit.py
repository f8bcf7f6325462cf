"""Whether a destination takes spans at all, learned from its answers.

While it does, spans leave as they come. When it does not, whatever they hold, all of them wait and
single ones are tried, one at a time, until one is stored: a refusal then says nothing about a span,
and no span is rejected for it.

C1  A span is rejected only once it was refused alone and others were stored since it was first
    sent, be it within a batch.
C2  The search for a bad span in batches of up to n ends after 4·log2(n) + 8 refusals in a row.
C3  A batch that is refused again and again as if nothing were taken from us (a firewall answers so
    for what it reads in a body), while others are stored, is searched like any other.

Plain state and arithmetic: no clock, no lock.
"""

from __future__ import annotations

import math
from enum import Enum

REFUSALS_MAX = 8

SUSPICIOUS_REFUSALS = 2
"""With others stored in between; more would cost a pause each, fewer a span for each hiccup."""


class Blame(Enum):
    """Who is at fault for a refusal."""

    SPANS = "some span of the batch"
    UNKNOWN = "a lone span, or the destination: the span waits until others tell"
    DESTINATION = "no span: all wait"


class Suspicion:
    """What speaks against a batch.

    `stores` is the circuit's when the batch was first sent, and at each refusal as if nothing were
    taken from us; `refusals` counts those with others stored in between.
    """

    __slots__ = ("refusals", "stores")

    def __init__(self) -> None:
        self.refusals = 0
        self.stores = -1

    def lessened(self) -> Suspicion:
        """Return that of a part of the batch: once more, and it is to blame."""
        part = Suspicion()
        part.refusals = min(self.refusals, SUSPICIOUS_REFUSALS - 1)
        part.stores = self.stores
        return part


class Circuit:
    """See the module text. `open_for` is why no spans are let through, None while they are."""

    __slots__ = ("_largest", "_refusals", "open_for", "stores")

    def __init__(self) -> None:
        self.open_for: str | None = None
        # Requests of which something was stored.
        self.stores = 0
        # In a row, and spans in the largest batch among them.
        self._refusals = 0
        self._largest = 1

    def sent(self, suspicion: Suspicion) -> None:
        """Note that a batch is on its way."""
        if suspicion.stores < 0:
            suspicion.stores = self.stores

    def stored(self) -> bool:
        """Note that something was stored; True if that closed the circuit."""
        was_open = self.open_for is not None
        self.open_for = None
        self.stores += 1
        self._refusals = 0
        self._largest = 1
        return was_open

    def broke(self, reason: str) -> bool:
        """Note that the destination takes nothing from us; True if that is news."""
        is_news = self.open_for != reason
        self.open_for = reason
        return is_news

    def refused(self, suspicion: Suspicion, spans: int) -> Blame:
        """Note that a batch of so many spans was refused for some span in it; return who it was."""
        self._refusals += 1
        self._largest = max(self._largest, spans)
        if self.open_for is None and self._refusals <= self._refusals_max:
            if spans > 1 or 0 <= suspicion.stores < self.stores:
                blame = Blame.SPANS
            else:
                blame = Blame.UNKNOWN
        else:
            blame = Blame.DESTINATION
        return blame

    def turned_away(self, suspicion: Suspicion) -> Blame:
        """Note that a batch was refused as if nothing were taken from us; return who it was."""
        if 0 <= suspicion.stores < self.stores:
            suspicion.refusals += 1
        suspicion.stores = self.stores
        is_to_blame = suspicion.refusals >= SUSPICIOUS_REFUSALS
        return Blame.SPANS if is_to_blame else Blame.DESTINATION

    @property
    def _refusals_max(self) -> float:
        return REFUSALS_MAX + 4 * math.log2(self._largest)
