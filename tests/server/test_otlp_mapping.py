"""OTLP spans as rows (`otlp` §3), from both encodings at once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from everyspan.model.w3c import span_hex, trace_hex
from everyspan.server.otlp_mapping import RESOURCE_BYTES_MAX
from everyspan.server.row import SpanRow, read_facts
from tests.server.otlp_requests import (
    NOW_NS,
    PARENT,
    SPAN,
    TRACE,
    data_of,
    make_event,
    make_request,
    make_span,
    pairs,
    row_of,
    rows_of,
)
from tests.server.rows import END_NS, START_NS

ERROR = {"code": 2, "message": "ValueError: boom"}
CHAT = {"gen_ai.operation.name": "chat"}
USER = [{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]
ANSWER = [{"role": "assistant", "parts": [{"type": "text", "content": "yes"}]}]


def input_of(row: SpanRow) -> Any:
    return None if row.input is None else json.loads(row.input)


def output_of(row: SpanRow) -> Any:
    return None if row.output is None else json.loads(row.output)


# Fields --------------------------------------------------------------------------------------


def test_ids_are_lowercase_hex() -> None:
    """otlp:F1: ids, and no parent where there is none."""
    row = row_of(parentSpanId=PARENT)
    assert (row.trace_id, row.id, row.parent_id) == (TRACE, SPAN, PARENT)
    assert row_of().parent_id is None


@pytest.mark.parametrize(
    ("trace_id", "span_id", "parent_id"),
    [
        ("conversation 7", "step 1", "step 0"),
        ("0191d7a8-3f9c-7a70-8f0e-2f5c1b7e9a11", "0191d7a8-3f9c-7a70-8f0e-2f5c1b7e9a12", "ü"),
    ],
)
def test_an_everyspan_producers_ids_come_back(trace_id: str, span_id: str, parent_id: str) -> None:
    """otlp:F1, I4: text that derives to the bytes sent is the id."""
    said = {
        "everyspan.trace_id": trace_id,
        "everyspan.span_id": span_id,
        "everyspan.parent_id": parent_id,
    }
    row = row_of(
        said,
        traceId=trace_hex(trace_id),
        spanId=span_hex(span_id),
        parentSpanId=span_hex(parent_id),
    )
    assert (row.trace_id, row.id, row.parent_id) == (trace_id, span_id, parent_id)
    assert "attributes" not in data_of(row)


def test_ids_that_do_not_derive_are_not_believed() -> None:
    """otlp:F1: nobody moves a span into another trace by an attribute."""
    said = {"everyspan.trace_id": "other", "everyspan.span_id": 5, "everyspan.parent_id": "p"}
    row = row_of(said)
    assert (row.trace_id, row.id, row.parent_id) == (TRACE, SPAN, None)
    assert data_of(row)["attributes"] == said


@pytest.mark.parametrize(
    ("start", "end", "expected", "is_odd"),
    [
        (START_NS, END_NS, (START_NS, END_NS), False),
        (START_NS, 0, (START_NS, None), False),
        (0, END_NS, (END_NS, END_NS), False),
        (0, 0, (NOW_NS, None), False),
        (END_NS, START_NS, (END_NS, END_NS), True),
        (2**64 - 1, 2**64 - 1, (2**63 - 1, 2**63 - 1), True),
    ],
)
def test_times_never_refuse_a_span(
    start: int, end: int, expected: tuple[int, int | None], is_odd: bool
) -> None:
    """otlp:F3: what is missing or odd is mended, and said."""
    row = row_of(startTimeUnixNano=str(start), endTimeUnixNano=str(end))
    assert (row.start_ns, row.end_ns) == expected
    assert data_of(row).get("time_error", False) is is_odd


@pytest.mark.parametrize(
    ("name", "attributes", "expected"),
    [
        ("GET /", {}, "GET /"),
        ("", {}, "unknown"),
        ("a\0b", {}, "a�b"),
        ("hi {x}", {"logfire.msg_template": "hi {x}", "logfire.msg": "hi Bo"}, "hi Bo"),
        ("other", {"logfire.msg_template": "hi {x}", "logfire.msg": "hi Bo"}, "other"),
    ],
)
def test_names(name: str, attributes: dict[str, object], expected: str) -> None:
    """otlp:F4."""
    assert row_of(attributes, name=name).name == expected


@pytest.mark.parametrize(("above", "parent_id"), [(PARENT, PARENT), ("0" * 16, None), ("x", None)])
def test_a_pending_span_is_the_row_of_its_parent_in_progress(
    above: str, parent_id: str | None
) -> None:
    """otlp:F5: and its own id is nowhere."""
    attributes = {"logfire.span_type": "pending_span", "logfire.pending_parent_id": above}
    row = row_of(attributes, spanId="1" * 16, parentSpanId=SPAN, endTimeUnixNano=str(START_NS))
    assert (row.id, row.parent_id, row.start_ns, row.end_ns) == (SPAN, parent_id, START_NS, None)
    assert row.status is None
    assert "attributes" not in data_of(row)


@pytest.mark.parametrize("code", [0, 1, 5])
def test_any_other_status_is_success(code: int) -> None:
    """otlp:F6: an exception event alone makes no error."""
    event = make_event("exception", {"exception.type": "KeyError"})
    row = row_of(status={"code": code}, events=[event])
    assert row.status == "SUCCESS"
    assert "__error__" not in data_of(row)


@pytest.mark.parametrize(
    ("attributes", "events", "expected", "status"),
    [
        ({}, [], {"type": "Error", "message": "ValueError: boom"}, "ERROR"),
        (
            {"error.type": "<class 'openai.BadRequestError'>"},
            [],
            {"type": "openai.BadRequestError", "message": "ValueError: boom"},
            "ERROR",
        ),
        (
            {"error.type": "x"},
            [
                {"exception.type": "KeyError", "exception.message": "first"},
                {"exception.type": "ValueError", "exception.message": "boom"},
            ],
            {"type": "ValueError", "message": "boom"},
            "ERROR",
        ),
        (
            {},
            [{"exception.type": "asyncio.exceptions.CancelledError", "exception.message": ""}],
            {"type": "asyncio.exceptions.CancelledError", "message": ""},
            "CANCELED",
        ),
        (
            {"everyspan.status": "CANCELED", "error.type": "Stopped"},
            [],
            {"type": "Stopped", "message": "ValueError: boom"},
            "CANCELED",
        ),
    ],
)
def test_errors(
    attributes: dict[str, object],
    events: list[dict[str, object]],
    expected: dict[str, str],
    status: str,
) -> None:
    """otlp:F6, F7: the last exception, else the attribute and the status's message."""
    row = row_of(attributes, status=ERROR, events=[make_event("exception", e) for e in events])
    assert (row.status, data_of(row)["__error__"]) == (status, expected)
    assert row.facts.error_type == expected["type"]


