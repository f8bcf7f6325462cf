"""The SGP destination, against a real loopback server that keeps what it was sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everyspan.delivery.backlog import Batch
from everyspan.errors import (
    BatchRefusedError,
    DestinationRefusedError,
    RetryableExportError,
    SettingsError,
)
from everyspan.model.record import Part, SpanRecord
from everyspan.model.span import Span, SpanType
from everyspan.model.span_error import set_span_error
from everyspan.processors.sgp import (
    DEFAULT_BASE_URL,
    SGPAsyncTracingProcessor,
    SGPTracingProcessorConfig,
)
from everyspan.queue.span_queue import AsyncSpanQueue
from everyspan.testing import FaultServer, faults
from everyspan.testing.exchange import BATCH_PATH
from everyspan.testing.faults import Answer
from tests.records import T0_NS, end, make_span, start

SETTINGS = ("ACP_TYPE", "AGENT_NAME", "AGENT_ID", "AGENTEX_TRACING_SKIP_SPAN_START")
STAMPS = {"__source__": "agentex", "__acp_type__": "async"}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """trace:D28, `trace:S13`: none of the agent's variables is required."""
    for name in (*SETTINGS, "SGP_CLIENT_BASE_URL", "ACP_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def backend() -> Iterator[FaultServer]:
    """A backend that takes everything."""
    with FaultServer() as backend:
        yield backend


def make_processor(base_url: str | None, **fields: Any) -> SGPAsyncTracingProcessor:
    """A processor with a key and an account."""
    config = {"sgp_api_key": "key", "sgp_account_id": "account", "sgp_base_url": base_url}
    return SGPAsyncTracingProcessor(SGPTracingProcessorConfig(**(config | fields)))


def export(base_url: str, *records: SpanRecord) -> None:
    """Send records in one batch."""
    starts = [record for record in records if not record.is_end]
    ends = [record for record in records if record.is_end]
    asyncio.run(_discard(make_processor(base_url), Batch(starts, ends)))


async def _discard(processor: SGPAsyncTracingProcessor, batch: Batch) -> None:
    assert await processor.export(batch) == {}


def items_of(*records: SpanRecord) -> list[dict[str, Any]]:
    """The items as written, without a server."""
    items: list[dict[str, Any]] = json.loads(make_processor("http://x").encode(records))["items"]
    return items


def item_of(record: SpanRecord) -> dict[str, Any]:
    """One item."""
    (item,) = items_of(record)
    return item


# -- the wire


def test_an_end_is_written_as_the_api_wants_it(backend: FaultServer) -> None:
    """trace:S8, S10, S12: nothing missing, nothing more."""
    record = end("s1", parent_id="s0", input={"q": 1}, output={"a": [2]}, data={"k": "v"})
    export(backend.base_url, record)
    (request,) = backend.requests
    assert (request.method, request.path) == ("PUT", BATCH_PATH)
    assert request.headers["x-api-key"] == "key"
    assert request.headers["x-selected-account-id"] == "account"
    assert request.headers["content-type"] == "application/json"
    assert "authorization" not in request.headers
    assert json.loads(request.body) == {
        "items": [
            {
                "name": "step",
                "id": "s1",
                "trace_id": "trace-1",
                "start_timestamp": "2025-10-09T08:53:20.000000+00:00",
                "end_timestamp": "2025-10-09T08:53:21.000000+00:00",
                "parent_id": "s0",
                "input": {"q": 1},
                "output": {"a": [2]},
                "metadata": {"k": "v", **STAMPS},
                "status": "SUCCESS",
                "type": "STANDALONE",
            }
        ]
    }


def test_a_start_has_no_end_and_no_output() -> None:
    """trace:S8: completion is `end_timestamp`."""
    item = item_of(start("s1", input={"q": 1}, output={"never": 1}))
    assert "end_timestamp" not in item
    assert "parent_id" not in item
    assert (item["input"], item["output"], item["metadata"]) == ({"q": 1}, {}, STAMPS)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, {}),
        ({}, {}),
        ({"a": 1}, {"a": 1}),
        ([], {"items": []}),
        ([1, 2], {"items": [1, 2]}),
        ("text", {"input": "text"}),
        (0, {"input": 0}),
        (False, {"input": False}),
        (float("nan"), {"input": None}),
    ],
)
def test_input_and_output_are_always_objects(value: object, expected: dict[str, Any]) -> None:
    """trace:D18, D20: an array or scalar would cost the whole batch."""
    item = item_of(end("a", input=value, output=value))
    assert item["input"] == expected
    assert item["output"] == {key.replace("input", "output"): v for key, v in expected.items()}


