"""`everyspan.server.stores.sqlite_producers` beyond the contract: what is forgotten, and when."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from everyspan.server.producers import SILENT_NS_MAX
from everyspan.server.stores import sqlite_producers
from everyspan.server.stores.base import Store
from everyspan.server.stores.sqlite import SqliteStore
from everyspan.testing import FakeClock
from tests.server.rows import make_row
from tests.server.stores.producers_contract import ProducersContract, lost, make_report, told


class TestSqliteProducers(ProducersContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        store = SqliteStore(tmp_path / "spans.db")
        yield store
        await store.close()


async def test_silent_producers_and_losses_of_traces_that_are_gone_are_forgotten(
    tmp_path: Path,
) -> None:
    """P4: when a new producer shows up; what explains a stored trace stays as long as that."""
    clock = FakeClock()
    store = SqliteStore(tmp_path / "spans.db", clock=clock)
    await store.upsert([make_row(trace_id="stored")])
    losses = [lost("stored", "p-1", expired=1), lost("gone", "p-2", expired=1)]
    await store.put_report("a", "p", make_report(losses=losses))
    clock.advance(SILENT_NS_MAX / 1e9 + 1)
    await store.put_report("a", "p2", make_report())
    assert [one.id for one in await store.producers("a", limit=10)] == ["p2"]
    assert [one.trace_id for one in await told(store)] == ["stored"]
    await store.close()


async def test_producers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P4: whoever invents ids pushes out those that are silent for longest."""
    monkeypatch.setattr(sqlite_producers, "PRODUCERS_MAX", 3)
    store = SqliteStore(tmp_path / "spans.db")
    for n in range(6):
        await store.put_report("a", f"p{n}", make_report())
    await store.put_report("b", "p", make_report())
    assert [one.id for one in await store.producers("a", limit=10)] == ["p5", "p4", "p3"]
    assert len(await store.producers("b", limit=10)) == 1
    await store.close()
