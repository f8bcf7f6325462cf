"""What a fault of the backend costs, for each fault and destination: nothing, and how late.

An agent answers 42 requests a second, five spans each, for 25 seconds; from the 5th to the 20th
second its backend misbehaves. The books are read a thousand times a second. Every cell has a fresh
process; a few run at once, since they mostly wait. What an OTLP endpoint says it has refused is
lost: the protocol forbids to send it again.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import everyspan
from benchmarks.report import Row, progress, verdict
from everyspan.processors.agentex import AgentexTracingProcessorConfig
from everyspan.processors.base import TracingProcessorConfig
from everyspan.processors.otlp import OTLPTracingProcessorConfig
from everyspan.processors.sgp import SGPTracingProcessorConfig
from everyspan.testing import FaultServer, faults
from everyspan.testing.exchange import Request

DESTINATIONS = ("sgp", "agentex", "otlp")
AT_ONCE = 3
REQUESTS_PER_S = 42
SPANS_PER_REQUEST = 5
LATENCY_S = 0.02
BEGINS_S, ENDS_S, LAST_S = 5.0, 20.0, 25.0
DRAIN_S = 120.0
POISON = "poison"
UNDER_WAY = 64
HOST = "backend.test"
NO_NAME = "the name unknown"

Script = Callable[[Request], faults.Answer]


def always(answer: faults.Answer) -> Script:
    return lambda request: answer


def well() -> Script:
    return always(faults.delay(LATENCY_S))


def once_each(answer: faults.Answer) -> Script:
    """Every second request meets it: what a flaky path does."""
    return lambda request: answer if request.number % 2 else faults.delay(LATENCY_S)


def refusing(status: int) -> Script:
    """Any request that holds a span named for it is refused, and names nobody."""
    answer, good = faults.status(status), faults.delay(LATENCY_S)
    return lambda request: answer if POISON.encode() in request.body else good


FAULTS: dict[str, Callable[[], Script | faults.Answer]] = {
    "none": well,
    "down": faults.down,
    "503": lambda: always(faults.status(503)),
    "429, Retry-After 10": lambda: always(faults.status(429, retry_after=10)),
    "hang": lambda: always(faults.hang()),
    "hang after headers": lambda: always(faults.hang_after_headers()),
    "reset after the body": lambda: once_each(faults.reset_after_body()),
    "reply lost": lambda: once_each(faults.lose_reply()),
    "half replies": lambda: once_each(faults.half_reply()),
    "trickle": lambda: always(faults.trickle()),
    "endless reply": lambda: once_each(faults.endless()),
    "compressed bomb": lambda: always(faults.compressed_bomb()),
    "401, then a new key": lambda: always(faults.status(401)),
    "404": lambda: always(faults.status(404)),
    "413 for one span in 500": lambda: refusing(413),
    "422 for one span in 500": lambda: refusing(422),
    "422 for every span": lambda: always(faults.status(422)),
    "200 for some": lambda: always(faults.partial()),
    "capacity of 2": lambda: faults.capacity(2, service_s=0.05, queue=4),
    "idle connections closed": lambda: always(faults.close_idle_connections()),
    "stale connections": lambda: always(faults.stale_connection()),
    # Whoever has a connection needs no name.
    NO_NAME: lambda: always(faults.close_idle_connections()),
    "redirect": lambda: always(faults.redirect()),
    "a page of HTML": lambda: always(faults.html()),
    "no HTTP": lambda: always(faults.garbage()),
}


def run() -> Iterator[Row]:
    """Yield a row for every fault and destination."""
    cells = [(fault, destination) for fault in FAULTS for destination in DESTINATIONS]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number, row in enumerate(pool.map(_measure, cells), 1):
            progress(f"faults: {number} of {len(cells)}: {row.name}, {row.verdict}")
            yield row


def _measure(cell: tuple[str, str]) -> Row:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", *cell],
        capture_output=True,
        text=True,
        check=True,
        timeout=LAST_S + DRAIN_S + 60,
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    may_lose = figures.pop("may lose")
    return Row(
        name=f"{cell[0]} x {cell[1]}",
        figures=figures,
        unit="spans; s; ms",
        target=f"lost {may_lose}, residual 0" if may_lose < UNDER_WAY else "lost few, residual 0",
        verdict=verdict(figures["lost"] <= may_lose and figures["residual"] == 0),
    )


class Books(threading.Thread):
    """Reads the books a thousand times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.residual = 0
        self.looks = 0

    def run(self) -> None:
        while True:
            self.residual = max(self.residual, everyspan.stats().residual)
            self.looks += 1
            time.sleep(0.001)