def test_data_has_a_place_for_everything() -> None:
    """otlp:F8."""
    span = make_span(
        {"gen_ai.tool.name": "search", "gen_ai.tool.call.id": "c1", "user.id": "u", "mine": [1, 2]},
        kind=3,
        events=[make_event("retry", {"n": 1})],
        links=[{"traceId": TRACE, "spanId": PARENT, "attributes": pairs({"why": "cause"})}],
        droppedAttributesCount=2,
        droppedLinksCount=1,
    )
    request = make_request(
        span, resource={"service.name": "svc", "pid": 7}, scope={"name": "lib", "version": "1"}
    )
    (row,) = rows_of(request)
    assert data_of(row) == {
        "__source__": "otel",
        "__span_type__": "CUSTOM",
        "__agent_name__": "svc",
        "operation": "tool",
        "user_id": "u",
        "tool": {"name": "search", "id": "c1"},
        "kind": "client",
        "events": [
            {"name": "retry", "time": "2026-01-02T03:04:05.123456Z", "attributes": {"n": 1}}
        ],
        "links": [{"trace_id": TRACE, "span_id": PARENT, "attributes": {"why": "cause"}}],
        "resource": {"service.name": "svc", "pid": 7},
        "scope": {"name": "lib", "version": "1"},
        "dropped": {"attributes": 2, "links": 1},
        "attributes": {"mine": [1, 2]},
    }


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"gen_ai.agent.name": "a", "agent.name": "b"}, "a"),
        ({"agent.name": "b"}, "b"),
        ({}, "svc"),
    ],
)
def test_the_agent_is_named(attributes: dict[str, object], expected: str) -> None:
    """otlp:F8: by the span, else by its service."""
    (row,) = rows_of(make_request(make_span(attributes), resource={"service.name": "svc"}))
    assert row.facts.agent == expected


