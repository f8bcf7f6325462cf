"""The same agent, recorded by each contender.

Every recorder is used in a process of its own: `record` runs requests of five spans (a root and
four children) and returns the CPU seconds that took on the calling thread; `drain` returns once
the backend has acknowledged every span, or raises.

Peers are imported by name when used: the project's own environment does without them.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import queue
import threading
import time
import typing
from collections.abc import Sequence
from importlib import import_module
from time import thread_time
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
from uuid_utils import uuid4

from benchmarks.payloads import Request

DRAIN_S = 120.0


class Recorder(Protocol):
    def record(self, requests: Sequence[Request]) -> float:
        """Record every request; return the caller's CPU seconds."""
        ...

    def drain(self) -> None:
        """Return once all that was recorded is acknowledged."""
        ...


def make_recorder(name: str, url: str) -> Recorder:
    """Return a recorder that sends to the backend at `url`.

    Raises:
        ModuleNotFoundError: The contender is not installed; leave its row out.
    """
    match name:
        case "limit":
            return Limit()
        case "limit sockets":
            return LimitSockets(url)
        case "everyspan":
            return Everyspan(url, start_delay_ms=None)
        case "everyspan START on":
            return Everyspan(url, start_delay_ms=1000)
        case "opentelemetry":
            return OpenTelemetry(url, queue_spans_max=2048, batch_spans_max=512)
        case "opentelemetry tuned":
            return OpenTelemetry(url, queue_spans_max=65_536, batch_spans_max=2048)
        case "agentex-sdk":
            return Agentex(url)
    raise ValueError(f"no recorder is named {name!r}")


class LimitSpan(msgspec.Struct):
    """The least that a span can be: an id, two clock reads, two frozen payloads."""

    id: str
    name: str
    start_ns: int
    end_ns: int = 0
    input: bytes = b""
    output: bytes = b""


class Limit:
    """What any recorder must pay on this machine; sends nothing."""

    def __init__(self) -> None:
        self._pending: list[LimitSpan] = []

    def record(self, requests: Sequence[Request]) -> float:
        encode, append = msgspec.json.encode, self._pending.append
        begin = thread_time()
        for request in requests:
            for call in request:
                span = LimitSpan(str(uuid4()), call.name, time.time_ns())
                span.input = encode(call.input)
                span.output = encode(call.output)
                span.end_ns = time.time_ns()
                append(span)
        return thread_time() - begin

    def drain(self) -> None:
        self._pending.clear()


class _Wire(msgspec.Struct):
    """A `LimitSpan` as its JSON item."""

    id: str
    name: str
    start_ns: int
    end_ns: int
    input: msgspec.Raw
    output: msgspec.Raw


class LimitSockets:
    """`Limit` whose bodies, joined from 200 frozen spans, go out over 64 bare connections."""

    _CONNECTIONS = 64
    _BATCH_SPANS = 200

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc
        self._bodies: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._failures: list[int] = []
        self._items: list[bytes] = []
        self._threads = [threading.Thread(target=self._send) for _ in range(self._CONNECTIONS)]
        for thread in self._threads:
            thread.start()

    def record(self, requests: Sequence[Request]) -> float:
        encode = msgspec.json.encode
        items = self._items
        begin = thread_time()
        for request in requests:
            for call in request:
                start_ns = time.time_ns()
                frozen_input = msgspec.Raw(encode(call.input))
                frozen_output = msgspec.Raw(encode(call.output))
                end_ns = time.time_ns()
                items.append(
                    encode(
                        _Wire(
                            str(uuid4()), call.name, start_ns, end_ns, frozen_input, frozen_output
                        )
                    )
                )
                if len(items) == self._BATCH_SPANS:
                    self._hand_over()
        return thread_time() - begin

    def _hand_over(self) -> None:
        self._bodies.put(b'{"items":[' + b",".join(self._items) + b"]}")
        self._items.clear()

    def drain(self) -> None:
        if self._items:
            self._hand_over()
        for _ in self._threads:
            self._bodies.put(None)
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise RuntimeError(f"the backend answered {self._failures}")

    def _send(self) -> None:
        connection = http.client.HTTPConnection(self._address)
        while (body := self._bodies.get()) is not None:
            connection.request("PUT", "/v5/spans/batch", body)
            reply = connection.getresponse()
            reply.read()
            if reply.status != 200:
                self._failures.append(reply.status)
        connection.close()