@pytest.mark.parametrize(
    ("data", "expected"),
    [(None, {}), ({}, {}), ([1], {"items": [1]}), ("x", {"data": "x"}), ({"a": {}}, {"a": {}})],
)
def test_data_becomes_metadata_with_our_stamps(data: object, expected: dict[str, Any]) -> None:
    """trace:S10, D16, D18: whatever it is."""
    assert item_of(end("a", data=data))["metadata"] == expected | STAMPS


def test_the_agent_stamps_its_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """trace:S10."""
    monkeypatch.setenv("ACP_TYPE", "sync")
    monkeypatch.setenv("AGENT_NAME", 'my "agent"')
    monkeypatch.setenv("AGENT_ID", "17")
    assert item_of(end("a"))["metadata"] == {
        "__source__": "agentex",
        "__acp_type__": "sync",
        "__agent_name__": 'my "agent"',
        "__agent_id__": "17",
    }


@pytest.mark.parametrize("given_as", ["type", "data"])
@pytest.mark.parametrize(
    ("type_", "sent"), [("COMPLETION", "COMPLETION"), ("TOOL", "CUSTOM"), ("", "CUSTOM")]
)
def test_an_unknown_type_does_not_reach_the_wire(given_as: str, type_: str, sent: str) -> None:
    """trace:S9, D19: the text stays in the metadata, once."""
    fields: dict[str, Any] = {"type": type_}
    if given_as == "data":
        fields = {"data": {"__span_type__": type_}}
    body = make_processor("http://x").encode([end("a", **fields)])
    (item,) = json.loads(body)["items"]
    assert item["type"] == sent
    assert item["metadata"]["__span_type__"] == type_


def test_every_type_of_the_api_is_sent_as_it_is() -> None:
    """`sgp` §3.1."""
    items = items_of(*[end(type_, type=type_) for type_ in SpanType])
    assert [item["type"] for item in items] == [str(type_) for type_ in SpanType]


def test_a_failed_span_says_why() -> None:
    """trace:S11."""
    span = make_span("a")
    set_span_error(span, ValueError("lost the key"))
    item = item_of(end("a", data=span.data, status=span.status))
    assert item["status"] == "ERROR"
    metadata = item["metadata"]
    assert metadata["error"] is True
    assert metadata["error_type"] == "ValueError"
    assert metadata["error_message"] == "lost the key"
    assert metadata["error_category"] == "unknown"


def test_an_error_that_the_agent_wrote_itself_counts() -> None:
    """trace:S11, `trace:E2`: as the original's agents do, through the key in `data`."""
    item = item_of(end("a", data={"__error__": {"type": "KeyError", "message": "k"}}))
    assert item["status"] == "ERROR"
    assert item["metadata"]["error_type"] == "KeyError"


def test_a_cancelled_span_is_no_error() -> None:
    """`trace:E3`."""
    span = make_span("a")
    set_span_error(span, asyncio.CancelledError())
    assert item_of(end("a", data=span.data, status=span.status))["status"] == "CANCELED"


def test_the_task_travels_in_the_metadata() -> None:
    """trace:D20."""
    assert item_of(end("a", task_id="t-1"))["metadata"]["__task_id__"] == "t-1"


