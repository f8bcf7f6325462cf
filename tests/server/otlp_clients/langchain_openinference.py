"""LangChain as OpenInference's instrumentation records it: a chain, a prompt, a model, a tool.

Argument: the server.
"""

from __future__ import annotations

import sys

from fake_openai import FakeOpenAI, tool_call
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openinference.instrumentation.langchain import LangChainInstrumentor
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

(base_url,) = sys.argv[1:]
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{base_url}/v1/traces")))
trace.set_tracer_provider(provider)
LangChainInstrumentor().instrument(tracer_provider=provider)

openai = FakeOpenAI(tool_call("weather", city="Rome"))


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    if city == "Atlantis":
        raise LookupError("sunken")
    return f"sunny in {city}"


model = ChatOpenAI(model="gpt-4o", base_url=openai.base_url, api_key="none", max_retries=0)
prompt = ChatPromptTemplate.from_messages([("system", "be kind"), ("human", "{question}")])
chain = prompt | model.bind_tools([weather])
with provider.get_tracer("test").start_as_current_span("turn") as turn:
    answer = chain.invoke({"question": "Rome?"})
    weather.invoke(answer.tool_calls[0]["args"])
    try:
        weather.invoke({"city": "Atlantis"})
    except LookupError:
        pass

provider.shutdown()
print(f"{turn.get_span_context().trace_id:032x}")
