"""Which attributes of which convention mean what (`otlp` §3): the tables, as data.

The names of the GenAI conventions still change, and other libraries have their own; a new one is a
line here. Read from left to right: the first hit wins.
"""

from __future__ import annotations

from everyspan.model.genai import OWN, OWN_DATA
from everyspan.model.span import SpanType

# Types ---------------------------------------------------------------------------------------

OPERATIONS = {
    "llm": SpanType.COMPLETION,
    "embedding": SpanType.EXTERNAL_ENDPOINT,
    "tool": SpanType.CUSTOM,
    "agent": SpanType.AGENT_WORKFLOW,
    "workflow": SpanType.AGENT_WORKFLOW,
    "chain": SpanType.STANDALONE,
    "retrieval": SpanType.KB_RETRIEVAL,
    "memory": SpanType.KB_MANAGEMENT,
    "rerank": SpanType.RERANKING,
    "guardrail": SpanType.GUARDRAIL,
    "evaluation": SpanType.EVALUATION,
    "prompt": SpanType.PROMPT_ENGINEERING,
    "http": SpanType.EXTERNAL_ENDPOINT,
    "db": SpanType.EXTERNAL_ENDPOINT,
}
"""What a span does, and the type of the SGP spans API that says it least badly."""

AGGREGATING = frozenset({"agent", "workflow", "chain"})
"""Operations whose usage is the sum of calls below (F13)."""

_GENAI_OPERATION = {
    "chat": "llm",
    "text_completion": "llm",
    "generate_content": "llm",
    "embeddings": "embedding",
    "execute_tool": "tool",
    "invoke_agent": "agent",
    "create_agent": "agent",
    "invoke_workflow": "workflow",
    "plan": "workflow",
    "retrieval": "retrieval",
    "search_memory": "retrieval",
} | {
    f"{verb}_memory{store}": "memory"
    for verb in ("create", "update", "upsert", "delete")
    for store in ("", "_store")
}
_OPENINFERENCE_KIND = {
    "llm": "llm",
    "embedding": "embedding",
    "tool": "tool",
    "agent": "agent",
    "chain": "chain",
    "retriever": "retrieval",
    "reranker": "rerank",
    "guardrail": "guardrail",
    "evaluator": "evaluation",
    "prompt": "prompt",
}
_LANGFUSE_TYPE = {
    "generation": "llm",
    "embedding": "embedding",
    "tool": "tool",
    "agent": "agent",
    "chain": "chain",
    "retriever": "retrieval",
    "guardrail": "guardrail",
    "evaluator": "evaluation",
}
_TRACELOOP_KIND = {"tool": "tool", "agent": "agent", "workflow": "workflow", "task": "chain"}
_REQUEST_TYPE = {"chat": "llm", "completion": "llm", "embedding": "embedding"}
_MLFLOW_TYPE = _OPENINFERENCE_KIND | {"chat_model": "llm", "parser": "chain", "memory": "memory"}

TYPE_KEYS: tuple[tuple[str, dict[str, str]], ...] = (
    ("langfuse.observation.type", _LANGFUSE_TYPE),
    ("openinference.span.kind", _OPENINFERENCE_KIND),
    ("gen_ai.operation.name", _GENAI_OPERATION),
    ("traceloop.span.kind", _TRACELOOP_KIND),
    ("llm.request.type", _REQUEST_TYPE),
    ("mlflow.spanType", _MLFLOW_TYPE),
)
"""Key, and operation by value in lower case. They stay among the attributes: an operation does not
tell all that they say. `everyspan.type` comes before them."""

TOOL_KEY = "gen_ai.tool.name"
"""Its presence makes a tool, that of one of MODEL makes a call of a model."""
CLIENT_KEYS = (
    ("http.request.method", "http"),
    ("http.method", "http"),
    ("db.system.name", "db"),
    ("db.system", "db"),
)
"""What makes a span of kind CLIENT an `http` or `db` one, where nothing else was said."""

# Input and output ----------------------------------------------------------------------------
# `a.N.*` gathers indexed keys (F11). CONTENT_EVENTS stands for what span events carry.

CONTENT_EVENTS = "content events"
SYSTEM_KEY = "gen_ai.system_instructions"
TOOLS_KEY = "gen_ai.tool.definitions"

