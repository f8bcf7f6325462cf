"""What a span says of its work, as attributes of OTLP (`otlp` §4, the table).

A1  Frozen bytes are copied, not decoded, but for conversations of models.
A2  Each payload is said once, under a name that the conventions have for it or as `input.value`
    and `output.value`; `openinference` says it twice, in the words of both.
A3  What only an everyspan server reads comes back from it as it was: see `model/genai.py`.
"""

from __future__ import annotations

import functools

from everyspan.model.genai import (
    GENAI_OPERATION,
    OPERATION_OF_TYPE,
    OPERATIONS,
    OWN,
    OWN_DATA,
    USAGE,
)
from everyspan.model.record import NAME_LENGTH_MAX, SpanRecord
from everyspan.model.span import COMPLETENESS_KEY, SPAN_TYPE_KEY, SpanType
from everyspan.processors import otlp_wire as wire
from everyspan.processors.otlp_messages import Conversation, read_input, read_output
from everyspan.processors.otlp_openinference import in_openinference
from everyspan.processors.otlp_values import (
    NOTHING,
    Members,
    counts,
    members_of,
    plain,
    text_of,
    typed,
    unquoted,
    utf8,
)
from everyspan.processors.wire import completeness, encode, to_object

KEY_LENGTH_KEPT = 64
TOOL_PREFIX = "tool:"
"""How the LangChain handler names the span of a tool."""

_TOOL_OPERATIONS = frozenset({"tool", "execute_tool"})

_TYPE = wire.key(OWN + "type")
_SAID_TYPES: dict[str | None, bytes] = {
    None: wire.text(_TYPE, SpanType.STANDALONE.encode()),
    **{type_: wire.text(_TYPE, type_.encode()) for type_ in SpanType},
}
_TASK_ID = wire.key(OWN + "task_id")
_GROUP_ID = wire.key(OWN + "group_id")
_OBS = (wire.key(OWN + "obs_trace_id"), wire.key(OWN + "obs_span_id"))
_COMPLETENESS = wire.key(OWN_DATA + COMPLETENESS_KEY)
_SPAN_TYPE = wire.key(OWN_DATA + SPAN_TYPE_KEY)

_CONVERSATION = wire.key("gen_ai.conversation.id")
_USER = wire.key("user.id")
_OPERATION = wire.key("gen_ai.operation.name")
_SAID_OPERATIONS: dict[str | None, bytes] = {
    operation: wire.text(_OPERATION, name.encode()) for operation, name in GENAI_OPERATION.items()
}
_PROVIDER = wire.key("gen_ai.provider.name")
_REQUEST_MODEL = wire.key("gen_ai.request.model")
_RESPONSE_MODEL = wire.key("gen_ai.response.model")
_COST = wire.key("gen_ai.usage.cost")
_AGENT_NAME = wire.key("gen_ai.agent.name")
_INPUT_MESSAGES = wire.key("gen_ai.input.messages")
_OUTPUT_MESSAGES = wire.key("gen_ai.output.messages")
_SYSTEM = wire.key("gen_ai.system_instructions")
_TOOLS = wire.key("gen_ai.tool.definitions")
_TOOL_NAME = wire.key("gen_ai.tool.name")
_TOOL_CALL_ID = wire.key("gen_ai.tool.call.id")
_ARGUMENTS = wire.key("gen_ai.tool.call.arguments")
_RESULT = wire.key("gen_ai.tool.call.result")
_QUERY = wire.key("gen_ai.retrieval.query.text")
_DOCUMENTS = wire.key("gen_ai.retrieval.documents")
_VALUES = [
    (
        wire.key(f"{name}.value"),
        wire.text(wire.key(f"{name}.mime_type"), b"application/json"),
        wire.text(wire.key(f"{name}.mime_type"), b"text/plain"),
    )
    for name in ("input", "output")
]
"""Of input and output: the key of a payload as it is, and what says that it is JSON, or text."""
_USAGE = [(names, wire.key(f"gen_ai.usage.{name}")) for names, name, _ in USAGE]
_AGGREGATED = [(names, wire.key(f"gen_ai.aggregated_usage.{name}")) for names, name, _ in USAGE]


def operation_of(record: SpanRecord, data: Members) -> str | None:
    """Return what a span does, as its data says it finer than its type, None where neither does."""
    said = plain(data.get("operation"))
    if said in _TOOL_OPERATIONS:
        return "tool"
    if said in OPERATIONS:
        return said
    if record.type == SpanType.CUSTOM and (
        "tool_call_id" in data or record.name.startswith(TOOL_PREFIX)
    ):
        return "tool"
    return OPERATION_OF_TYPE.get(record.type)  # type: ignore[call-overload, no-any-return]


def about(record: SpanRecord, data: Members, *, name: str) -> list[bytes]:
    """Return what every span says, whatever it did.

    Args:
        name: Of the destination, by which losses are told (P11).
    """
    type_ = record.type
    said = _SAID_TYPES.get(type_)
    if said is not None:
        attributes = [said]
    else:
        # As towards the SGP API: a reader may know no others.
        attributes = [_SAID_TYPES[SpanType.CUSTOM]]
        if SPAN_TYPE_KEY not in data:
            attributes.append(wire.text(_SPAN_TYPE, utf8(str(type_))))
    if record.task_id is not None:
        attributes.append(wire.text(_TASK_ID, utf8(record.task_id)))
    if record.group_id is not None:
        group = utf8(record.group_id)
        attributes += (wire.text(_GROUP_ID, group), wire.text(_CONVERSATION, group))
    if record.obs is not None:
        attributes += [wire.text(*pair) for pair in zip(_OBS, map(utf8, record.obs), strict=True)]
    attributes += text_of(_USER, data.get("user_id"))
    if record.data is not None:
        shown = data or members_of(to_object(record.data, "data"))
        if not shown and record.data != b"{}":
            # Nested too deep to be taken apart.
            attributes.append(wire.text(_data_key("data"), record.data))
        for member, value in shown.items():
            if member != COMPLETENESS_KEY or record.part is None:
                attributes += typed(_data_key(member), value)
    if record.part is not None:
        attributes.append(wire.text(_COMPLETENESS, completeness(record, destination=name)))
    return attributes


