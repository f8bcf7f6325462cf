"""Our own SDK's way into this server over OTLP: what comes back is what the agent recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

import everyspan
from everyspan.model.completeness import State, assess

SAME = ("id", "trace_id", "parent_id", "name", "type", "status", "group_id", "input", "output")
# Of the SGP sender alone: who sends, and an error in words of its own.
STAMPS = {"__source__", "__acp_type__", "error", "error_type", "error_message", "error_category"}
MARKED = {"text": '{"a": 1}', "quoted": '"', "n": 2**53, "x": 0.5, "yes": True, "list": [1, {}]}


@pytest.fixture
def sending(base_url: str, account: str) -> Iterator[None]:
    """Record over both APIs, to two accounts."""
    everyspan.configure(
        everyspan.OTLPTracingProcessorConfig(
            base_url,
            {"x-selected-account-id": f"{account} otlp"},
            compression="zstd",
            pending_spans=True,
        ),
        everyspan.SGPTracingProcessorConfig("key", f"{account} sgp", base_url),
        linger_ms=5,
        start_delay_ms=0,
    )
    yield
    everyspan.shutdown(20)
    everyspan.set_tracing_processor_configs([])


@pytest.mark.parametrize(
    "trace_id",
    ["5f0e3c5a-7b1d-4e2f-8a6b-0123456789ab", "0af7651916cd43dd8448eb211c80319c", "tür 7"],
)
def test_a_trace_comes_back_as_it_was_recorded(
    sending: None, base_url: str, account: str, trace_id: str
) -> None:
    """otlp:I4, F1, §6 line 16: ids as text, fields, types, usage, errors, place in the trace."""
    record(trace_id)
    assert everyspan.flush(timeout=20)
    over_otlp = read(base_url, f"{account} otlp", trace_id)
    over_sgp = read(base_url, f"{account} sgp", trace_id)
    assert len(over_otlp) == len(over_sgp) == 7
    assert assess([*over_otlp.values()], now_s=0).state is State.COMPLETE
    for id, theirs in over_sgp.items():
        ours = over_otlp[id]
        assert {name: ours.get(name) or None for name in SAME} == {
            name: theirs.get(name) or None for name in SAME
        }
        for name in ("start_timestamp", "end_timestamp"):
            # OTLP has nanoseconds, the SGP sender microseconds.
            assert ours[name].startswith(theirs[name].removesuffix("Z"))
        # What OTLP has beside it (the resource, the agent's name) is more, never less.
        told = {name: v for name, v in theirs["metadata"].items() if name not in STAMPS}
        assert told.items() <= ours["metadata"].items()


def test_a_conversation_comes_back_in_parts(sending: None, base_url: str, account: str) -> None:
    """otlp:F12: the messages, and the usage of the call, which SGP has too."""
    with everyspan.span("llm", type="COMPLETION", data={"model": "gpt-x"}) as span:
        span.input = {"messages": [{"type": "human", "content": "hi"}]}
        span.output = {"content": "hello", "usage": {"input_tokens": 3, "reasoning_tokens": 1}}
    assert everyspan.flush(timeout=20)
    row = read(base_url, f"{account} otlp", span.trace_id)[span.id]
    text = {"type": "text", "content": "hi"}
    assert row["input"] == {"messages": [{"role": "user", "parts": [text]}]}
    assert row["output"]["usage"] == {"input_tokens": 3, "reasoning_tokens": 1}
    (answer,) = row["output"]["messages"]
    assert answer["parts"] == [{"type": "text", "content": "hello"}]
    assert row["metadata"]["model"] == "gpt-x"


def record(trace_id: str) -> None:
    with everyspan.span(
        "turn", trace_id=trace_id, type="AGENT_WORKFLOW", input={"q": "é"}, task_id="k"
    ) as turn:
        turn.group_id = "session"
        turn.data = {"usage": {"input_tokens": 30, "output_tokens": 12}, "cost_usd": 0.25}
        with everyspan.span("model", type="COMPLETION", input={"prompts": ["x"]}) as model:
            model.output = {"text": "y", "usage": {"input_tokens": 3, "output_tokens": 4}}
        with everyspan.span("tool:get", type="CUSTOM", input={"input": {"a": 1}}) as tool:
            tool.output = {"output": '{"like": "json"}'}
        with everyspan.span("find", type="KB_RETRIEVAL", input={"query": "{rome}"}) as find:
            find.output = {"documents": [{"page_content": "x", "id": None}]}
        with everyspan.span("novel", type="NOVEL", data=MARKED, input="text") as novel:
            novel.output = 5
        with pytest.raises(ValueError, match="no"), everyspan.span("failing"):
            raise ValueError("no")
        with pytest.raises(asyncio.CancelledError), everyspan.span("cancelled"):
            raise asyncio.CancelledError
        turn.output = {"a": 1}


def read(base_url: str, account: str, trace_id: str) -> dict[str, dict[str, Any]]:
    reply = httpx2.post(
        f"{base_url}/v5/spans/search",
        json={"trace_ids": [trace_id]},
        headers={"x-selected-account-id": account},
    )
    return {item["id"]: item for item in reply.json()["items"]}
