"""Reports of a process's books to an everyspan server, over real sockets."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import everyspan
from everyspan import pipeline, reports
from everyspan.delivery.losses import PARTS_MAX, LostParts
from everyspan.model.record import Part
from tests.waiting import wait_until

REPORTS = "/api/producers/"


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """The other side may leave in the middle."""


class Server:
    """Takes everything that it is sent, and says that it is an everyspan server.

    `answers` maps the beginning of a path to a status; `events` are (path, body, was answered).
    """

    def __init__(self) -> None:
        self.header: str | None = "1.2.3"
        self.answers: dict[str, int] = {}
        self.events: list[tuple[str, Any]] = []
        self.hangs: set[str] = set()
        self.released = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(200, b"{}")

            def do_PUT(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if any(self.path.startswith(path) for path in server.hangs):
                    server.released.wait(20)
                status = next(
                    (s for path, s in server.answers.items() if self.path.startswith(path)), 200
                )
                if any(item["name"] == "poison" for item in body.get("items", ())):
                    status = 422
                self._answer(status, b"{}")
                if status == 200:
                    server.events.append((self.path, body))

            do_POST = do_PUT

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                if server.header is not None:
                    self.send_header("x-everyspan", server.header)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._http = QuietServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()

    @property
    def reports(self) -> list[Any]:
        return [body for path, body in self.events if path.startswith(REPORTS)]

    @property
    def spans(self) -> list[Any]:
        return [
            item
            for path, body in self.events
            if not path.startswith(REPORTS)
            for item in body["items"]
        ]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    everyspan.shutdown(5)
    everyspan.configure(everyspan.InMemoryTracingProcessor())
    made.close()


@pytest.fixture
def every_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "EVERY_S", 0.01)
    monkeypatch.setattr(reports, "PAUSE_S_MAX", 0.05)


def books(report: Any) -> dict[str, Any]:
    (one,) = [one for one in report["destinations"] if one["name"] == report["destination"]]
    found: dict[str, Any] = one
    return found


def turn(name: str = "turn", **fields: Any) -> None:
    with everyspan.span(name, **fields):
        pass


def lose_a_span(trace_id: str) -> None:
    """Have one rejected: a span alone is, once others were stored since it was sent."""
    turn("poison", trace_id=trace_id)
    turn()
    everyspan.flush(10)


def test_a_server_is_told_the_books_after_the_spans_it_has(server: Server) -> None:
    """P11: a first report with the first answer, and the last one when the process shuts down."""
    everyspan.configure(server.url, linger_ms=0)
    turn(trace_id="t1", input="a secret")
    wait_until(lambda: server.reports)
    turn(trace_id="t2")
    assert everyspan.shutdown(5).ok
    kinds = [path.startswith(REPORTS) for path, _ in server.events]
    assert kinds[0] is False
    assert kinds[-1] is True
    first, last = server.reports[0], server.reports[-1]
    assert (books(first)["accepted"], books(first)["delivered"]) == (1, 1)
    assert (books(last)["accepted"], books(last)["delivered"], last["ended"]) == (2, 2, True)
    assert last["seq"] > first["seq"] >= 1
    assert {"pid", "host", "service", "python", "everyspan", "started_ns"} <= last.keys()
    assert "secret" not in json.dumps(server.reports)


def test_the_producer_is_the_one_that_the_parts_of_its_spans_are_named_after(
    server: Server,
) -> None:
    """P11: whoever finds a hole in a part finds the process."""
    everyspan.configure(server.url)
    turn()
    assert everyspan.shutdown(5).ok
    (path,) = {path for path, _ in server.events if path.startswith(REPORTS)}
    part = server.spans[0]["metadata"]["__everyspan__"]["p"]
    assert part.rpartition("-")[0] == path.removeprefix(REPORTS)


def test_a_report_never_speaks_of_spans_that_are_not_stored(
    server: Server, every_instant: None
) -> None:
    """P11: what a report calls delivered was answered before it was sent."""
    everyspan.configure(server.url, linger_ms=0, batch_size=1)
    for _ in range(100):
        turn()
    assert everyspan.shutdown(10).ok
    stored = 0
    for path, body in list(server.events):
        if path.startswith(REPORTS):
            assert books(body)["delivered"] <= stored
        else:
            stored += len(body["items"])
    assert books(server.reports[-1])["delivered"] == 100


@pytest.mark.parametrize("header", [None, "fault-server"])
def test_nobody_else_is_told_anything(server: Server, header: str | None) -> None:
    """DESIGN: only a server that says it is an everyspan server."""
    server.header = header
    sgp = everyspan.SGPTracingProcessorConfig("key", "account", server.url)
    everyspan.configure(sgp)
    turn()
    assert everyspan.shutdown(5).ok
    assert server.spans
    assert not server.reports


def test_losses_after_the_part_was_closed_are_told_by_trace(server: Server) -> None:
    """P11: a span that the server rejects cannot say so itself; the report does."""
    everyspan.configure(server.url)
    lose_a_span("lost one")
    everyspan.shutdown(5)
    losses = [loss for report in server.reports for loss in report["losses"]]
    assert [(loss["trace_id"], loss["lost"], loss["total"]) for loss in losses] == [
        ("lost one", {"http 422": 1}, 1)
    ]
    assert books(server.reports[-1])["rejected"] == {"http 422": 1}


def test_a_loss_is_told_until_a_report_with_it_is_taken(
    server: Server, every_instant: None
) -> None:
    """P11: a report that fails is replaced by the next, which tells what it would have told."""
    server.answers[REPORTS] = 503
    everyspan.configure(server.url)
    lose_a_span("t1")
    server.answers.clear()
    wait_until(lambda: server.reports)
    (first, *_) = server.reports
    assert [loss["trace_id"] for loss in first["losses"]] == ["t1"]
    everyspan.shutdown(5)
    assert not any(report["losses"] for report in server.reports[1:])


def test_what_shutdown_gave_up_is_in_the_last_report(server: Server) -> None:
    """P11: the closing record has left, or never will; the report says why spans are missing."""
    everyspan.configure(server.url, linger_ms=0)
    turn(trace_id="stored")
    everyspan.flush(5)
    server.hangs.add("/v5/")
    turn(trace_id="given up")
    result = everyspan.shutdown(0.3)
    assert not result.ok
    wait_until(lambda: server.reports and server.reports[-1]["ended"])
    assert books(server.reports[-1])["dropped"] == {"shutdown": 1}
    assert server.reports[-1]["losses"][0]["lost"] == {"shutdown": 1}


def test_a_server_that_takes_no_reports_costs_the_agent_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P2, P4: spans are delivered, and a shutdown waits for a report that hangs for LAST_S."""
    monkeypatch.setattr(reports, "LAST_S", 0.05)
    server.hangs.add(REPORTS)
    everyspan.configure(server.url)
    turn()
    began_s = time.monotonic()
    assert everyspan.shutdown(30).ok
    assert time.monotonic() - began_s < 10
    assert everyspan.stats().destinations[0].delivered == 1


