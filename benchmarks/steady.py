"""420 agent requests a second for a minute, against a backend that takes 150 ms a request.

What an agent at work sees: CPU of its whole process a span, how long after its end a span is with
the backend, and how many never arrived. Every contender has a fresh process.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.mock_backend import running_backend
from benchmarks.report import Row, progress, verdict
from benchmarks.worker import Worker

RECORDERS = ("limit sockets", "everyspan", "everyspan START on", "opentelemetry tuned")
REQUESTS_PER_S = 420
LATENCY_MS = 150
CPU_RATIO_MAX = 2.0
LAG_P99_MS_MAX = 300.0


def run(seconds: int) -> Iterator[Row]:
    """Yield a row for every contender, each at work for so long."""
    limit_us = 0.0
    with running_backend(latency_ms=LATENCY_MS) as backend:
        for name in RECORDERS:
            progress(f"steady: {name}, {seconds} s")
            try:
                worker = Worker(name, backend.url)
            except ModuleNotFoundError as missing:
                progress(f"steady: {missing}")
                continue
            try:
                burst = worker.burst("turn", REQUESTS_PER_S * seconds, pace=REQUESTS_PER_S)
            finally:
                worker.close()
            received = backend.take_received()
            lost = burst.spans - received.spans
            limit_us = limit_us or burst.process_us
            figures: dict[str, float | str] = {
                "us CPU/span": burst.process_us,
                "ratio": burst.process_us / limit_us,
                "of them caller": burst.caller_us,
                "lag p99 ms": received.lag_p99_ms,
                "lost": lost,
                "requests": received.requests,
                "connections": received.connections,
                "peak MB": burst.peak_mb,
            }
            row = Row(name=f"steady: {name}", figures=figures, unit="of the whole process")
            if name == "everyspan":
                row.target = f"ratio <= {CPU_RATIO_MAX:g}, lag <= {LAG_P99_MS_MAX:g}, none lost"
                is_light = burst.process_us <= CPU_RATIO_MAX * limit_us
                row.verdict = verdict(
                    is_light and received.lag_p99_ms <= LAG_P99_MS_MAX and lost == 0
                )
            yield row
