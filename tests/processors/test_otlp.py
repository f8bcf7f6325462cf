"""The OTLP destination, against a real loopback endpoint."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

import everyspan
from everyspan import pipeline
from everyspan.delivery.backlog import Batch
from everyspan.errors import (
    BatchRefusedError,
    BatchTooLargeError,
    DestinationRefusedError,
    PermanentExportError,
    RetryableExportError,
    SettingsError,
)
from everyspan.model.record import SpanRecord
from everyspan.processors.otlp import (
    BODY_BYTES_MAX,
    DEFAULT_ENDPOINT,
    OTHER_REASON,
    REASONS_MAX,
    OTLPTracingProcessor,
    OTLPTracingProcessorConfig,
)
from everyspan.testing import FaultServer, faults
from everyspan.testing.exchange import Exchange, Reply
from everyspan.testing.faults import Answer
from everyspan.testing.otlp_body import partial_success
from tests.records import end, make_span, start
from tests.waiting import wait_until

VARIABLES = (
    *("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    *("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"),
    *("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"),
    *("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "AGENT_NAME"),
    *("SGP_API_KEY", "SGP_ACCOUNT_ID", "EVERYSPAN_ENDPOINT"),
)
PROTOBUF = {"content-type": "application/x-protobuf"}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    yield
    everyspan.set_tracing_processor_configs([])


@pytest.fixture
def backend() -> Iterator[FaultServer]:
    """An endpoint that takes everything."""
    with FaultServer() as backend:
        yield backend


def export(base_url: str, *records: SpanRecord, **config: Any) -> dict[int, Any]:
    """Send records in one batch."""
    return asyncio.run(_export(OTLPTracingProcessor(config_of(base_url, **config)), records))


def config_of(base_url: str | None, **config: Any) -> OTLPTracingProcessorConfig:
    return OTLPTracingProcessorConfig(base_url, **config)


async def _export(
    processor: OTLPTracingProcessor, records: tuple[SpanRecord, ...]
) -> dict[int, Any]:
    starts = [record for record in records if not record.is_end]
    ends = [record for record in records if record.is_end]
    return dict(await processor.export(Batch(starts, ends)))


def answer(status: int, body: bytes) -> Answer:
    """Store nothing, and say this in protobuf."""

    async def give(exchange: Exchange) -> None:
        await exchange.reply(Reply(status, body, PROTOBUF))

    return Answer(f"answer({status})", give)


# -- requests


def test_a_batch_is_one_post(backend: FaultServer) -> None:
    """otlp:B1, B2, B3: protobuf, gzip, the path, and who sends."""
    assert export(backend.base_url, end("a", input="x"), end("b"), headers={"x-api-key": "k"}) == {}
    (request,) = backend.requests
    assert (request.method, request.path) == ("POST", "/v1/traces")
    assert request.headers["content-type"] == "application/x-protobuf"
    assert request.headers["content-encoding"] == "gzip"
    assert request.headers["user-agent"].startswith("everyspan/")
    assert request.headers["x-api-key"] == "k"
    assert sorted(backend.rows) == ["a", "b"]
    resource = backend.spans["a"]["resource"]
    assert len(resource.pop("service.instance.id")) == 36
    assert resource.pop("telemetry.sdk.version")
    assert resource == {
        "service.name": "unknown_service:python",
        "telemetry.sdk.name": "everyspan",
        "telemetry.sdk.language": "python",
    }


def test_a_body_may_go_as_it_is(backend: FaultServer) -> None:
    """otlp:B1."""
    export(backend.base_url, end("a"), compression="none")
    (request,) = backend.requests
    assert "content-encoding" not in request.headers
    assert list(backend.rows) == ["a"]


def test_the_environment_says_who_sends(
    backend: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """otlp:B3: the service's own variable wins over the resource's, that over the agent's name."""
    names = []
    for name, value in (
        ("AGENT_NAME", "agent"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=re%20source,team=a%2Cb, bad ,=x"),
        ("OTEL_SERVICE_NAME", "service"),
    ):
        monkeypatch.setenv(name, value)
        export(backend.base_url, end("a"))
        names.append(backend.spans["a"]["resource"]["service.name"])
    assert names == ["agent", "re source", "service"]
    assert backend.spans["a"]["resource"]["team"] == "a,b"


@pytest.mark.parametrize(
    ("given", "traces", "general", "sent_to"),
    [
        ("http://h:1", "http://t/x", "http://g", "http://h:1/v1/traces"),
        ("http://h:1/", None, None, "http://h:1/v1/traces"),
        ("http://h:1/custom/", None, None, "http://h:1/custom/"),
        (None, "http://t/x", "http://g", "http://t/x"),
        (None, None, "http://g/otlp/", "http://g/otlp/v1/traces"),
        (None, None, None, DEFAULT_ENDPOINT),
    ],
)
def test_where_spans_go(
    given: str | None,
    traces: str | None,
    general: str | None,
    sent_to: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """otlp:B2: the argument, else the variable for traces as it is, else the general one."""
    if traces:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", traces)
    if general:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", general)
    assert OTLPTracingProcessor(config_of(given)).endpoint == sent_to


def test_headers_and_compression_of_the_environment(
    backend: FaultServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """otlp:B2: what is no header is left out, unseen; an argument beats both."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-general=g")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "lzma")
    monkeypatch.setenv(
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        "Authorization=Basic%20s3cret,no pair s3cret,b\u00e4d=s3cret,content-type=s3cret",
    )
    export(backend.base_url, end("a"))
    export(backend.base_url, end("a"), headers={"x-own": "o"}, compression="none")
    first, second = backend.requests
    assert first.headers["authorization"] == "Basic s3cret"
    assert first.headers["content-type"] == "application/x-protobuf"
    assert first.headers["content-encoding"] == "gzip"
    assert "x-general" not in first.headers
    assert "authorization" not in second.headers
    assert "must be one of gzip, zstd, none, got 'lzma'" in caplog.text
    assert "s3cret" not in caplog.text


def test_the_environment_may_choose_the_destination(monkeypatch: pytest.MonkeyPatch) -> None:
    """DESIGN, `configure`: OpenTelemetry's variables, where no variable of ours says otherwise."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    assert pipeline.default_destinations() == [OTLPTracingProcessorConfig()]
    monkeypatch.setenv("EVERYSPAN_ENDPOINT", "http://127.0.0.1:8")
    assert pipeline.default_destinations() == ["http://127.0.0.1:8"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"endpoint": "localhost:4318"}, "endpoint must start with http"),
        ({"endpoint": "http://user:s3cret@h"}, "endpoint must not hold a user or password"),
        ({"headers": ["s3cret"]}, "headers must be a mapping, got list"),
        ({"headers": {"a b": "s3cret"}}, "headers must have names"),
        ({"headers": {"a": "s3cret\n"}}, "headers must have values"),
        ({"headers": {"Content-Type": "x"}}, "must not set content-type"),
        ({"compression": "br"}, "compression must be one of gzip, zstd, none, got 'br'"),
        ({"openinference": 1}, "openinference must be True or False, got 1"),
        ({"pending_spans": "no"}, "pending_spans must be True or False, got 'no'"),
        ({"type": "sgp"}, "type must be otlp, got 'sgp'"),
    ],
)
def test_a_bad_argument_says_which(arguments: dict[str, Any], says: str) -> None:
    """DESIGN, errors of use; nothing of a header is shown."""
    with pytest.raises(SettingsError, match=says) as caught:
        OTLPTracingProcessorConfig(**arguments)
    assert "s3cret" not in str(caught.value)


