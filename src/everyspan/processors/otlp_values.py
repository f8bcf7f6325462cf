"""JSON values of a frozen span as attributes of OTLP: copied as bytes wherever that is possible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from everyspan.model.record import NAME_LENGTH_MAX
from everyspan.processors import otlp_wire as wire

Members = Mapping[str, bytes]
"""What an object holds, each value as JSON."""

Keys = Iterable[tuple[tuple[str, ...], bytes]]
"""Names of a member, the first that is there wins, and the key that it is sent under."""

NOTHING: Members = {}

_LIKE_JSON = (b"{", b"[", b'"')
_decode = msgspec.json.Decoder().decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def members_of(payload: bytes | None) -> Members:
    """Return what an object holds; nothing where the payload is none."""
    if payload is None or payload[:1] != b"{":
        return NOTHING
    try:
        return {name: bytes(value) for name, value in _decode_members(payload).items()}
    except (msgspec.DecodeError, RecursionError):
        # Nested too deep to be looked at here.
        return NOTHING


def utf8(text: str) -> bytes:
    """Return a text as UTF-8, the beginning of a very long one; lone surrogates become `?`."""
    try:
        return text[:NAME_LENGTH_MAX].encode()
    except UnicodeEncodeError:
        return text[:NAME_LENGTH_MAX].encode("utf-8", "replace")


def typed(key: bytes, value: bytes) -> list[bytes]:
    """Return a JSON value as an attribute; nothing for null."""
    first = value[:1]
    if first == b'"':
        text = unquoted(value)
        # As JSON, what a reader could take for JSON (`genai.OWN_DATA`).
        return [wire.text(key, value if text[:1] in _LIKE_JSON else text)]
    if first in (b"t", b"f"):
        return [wire.boolean(key, value=first == b"t")]
    if first == b"n":
        return []
    if first.isdigit() or first == b"-":
        try:
            number = _decode(value)
        except (msgspec.DecodeError, ValueError):
            number = None
        if isinstance(number, int) and wire.INT_MIN <= number <= wire.INT_MAX:
            return [wire.number(key, number)]
        if isinstance(number, float):
            return [wire.double(key, number)]
    return [wire.text(key, value)]


def text_of(key: bytes, value: bytes | None) -> list[bytes]:
    """Return a text, or what else an id may be, as a text; nothing for all else."""
    if not value or value[:1] in (b"n", b"{", b"["):
        return []
    return [wire.text(key, unquoted(value) if value[:1] == b'"' else value)]


def plain(value: bytes | None) -> str | None:
    """Return a text, None where the value is none."""
    return unquoted(value).decode() if value and value[:1] == b'"' else None


def unquoted(text: bytes) -> bytes:
    """Return a JSON text as the UTF-8 that it stands for."""
    return text[1:-1] if b"\\" not in text else _decode_text(text).encode()


def counts(usage: Members, keys: Keys) -> list[bytes]:
    """Return the counts of a usage that have a key."""
    attributes = []
    for names, key in keys if usage else ():
        for name in names:
            count = usage.get(name)
            if count is not None and count[:1].isdigit():
                attributes += typed(key, count)
                break
    return attributes
