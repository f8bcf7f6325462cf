"""Recognises a conversation in a model span's payloads, and says it as GenAI conventions do.

C1  A payload is taken for a conversation only if nothing of it is lost by that: every member has
    its place in the result, unknown members of a message stay in it. Of a usage beside the
    messages others read the counts.

Known are messages as OpenAI, Anthropic and LangChain write them, and those that are in `parts`
already.
"""

from __future__ import annotations

from typing import Any

import msgspec

from everyspan.processors.otlp_values import members_of

_decode = msgspec.json.Decoder().decode

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

_END_OF_ANSWER = b',"finish_reason":"%b"' % UNKNOWN_REASON.encode()

_AROUND = frozenset({"messages", "system", "tools", "usage"})
_ANSWER = frozenset({"role", "type", "content", "tool_calls", "usage", "finish_reason"})
_CONSUMED = frozenset({"role", "content", "parts", "tool_calls", "tool_call_id", "finish_reason"})

Message = dict[str, Any]


class _Plain(msgspec.Struct, forbid_unknown_fields=True):
    """A message that says nothing but a text, as most do."""

    content: msgspec.Raw
    role: str = ""
    type: str = ""


_decode_plain = msgspec.json.Decoder(list[_Plain]).decode
_encode = msgspec.json.Encoder().encode


class Conversation(msgspec.Struct, frozen=True):
    """What a payload says: messages in `parts` form as JSON, and what stands beside them."""

    text: bytes
    system: list[Message] | None = None
    tools: bytes | None = None

    @property
    def messages(self) -> list[Message]:
        """The messages, decoded anew at each reading."""
        messages: list[Message] = _decode(self.text)
        return messages


def read_input(payload: bytes) -> Conversation | None:
    """Return the conversation that a model was given; None where the payload is none."""
    return _read(payload, is_answer=False)


def read_output(payload: bytes) -> Conversation | None:
    """Return what a model answered, each message with a `finish_reason`; None where it is none."""
    conversation = _read(payload, is_answer=True) or _read_answer(payload)
    # Beside an answer these have no name.
    return None if conversation and (conversation.system or conversation.tools) else conversation


def _read(payload: bytes, *, is_answer: bool) -> Conversation | None:
    system, tools, items = None, None, payload
    if payload[:1] != b"[":
        members = members_of(payload)
        if "messages" not in members or not members.keys() <= _AROUND:
            return None
        items, tools = members["messages"], members.get("tools")
        if "system" in members:
            try:
                system = _parts(_decode(members["system"]))
            except (msgspec.DecodeError, RecursionError):
                return None
            if system is None:
                return None
    text = _plain_messages(items, is_answer=is_answer) or _messages(items, is_answer=is_answer)
    return None if text is None else Conversation(text, system, tools)


def _plain_messages(items: bytes, *, is_answer: bool) -> bytes | None:
    """Return plain messages in `parts` form without looking into their texts; None for others."""
    end = _END_OF_ANSWER if is_answer else b""
    messages = []
    try:
        for plain in _decode_plain(items):
            role, content = ROLES.get(plain.role or plain.type), bytes(plain.content)
            if role is None or (plain.role and plain.type) or content[:1] != b'"':
                return None
            parts = b"" if content == b'""' else b'{"type":"text","content":%b}' % content
            messages.append(b'{"role":"%b","parts":[%b]%b}' % (role.encode(), parts, end))
    except (msgspec.DecodeError, RecursionError):
        return None
    return b"[%b]" % b",".join(messages) if messages else None


def _messages(items: bytes, *, is_answer: bool) -> bytes | None:
    """Return messages of any known form in `parts` form."""
    try:
        raw = _decode(items)
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(raw, list) or not raw:
        return None
    messages = []
    for item in raw:
        message = _message(item) if isinstance(item, dict) else None
        if message is None:
            return None
        if is_answer:
            has_calls = any(part.get("type") == "tool_call" for part in message["parts"])
            message.setdefault("finish_reason", "tool_call" if has_calls else UNKNOWN_REASON)
        messages.append(message)
    return _encode(messages)


def _read_answer(payload: bytes) -> Conversation | None:
    """Read an answer that is one message, its role perhaps left out."""
    members = members_of(payload)
    if not ("content" in members or "tool_calls" in members) or not members.keys() <= _ANSWER:
        return None
    said = {name: msgspec.Raw(value) for name, value in members.items() if name != "usage"}
    item = _encode([{"role": "assistant"} | said])
    text = _plain_messages(item, is_answer=True) or _messages(item, is_answer=True)
    return None if text is None else Conversation(text)


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