def test_an_unknown_service_names_no_agent() -> None:
    """otlp:F8: what the SDK of OpenTelemetry fills in says nothing."""
    resource = {"service.name": "unknown_service:python"}
    (row,) = rows_of(make_request(make_span(), resource=resource))
    assert row.facts.agent is None


def test_values_of_every_kind_become_json() -> None:
    """otlp:F9."""
    values = {
        "text": "x",
        "flag": False,
        "int": 2**63 - 1,
        "float": 1.0,
        "nan": float("nan"),
        "inf": [float("inf"), float("-inf")],
        "bytes": b"\x00\xff\xfe",
        "none": None,
        "list": [1, "a", None, {"b": [True]}],
        "nul": "a\0b",
    }
    text = data_of(row_of(values))["attributes"]
    assert text == {
        "text": "x",
        "flag": False,
        "int": 2**63 - 1,
        "float": 1.0,
        "nan": "NaN",
        "inf": ["Infinity", "-Infinity"],
        "bytes": "AP/+",
        "none": None,
        "list": [1, "a", None, {"b": [True]}],
        "nul": "a�b",
    }


def test_of_a_key_that_comes_twice_the_last_one_counts() -> None:
    """otlp:F9."""
    row = row_of(attributes=[*pairs({"k": 1}), *pairs({"k": 2})])
    assert data_of(row)["attributes"] == {"k": 2}


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"input.value": '{"a": 1}', "input.mime_type": "application/json"}, {"a": 1}),
        ({"input.value": '{"a": 1}'}, {"input": '{"a": 1}'}),
        ({"input.value": '{"a": 1}', "input.mime_type": "text/plain"}, {"input": '{"a": 1}'}),
        ({"input.value": "{broken", "input.mime_type": "application/json"}, {"input": "{broken"}),
        ({"gen_ai.tool.call.arguments": ' {"q": [1]} '}, {"q": [1]}),
        ({"gen_ai.tool.call.arguments": {"q": 1}}, {"q": 1}),
        ({"gen_ai.tool.call.arguments": "NaN"}, {"input": "NaN"}),
        ({"tool_arguments": "[1, 2]"}, {"input": [1, 2]}),
        ({"mlflow.spanInputs": json.dumps(json.dumps({"q": 1}))}, {"q": 1}),
        ({"traceloop.entity.input": "[" * 300 + "]" * 300}, {"input": "[" * 300 + "]" * 300}),
        ({"traceloop.entity.input": "9" * 5_000}, {"input": "9" * 5_000}),
        ({"traceloop.entity.input": '{"a": "\\u0000\\ud83d\\ude00"}'}, {"a": "�😀"}),
    ],
)
def test_json_in_text(attributes: dict[str, object], expected: object) -> None:
    """otlp:F10: only where it is known to be JSON, and not where it cannot be kept."""
    assert input_of(row_of(attributes)) == expected


def test_logfire_says_which_attributes_are_json() -> None:
    """otlp:F10: objects and arrays of its schema, also among what has no other place."""
    schema = {"type": "object", "properties": {"a": {"type": "object"}, "b": {"type": "array"}}}
    row = row_of(
        {"a": '{"x": 1}', "b": "[1]", "c": "[1]", "logfire.json_schema": json.dumps(schema)}
    )
    attributes = data_of(row)["attributes"]
    assert (attributes["a"], attributes["b"], attributes["c"]) == ({"x": 1}, [1], "[1]")