def test_a_configuration_does_not_show_its_headers() -> None:
    """P9."""
    assert "s3cret" not in repr(OTLPTracingProcessorConfig(headers={"x-api-key": "s3cret"}))


# -- answers


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, DestinationRefusedError),
        (400, BatchRefusedError),
        (401, DestinationRefusedError),
        (404, DestinationRefusedError),
        (408, RetryableExportError),
        (413, BatchTooLargeError),
        (422, BatchRefusedError),
        (429, RetryableExportError),
        (500, PermanentExportError),
        (502, RetryableExportError),
        (503, RetryableExportError),
        (504, RetryableExportError),
        (599, PermanentExportError),
    ],
)
def test_what_an_endpoint_answers_decides(status: int, kind: type[Exception]) -> None:
    """otlp:B4: 500 is final, 3xx a failure, 400, 413 and 422 are taken apart."""
    with FaultServer(faults.status(status, retry_after=7)) as backend:
        with pytest.raises(kind) as caught:
            export(backend.base_url, end("a"))
        assert getattr(caught.value, "retry_after_s", 7.0) == 7.0


@pytest.mark.parametrize(
    ("refused", "positions"), [(0, []), (1, [2]), (2, [1, 2]), (3, [0, 1, 2]), (9, [0, 1, 2])]
)
def test_refused_spans_are_counted_though_nobody_says_which(
    refused: int, positions: list[int]
) -> None:
    """otlp:B4: never more than were sent."""
    with FaultServer(answer(200, partial_success(refused, "no ids"))) as backend:
        failed = export(backend.base_url, end("a"), end("b"), end("c"))
    assert list(failed) == positions
    assert {(type(e), e.reason, e.status) for e in failed.values()} <= {
        (PermanentExportError, "refused: no ids", 200)
    }


