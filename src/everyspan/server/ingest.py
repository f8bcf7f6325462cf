"""The one way by which spans of every protocol reach the store.

Protocols turn their bodies into rows and check what needs no store; what holds for all of them, on
every path, has its place here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from everyspan.server.patch import SpanPatch
from everyspan.server.redaction import redact_patch, redact_row
from everyspan.server.row import SpanRow
from everyspan.server.stores.base import Store

_AT_ONCE_BYTES_MAX = 1024 * 1024
"""Payloads looked through on the event loop; more, which may cost seconds, on a thread."""


class Ingest:
    """Takes the rows and changes of all protocols."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def upsert(
        self, rows: Sequence[SpanRow], *, foreign_parents: bool = False, cut_cycles: bool = False
    ) -> list[SpanRow]:
        """Store new versions, without credentials; see `Store.upsert`."""
        if sum(row.payload_bytes for row in rows) <= _AT_ONCE_BYTES_MAX:
            rows = [redact_row(row) for row in rows]
        else:
            rows = await asyncio.to_thread(lambda: [redact_row(row) for row in rows])
        return await self._store.upsert(
            rows, foreign_parents=foreign_parents, cut_cycles=cut_cycles
        )

    async def patch(self, account: str, span_id: str, patch: SpanPatch) -> SpanRow | None:
        """Change one span, without credentials; see `Store.patch`."""
        if patch.payload_bytes <= _AT_ONCE_BYTES_MAX:
            patch = redact_patch(patch)
        else:
            patch = await asyncio.to_thread(redact_patch, patch)
        return await self._store.patch(account, span_id, patch)
