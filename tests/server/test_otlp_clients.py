"""What real clients send over OTLP, and what a person then sees of it (`otlp` §2, §3).

Each program of `otlp_clients` runs once, with the real packages, and prints the id of its trace.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest

from everyspan.model.usage import Tokens, UsageTotal
from tests.peers import PYTHON, needs_peers
from tests.serving import ServerProcess
from tests.waiting import wait_until

pytestmark = needs_peers
PROGRAMS = Path(__file__).parent / "otlp_clients"
TIME_MAX_S = 60
QUIET = {
    "LANGSMITH_TRACING": "false",
    "TRACELOOP_TELEMETRY": "false",
    "LOGFIRE_IGNORE_NO_CONFIG": "1",
    "PYDANTIC_DISABLE_PLUGINS": "__all__",
}
"""Nothing here asks anybody but our server."""

USAGE = {"input_tokens": 12, "output_tokens": 3}
Span = dict[str, Any]


def run(program: str, *arguments: str) -> list[str]:
    """Return the lines that a client's program prints, once it has ended well."""
    switches = ("OTEL_", "LANGFUSE_", "LOGFIRE_", "OPENAI_", "PYTHONPATH", "EVERYSPAN_")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(switches)
    }
    done = subprocess.run(
        [str(PYTHON), str(PROGRAMS / program), *arguments],
        env=environment | QUIET,
        capture_output=True,
        text=True,
        timeout=TIME_MAX_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Failed to export" not in done.stderr, done.stderr
    return done.stdout.splitlines()


def spans_of(base_url: str, trace_id: str) -> list[Span]:
    reply = httpx2.post(f"{base_url}/v5/spans/search", json={"trace_ids": [trace_id]})
    spans: list[Span] = reply.json()["items"]
    return spans


def by_name(spans: list[Span]) -> dict[str, Span]:
    found = {span["name"]: span for span in spans}
    assert len(found) == len(spans), [span["name"] for span in spans]
    return found


def parents_of(spans: list[Span]) -> dict[str, str | None]:
    """Return the tree: each span's name and its parent's."""
    names = {span["id"]: span["name"] for span in spans}
    return {
        span["name"]: names[span["parent_id"]] if "parent_id" in span else None for span in spans
    }


def tokens_of(spans: list[Span]) -> Tokens | None:
    """Return the tokens of a trace, as everyspan adds them up."""
    total = UsageTotal()
    for span in spans:
        total.add(span)
    return total.tokens.value


# OpenTelemetry -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opentelemetry(base_url: str) -> dict[str, list[Span]]:
    """The same program, by how it compressed."""
    return {
        compression: spans_of(base_url, *run("otel.py", base_url, compression))
        for compression in ("none", "gzip", "deflate")
    }


def test_opentelemetry_is_seen(opentelemetry: dict[str, list[Span]]) -> None:
    """otlp:F6, F7, F8: names, tree, types, the error, the link, the event."""
    spans = opentelemetry["none"]
    assert parents_of(spans) == {"turn": None, "GET /": "turn", "book": "turn"}
    turn, call, book = (by_name(spans)[name] for name in ("turn", "GET /", "book"))
    assert [span["type"] for span in (turn, call, book)] == [
        "TRACER",
        "EXTERNAL_ENDPOINT",
        "STANDALONE",
    ]
    assert [span["status"] for span in (turn, call, book)] == ["SUCCESS", "SUCCESS", "ERROR"]
    assert turn["group_id"] == "s-1"
    assert turn["metadata"]["__agent_name__"] == "shop"
    assert turn["metadata"]["attributes"] == {"numbers": [1, 2]}
    assert turn["metadata"]["scope"] == {"name": "shop.agent", "version": "1.2"}
    assert turn["metadata"]["resource"]["telemetry.sdk.name"] == "opentelemetry"
    assert call["metadata"]["events"][0]["attributes"] == {"attempt": 1}
    assert book["metadata"]["__error__"] == {"type": "ValueError", "message": "no such hotel"}
    assert book["metadata"]["links"] == [{"trace_id": turn["trace_id"], "span_id": call["id"]}]
    assert turn["start_timestamp"] <= call["start_timestamp"] <= call["end_timestamp"]


def test_how_opentelemetry_compresses_changes_nothing(
    opentelemetry: dict[str, list[Span]],
) -> None:
    """`otlp` §1: the rows are equal, but for what differs from run to run."""

    def lasting(spans: list[Span]) -> list[Any]:
        return [
            (s["name"], s["type"], s["status"], s.get("group_id"), sorted(s["metadata"]))
            for s in spans
        ]

    kinds = {json.dumps(lasting(spans)) for spans in opentelemetry.values()}
    assert len(kinds) == 1


def test_opentelemetrys_exporter_comes_back_to_a_busy_store(tmp_path: Path) -> None:
    """otlp:H1, H2: what was answered 503 is delivered a second later."""
    prelude = """
from everyspan.errors import StoreBusyError
from everyspan.server.stores.sqlite import SqliteStore
upsert, calls = SqliteStore.upsert, []
async def busy_once(self, rows, **more):
    calls.append(rows)
    if len(calls) == 1:
        raise StoreBusyError("busy", retry_after_s=1.0)
    return await upsert(self, rows, **more)
SqliteStore.upsert = busy_once
"""
    server = ServerProcess(tmp_path / "spans.db", prelude=prelude)
    try:
        (trace_id,) = run("otel.py", server.base_url, "none")
        assert len(spans_of(server.base_url, trace_id)) == 3
    finally:
        server.stop()


# logfire -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["own", "otlp"])
def test_logfire_is_seen(base_url: str, way: str) -> None:
    """otlp:F4, F5, F8: by its own exporter also while a span is still open, as one row."""
    trace_id, while_open = run("logfire_own.py", base_url, way)
    name = "order {'name': 'tea'}"
    assert json.loads(while_open) == ([[name, False]] if way == "own" else [])
    spans = spans_of(base_url, trace_id)
    assert parents_of(spans) == {name: None, "half True": name, "fails": name}
    order, failed = by_name(spans)[name], by_name(spans)["fails"]
    assert (order["type"], order["status"]) == ("TRACER", "SUCCESS")
    assert order["end_timestamp"] > order["start_timestamp"]
    assert order["metadata"]["tags"] == ["t1"]
    assert order["metadata"]["attributes"]["thing"] == {"name": "tea"}
    assert order["metadata"]["__agent_name__"] == "shop"
    assert failed["status"] == "ERROR"
    assert failed["metadata"]["__error__"] == {"type": "KeyError", "message": "'k'"}


# Agents' libraries ---------------------------------------------------------------------------


def test_langchain_by_openinference_is_seen(base_url: str) -> None:
    """otlp:F8, F11, F12, F13: chain, prompt, model, tool; messages, tokens, the error."""
    spans = spans_of(base_url, *run("langchain_openinference.py", base_url))
    failed, *_ = (span for span in spans if span["status"] == "ERROR")
    spans.remove(failed)
    assert parents_of(spans) == {
        "turn": None,
        "RunnableSequence": "turn",
        "ChatPromptTemplate": "RunnableSequence",
        "ChatOpenAI": "RunnableSequence",
        "weather": "turn",
    }
    found = by_name(spans)
    chain, model, tool = found["RunnableSequence"], found["ChatOpenAI"], found["weather"]
    assert (chain["type"], chain["metadata"]["operation"]) == ("STANDALONE", "chain")
    assert chain["input"] == {"input": "Rome?"}
    assert found["ChatPromptTemplate"]["type"] == "PROMPT_ENGINEERING"
    assert (model["type"], model["metadata"]["model"]) == ("COMPLETION", "gpt-4o-2024-08-06")
    assert model["metadata"]["provider"] == "openai"
    assert model["input"]["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "Rome?"},
    ]
    (answer,) = model["output"]["messages"]
    assert answer["role"] == "assistant"
    (call,) = answer["tool_calls"]
    assert call["id"] == "call_1"
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert model["output"]["usage"] == {**USAGE, "total_tokens": 15}
    assert (tool["type"], tool["metadata"]["tool"]) == ("CUSTOM", {"name": "weather"})
    assert (tool["input"], tool["output"]) == ({"input": "Rome"}, {"output": "sunny in Rome"})
    assert failed["metadata"]["__error__"] == {"type": "LookupError", "message": "sunken"}
    assert tokens_of(spans) == Tokens(12, 3)


def test_openai_by_openllmetry_is_seen(base_url: str) -> None:
    """otlp:F8, F12, F13."""
    spans = spans_of(base_url, *run("openllmetry.py", base_url))
    assert parents_of(spans) == {"turn": None, "openai.chat": "turn"}
    call = by_name(spans)["openai.chat"]
    assert (call["type"], call["metadata"]["operation"]) == ("COMPLETION", "llm")
    assert (call["metadata"]["model"], call["metadata"]["provider"]) == (
        "gpt-4o-2024-08-06",
        "openai",
    )
    assert call["input"]["messages"] == [
        {"role": "user", "parts": [{"type": "text", "content": "Rome?"}]}
    ]
    assert call["output"]["messages"] == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": "sunny"}],
            "finish_reason": "stop",
        }
    ]
    assert call["output"]["usage"] == {**USAGE, "total_tokens": 15}
    assert call["metadata"]["attributes"]["gen_ai.request.temperature"] == 0.5