@pytest.mark.parametrize("size", range(50, 70))
def test_a_partial_success_of_any_length_is_no_page(size: int) -> None:
    """One of 60 bytes begins as a line break and the start of a tag."""
    with FaultServer(answer(200, partial_success(1, "x" * size))) as backend:
        assert list(export(backend.base_url, end("a"))) == [0]


def test_reasons_are_short_few_and_without_credentials() -> None:
    """P4, P9: what an endpoint says stays in the books for good."""
    said = [f"span {number}: x" for number in range(REASONS_MAX + 5)]
    said[0] = "bad key sk-abcdefghijklmnopqrstuvwx\n" + "x" * 500
    said[1] = ""
    answers = iter([answer(200, partial_success(1, text)) for text in said])
    with FaultServer(lambda _: next(answers)) as backend:
        processor = OTLPTracingProcessor(config_of(backend.base_url))

        async def send() -> list[str]:
            return [(await _export(processor, (end("a"),)))[0].reason for _ in said]

        reasons = asyncio.run(send())
    assert "[REDACTED:credential]\\n" in reasons[0]
    assert len(reasons[0]) < 100
    assert reasons[1] == OTHER_REASON
    assert len(set(reasons)) == REASONS_MAX + 1


def test_a_warning_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """otlp:B4, H5: all was stored, and the endpoint has something to say."""
    with FaultServer(answer(200, partial_success(0, "soon gone"))) as backend:
        for _ in range(3):
            assert export(backend.base_url, end("a")) == {}
    assert caplog.text.count("soon gone") == 1


def test_a_batch_that_is_too_large_is_not_sent_whole(backend: FaultServer) -> None:
    """otlp:B5: before it is compressed; whoever awaits the processor directly gets it in parts."""
    spans = [make_span(f"s{n}", input="x" * 900_000) for n in range(9)]
    processor = OTLPTracingProcessor(config_of(backend.base_url))
    asyncio.run(processor.on_spans_end(spans))
    assert len(backend.rows) == 9
    assert len(backend.requests) == 3
    with pytest.raises(BatchTooLargeError):
        export(backend.base_url, *[end(f"s{n}", input="x" * 900_000) for n in range(9)])
    assert BODY_BYTES_MAX == 4 << 20


# -- keys


