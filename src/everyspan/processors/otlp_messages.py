"""Recognises a conversation in a model span's payloads, and says it as GenAI conventions do.

C1  A payload is taken for a conversation only if nothing of it is lost by that: every member has
    its place in the result, unknown members of a message stay in it. Of a usage beside the
    messages others read the counts.

Known are messages as OpenAI, Anthropic and LangChain write them, and those that are in `parts`
already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from everyspan.processors.otlp_values import members_of

_decode = msgspec.json.Decoder().decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode

ROLES = {
    "human": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "function": "tool",
    **{role: role for role in ("user", "assistant", "system", "developer", "tool")},
}
"""What a message says of who speaks, as `role` or (LangChain) as `type`."""

UNKNOWN_REASON = "unknown"
"""The conventions ask for a reason why the model stopped; many payloads have none."""

_AROUND = frozenset({"messages", "system", "tools", "usage"})
_ANSWER = frozenset({"role", "type", "content", "tool_calls", "usage", "finish_reason"})
_CONSUMED = frozenset({"role", "content", "parts", "tool_calls", "tool_call_id", "finish_reason"})

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a payload says: messages in `parts` form, and JSON of what stands beside them."""

    messages: list[Message]
    system: list[Message] | None = None
    tools: bytes | None = None


def read_input(payload: bytes) -> Conversation | None:
    """Return the conversation that a model was given; None where the payload is none."""
    return _read(payload)


def read_output(payload: bytes) -> Conversation | None:
    """Return what a model answered; None where the payload is no answer."""
    conversation = _read(payload) or _read_answer(payload)
    if conversation is None or conversation.system or conversation.tools:
        return None
    for message in conversation.messages:
        has_calls = any(part.get("type") == "tool_call" for part in message["parts"])
        message.setdefault("finish_reason", "tool_call" if has_calls else UNKNOWN_REASON)
    return conversation


def _read(payload: bytes) -> Conversation | None:
    try:
        if payload[:1] == b"[":
            return _conversation(_decode_items(payload), None, None)
        members = members_of(payload)
        if "messages" not in members or not members.keys() <= _AROUND:
            return None
        system = _parts(_decode(members["system"])) if "system" in members else None
        if "system" in members and system is None:
            return None
        return _conversation(_decode_items(members["messages"]), system, members.get("tools"))
    except (msgspec.DecodeError, RecursionError):
        return None


def _conversation(
    items: list[msgspec.Raw], system: list[Message] | None, tools: bytes | None
) -> Conversation | None:
    messages = []
    for item in items:
        message = _message(_decode(item)) if bytes(item)[:1] == b"{" else None
        if message is None:
            return None
        messages.append(message)
    return Conversation(messages, system, tools) if messages else None


def _read_answer(payload: bytes) -> Conversation | None:
    """Read an answer that is one message, its role perhaps left out."""
    members = members_of(payload)
    if not ("content" in members or "tool_calls" in members) or not members.keys() <= _ANSWER:
        return None
    try:
        answer = {name: _decode(value) for name, value in members.items() if name != "usage"}
    except (msgspec.DecodeError, RecursionError):
        return None
    message = _message({"role": "assistant"} | answer)
    return None if message is None else Conversation([message])


def _message(raw: Message) -> Message | None:
    """Return a message in `parts` form, None where it is none that is known."""
    speaker = raw.get("role", raw.get("type"))
    role = ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        return None
    if "parts" in raw:
        parts = raw["parts"]
        is_known = isinstance(parts, list) and all(isinstance(part, dict) for part in parts)
        return {**raw, "role": role} if is_known and "content" not in raw else None
    parts = _parts(raw.get("content"))
    calls = raw.get("tool_calls") or []
    if parts is None or not isinstance(calls, list):
        return None
    if isinstance(raw.get("tool_call_id"), str):
        answer = raw.get("content")
        parts = [{"type": "tool_call_response", "id": raw["tool_call_id"], "response": answer}]
    for call in calls:
        part = _call(call)
        if part is None:
            return None
        parts.append(part)
    message: Message = {"role": role, "parts": parts}
    kept_out = _CONSUMED if "role" in raw else _CONSUMED | {"type"}
    message |= {name: value for name, value in raw.items() if name not in kept_out}
    if isinstance(raw.get("finish_reason"), str):
        message["finish_reason"] = raw["finish_reason"]
    return message


def _parts(content: Any) -> list[Message] | None:
    """Return a message's content as parts, None where it is neither text nor blocks."""
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [{"type": "text", "content": content}]
    if not isinstance(content, list):
        return None
    parts = [_part(block) for block in content]
    return None if None in parts else [part for part in parts if part is not None]


def _part(block: Any) -> Message | None:
    if isinstance(block, str):
        return {"type": "text", "content": block}
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        return None
    match block:
        case {"type": "text", "text": str(text), **rest}:
            return {**rest, "type": "text", "content": text}
        case {"type": "thinking", "thinking": str(text), **rest}:
            return {**rest, "type": "reasoning", "content": text}
        case {"type": "tool_use", "input": given, **rest}:
            return {**rest, "type": "tool_call", "arguments": given}
        case {"type": "tool_result", "tool_use_id": str(id), **rest}:
            answer = rest.pop("content", None)
            return {**rest, "type": "tool_call_response", "id": id, "response": answer}
    # As the conventions have it, a part of any other type.
    return block


def _call(call: Any) -> Message | None:
    """Return the part of a tool call, as OpenAI or LangChain write one."""
    if not isinstance(call, dict):
        return None
    function = call.get("function")
    if isinstance(function, dict):
        name, arguments = function.get("name"), function.get("arguments")
    else:
        name, arguments = call.get("name"), call.get("args", call.get("arguments"))
    if not isinstance(name, str):
        return None
    if isinstance(arguments, str):
        try:
            arguments = _decode(arguments)
        except (msgspec.DecodeError, RecursionError):
            # What the model wrote need not be JSON.
            pass
    return {"type": "tool_call", "id": call.get("id"), "name": name, "arguments": arguments}
