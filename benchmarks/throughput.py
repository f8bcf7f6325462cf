"""10,000 agent requests at once, against a backend that takes 150 ms a request.

Spans per second from the first span until the backend has acknowledged the last, and how many
never arrived. Every measurement has a fresh process; contenders take turns.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator

from benchmarks.mock_backend import Received, running_backend
from benchmarks.report import Row, median_ratio, progress, verdict
from benchmarks.worker import Burst, Worker

RECORDERS = ("limit sockets", "everyspan", "opentelemetry tuned")
RATIO_MIN = 2.0
LATENCY_MS = 150


def run(rounds: int, *, requests: int = 10_000) -> Iterator[Row]:
    """Yield a row for every contender after `rounds` rounds of `requests` requests."""
    bursts: defaultdict[str, list[Burst]] = defaultdict(list)
    received: defaultdict[str, list[Received]] = defaultdict(list)
    with running_backend(latency_ms=LATENCY_MS) as backend:
        for number in range(1, rounds + 1):
            for name in RECORDERS:
                progress(f"throughput: round {number} of {rounds}, {name}")
                try:
                    worker = Worker(name, backend.url)
                except ModuleNotFoundError as missing:
                    progress(f"throughput: {missing}")
                    continue
                try:
                    bursts[name].append(worker.burst("turn", requests))
                finally:
                    worker.close()
                received[name].append(backend.take_received())
    for name in bursts:
        yield _row(name, bursts[name], received[name], bursts["opentelemetry tuned"])


def _row(name: str, measured: list[Burst], received: list[Received], peer: list[Burst]) -> Row:
    speeds = [burst.spans / burst.wall_s for burst in measured]
    lost = sum(
        burst.spans - arrived.spans for burst, arrived in zip(measured, received, strict=True)
    )
    figures: dict[str, float | str] = {
        "spans/s": statistics.median(speeds),
        "lost": lost,
        "us CPU/span": statistics.median(burst.process_us for burst in measured),
        "peak MB": statistics.median(burst.peak_mb for burst in measured),
        "requests": statistics.median(arrived.requests for arrived in received),
        "connections": statistics.median(arrived.connections for arrived in received),
    }
    row = Row(name=f"throughput: {name}", figures=figures, unit="to all acknowledged")
    if peer:
        ratio = median_ratio(speeds, [burst.spans / burst.wall_s for burst in peer])
        figures["ratio to OpenTelemetry"] = ratio
        if name == "everyspan":
            row.target = f"ratio >= {RATIO_MIN:g}, none lost"
            row.verdict = verdict(ratio >= RATIO_MIN and lost == 0)
    return row
