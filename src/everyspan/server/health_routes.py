"""What whoever runs the server asks of it: is it there, is it ready, what does it do."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from everyspan.errors import StoreError
from everyspan.server.envelope import VERSION
from everyspan.server.metrics import CONTENT_TYPE, Metrics, process_figures
from everyspan.server.stores.base import Store

FREE_BYTES_MIN = 64 * 1024 * 1024
"""With less on its disk the store may fail at any write; chosen, not measured."""


def health_routes(store: Store, metrics: Metrics, stopping: asyncio.Event) -> list[BaseRoute]:
    """Return `/healthz`, `/readyz` and `/metrics`.

    Args:
        stopping: Set when the server has been told to end.
    """
    health = _Health(store, metrics, stopping)
    return [
        Route("/healthz", health.healthz),
        Route("/readyz", health.readyz),
        Route("/metrics", health.metrics),
    ]


class _Health:
    def __init__(self, store: Store, metrics: Metrics, stopping: asyncio.Event) -> None:
        self._store = store
        self._metrics = metrics
        self._stopping = stopping

    async def healthz(self, _request: Request) -> Response:
        """GET /healthz: 200 while the process and its store work. No key is asked for."""
        ok = (await self._store.health()).ok
        return _status("ok" if ok else "failing", ok=ok)

    async def readyz(self, _request: Request) -> Response:
        """GET /readyz: 200 while it should be sent requests. No key is asked for."""
        if self._stopping.is_set():
            return _status("stopping", ok=False)
        try:
            health = await self._store.health()
        except StoreError:
            return _status("the store fails", ok=False)
        if not health.ok:
            return _status("the store fails", ok=False)
        if health.free_bytes is not None and health.free_bytes < FREE_BYTES_MIN:
            return _status("the disk is full", ok=False)
        return _status("ready", ok=True)

    async def metrics(self, _request: Request) -> Response:
        """GET /metrics: figures for Prometheus."""
        health = await self._store.health()
        now = {
            "everyspan_store_up": ("1 while the store works.", float(health.ok)),
            "everyspan_store_spans": ("Spans stored.", float(health.spans)),
            "everyspan_store_bytes": ("Bytes of the store's files.", float(health.size_bytes)),
            "everyspan_store_waiting_writes": (
                "Writes not yet committed.",
                float(health.waiting),
            ),
            "everyspan_store_waiting_bytes": (
                "Bytes of writes not yet committed.",
                float(health.waiting_bytes),
            ),
            "everyspan_store_unsummarized_spans": (
                "Spans not yet in their trace's summary, of 10,000.",
                float(health.unsummarized),
            ),
            "everyspan_store_unindexed_spans": (
                "Spans not yet in the text index, of 10,000.",
                float(health.unindexed),
            ),
            **process_figures(),
        }
        if health.free_bytes is not None:
            free = ("Bytes free on the store's disk.", float(health.free_bytes))
            now["everyspan_store_free_bytes"] = free
        return Response(self._metrics.text(now), media_type=CONTENT_TYPE)


def _status(status: str, *, ok: bool) -> Response:
    body = msgspec.json.encode({"status": status, "version": VERSION})
    return Response(body, 200 if ok else 503, media_type="application/json")
