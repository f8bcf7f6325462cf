"""Which parts of traces a destination lost spans of, until somebody was told.

Guarded by the queue's gate.
"""

from __future__ import annotations

from collections.abc import Iterable

from everyspan.model.record import Part

PARTS_MAX = 1_000
"""Some 300 KB; chosen, not measured."""


class LostParts:
    """Remembers up to PARTS_MAX parts, those that lost a span last; `forgotten` counts the rest."""

    def __init__(self) -> None:
        self.forgotten = 0
        self._parts: dict[str, Part] = {}

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, part: Part) -> None:
        """Note that a part has lost a span."""
        parts = self._parts
        if part.id not in parts and len(parts) >= PARTS_MAX:
            del parts[next(iter(parts))]
            self.forgotten += 1
        parts[part.id] = part

    def take(self, parts_max: int) -> list[Part]:
        """Return up to so many, the oldest first, and remember them no more."""
        return [self._parts.pop(part_id) for part_id in [*self._parts][:parts_max]]

    def put_back(self, parts: Iterable[Part]) -> None:
        """Remember parts again that nobody could be told of."""
        for part in parts:
            self.add(part)