INPUT_OTHER = (
    "everyspan.input",
    "langfuse.observation.input",
    "gen_ai.tool.call.arguments",
    "tool_arguments",
    "gen_ai.retrieval.query.text",
    "gen_ai.memory.query.text",
    "reranker.query",
    "input.value",
    "tool.parameters",
    "traceloop.entity.input",
    "mlflow.spanInputs",
    "gen_ai.input.messages",
    "pydantic_ai.all_messages",
    "embedding.embeddings.N.*",
)
INPUT_LLM = (
    "everyspan.input",
    "langfuse.observation.input",
    "gen_ai.input.messages",
    "llm.input_messages.N.*",
    "llm.prompts.N.*",
    "gen_ai.prompt.N.*",
    "gen_ai.prompt",
    CONTENT_EVENTS,
    *INPUT_OTHER,
)
OUTPUT_OTHER = (
    "everyspan.output",
    "langfuse.observation.output",
    "gen_ai.tool.call.result",
    "tool_response",
    "gen_ai.retrieval.documents",
    "gen_ai.memory.records",
    "retrieval.documents.N.*",
    "reranker.output_documents.N.*",
    "output.value",
    "traceloop.entity.output",
    "mlflow.spanOutputs",
    "final_result",
    "gen_ai.output.messages",
)
OUTPUT_LLM = (
    "everyspan.output",
    "langfuse.observation.output",
    "gen_ai.output.messages",
    "llm.output_messages.N.*",
    "llm.choices.N.*",
    "gen_ai.completion.N.*",
    "gen_ai.completion",
    CONTENT_EVENTS,
    *OUTPUT_OTHER,
)

MESSAGES = frozenset(
    {
        "gen_ai.input.messages",
        "gen_ai.output.messages",
        "llm.input_messages.N.*",
        "llm.output_messages.N.*",
        "llm.prompts.N.*",
        "llm.choices.N.*",
        "gen_ai.prompt.N.*",
        "gen_ai.completion.N.*",
        "pydantic_ai.all_messages",
        CONTENT_EVENTS,
    }
)
"""What is a list of messages whatever it holds (F12); another list is if each item has a role."""

ITEM_PREFIXES = (
    "message.",
    "tool_call.",
    "message_content.",
    "document.",
    "embedding.",
    "prompt.",
    "completion.",
)
"""After an index these only repeat what the list is called (F11)."""

DETAILS_EVENT = "gen_ai.client.inference.operation.details"
"""Carries attributes under the same names as a span does."""
MESSAGE_EVENTS = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
}
"""Event, and the role of the message that it is."""
CHOICE_EVENT = "gen_ai.choice"
PROMPT_EVENT = ("gen_ai.content.prompt", "gen_ai.prompt")
COMPLETION_EVENT = ("gen_ai.content.completion", "gen_ai.completion")
"""Deprecated: event, and its attribute with all messages as JSON text."""
EVENTS_KEY = "events"
"""Attribute in which an older logfire keeps such events, as JSON text."""

# JSON in text (F10) --------------------------------------------------------------------------

JSON_KEYS = frozenset(
    {
        "everyspan.input",
        "everyspan.output",
        "gen_ai.input.messages",
        "gen_ai.output.messages",
        SYSTEM_KEY,
        TOOLS_KEY,
        "gen_ai.tool.call.arguments",
        "gen_ai.tool.call.result",
        "gen_ai.retrieval.documents",
        "gen_ai.memory.records",
        "gen_ai.prompt",
        "gen_ai.completion",
        "tool_arguments",
        "tool_response",
        "tool.parameters",
        "langfuse.observation.input",
        "langfuse.observation.output",
        "langfuse.observation.usage_details",
        "langfuse.observation.cost_details",
        "langfuse.observation.model.parameters",
        "traceloop.entity.input",
        "traceloop.entity.output",
        "mlflow.spanInputs",
        "mlflow.spanOutputs",
        "mlflow.chat.tokenUsage",
        "pydantic_ai.all_messages",
        "final_result",
        "metadata",
        EVENTS_KEY,
    }
)
MIME_TYPES = {"input.value": "input.mime_type", "output.value": "output.mime_type"}
"""Key whose text is JSON if another says `application/json`."""
SCHEMA_KEY = "logfire.json_schema"
"""Says of other attributes that they are objects or arrays."""

