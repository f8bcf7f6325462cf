"""P8, W1: what was acknowledged survives a power cut at any moment, and would not without syncs."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from everyspan.model.ids import new_id
from everyspan.server.stores.sqlite import SqliteStore
from everyspan.server.stores.sqlite_file import open_writer
from everyspan.server.stores.sqlite_schema import prepare
from tests.server.rows import make_row
from tests.server.stores.recording_disk import Disk

CUTS = 200
WORKERS = 6
CALLS = 60
"""Calls a worker makes; every second one completes the spans of the one before."""


class Run:
    """A store's life on a recording disk, and what it acknowledged when."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.disk = Disk(f"recording {new_id()}")
        self.acknowledged: list[tuple[int, str, int]] = []
        """Log entries before the acknowledgement, span id, revision."""

    async def live(self, path: Path, *, synchronous: str) -> None:
        def connect(name: str) -> apsw.Connection:
            connection = open_writer(name, vfs=self.disk.name)
            connection.pragma("synchronous", synchronous)
            # Checkpoints are when a WAL database is at risk: have many.
            connection.pragma("wal_autocheckpoint", 60)
            return connection

        store = SqliteStore(path, connect=connect)
        await asyncio.gather(*(self._work(store, worker) for worker in range(WORKERS)))
        await store.close()

    async def _work(self, store: SqliteStore, worker: int) -> None:
        for call in range(CALLS):
            rev = call % 2
            start = {"end_ns": None, "input": b'{"x":"%b"}' % (b"x" * self.rng.randrange(3_000))}
            rows = [
                make_row(
                    id=f"{worker} {call // 2} {n}",
                    trace_id=f"t{worker}",
                    rev=rev,
                    **(start if rev == 0 else {}),
                )
                for n in range(1 + worker % 3)
            ]
            await store.upsert(rows)
            moment = len(self.disk.log)
            self.acknowledged += [(moment, row.id, rev) for row in rows]

    def losses(self, folder: Path, *, torn: bool) -> list[str]:
        """Cut the power at CUTS random moments; return what is wrong afterwards."""
        wrong = []
        cuts = [self.rng.randrange(len(self.disk.log) + 1) for _ in range(CUTS)]
        for cut, files in self.disk.images(cuts, self.rng, torn=torn):
            for old in folder.iterdir():
                old.unlink()
            for name, content in files.items():
                (folder / name).write_bytes(content)
            expected = {span_id: rev for moment, span_id, rev in self.acknowledged if moment <= cut}
            try:
                found = _read(folder / "spans.db")
            except apsw.Error as error:
                wrong.append(f"cut at {cut}: {error}")
                continue
            missing = [id_ for id_, rev in expected.items() if found.get(id_, -1) < rev]
            if missing:
                wrong.append(f"cut at {cut}: {len(missing)} of {len(expected)} lost")
        return wrong


def _read(path: Path) -> dict[str, int]:
    """Open the file as a starting server does; return the revision of every span."""
    connection = open_writer(str(path))
    try:
        prepare(connection, str(path))
        integrity = connection.pragma("integrity_check")
        if integrity != "ok":
            raise apsw.CorruptError(integrity)
        # Each row must have its payloads, too.
        return dict(connection.execute("SELECT id, rev FROM spans JOIN payloads USING (seq)"))
    finally:
        connection.close()


@pytest.fixture
def run() -> Run:
    seed = int(os.environ.get("EVERYSPAN_TEST_SEED", time.time_ns() % 2**32))
    print(f"EVERYSPAN_TEST_SEED={seed}")
    return Run(random.Random(seed))


@pytest.fixture
def folders(tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    return make


@pytest.mark.parametrize("torn", [False, True])
async def test_a_power_cut_loses_nothing_acknowledged(
    run: Run, folders: Callable[[str], Path], torn: bool
) -> None:
    """P8: unsynced writes are gone, or partly there, at 200 random moments."""
    await run.live(folders("disk") / "spans.db", synchronous="FULL")
    assert len(run.acknowledged) == WORKERS * CALLS * 2
    assert run.losses(folders("after"), torn=torn) == []


async def test_the_same_cuts_without_syncs_lose_spans(
    run: Run, folders: Callable[[str], Path]
) -> None:
    """The test above can fail: `synchronous=OFF` does not pass it."""
    await run.live(folders("disk") / "spans.db", synchronous="OFF")
    assert any("lost" in loss for loss in run.losses(folders("after"), torn=False))


async def test_normal_is_not_enough(run: Run, folders: Callable[[str], Path]) -> None:
    """Why FULL and not SQLite's usual advice for WAL: NORMAL syncs at checkpoints only."""
    await run.live(folders("disk") / "spans.db", synchronous="NORMAL")
    assert any("lost" in loss for loss in run.losses(folders("after"), torn=False))
