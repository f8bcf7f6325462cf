"""How a span is said in OTLP, read back with the protobuf runtime."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from everyspan.model.freeze import freeze
from everyspan.model.record import Part, SpanRecord
from everyspan.model.span import Span as EverySpan
from everyspan.model.span import SpanType
from everyspan.model.span_error import set_span_error
from everyspan.model.w3c import RemoteParent, span_hex, trace_hex
from everyspan.processors.otlp_span import SPAN_BYTES_MAX, SpanEncoder
from tests.records import T0_NS, end, make_span, start

UUID = "9f0e3c5a-7b1d-4e2f-8a6b-0123456789ab"


def said(record: SpanRecord, *, openinference: bool = False, agent: str | None = None) -> Span:
    """The span as an endpoint reads it."""
    encoder = SpanEncoder(name="otlp", agent_name=agent, openinference=openinference)
    encoded = encoder.encode(record)
    span = Span.FromString(encoded)
    assert span.SerializeToString() == encoded
    return span


def attributes_of(record: SpanRecord, **options: Any) -> dict[str, Any]:
    """Its attributes; each comes once."""
    return read(said(record, **options).attributes)


def read(pairs: Any) -> dict[str, Any]:
    found = {pair.key: value_of(pair.value) for pair in pairs}
    assert len(found) == len(pairs)
    return found


def value_of(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    assert kind is not None
    return getattr(value, kind)


# -- ids, times, status, kind


@pytest.mark.parametrize(
    ("trace_id", "id", "parent_id"),
    [
        (UUID, UUID, "123e4567-e89b-42d3-a456-426614174000"),
        ("a" * 32, "b" * 16, "c" * 16),
        ("trace-1", "step 1", "ünusual"),
        ("0" * 32, "0" * 16, None),
        (UUID.upper(), "A" * 16, UUID.replace("-", "")),
    ],
)
def test_ids_are_derived_and_told(trace_id: str, id: str, parent_id: str | None) -> None:
    """otlp:I1, I2, I3, I4: the bytes that `inject` writes, and the text where it is another."""
    span = said(end(id, trace_id=trace_id, parent_id=parent_id))
    assert span.trace_id.hex() == trace_hex(trace_id)
    assert span.span_id.hex() == span_hex(id)
    assert span.parent_span_id.hex() == (span_hex(parent_id) if parent_id else "")
    told = read(span.attributes)
    for name, text, digits in (
        ("trace_id", trace_id, span.trace_id.hex()),
        ("span_id", id, span.span_id.hex()),
        ("parent_id", parent_id, span.parent_span_id.hex()),
    ):
        is_told = text is not None and text != digits
        assert told.get(f"everyspan.{name}") == (text if is_told else None)


def test_times_are_those_of_the_span() -> None:
    """To the nanosecond; an END of which nobody said when is none that still runs."""
    span = said(end("a", start_ns=T0_NS + 1, end_ns=T0_NS + 2))
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (T0_NS + 1, T0_NS + 2)
    endless = said(end("a", end_ns=None))
    assert endless.end_time_unix_nano == endless.start_time_unix_nano == T0_NS


def failed(error: BaseException) -> SpanRecord:
    span = make_span("a")
    set_span_error(span, error)
    return end("a", data=span.data, status=span.status)


def test_success_says_nothing_of_a_status() -> None:
    """otlp:B8: UNSET, as OpenTelemetry has it."""
    span = said(end("a"))
    assert not span.HasField("status")
    assert len(span.events) == 0


def test_a_failure_says_why() -> None:
    """otlp:B8: status, attribute and an exception at the end of the span."""
    span = said(failed(ValueError("lost the key")))
    assert (span.status.code, span.status.message) == (2, "ValueError: lost the key")
    told = read(span.attributes)
    assert told["error.type"] == "ValueError"
    assert json.loads(told["everyspan.data.__error__"])["category"] == "unknown"
    (event,) = span.events
    assert (event.name, event.time_unix_nano) == ("exception", T0_NS + 1_000_000_000)
    assert read(event.attributes) == {
        "exception.type": "ValueError",
        "exception.message": "lost the key",
    }


def test_a_cancellation_is_no_exception() -> None:
    """otlp:B8."""
    span = said(failed(asyncio.CancelledError()))
    assert (span.status.code, len(span.events)) == (2, 0)
    told = read(span.attributes)
    assert (told["error.type"], told["everyspan.status"]) == ("CancelledError", "CANCELED")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, Span.SPAN_KIND_INTERNAL),
        ({"type": "COMPLETION"}, Span.SPAN_KIND_CLIENT),
        ({"type": "KB_RETRIEVAL"}, Span.SPAN_KIND_CLIENT),
        ({"type": "EXTERNAL_ENDPOINT"}, Span.SPAN_KIND_CLIENT),
        ({"data": {"operation": "embedding"}}, Span.SPAN_KIND_CLIENT),
        ({"type": "AGENT_WORKFLOW"}, Span.SPAN_KIND_INTERNAL),
    ],
)
def test_who_asks_somebody_else_is_a_client(fields: dict[str, Any], kind: int) -> None:
    """otlp:B9."""
    assert said(end("a", **fields)).kind == kind


def test_a_span_below_another_process_says_so() -> None:
    """otlp:B3, B9, W4: flags, kind and the state of others; its children have the state alone."""
    remote = RemoteParent(trace_id="a" * 32, id="b" * 16, tracestate="everyspan=t.eA~s.eA,vendor=1")
    root = said(end("a", trace_id="a" * 32, parent_id="b" * 16, _remote=remote))
    assert (root.flags, root.kind) == (0x301, Span.SPAN_KIND_SERVER)
    child = said(end("b", trace_id="a" * 32, parent_id="a", _remote=remote))
    assert (child.flags, child.kind) == (0x101, Span.SPAN_KIND_INTERNAL)
    assert root.trace_state == child.trace_state == "vendor=1"


# -- what every span says


def test_what_an_everyspan_server_reads_back() -> None:
    """otlp:I4, §4: numbers as such, text as text, all else as JSON."""
    data = {
        "n": -7,
        "big": 2**70,
        "x": 1.5,
        "yes": True,
        "no": False,
        "text": 'é "q" \n',
        "nothing": None,
        "list": [1, {"a": None}],
        "like json": '{"a": 1}',
        "quoted": '"',
        "user_id": 17,
    }
    told = attributes_of(end("a", data=data, task_id="task", group_id="group"))
    mine = {
        key.removeprefix("everyspan.data."): value
        for key, value in told.items()
        if key.startswith("everyspan.data.")
    }
    assert mine == {
        "n": -7,
        "big": str(2**70),
        "x": 1.5,
        "yes": True,
        "no": False,
        "text": 'é "q" \n',
        "list": '[1,{"a":null}]',
        "like json": json.dumps('{"a": 1}'),
        "quoted": json.dumps('"'),
        "user_id": 17,
    }
    assert (told["everyspan.type"], told["everyspan.task_id"]) == ("STANDALONE", "task")
    assert told["everyspan.group_id"] == told["gen_ai.conversation.id"] == "group"
    assert told["user.id"] == "17"


@pytest.mark.parametrize(
    ("data", "key", "value"), [([1, 2], "items", "[1,2]"), ("x", "data", "x"), (5, "data", 5)]
)
def test_data_that_is_no_object_is_said_as_towards_sgp(data: Any, key: str, value: Any) -> None:
    """trace:D18, likewise."""
    assert attributes_of(end("a", data=data))[f"everyspan.data.{key}"] == value


def test_an_unknown_type_is_custom_and_kept() -> None:
    """trace:D19, likewise."""
    told = attributes_of(end("a", type="MY_TYPE"))
    assert told["everyspan.type"] == "CUSTOM"
    assert told["everyspan.data.__span_type__"] == "MY_TYPE"
    told = attributes_of(end("a", data={"__span_type__": "MY_TYPE"}))
    assert told["everyspan.data.__span_type__"] == "MY_TYPE"


def test_a_span_tells_its_place_in_the_trace() -> None:
    """P11: under its name, and not twice where the data has one of that name."""
    part = Part("p-1", "trace-1")
    part.ended = part.total = 2
    part.losses = {"otlp": {"expired": 1}}
    record = end("a", data={"__everyspan__": "mine"})
    record.part, record.ordinal, record.closes = part, 2, True
    told = json.loads(attributes_of(record)["everyspan.data.__everyspan__"])
    assert told == {"p": "p-1", "rev": 1, "n": 2, "total": 2, "dropped": {"expired": 1}}


def test_the_observability_span_around_it_is_told() -> None:
    """As `obs_trace_id` and `obs_span_id` towards SGP."""
    record = end("a")
    record.obs = ("17", "18")
    told = attributes_of(record)
    assert (told["everyspan.obs_trace_id"], told["everyspan.obs_span_id"]) == ("17", "18")


@pytest.mark.parametrize(
    ("payload", "value", "kind"),
    [
        ("täxt\n", "täxt\n", "text/plain"),
        ({"a": [1]}, '{"a":[1]}', "application/json"),
        ([1], "[1]", "application/json"),
        (False, "false", "application/json"),
    ],
)
def test_a_payload_without_a_name_is_a_value(payload: Any, value: str, kind: str) -> None:
    """otlp §4: what Langfuse and Phoenix read."""
    told = attributes_of(end("a", input=payload, output=payload))
    for name in ("input", "output"):
        assert told[f"{name}.value"] == value
        assert told[f"{name}.mime_type"] == kind


def test_a_span_without_payloads_says_none() -> None:
    assert set(attributes_of(end("a" * 16, trace_id="a" * 32))) == {"everyspan.type"}


# -- what a span did

OPENAI = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}, {"type": "image_url"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "get", "arguments": '{"a":1}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ],
    "tools": [{"name": "get"}],
}
OPENAI_PARTS = [
    {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
    {
        "role": "user",
        "parts": [{"type": "text", "content": "Weather?"}, {"type": "image_url"}],
    },
    {
        "role": "assistant",
        "parts": [{"type": "tool_call", "id": "c1", "name": "get", "arguments": {"a": 1}}],
    },
    {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "sunny"}]},
]
ANTHROPIC = {
    "system": "Be brief.",
    "messages": [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": "c1", "name": "get", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "sunny"}],
        },
    ],
}
ANTHROPIC_PARTS = [
    {"role": "user", "parts": [{"type": "text", "content": "Weather?"}]},
    {
        "role": "assistant",
        "parts": [
            {"signature": "s", "type": "reasoning", "content": "hm"},
            {"id": "c1", "name": "get", "type": "tool_call", "arguments": {"a": 1}},
        ],
    },
    {"role": "user", "parts": [{"type": "tool_call_response", "id": "c1", "response": "sunny"}]},
]
LANGCHAIN = {
    "messages": [
        {"type": "human", "content": "Weather?"},
        {
            "type": "ai",
            "content": "",
            "tool_calls": [{"name": "get", "args": {"a": 1}, "id": "c1"}],
        },
        {
            "type": "tool",
            "content": "sunny",
            "name": "get",
            "tool_call_id": "c1",
            "status": "success",
        },
    ]
}
LANGCHAIN_PARTS = [
    {"role": "user", "parts": [{"type": "text", "content": "Weather?"}]},
    OPENAI_PARTS[2],
    {**OPENAI_PARTS[3], "name": "get", "status": "success"},
]


@pytest.mark.parametrize(
    ("payload", "parts"),
    [
        (OPENAI, OPENAI_PARTS),
        (OPENAI["messages"], OPENAI_PARTS),
        (ANTHROPIC, ANTHROPIC_PARTS),
        (LANGCHAIN, LANGCHAIN_PARTS),
        ({"messages": OPENAI_PARTS}, OPENAI_PARTS),
    ],
    ids=["openai", "bare list", "anthropic", "langchain", "parts"],
)
def test_a_conversation_is_said_in_parts(payload: Any, parts: Any) -> None:
    """otlp §4: as GenAI conventions have it, as JSON text, and not a second time as a value."""
    told = attributes_of(end("a", type="COMPLETION", input=payload))
    assert json.loads(told["gen_ai.input.messages"]) == parts
    assert "input.value" not in told
    tools = told.get("gen_ai.tool.definitions")
    assert tools is None or json.loads(tools) == OPENAI["tools"]
    system = told.get("gen_ai.system_instructions")
    assert system is None or json.loads(system) == [{"type": "text", "content": "Be brief."}]
    assert (tools is None, system is None) == (payload is not OPENAI, payload is not ANTHROPIC)


@pytest.mark.parametrize(
    "payload",
    [
        {"messages": OPENAI["messages"], "temperature": 1},
        {"messages": [{"role": "user"}, {"role": "nobody", "content": "x"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "user", "content": [7]}]},
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"no": "name"}]}]},
        {"messages": ["x"]},
        {"messages": []},
        {"messages": 5},
        {"prompts": ["x"]},
        "text",
        [],
    ],
    ids=str,
)
def test_what_is_no_conversation_is_a_value(payload: Any) -> None:
    """Nothing of a payload is lost for looking like one."""
    told = attributes_of(end("a", type="COMPLETION", input=payload, output=payload))
    assert "gen_ai.input.messages" not in told
    assert "gen_ai.output.messages" not in told
    for name in ("input", "output"):
        value = told[f"{name}.value"]
        assert value == payload if isinstance(payload, str) else json.loads(value) == payload


def test_a_model_call_by_the_langchain_handler() -> None:
    """otlp §4, COMPLETION: model, provider, usage by its current names, cost, messages."""
    told = attributes_of(
        end(
            "a",
            type="COMPLETION",
            input={"messages": [{"type": "human", "content": "hi"}]},
            output={
                "content": "hello",
                "tool_calls": [{"name": "get", "args": {}, "id": "c1"}],
                "usage": {
                    "input_tokens": 10,
                    "output_tokens": 5,
                    "total_tokens": 15,
                    "cached_input_tokens": 3,
                    "reasoning_tokens": 2,
                },
            },
            data={
                "ls_provider": "openai",
                "ls_model_name": "gpt-x",
                "model": "gpt-x-2026",
                "cost_usd": 1,
            },
        )
    )
    assert json.loads(told["gen_ai.output.messages"]) == [
        {
            "role": "assistant",
            "parts": [
                {"type": "text", "content": "hello"},
                {"type": "tool_call", "id": "c1", "name": "get", "arguments": {}},
            ],
            "finish_reason": "tool_call",
        }
    ]
    genai = {key: value for key, value in told.items() if key.startswith("gen_ai.")}
    del genai["gen_ai.input.messages"], genai["gen_ai.output.messages"]
    assert genai == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-x",
        "gen_ai.response.model": "gpt-x-2026",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.total_tokens": 15,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "gen_ai.usage.cost": 1.0,
    }


@pytest.mark.parametrize("type_", ["AGENT_WORKFLOW", "AGENT_TRACER", "TRACER"])
def test_the_totals_of_an_agent_are_no_usage_of_a_call(type_: str) -> None:
    """otlp §4, F13: under `usage` they would be counted a second time."""
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    for where in ("data", "output"):
        fields: dict[str, Any] = {where: {"usage": usage}}
        told = attributes_of(end("a", type=type_, **fields), agent="helper")
        assert told["gen_ai.aggregated_usage.input_tokens"] == 10
        assert told["gen_ai.aggregated_usage.output_tokens"] == 5
        assert not [key for key in told if key.startswith("gen_ai.usage.")]
        assert told["gen_ai.operation.name"] == "invoke_agent"
        assert told["gen_ai.agent.name"] == "helper"


def test_a_span_of_its_own_name_wins_over_the_process() -> None:
    """`__agent_name__` of a span, else AGENT_NAME."""
    record = end("a", type="TRACER", data={"__agent_name__": "other"})
    assert attributes_of(record, agent="helper")["gen_ai.agent.name"] == "other"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"name": "tool:get", "type": "CUSTOM"}, "get"),
        ({"name": "get", "type": "CUSTOM", "data": {"tool_call_id": "c1"}}, "get"),
        ({"name": "step", "data": {"operation": "tool", "tool": {"name": "get"}}}, "get"),
        ({"name": "get", "data": {"operation": "execute_tool"}}, "get"),
    ],
)
def test_a_tool_is_said_as_one(fields: dict[str, Any], name: str) -> None:
    """otlp §4: what it was given and what it gave, whole."""
    told = attributes_of(end("a", **fields, input={"input": {"a": 1}}, output={"output": "{}"}))
    assert told["gen_ai.operation.name"] == "execute_tool"
    assert told["gen_ai.tool.name"] == name
    assert json.loads(told["gen_ai.tool.call.arguments"]) == {"input": {"a": 1}}
    assert json.loads(told["gen_ai.tool.call.result"]) == {"output": "{}"}
    assert "input.value" not in told
    assert ("gen_ai.tool.call.id" in told) == ("tool_call_id" in fields.get("data", {}))


def test_a_retrieval_is_said_as_one() -> None:
    """otlp §4; what holds more than a query or documents stays whole."""
    documents: list[dict[str, Any]] = [{"page_content": "x", "metadata": {}, "id": None}]
    told = attributes_of(
        end("a", type="KB_RETRIEVAL", input={"query": "q"}, output={"documents": documents})
    )
    assert told["gen_ai.retrieval.query.text"] == "q"
    assert json.loads(told["gen_ai.retrieval.documents"]) == documents
    told = attributes_of(end("a", type="KB_RETRIEVAL", input={"query": "q", "k": 3}))
    assert json.loads(told["input.value"]) == {"query": "q", "k": 3}


def test_in_the_words_of_openinference_too() -> None:
    """otlp §4: kind, messages one by one, counts, session, and payloads as values."""
    told = attributes_of(
        end(
            "a",
            type="COMPLETION",
            group_id="group",
            input=LANGCHAIN,
            output={"content": "sunny", "usage": {"input_tokens": 3, "output_tokens": 4}},
            data={"model": "gpt-x", "provider": "openai"},
        ),
        openinference=True,
    )
    assert told["openinference.span.kind"] == "LLM"
    assert (told["session.id"], told["llm.model_name"]) == ("group", "gpt-x")
    assert (told["llm.token_count.prompt"], told["llm.token_count.completion"]) == (3, 4)
    assert json.loads(told["input.value"]) == LANGCHAIN
    messages = {key: v for key, v in told.items() if key.startswith("llm.input_messages.")}
    assert messages == {
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.content": "Weather?",
        "llm.input_messages.1.message.role": "assistant",
        "llm.input_messages.1.message.tool_calls.0.tool_call.id": "c1",
        "llm.input_messages.1.message.tool_calls.0.tool_call.function.name": "get",
        "llm.input_messages.1.message.tool_calls.0.tool_call.function.arguments": '{"a":1}',
        "llm.input_messages.2.message.role": "tool",
        "llm.input_messages.2.message.tool_call_id": "c1",
        "llm.input_messages.2.message.content": "sunny",
    }
    assert told["llm.output_messages.0.message.content"] == "sunny"


@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        ("AGENT_WORKFLOW", "AGENT"),
        ("RERANKING", "RERANKER"),
        ("OUTPUT_GUARDRAIL", "GUARDRAIL"),
        ("EVALUATION", "EVALUATOR"),
        (None, "CHAIN"),
    ],
)
def test_the_kind_of_openinference(type_: str | None, kind: str) -> None:
    told = attributes_of(end("a", type=type_), openinference=True)
    assert told["openinference.span.kind"] == kind


# -- spans that are open, too large, or odd


def test_an_open_span_is_said_as_logfire_does() -> None:
    """otlp:B7, F5: a span of no length below the one that is open, always of the same id."""
    record = start("b" * 16, parent_id="c" * 16, trace_id="a" * 32, input="x")
    span = said(record)
    told = read(span.attributes)
    assert told["logfire.span_type"] == "pending_span"
    assert told["logfire.pending_parent_id"] == "c" * 16
    assert span.parent_span_id.hex() == "b" * 16
    assert span.span_id.hex() not in ("b" * 16, "c" * 16, "0" * 16)
    assert span.end_time_unix_nano == span.start_time_unix_nano == T0_NS
    assert said(record) == span
    told = attributes_of(start(UUID, parent_id="p"))
    assert told["everyspan.parent_id"] == UUID
    assert "everyspan.span_id" not in told
    root = attributes_of(start("b" * 16))
    assert root["logfire.pending_parent_id"] == "0" * 16


def test_a_huge_span_loses_the_ends_of_its_longest_texts() -> None:
    """otlp:B6, §6 line 19: 5 MiB arrive as valid JSON with marks, small texts whole."""
    huge = {"small": "kept", "texts": ["x" * 2_000_000, "é\n" * 400_000]}
    record = end("a", input="y" * 50_000)
    record.input = freeze(huge, bytes_max=8 << 20)
    record.output = freeze({"z": "w" * 2_500_000}, bytes_max=8 << 20)
    span = said(record)
    assert 0.8 * SPAN_BYTES_MAX < span.ByteSize() <= SPAN_BYTES_MAX
    told = read(span.attributes)
    assert told["everyspan.truncated"] is True
    cut = json.loads(told["input.value"])
    assert cut["small"] == "kept"
    for whole, left in zip(huge["texts"], cut["texts"], strict=True):
        head, _, mark = left.partition("…[everyspan: ")
        assert whole.startswith(head)
        assert mark == f"{len(whole.encode()) - len(head.encode())} bytes cut]"
    assert json.loads(told["output.value"])["z"].endswith(" bytes cut]")


def test_a_huge_span_without_texts_is_cut_too() -> None:
    """otlp:B6: whatever it is that is long, and however often it is said."""
    record = end("a", type="COMPLETION", data={"k": list(range(1000))})
    record.input = freeze(list(range(400_000)), bytes_max=8 << 20)
    message = {"role": "user", "content": "x" * 900_000}
    record.output = freeze({"messages": [message] * 3}, bytes_max=8 << 20)
    span = said(record, openinference=True)
    assert span.ByteSize() <= SPAN_BYTES_MAX
    told = read(span.attributes)
    json.loads(told["input.value"])
    assert len(json.loads(told["gen_ai.output.messages"])) == 3


@given(
    payload=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=8,
    ),
    type_=st.none() | st.sampled_from(SpanType) | st.text(max_size=5),
    texts=st.lists(
        st.text(max_size=9) | st.text(st.characters(categories=["Cs"]), max_size=3),
        min_size=5,
        max_size=5,
    ),
)
@settings(max_examples=200)
def test_whatever_an_agent_records_is_a_valid_span(
    payload: Any, type_: str | None, texts: list[str]
) -> None:
    """P5, O1: read by the runtime, which takes nothing that is no UTF-8, in either dialect."""
    name, id, trace_id, task_id, group_id = texts
    record = end(
        id,
        name=name,
        trace_id=trace_id,
        task_id=task_id,
        group_id=group_id,
        type=type_,
        input=payload,
        output=payload,
        data=payload,
    )
    for openinference in (False, True):
        span = said(record, openinference=openinference)
        assert (len(span.trace_id), len(span.span_id)) == (16, 8)
        assert any(span.trace_id)
        assert any(span.span_id)
        for key in ("input.value", "output.value"):
            for pair in span.attributes:
                if pair.key == key and pair.value.string_value[:1] in ("{", "["):
                    assert isinstance(payload, dict | list | str)


def test_a_payload_that_is_nested_too_deep_is_said_whole() -> None:
    """P5: what cannot be taken apart is no reason to lose it."""
    # Deeper than any Python decodes: 3.13 goes further than those before it.
    deep = b"[" * 20_000 + b"]" * 20_000
    record = end("a", type="COMPLETION")
    record.input, record.data = deep, b'{"k":%b}' % deep
    told = attributes_of(record)
    assert told["input.value"] == deep.decode()
    assert told["everyspan.data.data"] == record.data.decode()


def test_a_span_made_by_hand_is_said_too() -> None:
    """Without a tracer there is no parent elsewhere."""
    assert isinstance(make_span("a"), EverySpan)
    assert said(end("a")).flags == 0x101
