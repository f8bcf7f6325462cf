"""The original's AgentEx exporter and ours, each against the same strict server, field by field."""

from __future__ import annotations

import asyncio
import json
import subprocess
from datetime import datetime
from typing import Any

import pytest

import everyspan
from everyspan.testing import FaultServer
from tests.peers import PYTHON, needs_peers

pytestmark = needs_peers

START = "2026-11-24T06:20:57.921832+00:00"
END = "2026-11-24T06:20:58.000001+00:00"

ENDED: dict[str, dict[str, Any]] = {
    "plain": {"input": {"q": 1}, "output": {"a": "ä€😀"}},
    "nothing": {},
    "arrays": {"input": [{"a": 1}], "output": [{"b": 2}, {}]},
    "failed": {"data": {"__error__": {"type": "ValueError", "message": "no"}, "k": 1}},
    "usage": {"data": {"__span_type__": "AGENT_WORKFLOW", "usage": {"input_tokens": 3}}},
    "deep": {"output": {"a": [1, 2.5, None, True, {"b": ["c"]}], "n": -0.0, "big": 2**53}},
    "child": {"parent_id": "plain", "task_id": "task-1"},
    "odd/ id": {"name": 'quo"te \\ \n', "trace_id": "other"},
}
"""Spans as they are when they end; at start they have neither output nor end. None has an array for
data: the original's update of one is a 500."""

AGENT = {"AGENT_NAME": "a", "ACP_URL": "http://a.test", "AGENT_API_KEY": "agent-key"}

SCRIPT = """
import asyncio, json, os, sys, types, typing, typing_extensions
import agentex
# The package says 3.11 and imports what 3.12 has.
typing.override = typing_extensions.override
# On its way to a client the exporter imports packages that import every framework there is. As
# bare folders they let it through.
for path in ("lib/adk", "lib/adk/utils", "lib/adk/utils/_modules"):
    package = types.ModuleType("agentex." + path.replace("/", "."))
    package.__path__ = [os.path.join(os.path.dirname(agentex.__file__), path)]
    sys.modules[package.__name__] = package
from agentex.types.span import Span
from agentex.lib.types.tracing import AgentexTracingProcessorConfig
from agentex.lib.core.tracing.processors.agentex_tracing_processor import (
    AgentexAsyncTracingProcessor)

async def main():
    processor = AgentexAsyncTracingProcessor(AgentexTracingProcessorConfig())
    for fields in json.loads(sys.argv[1]):
        span = Span(**{**fields, "output": None, "end_time": None})
        await processor.on_span_start(span)
        span.output, span.end_time = fields.get("output"), Span(**fields).end_time
        await processor.on_span_end(span)

asyncio.run(main())
"""


def spans() -> list[dict[str, Any]]:
    """All of them, with what every span has."""
    common = {"name": "step", "trace_id": "trace-1", "start_time": START, "end_time": END}
    return [{"id": id, **common, **fields} for id, fields in ENDED.items()]


def as_stored(backend: FaultServer) -> dict[str, dict[str, Any]]:
    """What is stored, times as instants."""
    return {
        id: {
            name: datetime.fromisoformat(value) if name.endswith("_time") and value else value
            for name, value in span.items()
        }
        for id, span in backend.spans.items()
    }


def test_both_leave_the_same_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """`trace:A2`, `A4`, `agx` §5: a POST and a PATCH each, or one POST; the rows are the same."""
    with FaultServer() as backend:
        done = subprocess.run(
            [str(PYTHON), "-c", SCRIPT, json.dumps(spans())],
            env={"AGENTEX_BASE_URL": backend.base_url, **AGENT},
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert done.returncode == 0, done.stderr
        assert backend.calls == [("POST", 200), ("PATCH", 200)] * len(ENDED)
        theirs = as_stored(backend)
        keys = [json.loads(request.body).keys() for request in backend.requests[:2]]
        headers = backend.requests[0].headers

    for name, value in AGENT.items():
        monkeypatch.setenv(name, value)
    for skips in (True, False):
        monkeypatch.setenv("AGENTEX_TRACING_SKIP_AGENTEX_SPAN_START", "1" if skips else "0")
        with FaultServer() as backend:
            monkeypatch.setenv("AGENTEX_BASE_URL", backend.base_url)
            asyncio.run(send_ours())
            assert as_stored(backend) == theirs
            assert json.loads(backend.requests[0].body).keys() == keys[0]
            for name in ("x-agent-api-key", "content-type", "accept"):
                assert backend.requests[0].headers[name] == headers[name]
            if not skips:
                assert backend.calls == [("POST", 200), ("PATCH", 200)] * len(ENDED)
                # The original sends fields that no PATCH knows, too.
                assert json.loads(backend.requests[1].body).keys() <= keys[1]


async def send_ours() -> None:
    """As `SCRIPT`, with our names."""
    processor = everyspan.AgentexAsyncTracingProcessor(everyspan.AgentexTracingProcessorConfig())
    for fields in spans():
        span = everyspan.Span.model_validate({**fields, "output": None, "end_time": None})
        await processor.on_span_start(span)
        ended = everyspan.Span.model_validate(fields)
        span.output, span.end_time = ended.output, ended.end_time
        await processor.on_span_end(span)
    await processor.close()