def test_indexed_keys_are_lists_in_the_order_of_their_index() -> None:
    """otlp:F11: whatever the index, it is no position."""
    attributes = {
        "openinference.span.kind": "LLM",
        "llm.input_messages.1000000000.message.role": "assistant",
        "llm.input_messages.1000000000.message.tool_calls.1.tool_call.id": "b",
        "llm.input_messages.1000000000.message.tool_calls.0.tool_call.id": "a",
        "llm.input_messages.1000000000.message.tool_calls.0.tool_call.function.name": "f",
        "llm.input_messages.7.message.role": "user",
        "llm.input_messages.7.message.contents.0.message_content.text": "hi",
    }
    row = row_of(attributes)
    assert input_of(row) == {
        "messages": [
            {"role": "user", "contents": [{"text": "hi"}]},
            {
                "role": "assistant",
                "tool_calls": [{"id": "a", "function": {"name": "f"}}, {"id": "b"}],
            },
        ]
    }
    assert list(data_of(row)["attributes"]) == ["openinference.span.kind"]


@pytest.mark.parametrize(
    "keys",
    [
        ["gen_ai.prompt.0." + "a." * 200 + "z"],
        ["gen_ai.prompt.0.a", "gen_ai.prompt.0.a.b", "gen_ai.prompt.0.a.b.c"],
        ["gen_ai.prompt.0.a.b.c", "gen_ai.prompt.0.a.b", "gen_ai.prompt.0.a"],
        ["gen_ai.prompt.0.a.1", "gen_ai.prompt.0.a.b"],
        ["gen_ai.prompt.00.a", "gen_ai.prompt.0.a"],
        ["gen_ai.prompt.0.", "gen_ai.prompt.0..", "gen_ai.prompt..0"],
        ["gen_ai.prompt." + "9" * 18 + ".a", "gen_ai.prompt." + "9" * 5000 + ".a"],
    ],
)
def test_odd_indexed_keys_lose_no_value(keys: list[str]) -> None:
    """otlp:F11: depth is bounded, and values stand where a value and a list meet."""
    row = row_of({**CHAT, **{key: f"value {n}" for n, key in enumerate(keys)}})
    found = json.dumps([input_of(row), data_of(row)])
    kept = [n for n in range(len(keys)) if f"value {n}" in found]
    # The same index twice is the same message: the last one counts.
    assert kept == ([1] if "00" in keys[0] else list(range(len(keys))))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"langfuse.observation.input": json.dumps(USER)}, {"messages": USER}),
        ({"langfuse.observation.input": "[]"}, {"input": []}),
        ({"langfuse.observation.input": '[{"a": 1}]'}, {"input": [{"a": 1}]}),
        ({"langfuse.observation.input": "hi"}, {"input": "hi"}),
        ({"pydantic_ai.all_messages": json.dumps(USER)}, {"messages": USER}),
        ({"reranker.query": "q"}, {"input": "q"}),
    ],
)
def test_input_is_an_object(attributes: dict[str, object], expected: object) -> None:
    """otlp:F12."""
    assert input_of(row_of(attributes)) == expected


def test_messages_have_system_and_tools_beside_them() -> None:
    """otlp:F12: `parts` stay as they are."""
    system, tools = [{"type": "text", "content": "be kind"}], [{"name": "f"}]
    row = row_of(
        {
            **CHAT,
            "gen_ai.input.messages": json.dumps(USER),
            "gen_ai.system_instructions": json.dumps(system),
            "gen_ai.tool.definitions": json.dumps(tools),
            "gen_ai.output.messages": json.dumps(ANSWER),
        }
    )
    assert input_of(row) == {"messages": USER, "system": system, "tools": tools}
    assert output_of(row) == {"messages": ANSWER}


