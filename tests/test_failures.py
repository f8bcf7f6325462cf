"""Every way a request can fail, for real: a backend on loopback, the whole path, nothing lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

import everyspan
from everyspan.errors import BatchTooLargeError, ExportError, PermanentExportError
from everyspan.processors.base import TracingProcessorConfig
from everyspan.processors.otlp import OTLPTracingProcessorConfig
from everyspan.processors.sgp import SGPTracingProcessorConfig
from everyspan.testing import FaultServer, faults
from everyspan.testing.exchange import Request
from everyspan.testing.faults import Answer
from everyspan.transport.outcomes import OTLP_OUTCOMES, OUTCOMES, to_error
from everyspan.transport.reply import Reply
from tests.waiting import wait_until

SECONDS_MAX = 30.0
SPANS = 60


class Books(threading.Thread):
    """Reads the books a thousand times a second; any residual is kept."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.residuals: set[int] = set()
        self.looks = 0
        self._over = threading.Event()

    def run(self) -> None:
        """Look until stopped."""
        while not self._over.wait(0.001):
            self.residuals.add(everyspan.stats().residual)
            self.looks += 1

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self.join(10)


def config_of(kind: str, backend: FaultServer) -> TracingProcessorConfig:
    """A destination there."""
    if kind == "otlp":
        return OTLPTracingProcessorConfig(backend.base_url)
    return SGPTracingProcessorConfig("key", "account", backend.base_url)


@contextmanager
def sending_to(backend: FaultServer, kind: str = "sgp", **settings: Any) -> Iterator[list[str]]:
    """Record spans; give their ids, and check the books when all is over."""
    config = config_of(kind, backend)
    everyspan.configure(config, **{"linger_ms": 1, "batch_size": 20} | settings)
    books = Books()
    books.start()
    try:
        ids = []
        for _ in range(SPANS):
            with everyspan.span("turn") as span:
                ids.append(span.id)
        yield ids
    finally:
        books.stop()
        everyspan.shutdown(0.1)
        everyspan.set_tracing_processor_configs([])
    assert books.looks > 0
    assert books.residuals == {0}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes as ever, but a pause lasts milliseconds."""
    monkeypatch.setattr("everyspan.delivery.backoff.FIRST_CEILING_S", 0.02)
    monkeypatch.setattr("everyspan.delivery.backoff.LAST_CEILING_S", 0.05)


def left(kind: str = "sgp") -> Mapping[str, int]:
    """Why spans are not delivered yet."""
    return everyspan.flush(0.02).left.get(kind, {})


FAULTS = [
    *(
        faults.status(code)
        for code in (302, 401, 403, 404, 405, 408, 422, 425, 429, 500, 501, 502, 503, 504, 505)
    ),
    faults.html(),
    faults.lose_reply(),
    faults.reset_after_body(),
    faults.hang(),
    faults.trickle(),
]


KINDS = ("sgp", "otlp")
# What passes is worth waiting for, but for one that is final as OTLP has it.
CASES = [(f, kind) for f in FAULTS for kind in KINDS if (repr(f), kind) != ("status(500)", "otlp")]


@pytest.mark.parametrize(("fault", "kind"), CASES, ids=repr)
def test_a_fault_that_passes_loses_nothing(fault: Answer, kind: str) -> None:
    """P1, P5: residual 0 at every look, all delivered once the backend is well again."""
    with (
        FaultServer(fault) as backend,
        sending_to(backend, kind, request_timeout_s=0.2, max_age_s=600) as ids,
    ):
        wait_until(lambda: len(backend.batches) >= 6)
        backend.script = faults.ok()
        assert everyspan.flush(SECONDS_MAX)
        (books,) = everyspan.stats().destinations
        assert (books.delivered, books.dropped_total, books.rejected_total) == (SPANS, 0, 0)
        assert sorted(backend.rows) == sorted(ids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", [row for row in OUTCOMES if row.statuses], ids=lambda row: row.text)
def test_each_row_of_the_table_is_what_the_whole_path_does(row: Any, kind: str) -> None:
    """docs/failures.md: the error's class, read off what the first request of a process costs."""
    status = row.statuses[-1]
    error = to_error(Reply(status, {}, b""), is_otlp=kind == "otlp")
    with FaultServer(faults.status(status)) as backend, sending_to(backend, kind) as ids:
        wait_until(lambda: not error or f"http {status}" in left(kind))
        result = everyspan.flush(0.02 if error else SECONDS_MAX)
        (books,) = everyspan.stats().destinations
        if error is None:
            assert (result.ok, books.delivered) == (True, len(ids))
        elif isinstance(error, BatchTooLargeError | PermanentExportError):
            wait_until(lambda: everyspan.stats().destinations[0].rejected_total == len(ids))
        else:
            assert (books.delivered, books.dropped_total, books.rejected_total) == (0, 0, 0)
            assert books.queued + books.in_flight == len(ids)


