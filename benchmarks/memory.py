"""10,000 spans of 50 KB while the backend is down: memory, and what the agent feels of it.

Against a backend that takes all, and against an address where nobody listens, each in a fresh
process. The agent ends a thousand spans a second; a span is timed from its start to its end.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.mock_backend import running_backend
from benchmarks.report import Row, progress, verdict

PAYLOAD_BYTES = 50_000
PAUSE_S = 0.001
NOBODY = "http://127.0.0.1:1"
BUDGET_MB = 128
SLACK = 1.2
"""DESIGN: memory grows by the budget and a fifth at most."""

LATENCY_RATIO_MAX = 1.5
"""Of the p99; two processes one after the other differ by less on a quiet machine."""


def run(spans: int) -> Iterator[Row]:
    """Yield a row for a backend that is well and one for a backend that is down."""
    with running_backend(latency_ms=5) as backend:
        well = _measured("a backend that is well", backend.url, spans)
    yield Row(name="memory: backend well", figures=well, unit="50 kB a ms")
    down = _measured("nobody there", NOBODY, spans)
    row = Row(name="memory: backend down", figures=down, unit="50 kB a ms")
    row.target = f"growth <= {BUDGET_MB * SLACK:.0f} MB, p99 <= {LATENCY_RATIO_MAX:g}x, none lost"
    row.verdict = verdict(
        down["growth MB"] <= BUDGET_MB * SLACK
        and down["p99 us"] <= LATENCY_RATIO_MAX * well["p99 us"]
        and down["dropped"] == 0
    )
    yield row


def _measured(what: str, url: str, spans: int) -> Any:
    progress(f"memory: {what}, {spans:,} spans")
    command = [sys.executable, "-m", "benchmarks.memory", url, str(spans)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def work(url: str, spans: int) -> dict[str, float]:
    """Record spans in this process; return the figures."""
    import everyspan

    config = everyspan.SGPTracingProcessorConfig("key", "account", url)
    everyspan.configure(config, grace_s=0)
    took_us = []
    # What is loaded at the first span is no growth.
    with everyspan.span("first"):
        pass
    time.sleep(0.5)
    before, most = _rss_mb(), 0.0
    for number in range(spans):
        text = f"{number:06}" + "x" * (PAYLOAD_BYTES - 6)
        began_ns = time.perf_counter_ns()
        with everyspan.span("step", input=text):
            pass
        took_us.append((time.perf_counter_ns() - began_ns) / 1000)
        del text
        if number % 100 == 0:
            most = max(most, _rss_mb())
        time.sleep(PAUSE_S)
    (books,) = everyspan.stats().destinations
    return {
        "growth MB": max(most, _rss_mb()) - before,
        "held MB": everyspan.stats().bytes_held / 2**20,
        "p50 us": statistics.median(took_us),
        "p99 us": statistics.quantiles(took_us, n=100)[98],
        "shed": books.shed,
        "dropped": books.dropped_total,
        "residual": everyspan.stats().residual,
    }


def _rss_mb() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    print(json.dumps(work(sys.argv[1], int(sys.argv[2]))))