def test_usage_of_a_call_is_in_its_output() -> None:
    """otlp:F13."""
    usage = {"gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 2}
    row = row_of({**CHAT, **usage, "gen_ai.output.messages": json.dumps(ANSWER)})
    expected = {"messages": ANSWER, "usage": {"input_tokens": 7, "output_tokens": 2}}
    assert output_of(row) == expected
    assert row.facts.usage_from == "output.usage"


@pytest.mark.parametrize(
    "attributes",
    [
        {"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 7},
        {"traceloop.span.kind": "workflow", "gen_ai.usage.input_tokens": 7},
        {"openinference.span.kind": "CHAIN", "llm.token_count.prompt": 7},
        {"gen_ai.aggregated_usage.input_tokens": 7},
    ],
)
def test_usage_of_what_is_above_calls_is_a_total(attributes: dict[str, object]) -> None:
    """otlp:F13: so that no token is counted twice."""
    row = row_of(attributes)
    assert row.output is None
    assert data_of(row)["aggregated_usage"] == {"input_tokens": 7}
    assert row.facts.usage_from == "metadata.aggregated_usage"


def test_usage_joins_an_output_that_has_one_of_its_own() -> None:
    """otlp:F13: ours says the same in our words."""
    output = {"choices": [], "usage": {"prompt_tokens": 1, "total": "many"}}
    sent = {**CHAT, "output.value": json.dumps(output), "output.mime_type": "application/json"}
    assert output_of(row_of(sent)) == output
    row = row_of({**sent, "gen_ai.usage.input_tokens": 7})
    assert output_of(row) == {"choices": [], "usage": {"input_tokens": 7}}


# Types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "operation", "type_"),
    [
        ({"gen_ai.operation.name": "chat"}, "llm", "COMPLETION"),
        ({"gen_ai.operation.name": "text_completion"}, "llm", "COMPLETION"),
        ({"gen_ai.operation.name": "generate_content"}, "llm", "COMPLETION"),
        ({"gen_ai.operation.name": "embeddings"}, "embedding", "EXTERNAL_ENDPOINT"),
        ({"gen_ai.operation.name": "execute_tool"}, "tool", "CUSTOM"),
        ({"gen_ai.operation.name": "invoke_agent"}, "agent", "AGENT_WORKFLOW"),
        ({"gen_ai.operation.name": "plan"}, "workflow", "AGENT_WORKFLOW"),
        ({"gen_ai.operation.name": "search_memory"}, "retrieval", "KB_RETRIEVAL"),
        ({"gen_ai.operation.name": "upsert_memory"}, "memory", "KB_MANAGEMENT"),
        ({"gen_ai.operation.name": "create_memory_store"}, "memory", "KB_MANAGEMENT"),
        ({"openinference.span.kind": "RERANKER"}, "rerank", "RERANKING"),
        ({"openinference.span.kind": "GUARDRAIL"}, "guardrail", "GUARDRAIL"),
        ({"openinference.span.kind": "EVALUATOR"}, "evaluation", "EVALUATION"),
        ({"openinference.span.kind": "PROMPT"}, "prompt", "PROMPT_ENGINEERING"),
        ({"openinference.span.kind": "CHAIN"}, "chain", "STANDALONE"),
        ({"langfuse.observation.type": "generation"}, "llm", "COMPLETION"),
        ({"langfuse.observation.type": "retriever"}, "retrieval", "KB_RETRIEVAL"),
        ({"traceloop.span.kind": "task"}, "chain", "STANDALONE"),
        ({"llm.request.type": "completion"}, "llm", "COMPLETION"),
        ({"mlflow.spanType": "CHAT_MODEL"}, "llm", "COMPLETION"),
        ({"gen_ai.tool.name": "f"}, "tool", "CUSTOM"),
        ({"gen_ai.request.model": "m"}, "llm", "COMPLETION"),
        # The first hit wins; what says nothing is no hit.
        (
            {"langfuse.observation.type": "span", "openinference.span.kind": "TOOL"},
            "tool",
            "CUSTOM",
        ),
        (
            {"openinference.span.kind": "UNKNOWN", "gen_ai.operation.name": "chat"},
            "llm",
            "COMPLETION",
        ),
        (
            {"langfuse.observation.type": "agent", "gen_ai.operation.name": "chat"},
            "agent",
            "AGENT_WORKFLOW",
        ),
        ({"everyspan.type": "GUARDRAIL", "gen_ai.operation.name": "chat"}, "llm", "GUARDRAIL"),
        ({"everyspan.type": "nonsense", "gen_ai.operation.name": "chat"}, "llm", "COMPLETION"),
        ({"gen_ai.operation.name": 5}, None, "TRACER"),
        ({}, None, "TRACER"),
    ],
)
def test_types(attributes: dict[str, object], operation: str | None, type_: str) -> None:
    """otlp:F8: what a span does, by whichever convention says it."""
    row = row_of(attributes)
    assert (data_of(row).get("operation"), row.type) == (operation, type_)


@pytest.mark.parametrize(
    ("kind", "key", "expected"),
    [
        (3, "http.request.method", ("http", "EXTERNAL_ENDPOINT")),
        (3, "db.system", ("db", "EXTERNAL_ENDPOINT")),
        (2, "http.request.method", (None, "STANDALONE")),
    ],
)
def test_clients_are_endpoints(kind: int, key: str, expected: tuple[str | None, str]) -> None:
    """otlp:F8: calls of others are, being called is not."""
    row = row_of({key: "x"}, kind=kind, parentSpanId=PARENT)
    assert (data_of(row).get("operation"), row.type) == expected


# Keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"llm.input_messages.0.message.content": "hi"}, {"messages": [{"content": "hi"}]}),
        ({"llm.prompts.0.prompt.text": "hi"}, {"messages": [{"text": "hi"}]}),
        ({"gen_ai.prompt.0.role": "user"}, {"messages": [{"role": "user"}]}),
        ({"gen_ai.prompt": "hi"}, {"input": "hi"}),
        ({"gen_ai.prompt": json.dumps(USER)}, {"messages": USER}),
        ({"gen_ai.input.messages": json.dumps(USER), "gen_ai.prompt": "hi"}, {"messages": USER}),
        ({"everyspan.input": '{"a": 1}', "gen_ai.prompt": "hi"}, {"a": 1}),
        ({"gen_ai.system_instructions": '["s"]'}, {"system": ["s"]}),
    ],
)
def test_input_of_a_call(attributes: dict[str, object], expected: object) -> None:
    """otlp:F8, F12."""
    assert input_of(row_of({**CHAT, **attributes})) == expected


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"gen_ai.tool.call.result": "25"}, {"output": 25}),
        ({"tool_response": "sunny"}, {"output": "sunny"}),
        ({"retrieval.documents.0.document.content": "d"}, {"output": [{"content": "d"}]}),
        ({"reranker.output_documents.3.document.score": 0.5}, {"output": [{"score": 0.5}]}),
        ({"output.value": "x"}, {"output": "x"}),
        ({"traceloop.entity.output": '{"a": 1}'}, {"a": 1}),
        ({"mlflow.spanOutputs": '"x"'}, {"output": "x"}),
        ({"final_result": '{"city": "B"}'}, {"city": "B"}),
        ({"gen_ai.output.messages": json.dumps(ANSWER)}, {"messages": ANSWER}),
    ],
)
def test_output_of_anything_else(attributes: dict[str, object], expected: object) -> None:
    """otlp:F8, F12."""
    assert output_of(row_of({"openinference.span.kind": "TOOL", **attributes})) == expected


EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("gen_ai.system.message", {"content": "be kind", "gen_ai.system": "openai"}),
    ("gen_ai.user.message", {"content": "hi"}),
    ("gen_ai.choice", {"index": 0, "finish_reason": "stop", "message": '{"content": "yes"}'}),
]
FROM_EVENTS = (
    {"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]},
    {"messages": [{"role": "assistant", "content": "yes", "index": 0, "finish_reason": "stop"}]},
)


def test_messages_in_span_events() -> None:
    """otlp:F8, F12: content events are the payloads, and are not shown twice."""
    events = [make_event(name, attributes) for name, attributes in EVENTS]
    row = row_of(CHAT, events=[*events, make_event("other", {})])
    assert (input_of(row), output_of(row)) == FROM_EVENTS
    assert [event["name"] for event in data_of(row)["events"]] == ["other"]


def test_messages_in_the_attribute_of_an_older_logfire() -> None:
    """otlp:F8, F12."""
    events: list[dict[str, Any]] = [{"event.name": name, **said} for name, said in EVENTS]
    events[2]["message"] = {"content": "yes", "role": "assistant"}
    row = row_of({**CHAT, "events": json.dumps(events)})
    assert (input_of(row), output_of(row)) == FROM_EVENTS


@pytest.mark.parametrize(
    "events",
    [
        [
            ("gen_ai.content.prompt", {"gen_ai.prompt": json.dumps(USER)}),
            ("gen_ai.content.completion", {"gen_ai.completion": json.dumps(ANSWER)}),
        ],
        [
            (
                "gen_ai.client.inference.operation.details",
                {"gen_ai.input.messages": json.dumps(USER), "gen_ai.output.messages": ANSWER},
            )
        ],
    ],
)
def test_other_content_events(events: list[tuple[str, dict[str, object]]]) -> None:
    """otlp:F8, F12."""
    row = row_of(CHAT, events=[make_event(name, attributes) for name, attributes in events])
    assert (input_of(row), output_of(row)) == ({"messages": USER}, {"messages": ANSWER})
    assert "events" not in data_of(row)


@pytest.mark.parametrize(
    ("attributes", "field", "expected"),
    [
        ({"gen_ai.response.model": "r", "gen_ai.request.model": "q"}, "model", "r"),
        ({"gen_ai.request.model": "q"}, "model", "q"),
        ({"llm.model_name": "o"}, "model", "o"),
        ({"gen_ai.response.model": "", "llm.model_name": 5}, "model", "5"),
        ({"gen_ai.provider.name": "p", "gen_ai.system": "s"}, "provider", "p"),
        ({"llm.system": "s"}, "provider", "s"),
        ({"gen_ai.usage.cost": 0.25}, "cost_usd", 0.25),
        ({"operation.cost": 0}, "cost_usd", 0),
        ({"langfuse.observation.cost_details": '{"total": 0.5}'}, "cost_usd", 0.5),
        ({"gen_ai.usage.cost": float("nan"), "llm.cost.total": "0.1"}, "cost_usd", 0.1),
        ({"gen_ai.usage.cost": -1}, "cost_usd", None),
        ({"enduser.id": "e"}, "user_id", "e"),
        ({"tool.name": "t"}, "tool", {"name": "t"}),
        ({"tag.tags": ["a"], "logfire.tags": ["b"]}, "tags", ["a"]),
        (
            {
                "metadata": '{"a": 1}',
                "langfuse.trace.metadata.b": '{"c": 2}',
                "langfuse.trace.metadata.d": '"text"',
            },
            "metadata",
            {"a": 1, "b": {"c": 2}, "d": "text"},
        ),
        ({"traceloop.association.properties.k": "v"}, "metadata", {"k": "v"}),
        ({"metadata": "plain"}, "metadata", None),
    ],
)
def test_single_values(attributes: dict[str, object], field: str, expected: object) -> None:
    """otlp:F8: the first hit wins, and what is no hit is left among the attributes."""
    assert data_of(row_of(attributes)).get(field) == expected


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"gen_ai.usage.prompt_tokens": 3}, {"input_tokens": 3}),
        ({"llm.token_count.completion": 3.0}, {"output_tokens": 3}),
        ({"gen_ai.usage.input_tokens": -1}, None),
        ({"gen_ai.usage.input_tokens": True}, None),
        ({"gen_ai.usage.input_tokens": "3"}, None),
        (
            {
                "langfuse.observation.usage_details": json.dumps(
                    {"input": 10, "input_cached_tokens": 4, "output": 2, "total": 16}
                )
            },
            {"input_tokens": 14, "output_tokens": 2, "cached_input_tokens": 4},
        ),
        (
            {"mlflow.chat.tokenUsage": '{"input_tokens": 1, "output_tokens": 2}'},
            {"input_tokens": 1, "output_tokens": 2},
        ),
        (
            {
                "gen_ai.usage.cache_read.input_tokens": 1,
                "gen_ai.usage.cache_creation.input_tokens": 2,
                "gen_ai.usage.reasoning.output_tokens": 3,
                "gen_ai.usage.total_tokens": 4,
            },
            {
                "cached_input_tokens": 1,
                "cache_creation_input_tokens": 2,
                "reasoning_tokens": 3,
                "total_tokens": 4,
            },
        ),
    ],
)
def test_counts_of_tokens(attributes: dict[str, object], expected: object) -> None:
    """otlp:F13: integers that are not negative, or nothing."""
    output = output_of(row_of({**CHAT, **attributes}))
    assert (None if output is None else output["usage"]) == expected