# Single values -------------------------------------------------------------------------------
# `a > b` is member b of the object in a; `a > *b*` the sum of its members whose name holds b.

MODEL = (
    "gen_ai.response.model",
    "gen_ai.request.model",
    "langfuse.observation.model.name",
    "llm.model_name",
    "embedding.model_name",
    "reranker.model_name",
    "mlflow.llm.model",
)
PROVIDER = ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system")
USAGE = {
    "input_tokens": (
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.prompt_tokens",
        "llm.token_count.prompt",
        "llm.usage.prompt_tokens",
        "langfuse.observation.usage_details > *input*",
        "mlflow.chat.tokenUsage > input_tokens",
    ),
    "output_tokens": (
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.completion_tokens",
        "llm.token_count.completion",
        "llm.usage.completion_tokens",
        "langfuse.observation.usage_details > *output*",
        "mlflow.chat.tokenUsage > output_tokens",
    ),
    "cached_input_tokens": (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "llm.token_count.prompt_details.cache_read",
        "langfuse.observation.usage_details > cache_read_input_tokens",
        "langfuse.observation.usage_details > input_cached_tokens",
    ),
    "cache_creation_input_tokens": (
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "llm.token_count.prompt_details.cache_write",
    ),
    "reasoning_tokens": (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "llm.token_count.completion_details.reasoning",
    ),
    "total_tokens": (
        "gen_ai.usage.total_tokens",
        "llm.token_count.total",
        "llm.usage.total_tokens",
    ),
}
AGGREGATED_PREFIX = "gen_ai.aggregated_usage."
AGGREGATED_USAGE = {
    name: tuple(
        AGGREGATED_PREFIX + key.removeprefix("gen_ai.usage.")
        for key in keys
        if key.startswith("gen_ai.usage.")
    )
    for name, keys in USAGE.items()
}
USAGE_KEYS = frozenset(key.partition(" > ")[0] for keys in USAGE.values() for key in keys)
AGGREGATED_USAGE_KEYS = frozenset(key for keys in AGGREGATED_USAGE.values() for key in keys)
COST_USD = (
    "gen_ai.usage.cost",
    "operation.cost",
    "llm.cost.total",
    "langfuse.observation.cost_details > total",
)
GROUP_ID = (
    "everyspan.group_id",
    "gen_ai.conversation.id",
    "session.id",
    "langfuse.session.id",
    "traceloop.association.properties.session_id",
    "mlflow.trace.session",
)
TASK_ID = ("everyspan.task_id",)
USER_ID = (
    "user.id",
    "langfuse.user.id",
    "enduser.id",
    "traceloop.association.properties.user_id",
)
TOOL_NAME = (TOOL_KEY, "tool.name")
TOOL_ID = ("gen_ai.tool.call.id", "tool.id")
AGENT_NAME = ("gen_ai.agent.name", "agent.name")
TAGS = ("tag.tags", "langfuse.trace.tags", "logfire.tags")
METADATA_KEYS = ("metadata", "langfuse.observation.metadata", "langfuse.trace.metadata")
METADATA_PREFIXES = (
    "langfuse.observation.metadata.",
    "langfuse.trace.metadata.",
    "traceloop.association.properties.",
)

# Ours and logfire's --------------------------------------------------------------------------

EVERYSPAN_DATA = OWN_DATA
EVERYSPAN_TYPE = f"{OWN}type"
EVERYSPAN_STATUS = f"{OWN}status"
EVERYSPAN_IDS = (f"{OWN}trace_id", f"{OWN}span_id", f"{OWN}parent_id")
"""Ids that are no plain hex; believed only if they derive to the ids of the span (F1)."""

EVERYSPAN_OBS_IDS = (f"{OWN}obs_trace_id", f"{OWN}obs_span_id")

SPAN_KIND_KEY = "logfire.span_type"
PENDING = "pending_span"
PENDING_PARENT_KEY = "logfire.pending_parent_id"
TEMPLATE_KEY = "logfire.msg_template"
MESSAGE_KEY = "logfire.msg"
"""A span named by its template is shown by the message (F4)."""

MEMBERS = {
    "gen_ai.retrieval.query.text": "query",
    "gen_ai.retrieval.documents": "documents",
}
"""What a value is called within its payload, where it is no object; else `input` or `output`."""
