"""Whether a destination takes spans at all, learned from its answers.

While it does, spans leave as they come. When it does not, whatever they hold, all of them wait and
single ones are tried, one at a time, until one is stored: a refusal then says nothing about a span,
and no span is rejected for it.

C1  A lone span that is refused is rejected only by a destination that has stored others, and that
    has not refused more than `REFUSALS_MAX` requests in a row since.
C2  A batch that is refused again and again while others are stored is to blame itself.
C3  The search for a bad span within a batch of n ends after 4·log2(n) + 8 refusals in a row.

Plain state and arithmetic: no clock, no lock.
"""

from __future__ import annotations

import math

REFUSALS_MAX = 8


SUSPICIOUS_REFUSALS = 2
"""With others stored in between; more would cost a pause each, fewer a span for each hiccup."""


class Suspicion:
    """What speaks against a batch: refusals although others were stored since the one before.

    `stores` is the circuit's at the last refusal, -1 before the first.
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

    def stored(self) -> bool:
        """Note that something was stored; True if that closed the circuit."""
        was_open = self.open_for is not None
        self.open_for = None
        self.stores += 1
        self._refusals = 0
        self._largest = 1
        return was_open

    def blames(self, suspicion: Suspicion) -> bool:
        """Note that a batch was refused by an answer that blames us all; True if it is to blame.

        A firewall, for instance, refuses a body for what it reads there, as if the key were wrong.
        """
        if 0 <= suspicion.stores < self.stores:
            suspicion.refusals += 1
        suspicion.stores = self.stores
        return suspicion.refusals >= SUSPICIOUS_REFUSALS

    def broke(self, reason: str) -> bool:
        """Note that the destination takes nothing from us; True if that is news."""
        is_news = self.open_for != reason
        self.open_for = reason
        return is_news

    def refused(self, spans: int) -> bool:
        """Note that a batch of so many spans was refused; True if no span can be blamed for it."""
        self._refusals += 1
        self._largest = max(self._largest, spans)
        if self.open_for is not None or (spans == 1 and not self.stores):
            return True
        return self._refusals > REFUSALS_MAX + 4 * math.log2(self._largest)