class Everyspan:
    """everyspan towards an SGP backend, everything else at its default."""

    def __init__(self, url: str, *, start_delay_ms: int | None) -> None:
        import everyspan

        self._everyspan = everyspan
        config = everyspan.SGPTracingProcessorConfig(
            sgp_api_key="key", sgp_account_id="account", sgp_base_url=url
        )
        everyspan.configure(config, start_delay_ms=start_delay_ms)

    def record(self, requests: Sequence[Request]) -> float:
        span = self._everyspan.span
        begin = thread_time()
        for (name, given, made), *children in requests:
            with span(name, input=given) as root:
                for child_name, child_given, child_made in children:
                    with span(child_name, input=child_given) as child:
                        child.output = child_made
                root.output = made
        return thread_time() - begin

    def drain(self) -> None:
        result = self._everyspan.flush(timeout=DRAIN_S)
        if not result.ok:
            raise RuntimeError(f"flush left {result.left}")


class OpenTelemetry:
    """The OpenTelemetry SDK: payloads as JSON text in attributes, as its users record them."""

    def __init__(self, url: str, *, queue_spans_max: int, batch_spans_max: int) -> None:
        sdk = import_module("opentelemetry.sdk.trace")
        export = import_module("opentelemetry.sdk.trace.export")
        otlp = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        self._provider = sdk.TracerProvider()
        self._provider.add_span_processor(
            export.BatchSpanProcessor(
                otlp.OTLPSpanExporter(endpoint=f"{url}/v1/traces"),
                max_queue_size=queue_spans_max,
                max_export_batch_size=batch_spans_max,
            )
        )
        self._tracer = self._provider.get_tracer("benchmark")

    def record(self, requests: Sequence[Request]) -> float:
        span, dumps = self._tracer.start_as_current_span, json.dumps
        begin = thread_time()
        for (name, given, made), *children in requests:
            with span(name, attributes={"input": dumps(given)}) as root:
                for child_name, child_given, child_made in children:
                    with span(child_name, attributes={"input": dumps(child_given)}) as child:
                        child.set_attribute("output", dumps(child_made))
                root.set_attribute("output", dumps(made))
        return thread_time() - begin

    def drain(self) -> None:
        self._provider.force_flush()


class Agentex:
    """agentex-sdk 0.12.0: its async trace, default span queue and SGP processor.

    It sends from the agent's own event loop; only what happens before the agent's next `await`
    is on the caller here, the sending is in the process's CPU time.
    """

    def __init__(self, url: str) -> None:
        # It refuses to build an exporter without these (`trace:S13`).
        os.environ.update(AGENT_NAME="benchmark", ACP_URL="http://127.0.0.1")
        # It declares Python 3.11 but imports this name of 3.12 from `typing`.
        vars(typing).setdefault("override", import_module("typing_extensions").override)
        # Its HTTP client logs a line a request; what it loses shows in the backend's count.
        logging.disable(logging.WARNING)
        self._trace_type = import_module("agentex.lib.core.tracing.trace").AsyncTrace
        self._queue_type = import_module("agentex.lib.core.tracing.span_queue").AsyncSpanQueue
        sgp = import_module("agentex.lib.core.tracing.processors.sgp_tracing_processor")
        types = import_module("agentex.lib.types.tracing")
        config = types.SGPTracingProcessorConfig(
            sgp_api_key="key", sgp_account_id="account", sgp_base_url=url
        )
        self._processor = sgp.SGPAsyncTracingProcessor(config)
        self._loop = asyncio.new_event_loop()
        self._queue = self._queue_type()

    def record(self, requests: Sequence[Request]) -> float:
        return self._loop.run_until_complete(self._record(requests))

    async def _record(self, requests: Sequence[Request]) -> float:
        span = self._trace_type([self._processor], None, "benchmark", self._queue).span
        begin = thread_time()
        for (name, given, made), *children in requests:
            async with span(name, input=given) as root:
                for child_name, child_given, child_made in children:
                    async with span(child_name, parent_id=root.id, input=child_given) as child:
                        child.output = child_made
                root.output = made
        return thread_time() - begin

    def drain(self) -> None:
        # The queue has no flush: it drains when shut down, and is then replaced.
        self._loop.run_until_complete(self._queue.shutdown(DRAIN_S))
        self._queue = self._queue_type()
