"""The OpenAI client as OpenLLMetry's instrumentation records it. Argument: the server."""

from __future__ import annotations

import sys

from fake_openai import FakeOpenAI
from openai import OpenAI
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.openai import OpenAIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

(base_url,) = sys.argv[1:]
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{base_url}/v1/traces")))
OpenAIInstrumentor().instrument(tracer_provider=provider)

openai = FakeOpenAI({"content": "sunny"})
client = OpenAI(base_url=openai.base_url, api_key="none", max_retries=0)
with provider.get_tracer("test").start_as_current_span("turn") as turn:
    client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Rome?"}], temperature=0.5
    )

provider.shutdown()
print(f"{turn.get_span_context().trace_id:032x}")