def test_the_completeness_record() -> None:
    """P11, SEAMS: part, ordinal, revision; the closing END has the total and the losses."""
    part = Part("p-1", "trace-1")
    part.ended, part.total = 2, 2
    part.losses = {"sgp": {"queue full": 2}, "other": {"expired": 1}}
    begun, first, last = start("a"), end("a"), end("b")
    for record in (begun, first, last):
        record.part = part
    first.ordinal, last.ordinal = 1, 2
    last.closes = True
    records = [item["metadata"]["__everyspan__"] for item in items_of(begun, first, last)]
    assert records == [
        {"p": "p-1", "rev": 0},
        {"p": "p-1", "n": 1, "rev": 1},
        {"p": "p-1", "n": 2, "rev": 1, "total": 2, "dropped": {"queue full": 2}},
    ]


# -- one bad span costs only itself


class Weird(str):
    """Text of the agent's own kind."""

    __slots__ = ()


@pytest.mark.parametrize("field", ["name", "id", "trace_id", "parent_id", "group_id", "task_id"])
@pytest.mark.parametrize("value", ["\ud800", "a\ud83d", 7, 7.5, b"x", Weird("w"), None, ("t",)])
def test_odd_names_and_ids_are_sent_as_text(field: str, value: Any) -> None:
    """S2 of the processor: and the spans beside it are as they were."""
    good = end("good", name="fine", input={"q": "ä"})
    fields: dict[str, Any] = {"id": "bad", field: value}
    bad = end(**fields)
    body = make_processor("http://x").encode([good, bad])
    body.decode("utf-8")
    first, second = json.loads(body)["items"]
    assert first == item_of(good)
    sent = second["metadata"].get("__task_id__") if field == "task_id" else second.get(field)
    if value is not None:
        assert isinstance(sent, str)
        assert "\ud800" not in sent


@pytest.mark.parametrize("status", ["DONE", "", None, 3, "error"])
def test_an_unknown_status_does_not_reach_the_wire(status: Any) -> None:
    """As trace:D19: the backend would refuse the whole batch."""
    assert item_of(end("a", status=status))["status"] in ("SUCCESS", "ERROR", "CANCELED")


@given(
    payload=st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=8,
    ),
    name=st.text(max_size=20) | st.text(st.characters(categories=["Cs"]), max_size=3),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_an_agent_records_is_a_valid_item(payload: Any, name: str) -> None:
    """P5: a JSON object with the required fields, objects where the API wants objects."""
    (item,) = json.loads(
        make_processor("http://x").encode(
            [end("a", name=name, input=payload, output=payload, data=payload)]
        )
    )["items"]
    assert {"name", "id", "trace_id", "start_timestamp", "status", "type"} <= item.keys()
    for field in ("input", "output", "metadata"):
        assert isinstance(item[field], dict)


@pytest.mark.parametrize("start_ns", [-(10**30), 10**30])
def test_a_time_beyond_the_calendar_costs_only_its_span(
    backend: FaultServer, start_ns: int
) -> None:
    """P5: the 19 beside it are stored, it is stored or rejected."""
    from everyspan.queue.span_queue import AsyncSpanQueue

    queue = AsyncSpanQueue(linger_ms=1000, own_homes=True)
    processor = make_processor(backend.base_url)
    for number in range(19):
        queue.enqueue("end", make_span(f"s{number}"), [processor])
    queue.enqueue("end", make_span("bad", start_ns=start_ns), [processor])
    queue.shutdown_sync(10)
    (stats,) = queue.stats().destinations
    assert {f"s{number}" for number in range(19)} <= backend.rows.keys()
    assert stats.delivered + stats.rejected_total == 20
    assert stats.residual == 0


# -- when it sends, and what it makes of answers


def test_nothing_is_kept_between_start_and_end(backend: FaultServer) -> None:
    """trace:S1, S2, S4: START sends nothing; an END alone is complete."""
    processor = make_processor(backend.base_url)

    async def main() -> None:
        await processor.on_span_start(make_span("other"))
        await processor.on_span_end(make_span("a", output={"x": 1}))

    asyncio.run(main())
    (request,) = backend.requests
    (item,) = request.spans
    assert (item["id"], item["output"]) == ("a", {"x": 1})
    assert item["end_timestamp"]


