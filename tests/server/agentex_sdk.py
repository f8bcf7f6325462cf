"""The real agentex-sdk, in a process of its own: its client, call by call, and an agent of it."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.peers import PYTHON

_CLIENT = """
import asyncio, json, sys
from agentex import Agentex, APIStatusError, AsyncAgentex

asynchronous, base_url = sys.argv[1:]
loop = asyncio.new_event_loop()
client = AsyncAgentex(base_url=base_url) if asynchronous else Agentex(base_url=base_url)

def show(result):
    if isinstance(result, list):
        return [show(each) for each in result]
    return result.model_dump(mode="json", warnings="error")

async def call(method, arguments):
    return await getattr(client.spans, method)(**arguments)

for line in sys.stdin:
    method, arguments = json.loads(line)
    try:
        if asynchronous:
            reply = show(loop.run_until_complete(call(method, arguments)))
        else:
            reply = show(getattr(client.spans, method)(**arguments))
    except APIStatusError as error:
        attempt = error.response.request.headers["x-stainless-retry-count"]
        reply = {"refused": error.status_code, "body": error.body, "attempt": attempt}
    print(json.dumps(reply), flush=True)
"""

_AGENT = """
import asyncio, json, os, sys

# What agentex.lib needs that this environment lacks: Python 3.12 and a newer langchain-core.
import typing, typing_extensions
typing.override = typing_extensions.override
import langchain_core.load.load as _
load = sys.modules["langchain_core.load.load"]
class Reviver(load.Reviver):
    def __init__(self, *, allowed_objects=None):
        super().__init__()
load.Reviver = Reviver

import httpx
from agentex import Agentex
from agentex.lib import adk
from agentex.lib.core.tracing.processors.agentex_tracing_processor import (
    AgentexAsyncTracingProcessor,
)
from agentex.lib.core.tracing.tracer import Tracer
from agentex.lib.core.tracing.tracing_processor_manager import (
    GLOBAL_TRACING_PROCESSOR_MANAGER,
    add_tracing_processor_config,
)
from agentex.lib.sdk.fastacp.impl.sync_acp import SyncACP
from agentex.lib.types.tracing import AgentexTracingProcessorConfig
from agentex.types.text_content import TextContent

add_tracing_processor_config(AgentexTracingProcessorConfig())

if sys.argv[1] == "end only":
    # Newer versions of the SDK send nothing at a span's start and POST it at its end, unless told
    # otherwise; this one knows the other mode only.
    async def nothing(span):
        pass
    for processor in GLOBAL_TRACING_PROCESSOR_MANAGER.get_async_processors():
        processor.on_span_end, processor.on_span_start = processor.on_span_start, nothing

acp = SyncACP.create()

@acp.on_message_send
async def handle(params):
    task_id = params.task.id
    async with adk.tracing.span(
        trace_id=task_id, task_id=task_id, name="turn", input={"question": params.content.content}
    ) as turn:
        async with adk.tracing.span(
            trace_id=task_id, task_id=task_id, parent_id=turn.id, name="model",
            input=[{"role": "user", "content": "é☃"}, {"role": "tool"}],
            data={"__span_type__": "COMPLETION", "model": "m"},
        ) as model:
            model.output = [{"text": "hi"}]
            model.data["usage"] = {"input_tokens": 3, "output_tokens": 4}
        async with adk.tracing.span(
            trace_id=task_id, task_id=task_id, parent_id=turn.id, name="tool", data={"k": 1}
        ) as tool:
            tool.data["__error__"] = {
                "type": "ValueError", "message": "no", "category": "application"
            }
        turn.output = {"answer": "hi"}
    return TextContent(author="agent", content="hi", type="text")

async def send(n):
    agent = dict(id="a", name="a", description="", acp_type="sync",
                 created_at="2026-01-01T00:00:00Z", updated_at="2026-01-01T00:00:00Z")
    content = dict(type="text", author="user", content=f"question {n}")
    params = dict(agent=agent, task=dict(id=f"task-{n}"), content=content)
    transport = httpx.ASGITransport(acp)
    async with (
        acp.router.lifespan_context(acp),  # Registers; at its end, delivers what waits.
        httpx.AsyncClient(transport=transport, base_url="http://agent") as client,
    ):
        reply = await client.post(
            "/api",
            json=dict(jsonrpc="2.0", id=n, method="message/send", params=params),
        )
        assert reply.json()["result"]["content"]["content"] == "hi", reply.text

for n in range(3):
    # As a sync agent does: an event loop for each request.
    asyncio.run(send(n))

if sys.argv[1] == "start and end":
    # The synchronous tracer has that mode only.
    with Tracer(Agentex()).trace("by hand").span("outer", input={"i": 1}) as span:
        span.output = {"o": 2}
"""


class AgentexClient:
    """`client.spans` of agentex-sdk, synchronous or asynchronous.

    A call returns what the client made of the reply, as JSON values; of an error reply
    `{"refused": status, "body": ..., "attempt": ...}`.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def call(self, method: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([method, arguments]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def create(self, **arguments: Any) -> Any:
        return self.call("create", **arguments)

    def retrieve(self, span_id: str) -> Any:
        return self.call("retrieve", span_id=span_id)

    def update(self, span_id: str, **arguments: Any) -> Any:
        return self.call("update", span_id=span_id, **arguments)

    def list(self, **arguments: Any) -> Any:
        return self.call("list", **arguments)


@contextmanager
def agentex_client(base_url: str, account: str, *, asynchronous: bool) -> Iterator[AgentexClient]:
    """Run the client; it selects the account by the header that its users can add."""
    environment = os.environ | {"AGENTEX_CUSTOM_HEADERS": f"x-selected-account-id: {account}"}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [PYTHON, "-c", _CLIENT, "async" if asynchronous else "", base_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
        )
        try:
            yield AgentexClient(process)
        finally:
            process.communicate(timeout=30)
            errors.seek(0)
            assert process.returncode == 0, errors.read()


def run_agent(base_url: str, mode: str) -> str:
    """Run the agent against a server until all its spans are sent; return what it logged."""
    done = subprocess.run(
        [PYTHON, "-c", _AGENT, mode],
        env=os.environ
        | {
            "AGENTEX_BASE_URL": base_url,
            "AGENT_NAME": "agent",
            "ACP_URL": "http://agent",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # Else it asks the network for prices.
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