@pytest.mark.parametrize(
    "given",
    [RuntimeError("s3cret"), SystemExit("s3cret"), None, {"a": 5}, {"x": "s3cret\n"}],
    ids=repr,
)
def test_headers_that_cannot_be_had_keep_the_spans(
    given: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """P2, P5: the user's function is no reason to lose or to show anything."""
    headers = given

    def ask() -> Any:
        if isinstance(headers, BaseException):
            raise headers
        return headers

    with FaultServer() as backend:
        everyspan.configure(config_of(backend.base_url, headers=ask), linger_ms=0)
        with everyspan.span("turn"):
            pass
        wait_until(lambda: "no headers" in everyspan.flush(0.02).left.get("otlp", {}))
        headers = {"authorization": "Bearer new"}
        assert everyspan.flush(20)
        assert backend.requests[-1].headers["authorization"] == "Bearer new"
    assert "s3cret" not in caplog.text


# -- open spans


def test_an_open_span_is_not_told(backend: FaultServer) -> None:
    """otlp:B7: not at its start, whatever the delay, nor at the end of the process."""
    everyspan.configure(config_of(backend.base_url), start_delay_ms=0, linger_ms=0)
    with everyspan.span("open"):
        with everyspan.span("done") as done:
            pass
        assert everyspan.flush(20)
        assert everyspan.stats().open_spans == 1
        assert everyspan.shutdown(20)
        (books,) = everyspan.stats().destinations
        assert (books.delivered, books.start_writes) == (1, 0)
    assert list(backend.rows) == [done.id]


def test_pending_spans_tell_of_open_ones(backend: FaultServer) -> None:
    """otlp:B7: once open for a second; abandoned ones at the end."""
    config = config_of(backend.base_url, pending_spans=True)
    assert OTLPTracingProcessor(config).start_delay_s == 1.0
    everyspan.configure(config, start_delay_ms=0, linger_ms=0)
    with everyspan.span("turn") as turn:
        wait_until(lambda: backend.rows)
        ((pending,),) = backend.rows.values()
    assert everyspan.flush(20)
    (ended,) = backend.rows[turn.id]
    assert pending["attributes"]["logfire.span_type"] == "pending_span"
    assert (pending["parent_id"], pending["parent_hex"]) == (turn.id, ended["hex"])
    assert "logfire.span_type" not in ended["attributes"]


def test_a_direct_start_is_told_only_where_open_spans_are(backend: FaultServer) -> None:
    """trace:S2, likewise."""
    for pending_spans, told in ((False, 0), (True, 1)):
        processor = OTLPTracingProcessor(config_of(backend.base_url, pending_spans=pending_spans))
        asyncio.run(processor.on_span_start(make_span("a")))
        assert len(backend.requests) == told


# -- a dead endpoint


@pytest.mark.parametrize("fault", [faults.down(), faults.hang()], ids=repr)
def test_a_dead_endpoint_holds_up_nobody(fault: Answer, caplog: pytest.LogCaptureFixture) -> None:
    """otlp §6 line 18: deadlines are kept, and what is undelivered is said, with its reason."""
    caplog.set_level(logging.DEBUG)
    with FaultServer(fault) as backend:
        everyspan.configure(config_of(backend.base_url, headers={"x-api-key": "s3cret"}))
        for _ in range(50):
            with everyspan.span("turn"):
                pass
        for wait, left_over in ((everyspan.flush, 0), (everyspan.shutdown, 50)):
            before_s = time.monotonic()
            result = wait(0.5)
            assert time.monotonic() - before_s < 1.5
            assert not result
            assert sum(result.left["otlp"].values()) == 50
            (books,) = everyspan.stats().destinations
            assert (books.dropped_total, books.residual) == (left_over, 0)
    assert "s3cret" not in caplog.text


def test_a_probe_sends_nothing(backend: FaultServer) -> None:
    """otlp §1, Empty: 200 wherever OTLP is spoken."""

    async def ask() -> Reply | Any:
        processor = OTLPTracingProcessor(config_of(backend.base_url))
        try:
            return await processor.probe()
        finally:
            await processor.close()

    assert asyncio.run(ask()).status == 200
    assert backend.rows == {}


def test_zstd_is_read_by_whoever_reads_zstd() -> None:
    """otlp §1: frames that say their size, one after the other from one compressor."""
    from backports import zstd

    from everyspan.transport.compression import compressor

    compress = compressor("zstd")
    for body in (b"", b"x" * 100_000, bytes(range(256))):
        frame = compress(body)
        assert zstd.decompress(frame) == body
        assert zstd.get_frame_info(frame).decompressed_size == len(body)


def test_starts_and_ends_share_a_request(backend: FaultServer) -> None:
    """Positions of a refusal are those of the batch: STARTs, then ENDs."""
    assert export(backend.base_url, start("a"), end("b"), pending_spans=True) == {}
    assert [span["parent_id"] for span in backend.requests[0].spans] == ["a", None]
