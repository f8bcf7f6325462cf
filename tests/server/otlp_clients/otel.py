"""OpenTelemetry's own SDK and exporter: a turn, a call in it, an error, a link.

Arguments: the server, then `none`, `gzip` or `deflate`.
"""

from __future__ import annotations

import sys

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind

base_url, compression = sys.argv[1:]
exporter = OTLPSpanExporter(
    endpoint=f"{base_url}/v1/traces",
    compression=Compression[compression.capitalize()] if compression != "none" else None,
)
provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
provider.add_span_processor(BatchSpanProcessor(exporter))
tracer = provider.get_tracer("shop.agent", "1.2")

with tracer.start_as_current_span("turn") as turn:
    turn.set_attribute("session.id", "s-1")
    turn.set_attribute("numbers", [1, 2])
    with tracer.start_as_current_span("GET /", kind=SpanKind.CLIENT) as call:
        call.set_attribute("http.request.method", "GET")
        call.add_event("retry", {"attempt": 1})
    try:
        with tracer.start_as_current_span("book", links=[Link(call.get_span_context())]):
            raise ValueError("no such hotel")
    except ValueError:
        pass

provider.shutdown()
print(f"{turn.get_span_context().trace_id:032x}")
