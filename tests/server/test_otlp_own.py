"""Our own OTLP destination and our own endpoint: what comes back is what was recorded.

The same spans go to one server over both protocols, to an account for each, and are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

import everyspan
from everyspan import OTLPTracingProcessorConfig, SGPTracingProcessorConfig, SpanType
from everyspan.model import genai
from everyspan.model.ids import new_id
from everyspan.server import otlp_tables

TRACE_IDS: dict[str, Callable[[], str]] = {
    "text": lambda: f"conversation ü {new_id()}",
    "uuid": new_id,
    "hex": lambda: new_id().replace("-", ""),
}
DATA = {
    "text": "plain",
    "like an object": '{"a": 1}',
    "like a list": "[1]",
    "like a text": '"quoted"',
    "broken": "{",
    "zero": 0,
    "big": 2**62,
    "half": 0.5,
    "no": False,
    "nested": {"a": [1, {"b": None}]},
    "user_id": "u",
}
TOLD_BY_SENDERS = {"__source__", "__acp_type__", "__span_type__", "operation", "kind", "tool"}
TOLD_BY_SENDERS |= {"events", "resource", "scope", "attributes"}
TOLD_BY_SENDERS |= {"error", "error_type", "error_message", "error_category"}

Spans = dict[str, dict[str, Any]]


@pytest.fixture(scope="module", params=TRACE_IDS)
def both(request: pytest.FixtureRequest, base_url: str) -> Iterator[tuple[Spans, Spans]]:
    """The spans of one trace by name, as they came over SGP and over OTLP."""
    accounts = new_id(), new_id()
    everyspan.set_tracing_processor_configs(
        [
            SGPTracingProcessorConfig(
                sgp_api_key="k", sgp_account_id=accounts[0], sgp_base_url=base_url
            ),
            OTLPTracingProcessorConfig(base_url, headers={"x-selected-account-id": accounts[1]}),
        ]
    )
    trace_id = TRACE_IDS[request.param]()
    with everyspan.span("turn", trace_id=trace_id, input={"q": "Rome?"}, data=DATA) as turn:
        turn.group_id = "g"
        turn.task_id = "k"
        turn.output = {"a": "sunny"}
        model = everyspan.span(
            "chat",
            type=SpanType.COMPLETION,
            input={"messages": [{"role": "user", "content": "Rome?"}]},
            data={"model": "gpt-4o", "cost_usd": 0.25},
        )
        with model as call:
            usage = {"input_tokens": 3, "output_tokens": 4}
            call.output = {"messages": [{"role": "assistant", "content": "Sunny."}], "usage": usage}
        try:
            with everyspan.span("search", type=SpanType.KB_RETRIEVAL):
                raise ValueError("no such city")
        except ValueError:
            pass
        with everyspan.span("bare", input={"text": "a\0b"}):
            pass
    assert everyspan.flush(timeout=20)
    yield _stored(base_url, accounts[0], trace_id), _stored(base_url, accounts[1], trace_id)
    everyspan.set_tracing_processor_configs([])


def _stored(base_url: str, account: str, trace_id: str) -> Spans:
    headers = {"x-selected-account-id": account}
    body = {"trace_ids": [trace_id]}
    reply = httpx2.post(f"{base_url}/v5/spans/search", json=body, headers=headers)
    spans = {span["name"]: span for span in reply.json()["items"]}
    assert set(spans) == {"turn", "chat", "search", "bare"}
    return spans


def test_identity_and_outcome_survive(both: tuple[Spans, Spans]) -> None:
    """otlp:F1, I4, F6: ids of every form, parents, times, status, type, group."""
    for name, expected in both[0].items():
        found = both[1][name]
        for field in ("id", "trace_id", "parent_id", "status", "type", "group_id"):
            assert found.get(field) == expected.get(field), (name, field)
        # SGP has microseconds, OTLP all that was measured.
        for field in ("start_timestamp", "end_timestamp"):
            assert found[field][:26] == expected[field][:26]


def test_what_is_not_a_conversation_survives_to_the_letter(both: tuple[Spans, Spans]) -> None:
    """otlp:F8, F12."""
    for name in ("turn", "search", "bare"):
        for field in ("input", "output"):
            # Nothing is {} over SGP.
            assert both[1][name].get(field, {}) == both[0][name].get(field, {}), (name, field)


def test_a_conversation_survives_in_the_words_of_the_conventions(
    both: tuple[Spans, Spans],
) -> None:
    """otlp:F12, F13."""
    chat = both[1]["chat"]
    (asked,), (answered,) = chat["input"]["messages"], chat["output"]["messages"]
    assert asked == {"role": "user", "parts": [{"type": "text", "content": "Rome?"}]}
    assert answered["parts"] == [{"type": "text", "content": "Sunny."}]
    assert chat["output"]["usage"] == both[0]["chat"]["output"]["usage"]
    for field in ("input_tokens", "output_tokens"):
        assert chat[field] == both[0]["chat"][field]


def test_data_survives(both: tuple[Spans, Spans]) -> None:
    """otlp:F8: with the completeness record and the error."""
    for name, expected in both[0].items():
        metadata, found = expected["metadata"], both[1][name]["metadata"]
        for key in metadata.keys() - TOLD_BY_SENDERS:
            assert found[key] == metadata[key], (name, key)
        assert found.keys() - metadata.keys() <= TOLD_BY_SENDERS
    assert both[1]["turn"]["metadata"]["__everyspan__"]["total"] == 4
    assert both[1]["search"]["metadata"]["__error__"]["message"] == "no such city"
    assert DATA.items() <= both[1]["turn"]["metadata"].items()


def test_reader_and_writer_know_the_same_operations() -> None:
    """otlp:F8: each is read back as what it was written as."""
    assert set(otlp_tables.OPERATIONS) == genai.OPERATIONS
    read = dict(otlp_tables.TYPE_KEYS)
    for operation, name in genai.GENAI_OPERATION.items():
        assert read["gen_ai.operation.name"][name] == operation
    for _, name, _ in genai.USAGE:
        assert f"gen_ai.usage.{name}" in otlp_tables.USAGE_KEYS