@pytest.mark.parametrize("falsy", ["0", "FALSE", "Off", " no "])
def test_a_batch_is_one_request_for_start_and_for_end(
    backend: FaultServer, monkeypatch: pytest.MonkeyPatch, falsy: str
) -> None:
    """trace:S2, S3, S6: with STARTs on."""
    monkeypatch.setenv("AGENTEX_TRACING_SKIP_SPAN_START", falsy)
    processor = make_processor(backend.base_url)
    spans = [make_span(f"s{number}") for number in range(100)]

    async def main() -> None:
        await processor.on_spans_start(spans)
        await processor.on_spans_end(spans)
        await processor.on_spans_end([])

    asyncio.run(main())
    assert [len(request.spans) for request in backend.requests] == [100, 100]
    assert ["end_timestamp" in r.spans[0] for r in backend.requests] == [False, True]


@pytest.mark.parametrize("word", [None, "1", "true", "yes", "on", "anything"])
def test_other_words_skip_starts(monkeypatch: pytest.MonkeyPatch, word: str | None) -> None:
    """trace:S6."""
    if word is not None:
        monkeypatch.setenv("AGENTEX_TRACING_SKIP_SPAN_START", word)
    assert make_processor("http://x").start_delay_s is None


@pytest.mark.parametrize("fields", [{"sgp_api_key": ""}, {"sgp_account_id": ""}])
async def test_without_key_or_account_it_is_off(fields: dict[str, str]) -> None:
    """trace:S5: no client, nothing sent, no error."""
    processor = make_processor("http://127.0.0.1:9", **fields)
    await processor.on_spans_end([make_span()])
    assert processor._get_client() is None
    assert not processor._http._clients


@pytest.mark.parametrize("url", ["", None])
def test_an_empty_address_is_none(url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """trace:D21: the default, or what the environment says."""
    assert make_processor(url).base_url == DEFAULT_BASE_URL
    monkeypatch.setenv("SGP_CLIENT_BASE_URL", "http://there:1/public")
    assert make_processor(url).base_url == "http://there:1/public"
    monkeypatch.setenv("SGP_CLIENT_BASE_URL", "")
    assert make_processor(url).base_url == DEFAULT_BASE_URL


def test_a_path_prefix_is_kept(backend: FaultServer) -> None:
    """`sgp` §1."""
    export(backend.base_url + "/public/", end("a"))
    assert backend.requests[0].path == "/public" + BATCH_PATH


@pytest.mark.parametrize(
    "fields",
    [
        {"sgp_api_key": "k\n"},
        {"sgp_api_key": None},
        {"sgp_base_url": "ftp://x"},
        {"sgp_account_id": "ä"},
    ],
)
def test_a_bad_setting_raises_at_once_and_is_named(fields: dict[str, Any]) -> None:
    """Bad input; the key's value is not repeated."""
    with pytest.raises(SettingsError) as caught:
        make_processor("http://x", **fields)
    assert next(iter(fields)) in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "offenders"),
    [
        (faults.refuse(3), (3,)),
        (faults.refuse(5, 1, 5), (1, 5)),
        (faults.refuse(), ()),
        *(
            (faults.status(422, body=body), named)
            for body, named in [
                (b"", ()),
                (b"\xff", ()),
                (b"[1]", ()),
                (b'{"detail":[1,{"loc":1},{"loc":["body","items","x"]},{"loc":["query"]}]}', ()),
                (
                    b'{"detail":[{"loc":["body","items",true,"x"]},{"loc":["body","items",2]}]}',
                    (2,),
                ),
                (b'{"detail":' + b"[" * 60_000, ()),
            ]
        ),
    ],
)
def test_offenders_are_read_from_a_refusal(answer: Answer, offenders: Sequence[int]) -> None:
    """`sgp:E4`; a body that says nothing usable names nobody."""
    with FaultServer(answer) as backend:
        with pytest.raises(BatchRefusedError) as caught:
            export(backend.base_url, end("a"))
        assert caught.value.offenders == tuple(offenders)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(503, RetryableExportError), (409, BatchRefusedError), (404, DestinationRefusedError)],
)
def test_whoever_awaits_it_directly_gets_our_errors(status: int, kind: type[Exception]) -> None:
    """The class says whether trying again can help."""
    with FaultServer(faults.status(status)) as backend:
        processor = make_processor(backend.base_url)
        with pytest.raises(kind):
            asyncio.run(processor.on_spans_end([make_span()]))