def test_reports_are_no_spans_and_no_failures(server: Server, every_instant: None) -> None:
    """P1: the books count spans alone."""
    server.answers[REPORTS] = 500
    everyspan.configure(server.url, linger_ms=0)
    turn()
    wait_until(lambda: pipeline.current().reporters[0]._seq > 3)
    (one,) = everyspan.stats().destinations
    assert (one.accepted, one.delivered, one.requests, one.residual) == (1, 1, 1, 0)


def test_an_idle_process_sends_no_reports(server: Server, every_instant: None) -> None:
    """DESIGN: on change only."""
    everyspan.configure(server.url, linger_ms=0)
    turn()
    wait_until(lambda: server.reports and books(server.reports[-1])["delivered"] == 1)
    reporter = pipeline.current().reporters[0]
    wait_until(lambda: reporter._timer is None and not reporter._tasks)
    seq = reporter._seq
    turn()
    wait_until(lambda: books(server.reports[-1])["delivered"] == 2)
    assert seq < reporter._seq <= seq + 3


def test_a_replaced_destination_tells_its_end(server: Server) -> None:
    """DESIGN: `configure()` drains what it replaces, and that is the producer's end."""
    everyspan.configure(server.url)
    turn()
    everyspan.configure(server.url)
    wait_until(lambda: server.reports and server.reports[-1]["ended"])
    assert books(server.reports[-1])["delivered"] == 1


@pytest.mark.parametrize(
    "ending", ["pass", "await_it", "os_exit"], ids=["falls off its end", "ashutdown", "killed"]
)
def test_a_process_tells_its_books_before_it_ends(server: Server, ending: str) -> None:
    """P11: at the exit of the interpreter too; a process that was killed cannot."""
    program = f"""
import asyncio, os
import everyspan
everyspan.configure({server.url!r})
for _ in range(3):
    with everyspan.span("turn"):
        pass
if {ending == "await_it"}:
    asyncio.run(everyspan.ashutdown(10))
if {ending == "os_exit"}:
    os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    if ending == "os_exit":
        assert not server.reports
    else:
        assert books(server.reports[-1])["delivered"] == 3


def test_only_so_many_parts_with_losses_are_remembered() -> None:
    """P4: the oldest is forgotten and counted."""
    lost = LostParts()
    parts = [Part(f"p-{number}", "t") for number in range(PARTS_MAX + 2)]
    for part in [*parts, parts[-1]]:
        lost.add(part)
    assert lost.forgotten == 2
    taken = lost.take(3)
    assert taken == parts[2:5]
    lost.put_back(taken)
    assert lost.forgotten == 2
    assert len(lost.take(PARTS_MAX)) == PARTS_MAX
    assert not lost