def test_pydantic_ai_is_seen(base_url: str) -> None:
    """otlp:F8, F12, F13: the agent, its calls, its tool; the agent's total is none of theirs."""
    spans = spans_of(base_url, *run("pydantic_ai_agent.py", base_url))
    turn, agent, first, tool, last = spans
    names = [span["name"] for span in spans]
    assert names == ["turn", "agent run", "chat gpt-4o", "running tool", "chat gpt-4o"]
    assert [span.get("parent_id") for span in spans] == [None, turn["id"], *[agent["id"]] * 3]
    assert (agent["type"], agent["metadata"]["__agent_name__"]) == ("AGENT_WORKFLOW", "guide")
    assert agent["metadata"]["aggregated_usage"] == {"input_tokens": 24, "output_tokens": 6}
    assert agent["output"] == {"output": "sunny"}
    assert [message["role"] for message in agent["input"]["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    for call in (first, last):
        assert (call["type"], call["metadata"]["model"]) == ("COMPLETION", "gpt-4o-2024-08-06")
        assert call["output"]["usage"] == USAGE
        assert call["input"]["tools"][0]["name"] == "weather"
    assert first["input"]["messages"][1]["parts"] == [{"type": "text", "content": "Rome?"}]
    assert last["output"]["messages"][0]["parts"] == [{"type": "text", "content": "sunny"}]
    assert (tool["type"], tool["metadata"]["tool"]) == (
        "CUSTOM",
        {"name": "weather", "id": "call_1"},
    )
    assert (tool["input"], tool["output"]) == ({"city": "Rome"}, {"output": "sunny in Rome"})
    assert agent["group_id"] == first["group_id"] != ""
    assert tokens_of(spans) == Tokens(24, 6)


def test_a_call_recorded_by_two_libraries_is_counted_once(base_url: str) -> None:
    """otlp:F13: pydantic-ai's call stands above that of the OpenAI client."""
    spans = spans_of(base_url, *run("pydantic_ai_agent.py", base_url, "openllmetry"))
    calls = [span for span in spans if span["type"] == "COMPLETION"]
    outer = {span["id"] for span in calls if span["name"] == "chat gpt-4o"}
    inner = [span for span in calls if span["name"] == "openai.chat"]
    assert {span["parent_id"] for span in inner} == outer
    assert [span["input_tokens"] for span in calls] == [12] * 4
    assert tokens_of(spans) == Tokens(24, 6)
    trace = f"{base_url}/api/traces/{spans[0]['trace_id']}"
    wait_until(lambda: httpx2.get(trace).json().get("spans") == len(spans))
    shown = httpx2.get(trace).json()
    assert (shown["tokens"]["input"], shown["tokens"]["output"]) == (24, 6)
    assert (shown["agent"], shown["models"]) == ("guide", ["gpt-4o-2024-08-06"])


def test_langfuse_is_seen(base_url: str) -> None:
    """otlp:F8, F12, F13: by the path that its SDK knows."""
    spans = spans_of(base_url, *run("langfuse_sdk.py", base_url))
    assert parents_of(spans) == {"turn": None, "answer": "turn", "search": "turn"}
    turn, answer, search = (by_name(spans)[name] for name in ("turn", "answer", "search"))
    assert (turn["type"], turn["input"], turn["output"]) == (
        "AGENT_WORKFLOW",
        {"q": "Rome?"},
        {"a": "sunny"},
    )
    for span in spans:
        assert (span["group_id"], span["metadata"]["user_id"]) == ("s-1", "u-1")
        assert span["metadata"]["tags"] == ["t1"]
    assert (answer["type"], answer["metadata"]["model"]) == ("COMPLETION", "gpt-4o")
    assert answer["input"] == {"messages": [{"role": "user", "content": "Rome?"}]}
    assert answer["output"] == {"output": "sunny", "usage": USAGE}
    assert answer["metadata"]["cost_usd"] == 0.3
    assert answer["metadata"]["metadata"] == {"plan": "free", "try": {"n": 1}}
    assert (search["type"], search["output"]) == ("KB_RETRIEVAL", {"output": ["a", "b"]})
    assert search["status"] == "ERROR"
    assert search["metadata"]["__error__"]["message"] == "too slow"
    assert tokens_of(spans) == Tokens(12, 3)