def _may_lose(fault: str, poisoned: int) -> int:
    if fault in ("413 for one span in 500", "422 for one span in 500"):
        return poisoned
    # What was under way with requests that were still stored is taken for bad.
    return UNDER_WAY if fault == "422 for every span" else 0


@contextmanager
def resolving(fault: str) -> Iterator[Callable[[bool], None]]:
    """Have the name `HOST` resolve, or not: give what says so."""
    is_ill = False
    look_up = socket.getaddrinfo

    def getaddrinfo(host: object, *args: object, **kwargs: object) -> object:
        if host in (HOST, HOST.encode()):
            if is_ill:
                raise socket.gaierror(socket.EAI_AGAIN, "scripted")
            host = "127.0.0.1"
        return look_up(host, *args, **kwargs)  # type: ignore[arg-type]

    def set_ill(now: bool) -> None:
        nonlocal is_ill
        is_ill = now and fault == NO_NAME

    socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]
    try:
        yield set_ill
    finally:
        socket.getaddrinfo = look_up


def cell(fault: str, destination: str) -> None:
    """Print what one cell came to, as JSON."""
    with FaultServer(well(), kept_bytes_max=1 << 20) as server, resolving(fault) as set_ill:
        base_url = server.base_url.replace("127.0.0.1", HOST)
        os.environ["AGENTEX_BASE_URL"] = base_url
        everyspan.configure(_config(destination, base_url))
        books = Books()
        books.start()
        slowest_s, poisoned = _agent(server, fault, set_ill)
        drained_s = time.monotonic()
        everyspan.flush(DRAIN_S)
        drained_s = time.monotonic() - drained_s
        (stats,) = everyspan.stats().destinations
        stored = len(server.spans)
        lost = stats.accepted - stored
        print(
            json.dumps(
                {
                    "spans": stats.accepted,
                    "stored": stored,
                    "lost": lost,
                    "may lose": (
                        stats.rejected_total
                        if (fault, destination) == ("200 for some", "otlp")
                        else _may_lose(fault, poisoned)
                    ),
                    "rejected": stats.rejected_total,
                    "dropped": stats.dropped_total,
                    "residual": books.residual,
                    "looks": books.looks,
                    "requests": stats.requests,
                    "drained after s": round(drained_s, 2),
                    "slowest turn ms": round(slowest_s * 1000, 2),
                }
            )
        )
        everyspan.shutdown(0)


def _config(destination: str, base_url: str) -> TracingProcessorConfig:
    if destination == "otlp":
        # As text, since a script looks for bad spans in it.
        return OTLPTracingProcessorConfig(base_url, compression="none")
    if destination == "sgp":
        return SGPTracingProcessorConfig("key", "account", base_url)
    return AgentexTracingProcessorConfig()


def _agent(server: FaultServer, fault: str, set_ill: Callable[[bool], None]) -> tuple[float, int]:
    """Record at the pace of the clock; return the longest turn, and how many spans are bad."""
    began_s = time.monotonic()
    slowest_s, spans, poisoned, is_ill = 0.0, 0, 0, False
    for number in range(round(LAST_S * REQUESTS_PER_S)):
        due_s = number / REQUESTS_PER_S
        time.sleep(max(0.0, began_s + due_s - time.monotonic()))
        if is_ill != (BEGINS_S <= due_s < ENDS_S):
            is_ill = not is_ill
            set_ill(is_ill)
            server.script = FAULTS[fault]() if is_ill else well()
        turn_s = time.perf_counter()
        with everyspan.span("turn", input={"question": "x" * 2000}):
            for step in range(SPANS_PER_REQUEST - 1):
                spans += 1
                is_bad = is_ill and spans % 500 == 0
                poisoned += is_bad
                with everyspan.span(POISON if is_bad else f"step {step}") as span:
                    span.output = {"text": "y" * 2000}
        slowest_s = max(slowest_s, time.perf_counter() - turn_s)
    server.script = well()
    return slowest_s, poisoned


if __name__ == "__main__":
    cell(*sys.argv[1:])
