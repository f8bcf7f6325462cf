"""A payload in one line: what a person asked, what a model answered, else the JSON itself.

Payloads come from anybody: whatever the shape, what comes out is text of at most `CHARS_MAX`
characters, and no payload over `DECODED_BYTES_MAX` is decoded for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

CHARS_MAX = 280
"""Chosen: two lines of a wide table."""
DECODED_BYTES_MAX = 256 * 1024

_USER = frozenset({"user", "human"})
_ASSISTANT = frozenset({"assistant", "ai", "model"})
_LEVELS_MAX = 6


def preview_input(payload: bytes | None) -> str | None:
    """Return the first message of a user, where messages are known to be in there."""
    return _preview(payload, _USER, last=False)


def preview_output(payload: bytes | None) -> str | None:
    """Return the last text of an assistant, where messages are known to be in there."""
    return _preview(payload, _ASSISTANT, last=True)


def _preview(payload: bytes | None, roles: frozenset[str], *, last: bool) -> str | None:
    if payload is None or payload in (b"{}", b"[]"):
        return None
    if len(payload) <= DECODED_BYTES_MAX:
        try:
            text = _find(msgspec.json.decode(payload), roles, last, _LEVELS_MAX)
        except (msgspec.MsgspecError, RecursionError):
            text = None
        if text is not None:
            return _short(text)
    # Not compact where a sender did not write it so; that is not worth an encoder.
    return _short(payload[: 4 * CHARS_MAX + 4].decode("utf-8", errors="ignore"))


def _find(value: Any, roles: frozenset[str], last: bool, levels: int) -> str | None:
    """Return the text that is meant, None where the shape says nothing."""
    if isinstance(value, str):
        return value if value.strip() else None
    if levels == 0:
        return None
    if isinstance(value, list):
        return _in_messages(value, roles, last, levels - 1)
    if not isinstance(value, Mapping):
        return None
    for key in ("messages", "choices", "generations", "message", "kwargs", "data", "delta"):
        inner = value.get(key)
        if isinstance(inner, list | Mapping):
            found = _find(inner, roles, last, levels - 1)
            if found is not None:
                return found
    for key in ("content", "parts", "text"):
        if key in value:
            return _text_of(value[key])
    if len(value) == 1:
        # {"input": ...} and {"output": ...} wrap what is no object; {"question": "..."} is as good.
        return _find(next(iter(value.values())), roles, last, levels - 1)
    for key in ("input", "output", "response", "result", "answer", "question", "query", "prompt"):
        inner = value.get(key)
        if isinstance(inner, str) and inner.strip():
            return inner
    return None


def _in_messages(items: list[Any], roles: frozenset[str], last: bool, levels: int) -> str | None:
    """Return the text of the message meant; of any message, where none has one of the roles."""
    anyone: str | None = None
    for item in reversed(items) if last else items:
        text = _find(item, roles, last, levels)
        if text is None:
            continue
        role = _role_of(item)
        if role is None or role in roles:
            return text
        anyone = anyone or text
    return anyone


def _role_of(item: Any) -> str | None:
    if not isinstance(item, Mapping):
        return None
    for key in ("role", "type"):
        role = item.get(key)
        if isinstance(role, str):
            return role.lower()
    inner = item.get("message")
    return None if inner is None else _role_of(inner)


def _text_of(content: Any) -> str | None:
    """Return the text of a message's content: text, or parts some of which are text."""
    if isinstance(content, str):
        return content if content.strip() else None
    if not isinstance(content, list):
        return None
    return " ".join(_texts(content)) or None


def _texts(parts: Iterable[Any]) -> Iterable[str]:
    for part in parts:
        text = part
        if isinstance(part, Mapping):
            text = part.get("text") or part.get("content")
        if isinstance(text, str) and text.strip():
            yield text


def _short(text: str) -> str:
    text = " ".join(text[: 4 * CHARS_MAX].split())
    return text if len(text) <= CHARS_MAX else text[: CHARS_MAX - 1] + "…"