def test_every_outcome_has_one_error() -> None:
    """The class decides: there is no row without one but success."""
    for rows in (OUTCOMES, OTLP_OUTCOMES):
        assert [row.text for row in rows if row.error is None] == ["stored"]
        assert all(issubclass(row.error, ExportError) for row in rows if row.error)


def test_a_new_key_resumes_without_a_restart() -> None:
    """P5: what was refused with the old one is delivered with the new."""
    key = "old"

    def script(request: Request) -> Answer:
        return faults.ok() if request.headers["x-api-key"] == "new" else faults.status(401)

    with FaultServer(script) as backend:
        config = SGPTracingProcessorConfig(lambda: key, "account", backend.base_url)
        everyspan.configure(config, linger_ms=1)
        with everyspan.span("turn"):
            pass
        wait_until(lambda: len(backend.batches) >= 3)
        key = "new"
        assert everyspan.flush(SECONDS_MAX)
        assert len(backend.rows) == 1


@pytest.mark.parametrize(
    "given",
    [RuntimeError("s3cret"), SystemExit("s3cret"), KeyboardInterrupt(), None, 5, "two\nlines"],
)
def test_a_key_that_cannot_be_had_keeps_the_spans(
    given: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """P2, P5: the user's function is no reason to lose or to show anything."""
    key = given

    def ask() -> str:
        if isinstance(key, BaseException):
            raise key
        return key  # type: ignore[no-any-return]

    with FaultServer() as backend:
        everyspan.configure(SGPTracingProcessorConfig(ask, "account", backend.base_url))
        with everyspan.span("turn"):
            pass
        wait_until(lambda: "no key" in left())
        key = "good"
        assert everyspan.flush(SECONDS_MAX)
        assert len(backend.rows) == 1
    assert "s3cret" not in caplog.text


def test_an_answer_that_names_fewer_spans_than_were_sent_is_no_answer_for_the_others() -> None:
    """P1: 200 for a batch of which the backend stored half."""

    def script(request: Request) -> Answer:
        return faults.partial(len(request.spans) // 2)

    with FaultServer(script) as backend, sending_to(backend, batch_size=8) as ids:
        assert everyspan.flush(SECONDS_MAX)
        assert {*backend.rows} == {*ids}
        assert len(backend.batches) > SPANS / 8


def test_spans_that_an_otlp_endpoint_refuses_are_counted_and_not_sent_again() -> None:
    """P1, otlp:B4: it says how many and why, not which; what the books say is what it stored."""
    with FaultServer(faults.partial()) as backend, sending_to(backend, "otlp", batch_size=8) as ids:
        result = everyspan.flush(SECONDS_MAX)
        (books,) = everyspan.stats().destinations
        assert books.delivered == len(backend.rows) < len(ids)
        rejected = dict(books.rejected)
        assert rejected == {"refused: scripted": len(ids) - len(backend.rows)}
        assert dict(result.left["otlp"]) == rejected
        sent = [span["id"] for request in backend.batches for span in request.spans]
        assert sorted(sent) == sorted(ids)


@pytest.mark.parametrize("body", [b"{}", b'{"items":[]}', b"", b"[1]", b'{"items":[{"id":5}]}'])
def test_an_answer_that_names_nobody_is_taken_at_its_status(body: bytes) -> None:
    """What was not understood is no reason to send for ever."""
    with FaultServer(faults.status(200, body=body)) as backend, sending_to(backend):
        assert everyspan.flush(SECONDS_MAX)
