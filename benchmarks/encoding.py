"""What saying a span in OTLP costs the exporter: `python -m benchmarks.encoding`.

CPU time a span, best of several rounds, of batches of 200 with 2 KB in and 2 KB out, in one
process: ours from the frozen span to the bytes of the request, as plain spans and as calls of a
model; OpenTelemetry's from its own ended span, whose payloads are text already, by the encoder of
its OTLP exporter, if that is installed. The figures are in `docs/decisions/031-otlp.md`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import msgspec

from benchmarks.payloads import Call, requests
from everyspan.delivery.backlog import Batch
from everyspan.model.record import SpanRecord, freeze_span
from everyspan.model.span import Span
from everyspan.processors.otlp import OTLPTracingProcessor, OTLPTracingProcessorConfig
from everyspan.processors.sgp import SGPAsyncTracingProcessor, SGPTracingProcessorConfig
from everyspan.transport.compression import compressor

SPANS = 200
ROUNDS = 40


def records(calls: Sequence[Call], type_: str | None) -> list[SpanRecord]:
    """The calls as frozen spans of forty traces."""
    now_ns = time.time_ns()
    return [
        freeze_span(
            Span(
                name=call.name,
                trace_id=f"9f0e3c5a-7b1d-4e2f-8a6b-{number // 5:012x}",
                parent_id=f"7b6b8c1e-5f0e-4f64-9a46-{number // 5:012x}",
                start_ns=now_ns,
                end_ns=now_ns + 1_000_000,
                input=call.input,
                output=call.output,
                data={"model": "gpt-5"},
                type=type_,
            ),
            is_end=True,
            offered_s=0.0,
        )
        for number, call in enumerate(calls)
    ]


def opentelemetry(calls: Sequence[Call]) -> Callable[[], bytes]:
    """Return what encodes the same as spans of OpenTelemetry.

    Raises:
        ModuleNotFoundError: Its exporter is not installed.
    """
    encoder = import_module("opentelemetry.exporter.otlp.proto.common.trace_encoder")
    sdk = import_module("opentelemetry.sdk.trace")
    tracer = sdk.TracerProvider().get_tracer("benchmark")
    spans: list[Any] = []
    for call in calls:
        span = tracer.start_span(call.name)
        span.set_attributes(
            {
                "input.value": msgspec.json.encode(call.input).decode(),
                "input.mime_type": "application/json",
                "output.value": msgspec.json.encode(call.output).decode(),
                "output.mime_type": "application/json",
                "gen_ai.request.model": "gpt-5",
            }
        )
        span.end()
        spans.append(span)
    return lambda: encoder.encode_spans(spans).SerializeToString()


def cost_us(work: Callable[[], object]) -> float:
    """Return the CPU microseconds a span, the best of several rounds."""
    best_s = float("inf")
    for _ in range(ROUNDS):
        began_s = time.process_time()
        work()
        best_s = min(best_s, time.process_time() - began_s)
    return best_s / SPANS * 1e6


def main() -> None:
    calls = [call for request in requests("chat", SPANS // 5) for call in request]
    otlp = OTLPTracingProcessor(OTLPTracingProcessorConfig("http://localhost"))
    both = OTLPTracingProcessor(OTLPTracingProcessorConfig("http://localhost", openinference=True))
    sgp = SGPAsyncTracingProcessor(SGPTracingProcessorConfig("key", "account", "http://localhost"))
    plain, models = records(calls, None), records(calls, "COMPLETION")
    body = otlp.encode(Batch([], plain))
    rows: dict[str, Callable[[], object]] = {
        "everyspan": lambda: otlp.encode(Batch([], plain)),
        "everyspan, calls of a model": lambda: otlp.encode(Batch([], models)),
        "everyspan, openinference": lambda: both.encode(Batch([], models)),
        "everyspan, SGP": lambda: sgp.encode(plain),
    }
    try:
        rows["opentelemetry"] = opentelemetry(calls)
    except ModuleNotFoundError as missing:
        print(missing, file=sys.stderr)
    for name in ("gzip", "zstd"):
        compress = compressor(name)
        rows[name] = lambda compress=compress: compress(body)  # type: ignore[misc]
    print(f"{len(body):,} bytes in {SPANS} spans; CPU µs a span")
    ours = cost_us(rows["everyspan"])
    for name, work in rows.items():
        spent_us = cost_us(work)
        print(f"{name:<30}{spent_us:8.1f}{spent_us / ours:8.2f}x")


if __name__ == "__main__":
    main()
