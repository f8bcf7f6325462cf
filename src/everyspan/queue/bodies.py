"""Which records hold payloads that could make room, oldest first.

B1  What is in a request is not touched.
B2  Each is looked at once: what was shed, or may not be, is not met again.
"""

from __future__ import annotations

from collections.abc import Collection

from everyspan.delivery.lane import Lane
from everyspan.model.record import SpanRecord
from everyspan.model.shedding import may_be_shed, shed


class Bodies:
    """See the module text. Guarded by the queue's gate."""

    def __init__(self) -> None:
        self._records: dict[SpanRecord, None] = {}

    def add(self, record: SpanRecord) -> None:
        """Take a record that is held from now on."""
        if may_be_shed(record) and not record.shed_bytes:
            self._records[record] = None

    def forget(self, record: SpanRecord) -> None:
        """Let go of one that is held no more."""
        self._records.pop(record, None)

    def shed(
        self, wanted: int, lane: Lane | None, flying: Collection[int]
    ) -> list[tuple[SpanRecord, int]]:
        """Shed until so many bytes are free or nothing is left; return the records and the bytes.

        Args:
            lane: Only what it holds, None for all.
            flying: Addresses of the records in requests.
        """
        seen = []
        found = []
        for record in self._records:
            if wanted <= 0:
                break
            if id(record) in flying or (lane is not None and lane not in record.held_by):
                continue
            seen.append(record)
            if freed := shed(record):
                wanted -= freed
                found.append((record, freed))
        for record in seen:
            del self._records[record]
        return found
