"""The one way by which spans of every protocol reach the store.

Protocols turn their bodies into rows and check what needs no store; what holds for all of them, on
every path, has its place here.
"""

from __future__ import annotations

from collections.abc import Sequence

from everyspan.server.patch import SpanPatch
from everyspan.server.row import SpanRow
from everyspan.server.stores.base import Store


class Ingest:
    """Takes the rows and changes of all protocols."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def upsert(
        self, rows: Sequence[SpanRow], *, foreign_parents: bool = False
    ) -> list[SpanRow]:
        """Store new versions; see `Store.upsert`."""
        return await self._store.upsert(rows, foreign_parents=foreign_parents)

    async def patch(self, account: str, span_id: str, patch: SpanPatch) -> SpanRow | None:
        """Change one span; see `Store.patch`."""
        return await self._store.patch(account, span_id, patch)
