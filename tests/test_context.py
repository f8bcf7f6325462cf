"""The current span across tasks, threads and processes."""

from __future__ import annotations

import asyncio
import functools
import http.server
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import everyspan
from everyspan import RemoteParent, SettingsError, carry, traced
from everyspan.model.w3c import span_hex, trace_hex
from tests.recording import Recording, recorded

VENDOR_STATE = ",".join(f"vendor{number}={'x' * 40}" for number in range(12))
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


@pytest.fixture
def recording() -> Iterator[Recording]:
    with recorded() as recording:
        yield recording


def step(name: str) -> None:
    with everyspan.span(name):
        pass


# -- one tree


@traced(name="numbers")
def numbers() -> Iterator[int]:
    step("in numbers")
    yield 1
    step("in numbers")


@traced(name="anumbers")
async def anumbers() -> Any:
    step("in anumbers")
    yield 1
    await asyncio.sleep(0)
    step("in anumbers")


async def branch(kind: str) -> None:
    async with everyspan.span(kind):
        await asyncio.sleep(0)
        for _ in numbers():
            step("beside numbers")
        async for _ in anumbers():
            await asyncio.sleep(0)
            step("beside anumbers")


async def test_one_tree_from_every_way_of_doing_things_at_once(recording: Recording) -> None:
    """Exact parents and counts from gather, groups, executors, threads and generators."""
    loop = asyncio.get_running_loop()
    with everyspan.span("root"):
        with everyspan.span("gathering"):
            await asyncio.gather(*(branch("gathered") for _ in range(3)))
        with everyspan.span("grouping"):
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(branch("grouped"))
        with everyspan.span("executing"), ThreadPoolExecutor(2) as pool:
            work = carry(step)
            await asyncio.gather(
                *(loop.run_in_executor(pool, work, "executed") for _ in range(4)),
                *(asyncio.to_thread(step, "in a thread of asyncio") for _ in range(2)),
            )
            # The pool's threads keep nothing of it.
            assert list(pool.map(lambda _: everyspan.current_span(), range(4))) == [None] * 4
        with everyspan.span("threading"):
            threads = [
                threading.Thread(target=carry(functools.partial(step, "threaded")))
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    counts: dict[tuple[str | None, str], int] = {
        (None, "root"): 1,
        ("root", "gathering"): 1,
        ("root", "grouping"): 1,
        ("root", "executing"): 1,
        ("root", "threading"): 1,
        ("gathering", "gathered"): 3,
        ("grouping", "grouped"): 3,
        ("executing", "executed"): 4,
        ("executing", "in a thread of asyncio"): 2,
        ("threading", "threaded"): 4,
        ("numbers", "in numbers"): 12,
        ("anumbers", "in anumbers"): 12,
    }
    for kind in ("gathered", "grouped"):
        for name in ("numbers", "anumbers", "beside numbers", "beside anumbers"):
            counts[kind, name] = 3
    assert recording.edges == counts
    stats = everyspan.stats()
    assert stats.open_spans == 0
    assert stats.destinations[0].delivered == sum(counts.values())


# -- carry


def test_without_carry_a_thread_begins_anew(recording: Recording) -> None:
    with everyspan.span("outer"):
        thread = threading.Thread(target=step, args=("x",))
        thread.start()
        thread.join()
    assert recording.parents == {"outer": None, "x": None}


async def test_carry_takes_a_coroutine_along(recording: Recording) -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        step("x")

    with everyspan.span("outer"):
        carried = carry(work)
    await carried()
    assert everyspan.current_span() is None
    assert recording.parents == {"outer": None, "x": "outer"}


def test_carry_keeps_arguments_result_error_and_name() -> None:
    def work(a: int, *, b: int) -> int:
        """Text."""
        return a // b

    carried = carry(work)
    assert carried(6, b=3) == 2
    assert carried.__name__ == "work"
    with pytest.raises(ZeroDivisionError):
        carried(1, b=0)


def test_carry_from_nowhere_hides_the_span_that_runs(recording: Recording) -> None:
    work = carry(step)
    with everyspan.span("outer"):
        work("x")
    assert recording.parents == {"outer": None, "x": None}


def test_carry_cleans_up_after_its_function(recording: Recording) -> None:
    """A span that the function leaves open is no parent of what its thread does next."""
    held = []

    def work() -> None:
        held.append(everyspan.span("left open"))
        held[-1].__enter__()

    carry(work)()
    assert everyspan.current_span() is None
    held[0].__exit__(None, None, None)
    assert everyspan.current_span() is None


def test_carry_takes_only_functions() -> None:
    with pytest.raises(SettingsError, match="carry takes a function, got 5"):
        carry(5)  # type: ignore[arg-type]


# -- inject and extract


def test_use_span_makes_a_span_by_hand_the_current_one(recording: Recording) -> None:
    """C2: for its block; it neither ends the span nor records on it what leaves the block."""
    trace = everyspan.Tracer().trace("t")
    span = trace.start_span("by hand")
    with everyspan.span("outer") as outer:
        with everyspan.use_span(span) as used:
            assert used is everyspan.current_span() is span
            step("inside")
        with pytest.raises(KeyError), everyspan.use_span(span):
            raise KeyError
        assert everyspan.current_span() is outer
    assert span.end_ns is None
    trace.end_span(span)
    assert recording.one("inside").parent_id == span.id
    assert recording.one("by hand").data is None


def test_use_span_takes_only_spans() -> None:
    with pytest.raises(SettingsError, match="span must be a Span, got 'x'"):
        everyspan.use_span("x")  # type: ignore[arg-type]


def test_inject_writes_the_current_span(recording: Recording) -> None:
    """otlp:W5."""
    with everyspan.span("x") as span:
        headers = everyspan.inject({"accept": "text/html"})
    assert headers["traceparent"] == f"00-{trace_hex(span.trace_id)}-{span_hex(span.id)}-01"
    assert headers["accept"] == "text/html"
    parent = everyspan.extract(headers)
    assert parent is not None
    assert (parent.trace_id, parent.id) == (span.trace_id, span.id)


def test_inject_changes_nothing_where_no_span_runs() -> None:
    headers = {"traceparent": "theirs"}
    assert everyspan.inject(headers) is headers
    assert headers == {"traceparent": "theirs"}


def test_inject_replaces_the_headers_of_a_request_that_is_passed_on(recording: Recording) -> None:
    """otlp:W2: a receiver refuses two of them."""
    headers = {"Traceparent": PARENT, "TraceState": "a=b", "X": "y"}
    with everyspan.span("x", trace_id="0" * 31 + "1") as span:
        span.id = "0" * 15 + "2"
        everyspan.inject(headers)
    assert headers == {"X": "y", "traceparent": f"00-{span.trace_id}-{span.id}-01"}


def test_flags_and_vendors_state_travel_on(recording: Recording) -> None:
    """otlp:W4, W5, W6: what was received is sent on, from any depth, and recorded all the same."""
    received = everyspan.extract({"traceparent": PARENT, "tracestate": VENDOR_STATE})
    with everyspan.span("x", parent=received), everyspan.span("y"):
        sent = everyspan.inject({})
    assert sent["traceparent"].endswith("-00")
    ours, _, theirs = sent["tracestate"].partition(",")
    assert ours.startswith("everyspan=")
    assert theirs == VENDOR_STATE
    assert len(theirs) >= 512
    assert recording.names == ["y", "x"]


def test_flags_and_vendors_state_travel_below_a_span_by_hand(recording: Recording) -> None:
    """C4: within its trace, and no further."""
    came = everyspan.extract({"traceparent": PARENT, "tracestate": "vendor=1"})
    assert came is not None
    with everyspan.span("request", parent=came) as request:
        span = everyspan.Tracer().trace(request.trace_id).start_span("by hand")
        with everyspan.use_span(span):
            sent = everyspan.inject({})
        other = everyspan.Tracer().trace("other").start_span("another trace")
        with everyspan.use_span(other):
            elsewhere = everyspan.inject({})
    assert sent["traceparent"].endswith("-00")
    assert sent["tracestate"].endswith(",vendor=1")
    assert elsewhere["traceparent"].endswith("-01")
    assert "vendor" not in elsewhere["tracestate"]


def test_flags_stay_with_their_trace(recording: Recording) -> None:
    received = everyspan.extract({"traceparent": PARENT, "tracestate": "a=b"})
    with everyspan.span("x", parent=received), everyspan.span("y", trace_id="another"):
        sent = everyspan.inject({})
    assert sent["traceparent"].endswith("-01")
    assert "a=b" not in sent["tracestate"]


@pytest.mark.parametrize(
    "headers", [None, 5, {"traceparent": object()}, {5: 6}, [1, 2], {"traceparent": [None]}]
)
def test_extract_raises_for_nothing(headers: Any) -> None:
    """otlp:W2."""
    assert everyspan.extract(headers) is None


def test_inject_leaves_the_request_alone_if_it_cannot_write(
    recording: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    """P2."""

    class Sealed(dict[str, str]):
        def update(self, *_: object, **__: object) -> None:
            raise TypeError("sealed")

    headers = Sealed(accept="text/html")
    with everyspan.span("x"):
        assert everyspan.inject(headers) is headers
    assert headers == {"accept": "text/html"}
    assert "could not write the trace context" in caplog.text


def test_inject_survives_a_spoilt_id(recording: Recording) -> None:
    """P2."""
    with everyspan.span("x") as span:
        span.id = 5  # type: ignore[assignment]
        assert everyspan.inject({}) == {}


CALLER = """
import sys, urllib.request
import everyspan
with everyspan.span("caller", trace_id="conversation 7") as span:
    request = urllib.request.Request(sys.argv[1], headers=everyspan.inject({}))
    urllib.request.urlopen(request).close()
print(span.trace_id, span.id, sep="|", end="")
"""


def test_a_trace_goes_on_in_another_process(recording: Recording) -> None:
    """Over a real request, with ids that are no hexadecimal; both directions of headers."""
    answers: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with everyspan.span("callee", parent=everyspan.extract(self.headers)):
                self.send_response(204)
                for name, value in everyspan.inject({}).items():
                    self.send_header(name, value)
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/"
            done = subprocess.run(
                [sys.executable, "-c", CALLER, url], capture_output=True, text=True, check=True
            )
            with urllib.request.urlopen(url) as reply:
                answers += reply.headers.get_all("traceparent")
        finally:
            server.shutdown()
            thread.join()
    first, second = recording.spans
    assert f"{first.trace_id}|{first.parent_id}" == done.stdout
    assert first.trace_id == "conversation 7"
    assert second.parent_id is None
    parent = everyspan.extract({"TRACEPARENT": answers[0]})
    assert isinstance(parent, RemoteParent)
    assert parent.id == span_hex(second.id)
