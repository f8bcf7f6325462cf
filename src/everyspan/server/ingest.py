"""The one way by which spans of every protocol reach the store.

Protocols turn their bodies into rows and check what needs no store; what holds for all of them, on
every path, has its place here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from everyspan.errors import RequestError, StoreBusyError
from everyspan.server.metrics import Metrics
from everyspan.server.patch import SpanPatch
from everyspan.server.redaction import redact_patch, redact_rows
from everyspan.server.row import SpanRow
from everyspan.server.stores.base import Store

_AT_ONCE_BYTES_MAX = 1024 * 1024
"""Payloads looked through on the event loop; more, which may cost seconds, on a thread."""


class Ingest:
    """Takes the rows and changes of one protocol.

    Args:
        protocol: How it is called in `metrics`.
    """

    def __init__(self, store: Store, metrics: Metrics, protocol: str) -> None:
        self._store = store
        self._metrics = metrics
        self._protocol = protocol

    async def upsert(
        self, rows: Sequence[SpanRow], *, foreign_parents: bool = False, cut_cycles: bool = False
    ) -> list[SpanRow]:
        """Store new versions, without credentials; see `Store.upsert`."""
        if sum(row.payload_bytes for row in rows) <= _AT_ONCE_BYTES_MAX:
            rows = redact_rows(rows)
        else:
            rows = await asyncio.to_thread(redact_rows, rows)
        with self._counted(len(rows)):
            return await self._store.upsert(
                rows, foreign_parents=foreign_parents, cut_cycles=cut_cycles
            )

    async def patch(self, account: str, span_id: str, patch: SpanPatch) -> SpanRow | None:
        """Change one span, without credentials; see `Store.patch`."""
        if patch.payload_bytes <= _AT_ONCE_BYTES_MAX:
            patch = redact_patch(patch)
        else:
            patch = await asyncio.to_thread(redact_patch, patch)
        with self._counted(1):
            return await self._store.patch(account, span_id, patch)

    @contextmanager
    def _counted(self, spans: int) -> Iterator[None]:
        began_s = time.perf_counter()
        outcome = "failed"
        try:
            yield
            outcome = "stored"
            self._metrics.write_seconds.observe(time.perf_counter() - began_s)
        except RequestError:
            outcome = "refused"
            raise
        except StoreBusyError:
            outcome = "busy"
            raise
        finally:
            self._metrics.spans.add(self._protocol, outcome, amount=spans)
