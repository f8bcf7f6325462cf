"""L1-L5: clients do not pile up, however many loops come and go."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from everyspan.testing import FaultServer

PER = 40

SCRIPT = """
import asyncio, gc, json, os, sys, warnings
import everyspan

kind, url, loops, spans = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if kind == "sgp":
    processor = everyspan.SGPAsyncTracingProcessor(everyspan.SGPTracingProcessorConfig(
        sgp_api_key="k", sgp_account_id="a", sgp_base_url=url))
else:
    os.environ["AGENTEX_BASE_URL"] = url
    processor = everyspan.AgentexAsyncTracingProcessor(everyspan.AgentexTracingProcessorConfig())

async def request(count):
    for number in range(count):
        await processor.on_span_end(everyspan.Span(name="s", trace_id="t", start_ns=1, end_ns=2))

def descriptors():
    return len(os.listdir("/proc/self/fd"))

counts = []
for number in range(loops):
    asyncio.run(request(1))
    counts.append(descriptors())
gc.collect()
before = processor.connections()
asyncio.run(request(spans))
print(json.dumps({
    "first": max(counts[:10]), "most": max(counts), "last": descriptors(),
    "connections_of_one_loop": processor.connections() - before,
}))
"""


@pytest.mark.parametrize(("kind", "loops"), [("sgp", 1_000), ("agentex", 200)])
def test_loops_that_come_and_go_leave_nothing_behind(kind: str, loops: int) -> None:
    """trace:L3, L5: descriptors stay flat, nothing warns, and a loop reuses its connection."""
    with FaultServer() as backend:
        done = subprocess.run(
            [
                sys.executable,
                "-W",
                "error",
                "-c",
                SCRIPT,
                *(kind, backend.base_url, f"{loops}", f"{PER}"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    assert seen["most"] <= seen["first"] + 1, seen
    assert seen["last"] <= seen["first"], seen
    # One connection for forty requests is a reuse of 97.5 %.
    # None is seen where the kernel gave it the port of one of the loops before.
    assert seen["connections_of_one_loop"] <= 1, seen
    assert len(backend.requests) == loops + PER
