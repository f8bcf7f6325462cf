"""Upserts of 200 spans of 4 KB, committed: our server, bare SQLite, and FastAPI with SQLAlchemy.

The sender has a process of its own, and so has whoever stores: its CPU time is what is compared.
All commit each batch with a sync (WAL, FULL). Rounds take turns, so that a slow moment of the
machine hits all.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import msgspec

from benchmarks.report import Row, median_ratio, progress, verdict
from benchmarks.span_sender import SPANS_A_BATCH, Done, Order, bodies, numbered

SPEED_RATIO_MIN = 0.5
CPU_RATIO_MIN = 10.0
GROWTH_MB_MAX = 40.0
CACHES_FULL_SPANS = 40_000
"""By then SQLite's caches of pages are full: 64 MB where the store is written, 16 for text."""
PEERS_PYTHON = Path(__file__).parents[1] / ".venv-peers" / "bin" / "python"

_SERVE = """
import sys
from everyspan.server import run
run(port=0, store_path=sys.argv[1], ready=lambda host, port, otlp_port: print(port, flush=True))
"""
_CREATE_SQL = "CREATE TABLE spans (trace_id TEXT, id TEXT, body BLOB, PRIMARY KEY (trace_id, id))"
_INSERT_SQL = "INSERT INTO spans VALUES (?, ?, ?)"
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Round(msgspec.Struct):
    """What storing some batches took, in the process that stores."""

    spans: int
    wall_s: float
    cpu_s: float

    @property
    def speed(self) -> float:
        return self.spans / self.wall_s

    @property
    def cpu_us(self) -> float:
        return self.cpu_s / self.spans * 1e6


class Contender(Protocol):
    """Whoever stores batches."""

    def store(self, batches: int) -> Round: ...


def run(rounds: int, *, batches: int, long_spans: int) -> Iterator[Row]:
    """Yield a row for every contender, and one of the server's memory over `long_spans`."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sender = stack.enter_context(_Sender())
        server = stack.enter_context(
            _Server(sender, [sys.executable, "-c", _SERVE, str(folder / "ours.sqlite")])
        )
        contenders: dict[str, Contender] = {"bare sqlite3": _Bare(folder), "everyspan": server}
        if PEERS_PYTHON.exists():
            endpoint = [str(PEERS_PYTHON), "-m", "benchmarks.fastapi_endpoint"]
            contenders["fastapi + sqlalchemy"] = stack.enter_context(
                _Server(sender, [*endpoint, str(folder / "theirs.sqlite")])
            )
        taken: dict[str, list[Round]] = {name: [] for name in contenders}
        for number in range(rounds + 1):
            progress(f"ingest: round {number} of {rounds}" if number else "ingest: warming up")
            for name, contender in contenders.items():
                # The slow one gets less to do, or it would be most of what is waited for.
                count = max(batches // 10, 2) if "fastapi" in name else batches
                measured = contender.store(count)
                if number:  # The first round trains our dictionary and warms all caches.
                    taken[name].append(measured)
        yield from _rows(taken)
        progress(f"ingest: {long_spans:,} spans")
        yield _memory(server, long_spans)


def _rows(taken: dict[str, list[Round]]) -> Iterator[Row]:
    bare, ours = taken["bare sqlite3"], taken["everyspan"]
    for name, measured in taken.items():
        figures: dict[str, float | str] = {
            "spans/s": statistics.median(each.speed for each in measured),
            "us CPU/span": statistics.median(each.cpu_us for each in measured),
        }
        row = Row(name=f"ingest: {name}", figures=figures, unit="of the storing process")
        if measured is ours:
            speed = median_ratio([each.speed for each in ours], [each.speed for each in bare])
            figures["of bare sqlite3's speed"] = speed
            row.target = f">= {SPEED_RATIO_MIN:g} of the speed"
            row.verdict = verdict(speed >= SPEED_RATIO_MIN)
        elif measured is not bare:
            cpu = median_ratio([each.cpu_us for each in measured], [each.cpu_us for each in ours])
            figures["of everyspan's CPU"] = cpu
            row.target = f"everyspan >= {CPU_RATIO_MIN:g} times the spans a CPU second"
            row.verdict = verdict(cpu >= CPU_RATIO_MIN)
        yield row


def _memory(server: _Server, spans: int) -> Row:
    """Look at the server's memory while spans go in, once its caches are full."""
    server.store(CACHES_FULL_SPANS // SPANS_A_BATCH)
    parts = 20
    sizes = []
    for _ in range(parts):
        server.store(spans // parts // SPANS_A_BATCH)
        sizes.append(server.memory_mb())
    early, late = max(sizes[: parts // 10]), max(sizes[parts // 2 :])
    return Row(
        name=f"ingest: memory over {spans:,} spans",
        figures={"MB after a tenth": early, "most MB later": late},
        unit="resident, the server",
        target=f"grows by <= {GROWTH_MB_MAX:g} MB",
        verdict=verdict(late - early <= GROWTH_MB_MAX),
    )


class _Bare:
    """The same bytes into the standard library's sqlite3, in this process, a commit a batch."""

    def __init__(self, folder: Path) -> None:
        self._connection = sqlite3.connect(folder / "bare.sqlite", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = wal")
        self._connection.execute("PRAGMA synchronous = full")
        self._connection.execute(_CREATE_SQL)
        self._batches = 0

    def store(self, batches: int) -> Round:
        made = bodies()
        prepared = []
        for number in range(self._batches, self._batches + batches):
            items = msgspec.json.decode(
                numbered(made[number % len(made)], number), type=dict[str, list[msgspec.Raw]]
            )["items"]
            ids = msgspec.json.decode(msgspec.json.encode(items), type=list[_Ids])
            prepared.append(
                [(i.trace_id, i.id, bytes(raw)) for i, raw in zip(ids, items, strict=True)]
            )
        self._batches += batches
        began_s, cpu_s = time.perf_counter(), time.process_time()
        for rows in prepared:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(_INSERT_SQL, rows)
            self._connection.execute("COMMIT")
        return Round(
            spans=batches * SPANS_A_BATCH,
            wall_s=time.perf_counter() - began_s,
            cpu_s=time.process_time() - cpu_s,
        )


class _Ids(msgspec.Struct):
    trace_id: str
    id: str


class _Sender:
    """The sending process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.span_sender"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> _Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def send(self, order: Order) -> Done:
        """Return once all batches are acknowledged."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=Done)


class _Server:
    """A server process; it prints its port first."""

    def __init__(self, sender: _Sender, command: list[str]) -> None:
        self._sender = sender
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()

    def store(self, batches: int) -> Round:
        cpu_s = self._cpu_s()
        done = self._sender.send(Order(port=self._port, batches=batches))
        return Round(spans=batches * SPANS_A_BATCH, wall_s=done.wall_s, cpu_s=self._cpu_s() - cpu_s)

    def memory_mb(self) -> float:
        """Return what the process has resident now."""
        text = Path(f"/proc/{self._process.pid}/statm").read_text()
        return int(text.split()[1]) * _PAGE_BYTES / 1e6

    def _cpu_s(self) -> float:
        text = Path(f"/proc/{self._process.pid}/stat").read_text()
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / _TICKS


def is_possible() -> bool:
    """Whether this machine tells what a process uses."""
    return Path("/proc/self/stat").exists() and shutil.disk_usage(tempfile.gettempdir()).free > 8e9
