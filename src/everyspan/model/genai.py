"""Names that OTLP spans go by: GenAI conventions, OpenInference, and our own (`otlp` §3, §4).

They still change, so they stand here as data, for whoever writes such spans and whoever reads them.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from everyspan.model.span import SpanType

OWN: Final = "everyspan."
"""What only an everyspan server reads begins with this."""

OWN_DATA: Final = OWN + "data."
"""A member of a span's data: numbers and booleans are typed, text is text, all else is JSON. Text
that begins like an object, an array or a JSON text (`{`, `[`, `"`) is sent as JSON too, so that a
reader may decode whatever begins with one of these."""

OPERATION_OF_TYPE: Final = MappingProxyType(
    {
        SpanType.COMPLETION: "llm",
        SpanType.AGENT_WORKFLOW: "agent",
        SpanType.AGENT_TRACER: "agent",
        SpanType.TRACER: "agent",
        SpanType.KB_RETRIEVAL: "retrieval",
        SpanType.RERANKING: "rerank",
        SpanType.GUARDRAIL: "guardrail",
        SpanType.OUTPUT_GUARDRAIL: "guardrail",
        SpanType.EVALUATION: "evaluation",
        SpanType.PROMPT_ENGINEERING: "prompt",
    }
)
"""What a span of a type does, where its data does not say it finer as `operation`."""

OPERATIONS: Final = frozenset(
    {
        *("llm", "embedding", "tool", "agent", "workflow", "chain", "retrieval", "memory"),
        *("rerank", "guardrail", "evaluation", "prompt", "http", "db"),
    }
)
"""What `operation` in a span's data may be; whatever else it is says nothing."""

GENAI_OPERATION: Final = MappingProxyType(
    {
        "llm": "chat",
        "embedding": "embeddings",
        "tool": "execute_tool",
        "agent": "invoke_agent",
        "workflow": "invoke_workflow",
        "retrieval": "retrieval",
    }
)
"""`gen_ai.operation.name` of an operation, where the conventions have one."""

OPENINFERENCE_KIND: Final = MappingProxyType(
    {
        "llm": "LLM",
        "embedding": "EMBEDDING",
        "tool": "TOOL",
        "agent": "AGENT",
        "workflow": "AGENT",
        "retrieval": "RETRIEVER",
        "rerank": "RERANKER",
        "guardrail": "GUARDRAIL",
        "evaluation": "EVALUATOR",
        "prompt": "PROMPT",
    }
)
"""`openinference.span.kind` of an operation; CHAIN for all others."""

CLIENT_OPERATIONS: Final = frozenset({"llm", "embedding", "retrieval"})
"""Those that ask somebody else: a span of one has the kind CLIENT (`otlp:B9`)."""

USAGE: Final = (
    (("input_tokens", "prompt_tokens"), "input_tokens", "prompt"),
    (("output_tokens", "completion_tokens"), "output_tokens", "completion"),
    (
        ("cached_input_tokens", "cached_tokens", "cache_read_input_tokens"),
        "cache_read.input_tokens",
        "prompt_details.cache_read",
    ),
    (
        ("cache_creation_input_tokens",),
        "cache_creation.input_tokens",
        "prompt_details.cache_write",
    ),
    (("reasoning_tokens",), "reasoning.output_tokens", "completion_details.reasoning"),
    (("total_tokens",), "total_tokens", "total"),
)
"""Names of a count in a span's usage, first hit wins; after `gen_ai.usage.` or
`gen_ai.aggregated_usage.`; after `llm.token_count.` (OpenInference)."""
