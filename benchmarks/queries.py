"""What questions about traces cost the server, and how that grows with what is stored.

One store is filled to each size in turn, ten spans a trace and one trace of 10,000, from a fixed
seed; once summaries and text index have followed, each question is asked of the application itself.
Counted is the CPU time of the whole process, from the request to the last byte of the answer:
application, reader thread and SQLite; not the HTTP of the wire.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlencode

import apsw
from starlette.types import Message

from benchmarks.report import Row, progress, verdict
from everyspan.server.app import create_app
from everyspan.server.envelope import Envelope
from everyspan.server.paging import to_cursor
from everyspan.server.row import SpanRow
from everyspan.server.stores.sqlite import SqliteStore
from everyspan.server.stores.traces import TracePosition

SIZES = (10_000, 100_000, 1_000_000)
CPU_MS_MAX = 100
SPANS_A_TRACE = 10
BIG_SPANS = 10_000
BATCH = 2_000
T0_NS = 1_780_000_000_000_000_000
GAP_NS = 800_000_000
"""Between two traces: 100,000 in 22 hours."""

AGENTS = [f"agent {n}" for n in range(20)]
MODELS = [f"model-{n}" for n in range(10)]
NAMES = [f"step {n}" for n in range(30)]
WORDS = [f"{a}{b}{c}" for a in ("ka", "lo", "mi", "ru") for b in "bdfgklmnprst" for c in "aeiou"]


def run(rounds: int, *, sizes: Sequence[int] = SIZES) -> Iterator[Row]:
    """Yield a row for every question: milliseconds of CPU at each size."""
    figures = asyncio.run(_measure(rounds, sizes))
    for name, by_size in figures.items():
        small, large = by_size[sizes[0]], by_size[sizes[-1]]
        yield Row(
            name=f"query: {name}",
            figures={
                **{f"{size:,} spans": by_size[size] for size in sizes},
                "growth": large / small,
            },
            unit="ms CPU, median",
            target=f"< {CPU_MS_MAX} ms",
            verdict=verdict(large < CPU_MS_MAX),
        )


async def _measure(rounds: int, sizes: Sequence[int]) -> dict[str, dict[int, float]]:
    figures: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spans.db"
        store = SqliteStore(path)
        app = create_app(store)
        seed = random.Random(7)
        await _put(store, _big_trace())
        stored = 0
        for size in sizes:
            started_s = time.monotonic()
            while stored < size:
                count = min(BATCH, size - stored)
                await _put(store, _rows(seed, stored // SPANS_A_TRACE, count // SPANS_A_TRACE))
                stored += count
            await _followed(path)
            progress(f"{size:,} spans stored and followed: {time.monotonic() - started_s:.0f} s")
            for name, target in _questions(stored // SPANS_A_TRACE).items():
                took = [await _ask(app, target) for _ in range(rounds + 1)]
                figures.setdefault(name, {})[size] = statistics.median(took[1:])
        await store.close()
    return figures


def _questions(traces: int) -> dict[str, str]:
    middle = TracePosition("start", T0_NS + traces // 2 * GAP_NS, b"")
    lists: dict[str, dict[str, str]] = {
        "list, first page": {},
        "list, a page in the middle": {"after": to_cursor(middle)},
        "list by cost": {"sort": "cost"},
        "list of lost traces": {"state": "lost"},
        "list of an agent": {"agent": AGENTS[3]},
        "list of errors": {"has_error": "true"},
        "list of a model": {"model": MODELS[3]},
        "list of an agent's errors by tokens": {
            "agent": AGENTS[3],
            "has_error": "true",
            "sort": "tokens",
        },
        "search, a rare word": {"text": "needle7"},
        "search, a frequent word": {"text": WORDS[5]},
        "search, a rare phrase of frequent words": {"text": f'"{WORDS[5]} {WORDS[6]}"'},
    }
    return {
        **{name: f"/api/traces?{urlencode(params)}" for name, params in lists.items()},
        "a trace of 10,000 spans": "/api/traces/big/spans",
    }


def _rows(seed: random.Random, first: int, traces: int) -> list[SpanRow]:
    rows = []
    for n in range(first, first + traces):
        trace_id, agent = f"trace {n}", seed.choice(AGENTS)
        lost = seed.random() < 0.01
        for m in range(1, SPANS_A_TRACE + 1):
            is_root = m == SPANS_A_TRACE
            record: dict[str, object] = {"p": f"p{n}", "n": m + lost, "rev": 1}
            if is_root:
                record |= {"total": m + lost, "dropped": {"queue full": int(lost)}}
            words = seed.choices(WORDS, k=30)
            if n % 2_000 == 0 and is_root:
                words.append("needle7")
            failed = seed.random() < 0.02
            metadata: dict[str, object] = {"__everyspan__": record, "__agent_name__": agent}
            if failed:
                metadata["__error__"] = {"type": "TimeoutError", "message": "no answer"}
            output: dict[str, object] = {"content": " ".join(words)}
            if m % 3 == 0:
                metadata |= {"model": seed.choice(MODELS), "cost_usd": seed.random() / 100}
                output["usage"] = {"input_tokens": seed.randrange(5_000), "output_tokens": 200}
            start_ns = T0_NS + n * GAP_NS + (0 if is_root else m * 1_000_000)
            rows.append(
                SpanRow(
                    account="local",
                    trace_id=trace_id,
                    id=f"{n:x}-{m}",
                    parent_id=None if is_root else f"{n:x}-{SPANS_A_TRACE}",
                    name="turn" if is_root else seed.choice(NAMES),
                    start_ns=start_ns,
                    end_ns=start_ns + seed.randrange(1_000_000, 9_000_000_000),
                    type="COMPLETION" if m % 3 == 0 else None,
                    status="ERROR" if failed else None,
                    task_id=f"task {n // 5}",
                    input=json.dumps(
                        {"messages": [{"role": "user", "content": words[0]}]}
                    ).encode(),
                    output=json.dumps(output).encode(),
                    metadata=json.dumps(metadata).encode(),
                )
            )
    return rows


def _big_trace() -> list[SpanRow]:
    return [
        SpanRow(
            account="local",
            trace_id="big",
            id=f"7f0b6a52-8f0e-4f83-9c6d-9a6e{n:08x}",
            parent_id=f"7f0b6a52-8f0e-4f83-9c6d-9a6e{n // 10:08x}" if n else None,
            name=NAMES[n % 30],
            start_ns=T0_NS + n * 1_000_000,
            end_ns=T0_NS + n * 1_000_000 + 5_000_000,
            output=b'{"usage":{"input_tokens":100,"output_tokens":20}}' if n % 3 else None,
        )
        for n in range(BIG_SPANS)
    ]


async def _put(store: SqliteStore, rows: list[SpanRow]) -> None:
    for n in range(0, len(rows), BATCH):
        await store.upsert(rows[n : n + BATCH])


async def _followed(path: Path) -> None:
    """Return once every trace has its summary and every span its words."""
    store = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    text = apsw.Connection(f"{path}-text", flags=apsw.SQLITE_OPEN_READONLY)
    while True:
        written = store.execute("SELECT max(change) FROM spans").get
        summarised = store.execute("SELECT value FROM numbers WHERE name = 'traces'").get
        due = store.execute("SELECT count(*) FROM traces_due").get
        indexed = text.execute("SELECT change FROM place").get
        if summarised == written == indexed and not due:
            break
        await asyncio.sleep(0.2)
    store.close()
    text.close()


async def _ask(app: Envelope, target: str) -> float:
    """Return the milliseconds of CPU of one answer."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", b"localhost")],
        "state": {},
    }
    status = 0

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    started_s = time.process_time()
    await app(scope, receive, send)
    took_s = time.process_time() - started_s
    assert status == 200, (target, status)
    return took_s * 1_000
