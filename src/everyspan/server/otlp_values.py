"""Attribute values as payloads: JSON in text, indexed keys (`otlp:F10`, F11)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw

from everyspan.server import json_text
from everyspan.server.otlp_tables import ITEM_PREFIXES

INDEXED_DEPTH_MAX = 16
"""Steps of an indexed key; what is left after them is one name."""
JSON_DEPTH_MAX = 200
"""Of JSON in text; with what is put around it a payload stays within `json_text.DEPTH_MAX`."""

PARSED_BYTES_MAX = 1024 * 1024
"""Of JSON text that is taken apart: as objects it takes many times its bytes."""
_INDEX = re.compile(r"[0-9]{1,18}", re.ASCII)
_JSON_STARTS = frozenset('{["-0123456789tfn')
_decode_raw = msgspec.json.Decoder(Raw).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode


class _WithRole(msgspec.Struct, gc=False):
    role: str


_decode_messages = msgspec.json.Decoder(list[_WithRole]).decode


def parse_json(text: str) -> Raw | str:
    """Return JSON text as such, unparsed; the text itself where it is none, or too deep."""
    stripped = text.strip()
    if stripped[:1] not in _JSON_STARTS or not stripped:
        return text
    encoded = stripped.encode()
    try:
        _decode_raw(encoded)
    except (msgspec.MsgspecError, RecursionError):
        return text
    if json_text.is_too_deep(encoded, JSON_DEPTH_MAX) or json_text.has_long_number(encoded):
        return text
    return Raw(encoded)


def is_object(value: object) -> bool:
    """Whether a value is a JSON object."""
    return isinstance(value, dict) or (isinstance(value, Raw) and _opens(value, b"{"))


def is_list(value: object) -> bool:
    """Whether a value is a JSON array."""
    return isinstance(value, list) or (isinstance(value, Raw) and _opens(value, b"["))


def members(value: Any) -> dict[str, Any]:
    """Return the members of an object, {} where it is none or too large."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Raw) and _opens(value, b"{"):
        return _decode_members(value) if len(memoryview(value)) <= PARSED_BYTES_MAX else {}
    return {}


def with_member(value: Any, name: str, member: Any) -> Any:
    """Return an object with one more member, or another value of it."""
    if isinstance(value, Raw):
        text = bytes(value).rstrip()
        if len(text) > PARSED_BYTES_MAX or b'"%b"' % name.encode() not in text:
            # Spliced in, at the end: where a name stands twice, the last one counts.
            comma = b"," if text[1:-1].strip() else b""
            pair = msgspec.json.encode({name: member})[1:]
            return Raw(b"%b%b%b" % (text[:-1], comma, pair))
        value = _decode_members(value)
    return {**value, name: member}


def plain(value: Any) -> Any:
    """Return a value parsed; None where it is too large, or Python cannot hold it."""
    if not isinstance(value, Raw):
        return value
    if len(memoryview(value)) > PARSED_BYTES_MAX:
        return None
    try:
        return msgspec.json.decode(value)
    except msgspec.MsgspecError:
        return None


def are_messages(value: object) -> bool:
    """Whether a value is a list, not empty, of objects that each have a role."""
    if isinstance(value, list):
        return bool(value) and all(
            isinstance(item, dict) and isinstance(item.get("role"), str) for item in value
        )
    if not isinstance(value, Raw) or not _opens(value, b"["):
        return False
    try:
        return bool(_decode_messages(value))
    except msgspec.MsgspecError:
        return False


def gather(items: Iterable[tuple[int, str, Any]]) -> list[Any]:
    """Return the list that indexed keys spell out: index, rest of the key, value.

    An index is a sort key and never a position, so that one of 10^9 costs what one of 0 does.
    """
    root: dict[Any, Any] = {}
    for index, rest, value in items:
        node = root.setdefault(index, {})
        steps = _steps(rest)
        for step in steps[:-1]:
            inner = node.setdefault(step, {})
            if not isinstance(inner, dict):
                inner = node[step] = {"": inner}  # A value, and values below it.
            node = inner
        last = steps[-1]
        if isinstance(node.get(last), dict):
            node[last][""] = value
        else:
            node[last] = value
    found: list[Any] = _lists(root)
    return found


def _steps(rest: str) -> list[str | int]:
    steps: list[str | int] = []
    rest = _without_prefix(rest)
    while len(steps) < INDEXED_DEPTH_MAX - 1:
        head, dot, tail = rest.partition(".")
        if not dot:
            break
        if _INDEX.fullmatch(head):
            steps.append(int(head))
            tail = _without_prefix(tail)
        else:
            steps.append(head)
        rest = tail
    steps.append(int(rest) if _INDEX.fullmatch(rest) else rest)
    return steps


def _without_prefix(rest: str) -> str:
    for prefix in ITEM_PREFIXES:
        if rest.startswith(prefix) and len(rest) > len(prefix):
            return rest[len(prefix) :]
    return rest


def _lists(node: Any) -> Any:
    """Return the tree with each level of indices as a list; at most INDEXED_DEPTH_MAX deep."""
    if not isinstance(node, dict):
        return node
    if node and all(isinstance(step, int) for step in node):
        return [_lists(node[step]) for step in sorted(node)]
    return {str(step): _lists(inner) for step, inner in node.items()}


def _opens(value: Raw, bracket: bytes) -> bool:
    return memoryview(value)[:1] == bracket