@pytest.mark.parametrize(
    ("attributes", "group_id"),
    [
        ({"everyspan.group_id": "g", "session.id": "s"}, "g"),
        ({"gen_ai.conversation.id": "c", "session.id": "s"}, "c"),
        ({"session.id": "s"}, "s"),
        ({"mlflow.trace.session": "m"}, "m"),
        ({"gen_ai.conversation.id": "x" * 257, "session.id": "s"}, "s"),
        ({"session.id": "x\0"}, None),
    ],
)
def test_groups(attributes: dict[str, object], group_id: str | None) -> None:
    """otlp:F8: by whatever names a conversation."""
    assert row_of(attributes).group_id == group_id


def test_only_everyspan_names_a_task() -> None:
    """otlp:F8."""
    assert row_of({"everyspan.task_id": "t", "task_id": "no"}).task_id == "t"
    assert row_of({"task_id": "no"}).task_id is None


def test_what_an_everyspan_producer_put_in_data_comes_back() -> None:
    """otlp:F8: its completeness record as well, by which versions are told apart."""
    record = {"p": "part", "n": 1, "rev": 4}
    row = row_of(
        {
            "everyspan.data.__everyspan__": json.dumps(record),
            "everyspan.data.note": "text",
            "everyspan.data.zero": 0,
            "everyspan.data.__agent_name__": "mine",
        }
    )
    data = data_of(row)
    assert (data["__everyspan__"], data["note"], data["zero"]) == (record, "text", 0)
    assert (row.rev, row.facts.agent) == (4, "mine")
    assert "attributes" not in data


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"obs_trace_id": "a" * 32, "obs_span_id": "b" * 16}, ("a" * 32, "b" * 16)),
        ({"obs_trace_id": "a" * 32, "obs_span_id": "B" * 16}, ("a" * 32, None)),
        ({"obs_trace_id": 5, "obs_span_id": "b" * 16}, (None, None)),
    ],
)
def test_the_observability_span_around_an_everyspan_span_comes_back(
    attributes: dict[str, object], expected: tuple[str | None, str | None]
) -> None:
    """otlp:F8."""
    row = row_of({f"everyspan.{name}": value for name, value in attributes.items()})
    assert (row.obs_trace_id, row.obs_span_id) == expected
    used = sum(value is not None for value in expected)
    assert len(data_of(row).get("attributes", {})) == 2 - used


# Bounds --------------------------------------------------------------------------------------


def test_a_giant_resource_does_not_multiply_with_the_spans() -> None:
    """P4: it stands in every row, so of it only so much."""
    resource = {"service.name": "svc", "huge": "x" * RESOURCE_BYTES_MAX, "small": 1}
    (row,) = rows_of(make_request(make_span(), resource=resource))
    assert data_of(row)["resource"] == {"service.name": "svc", "small": 1}


def test_payloads_never_nest_deeper_than_replies_can_say() -> None:
    """P4: JSON in text as deep as it is read, in the deepest place, is still a payload."""
    deep = "[" * 200 + "]" * 200
    attributes = {
        **CHAT,
        "everyspan.data.x": deep,
        "everyspan.input": deep,
        "metadata": f'{{"m":{deep}}}',
    }
    row = row_of(attributes)
    for payload in (row.input, row.metadata):
        assert payload is not None
        json.loads(payload)
    assert read_facts(row.metadata, row.output) is not None
