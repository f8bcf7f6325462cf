"""pydantic-ai's agent with its own instrumentation: two calls of a model, a tool between them.

Arguments: the server; then `openllmetry`, if that is to record the OpenAI client below as well.
"""

from __future__ import annotations

import sys

from fake_openai import FakeOpenAI, tool_call
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from pydantic_ai import Agent
from pydantic_ai.models.instrumented import InstrumentationSettings
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

base_url, *more = sys.argv[1:]
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{base_url}/v1/traces")))
if more == ["openllmetry"]:
    from opentelemetry.instrumentation.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(tracer_provider=provider)

openai = FakeOpenAI(tool_call("weather", city="Rome"), {"content": "sunny"})
agent = Agent(
    OpenAIChatModel("gpt-4o", provider=OpenAIProvider(base_url=openai.base_url, api_key="none")),
    name="guide",
    system_prompt="be kind",
)
agent.instrument = InstrumentationSettings(tracer_provider=provider)


@agent.tool_plain
def weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


with provider.get_tracer("test").start_as_current_span("turn") as turn:
    agent.run_sync("Rome?")

provider.shutdown()
print(f"{turn.get_span_context().trace_id:032x}")
