"""Microseconds a span on the agent's own thread, against the least that a span can cost.

Bursts are smaller than every queue and drained one by one, so nobody drops. Contenders take turns
in every round, each in a process of its own, sending to a backend in another.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.mock_backend import running_backend
from benchmarks.report import Row, median_ratio, progress, verdict
from benchmarks.worker import Burst, Worker

SHAPES = {"chat": "2 KB in, 2 KB out", "rows": "230 small values each way", "small": '{"q":"hi"}'}
RECORDERS = ("limit", "everyspan", "everyspan START on", "opentelemetry", "agentex-sdk")
# Targets were set for prose payloads and for tiny ones; "rows" is shown without.
RATIO_MAX = {
    ("everyspan", "chat"): 1.5,
    ("everyspan START on", "chat"): 2.0,
    ("everyspan", "small"): 2.5,
}
# 1,000 spans: half of OpenTelemetry's queue.
BURST_REQUESTS = 200
LATENCY_MS = 5


def run(rounds: int) -> Iterator[Row]:
    """Yield a row for every contender and shape, after `rounds` rounds (the first is warm-up)."""
    bursts: defaultdict[tuple[str, str], list[Burst]] = defaultdict(list)
    lost: defaultdict[str, int] = defaultdict(int)
    with running_backend(latency_ms=LATENCY_MS) as backend, ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name in RECORDERS:
            try:
                workers[name] = Worker(name, backend.url)
            except ModuleNotFoundError as missing:
                progress(f"hot path: {missing}")
            else:
                stack.callback(workers[name].close)
        for number in range(rounds + 1):
            progress(f"hot path: round {number} of {rounds}")
            for shape in SHAPES:
                for name, worker in workers.items():
                    burst = worker.burst(shape, BURST_REQUESTS)
                    if name != "limit":
                        lost[name] += burst.spans - backend.take_received().spans
                    if number:
                        bursts[name, shape].append(burst)
    for (name, shape), measured in bursts.items():
        yield _row(name, shape, measured, bursts["limit", shape], lost[name])


def _row(name: str, shape: str, measured: list[Burst], limit: list[Burst], lost: int) -> Row:
    caller = [burst.caller_us for burst in measured]
    ratio = median_ratio(caller, [burst.caller_us for burst in limit])
    ratio_max = RATIO_MAX.get((name, shape))
    return Row(
        name=f"hot path, {SHAPES[shape]}: {name}",
        figures={
            "caller": statistics.median(caller),
            "ratio": ratio,
            "process": statistics.median(burst.process_us for burst in measured),
            "lost": lost,
        },
        unit="us CPU a span; ratio to limit",
        target=None if ratio_max is None else f"ratio <= {ratio_max}, none lost",
        verdict=None if ratio_max is None else verdict(ratio <= ratio_max and lost == 0),
    )