def test_no_request_exceeds_a_thousand_items(backend: FaultServer) -> None:
    """`sgp:X2`: however large a batch is asked for."""
    processor = make_processor(backend.base_url)
    asyncio.run(processor.on_spans_end([make_span(f"s{n}") for n in range(2500)]))
    assert max(len(request.spans) for request in backend.requests) <= 1000
    assert len(backend.rows) == 2500


def test_it_sends_only_to_an_everyspan_server_if_told_so() -> None:
    """DESIGN: `configure("http://...")` leaves a stranger on the port alone."""
    config = SGPTracingProcessorConfig("k", "a", "")

    def processor_for(backend: FaultServer) -> SGPAsyncTracingProcessor:
        return SGPAsyncTracingProcessor(
            SGPTracingProcessorConfig("k", "a", backend.base_url), only_everyspan=True
        )

    assert config.sgp_base_url == ""
    with FaultServer(faults.status(200)) as stranger:
        with pytest.raises(RetryableExportError, match="not an everyspan server"):
            asyncio.run(processor_for(stranger).export(Batch([], [end("a")])))
        assert not stranger.batches
    with FaultServer() as ours:
        processor = processor_for(ours)
        for _ in range(2):
            asyncio.run(_discard(processor, Batch([], [end("a")])))
        assert [request.method for request in ours.requests] == ["GET", "PUT", "PUT"]


def test_a_configuration_keeps_its_key_out_of_logs() -> None:
    """P9."""
    assert "secret" not in repr(SGPTracingProcessorConfig("secret", "a"))


def test_times_are_utc_with_microseconds() -> None:
    """trace:S12: nanoseconds are cut, not rounded."""
    item = item_of(end("a", start_ns=T0_NS + 1_999, end_ns=T0_NS + 999_999_999))
    assert item["start_timestamp"].endswith("20.000001+00:00")
    assert item["end_timestamp"].endswith("20.999999+00:00")


def test_a_span_is_a_plain_object() -> None:
    """The processor's interface takes `Span`."""
    assert isinstance(make_span(), Span)


def test_a_queue_of_larger_batches_still_delivers(backend: FaultServer) -> None:
    """`sgp:X2`: whatever `batch_size` the user sets."""
    from everyspan.queue.span_queue import AsyncSpanQueue

    queue = AsyncSpanQueue(batch_size=5000, linger_ms=60_000, own_homes=True)
    processor = make_processor(backend.base_url)
    for number in range(2001):
        queue.enqueue("end", make_span(f"s{number}"), [processor])
    assert queue.shutdown_sync(10)
    assert max(len(request.spans) for request in backend.requests) <= 1000
    assert len(backend.rows) == 2001


def test_spans_for_a_disabled_destination_count_as_dropped() -> None:
    """trace:S5, P1: nothing is sent, and nobody says that it was delivered."""
    queue = AsyncSpanQueue(linger_ms=0, own_homes=True)
    processor = SGPAsyncTracingProcessor(
        SGPTracingProcessorConfig(sgp_api_key="", sgp_account_id="a", sgp_base_url="http://x.test")
    )
    queue.enqueue("end", make_span("a"), [processor])
    result = queue.shutdown_sync(5)
    assert result.left["sgp"] == {"disabled": 1}
    assert queue.stats().destinations[0].delivered == 0
