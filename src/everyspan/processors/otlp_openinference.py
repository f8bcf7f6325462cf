"""What a span says in the words of OpenInference, beside those of GenAI conventions.

Phoenix reads both and prefers these; Langfuse prefers `input.value` (`otlp` §4).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from everyspan.model.genai import OPENINFERENCE_KIND, USAGE
from everyspan.model.record import SpanRecord
from everyspan.processors import otlp_wire as wire
from everyspan.processors.otlp_messages import Conversation
from everyspan.processors.otlp_values import Members, counts, members_of, text_of, typed, utf8
from everyspan.processors.wire import encode

ITEMS_MAX = 1_000
"""Messages or documents of a span that are said, the first ones: each takes attributes of its own
(chosen, not measured). All are in `input.value` and `output.value`."""

_KIND = wire.key("openinference.span.kind")
_SESSION = wire.key("session.id")
_MODEL = wire.key("llm.model_name")
_PROVIDER = wire.key("llm.provider")
_COST = wire.key("llm.cost.total")
_USAGE = [(names, wire.key(f"llm.token_count.{name}")) for names, _, name in USAGE]
_PARAMETERS = wire.key("tool.parameters")
_TOOL_NAME = wire.key("tool.name")

_decode = msgspec.json.Decoder().decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


def in_openinference(
    record: SpanRecord,
    data: Members,
    operation: str | None,
    *,
    usage: Members,
    tool_name: bytes | None,
    asked: Conversation | None,
    answered: Conversation | None,
) -> list[bytes]:
    """Return the attributes; payloads as a whole are said elsewhere.

    Args:
        tool_name: Of a tool's span.
        asked, answered: The conversation that a model's span holds.
    """
    kind = OPENINFERENCE_KIND.get(operation or "", "CHAIN")
    attributes = [wire.text(_KIND, kind.encode())]
    if record.group_id is not None:
        attributes.append(wire.text(_SESSION, utf8(record.group_id)))
    if operation == "llm":
        attributes += text_of(_MODEL, data.get("model") or data.get("ls_model_name"))
        attributes += text_of(_PROVIDER, data.get("provider") or data.get("ls_provider"))
        attributes += typed(_COST, data.get("cost_usd", b"null"))
        attributes += counts(usage, _USAGE)
        for name, conversation in (("input", asked), ("output", answered)):
            if conversation is not None:
                attributes += _messages(f"llm.{name}_messages", conversation)
    elif tool_name is not None:
        attributes.append(wire.text(_TOOL_NAME, tool_name))
        if record.input is not None:
            attributes.append(wire.text(_PARAMETERS, record.input))
    elif operation == "retrieval":
        attributes += _documents(members_of(record.output).get("documents", b""))
    return attributes


def _messages(prefix: str, conversation: Conversation) -> Iterator[bytes]:
    messages = conversation.messages
    if conversation.system:
        messages = [{"role": "system", "parts": conversation.system}, *messages]
    for number, message in enumerate(messages[:ITEMS_MAX]):
        start = f"{prefix}.{number}.message."
        yield _said(start + "role", message["role"])
        texts, calls = [], 0
        for part in message["parts"]:
            match part:
                case {"type": "text" | "reasoning", "content": str(text)}:
                    texts.append(text)
                case {"type": "tool_call", "name": str(name)}:
                    call = f"{start}tool_calls.{calls}.tool_call."
                    calls += 1
                    if isinstance(part.get("id"), str):
                        yield _said(call + "id", part["id"])
                    yield _said(call + "function.name", name)
                    yield _said(call + "function.arguments", part.get("arguments"), as_json=True)
                case {"type": "tool_call_response"}:
                    if isinstance(part.get("id"), str):
                        yield _said(start + "tool_call_id", part["id"])
                    texts.append(_text(part.get("response")))
                case _:
                    texts.append(_text(part))
        if texts:
            yield _said(start + "content", "\n".join(texts))


def _documents(documents: bytes) -> Iterator[bytes]:
    if documents[:1] != b"[":
        return
    for number, item in enumerate(_decode_items(documents)[:ITEMS_MAX]):
        start = f"retrieval.documents.{number}.document."
        document = members_of(bytes(item))
        content = document.get("page_content") or document.get("content") or document.get("text")
        yield from text_of(wire.key(start + "content"), content)
        yield from text_of(wire.key(start + "id"), document.get("id"))
        yield from typed(wire.key(start + "score"), document.get("score", b"null"))
        if "metadata" in document:
            yield wire.text(wire.key(start + "metadata"), document["metadata"])


def _said(name: str, value: Any, *, as_json: bool = False) -> bytes:
    text = encode(value) if as_json else value.encode()
    return wire.text(wire.key(name), text)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else encode(value).decode()