def work(
    record: SpanRecord,
    data: Members,
    operation: str | None,
    *,
    agent_name: str | None,
    openinference: bool,
) -> list[bytes]:
    """Return what a span did, in the words of its operation.

    Args:
        agent_name: Whose spans these are, where they do not say it themselves.
        openinference: Also say what OpenInference has a name for.
    """
    attributes = []
    if operation in _SAID_OPERATIONS:
        attributes.append(_SAID_OPERATIONS[operation])
    usage, totals = _usage_of(record, data, operation)
    attributes += counts(usage, _USAGE)
    attributes += counts(totals, _AGGREGATED)
    asked = answered = tool_name = None
    said: tuple[list[bytes], list[bytes]] = ([], [])
    if operation == "llm":
        attributes += _model(data)
        asked = None if record.input is None else read_input(record.input)
        answered = None if record.output is None else read_output(record.output)
        said = _messages(_INPUT_MESSAGES, asked), _messages(_OUTPUT_MESSAGES, answered)
    elif operation == "tool":
        tool = members_of(data.get("tool"))
        tool_name = utf8(plain(tool.get("name")) or record.name.removeprefix(TOOL_PREFIX))
        attributes.append(wire.text(_TOOL_NAME, tool_name))
        attributes += text_of(_TOOL_CALL_ID, data.get("tool_call_id") or tool.get("id"))
        said = _whole(_ARGUMENTS, record.input), _whole(_RESULT, record.output)
    elif operation == "retrieval":
        said = (
            _only(_QUERY, record.input, "query", kind=b'"'),
            _only(_DOCUMENTS, record.output, "documents", kind=b"["),
        )
    elif operation in ("agent", "workflow"):
        attributes += text_of(_AGENT_NAME, data.get("__agent_name__")) or (
            [wire.text(_AGENT_NAME, utf8(agent_name))] if agent_name else []
        )
    for words, payload, (key, is_json, is_text) in zip(
        said, (record.input, record.output), _VALUES, strict=True
    ):
        attributes += words
        if payload is None or (words and not openinference):
            continue
        if payload[:1] == b'"':
            attributes += (wire.text(key, unquoted(payload)), is_text)
        else:
            attributes += (wire.text(key, payload), is_json)
    if openinference:
        attributes += in_openinference(
            record,
            data,
            operation,
            usage=usage,
            tool_name=tool_name,
            asked=asked,
            answered=answered,
        )
    return attributes


# -- what a span did


def _usage_of(record: SpanRecord, data: Members, operation: str | None) -> tuple[Members, Members]:
    """Return the usage of one call and the totals of several, by where they stand (`trace` §5)."""
    totals = members_of(data.get("usage"))
    usage = NOTHING
    if record.output is not None and b'"usage"' in record.output:
        usage = members_of(members_of(record.output).get("usage"))
    if operation == "llm":
        return usage or totals, NOTHING
    if operation in ("agent", "workflow"):
        # As usage of one call it would be counted a second time.
        return NOTHING, totals or usage
    return usage, totals


def _model(data: Members) -> list[bytes]:
    answered, asked = data.get("model"), data.get("ls_model_name")
    attributes = text_of(_PROVIDER, data.get("provider") or data.get("ls_provider"))
    attributes += text_of(_REQUEST_MODEL, asked or answered)
    if asked is not None:
        attributes += text_of(_RESPONSE_MODEL, answered)
    cost = data.get("cost_usd")
    if cost is not None and cost[:1].isdigit():
        attributes.append(wire.double(_COST, float(cost)))
    return attributes


def _messages(key: bytes, conversation: Conversation | None) -> list[bytes]:
    if conversation is None:
        return []
    attributes = [wire.text(key, conversation.text)]
    if conversation.system is not None:
        attributes.append(wire.text(_SYSTEM, encode(conversation.system)))
    if conversation.tools is not None:
        attributes.append(wire.text(_TOOLS, conversation.tools))
    return attributes


def _whole(key: bytes, payload: bytes | None) -> list[bytes]:
    return [] if payload is None else [wire.text(key, payload)]


def _only(key: bytes, payload: bytes | None, name: str, *, kind: bytes) -> list[bytes]:
    """Return the one member of a payload, nothing where it holds anything else.

    Args:
        kind: What the member's JSON begins with.
    """
    members = members_of(payload)
    if members.keys() != {name} or members[name][:1] != kind:
        return []
    return [wire.text(key, unquoted(members[name]) if kind == b'"' else members[name])]


@functools.lru_cache(maxsize=1024)
def _short_data_key(name: str) -> bytes:
    return wire.key(OWN_DATA + name)


def _data_key(name: str) -> bytes:
    # An agent uses few different keys; long ones are not kept.
    if len(name) <= KEY_LENGTH_KEPT:
        return _short_data_key(name)
    return wire.key(OWN_DATA + name[:NAME_LENGTH_MAX])
