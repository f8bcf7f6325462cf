"""trace:D14: loops beside each other, one after the other, dead or stuck: the facade keeps none."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator

import pytest

import everyspan
from everyspan import adk
from everyspan.testing import FaultServer, faults
from tests.waiting import until

LOOPS = 200
THREADS = 8
TURNS_A_THREAD = 10


def send_to(backend: FaultServer) -> None:
    everyspan.configure(
        everyspan.SGPTracingProcessorConfig("key", "account", backend.base_url), linger_ms=5
    )


@pytest.fixture(autouse=True)
def _nowhere_afterwards() -> Iterator[None]:
    yield
    everyspan.shutdown(0)
    everyspan.set_tracing_processor_configs([])


async def turn(name: str) -> None:
    async with adk.tracing.turn_span("t", name) as turn:
        turn.record_usage({"input_tokens": 1})
        span = await adk.tracing.start_span("t", f"step of {name}")
        await asyncio.sleep(0)
        assert span is not None
        await adk.tracing.end_span("t", span)


def names_at(backend: FaultServer) -> list[str]:
    """The spans that arrived; each exactly once, or this fails."""
    assert all(len(versions) == 1 for versions in backend.rows.values())
    return sorted(versions[0]["name"] for versions in backend.rows.values())


def names_of(turns: list[str]) -> list[str]:
    return sorted([*turns, *(f"step of {name}" for name in turns)])


def test_two_loops_alive_at_once_share_nothing_and_lose_nothing() -> None:
    """trace:D14, P3: their turns overlap, each half of a turn on a loop of its own."""
    loops = asyncio.new_event_loop(), asyncio.new_event_loop()
    with FaultServer() as backend:
        send_to(backend)
        names = []
        try:
            for number in range(6):
                first, second = loops if number % 2 else loops[::-1]
                span = first.run_until_complete(adk.tracing.start_span("t", f"both {number}"))
                assert span is not None
                second.run_until_complete(turn(f"turn {number}"))
                second.run_until_complete(adk.tracing.end_span("t", span))
                names.append(f"turn {number}")
        finally:
            for loop in loops:
                loop.close()
        assert everyspan.flush(20)
        assert names_at(backend) == sorted(
            [*names_of(names), *(f"both {number}" for number in range(6))]
        )
        assert everyspan.stats().residual == 0


def test_eight_threads_with_loops_of_their_own_deliver_all() -> None:
    """trace:D14, P3: a new loop for every turn, at addresses that others had."""
    errors: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for number in range(TURNS_A_THREAD):
                asyncio.run(turn(f"turn {thread}.{number}"))
        except BaseException as error:
            errors.append(error)

    with FaultServer() as backend:
        send_to(backend)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert everyspan.flush(20)
        turns = [f"turn {t}.{n}" for t in range(THREADS) for n in range(TURNS_A_THREAD)]
        assert errors == []
        assert names_at(backend) == names_of(turns)
        assert everyspan.stats().residual == 0


def test_the_facade_keeps_no_loop() -> None:
    """trace:D14: what it was used on is free to go, and it holds what it held."""
    before = dict(vars(adk.tracing))
    loop = asyncio.new_event_loop()
    gone = weakref.ref(loop)
    loop.run_until_complete(turn("turn"))
    loop.close()
    del loop
    gc.collect()
    assert gone() is None
    assert vars(adk.tracing) == before


SCRIPT = """
import asyncio, json, os, sys
import everyspan
from everyspan import adk

everyspan.configure(everyspan.SGPTracingProcessorConfig("key", "account", sys.argv[1]), linger_ms=5)

async def request(number):
    async with adk.tracing.turn_span("t", f"turn {number}") as turn:
        turn.record_usage({"input_tokens": 1})

counts = []
for number in range(int(sys.argv[2])):
    asyncio.run(request(number))
    counts.append(len(os.listdir("/proc/self/fd")))
ok = bool(everyspan.flush(20))
print(json.dumps({
    "first": max(counts[:20]), "most": max(counts), "ok": ok,
    "residual": everyspan.stats().residual,
}))
"""


def test_two_hundred_loops_leave_no_descriptor_behind() -> None:
    """trace:D14, L5, P3: an agent that runs `asyncio.run` for each request."""
    with FaultServer() as backend:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT, backend.base_url, f"{LOOPS}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=110,
        )
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    assert seen["ok"]
    assert seen["residual"] == 0
    # The exporter may open a second connection meanwhile; two hundred loops open none.
    assert seen["most"] <= seen["first"] + 4, seen
    assert names_at(backend) == sorted(f"turn {number}" for number in range(LOOPS))


async def test_a_backend_that_hangs_delays_no_turn() -> None:
    """P2: it has a request of ours that it never answers, and turns go on; no span is forgotten."""
    with FaultServer(faults.hang()) as backend:
        send_to(backend)
        await turn("first")
        await until(lambda: backend.requests)
        for number in range(50):
            await turn(f"turn {number}")
        (books,) = everyspan.stats().destinations
        assert (books.accepted, books.delivered) == (102, 0)
        assert everyspan.stats().residual == 0
        assert not everyspan.shutdown(0)
