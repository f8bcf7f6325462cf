"""Reads the body of an OTLP trace export, as far as a test wants to see it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from everyspan.processors import otlp_wire as wire
from everyspan.processors.otlp_wire import fields

GZIP_OR_ZLIB = 47


class UnsupportedError(Exception):
    """The body is compressed in a way that is not known here."""


def read_spans(headers: Mapping[str, str], body: bytes) -> list[dict[str, Any]]:
    """Return the spans, in order.

    Ids are those that everyspan says beside the bytes, else hexadecimal; `attributes` maps names to
    plain values, `events` are pairs of a name and such a mapping; `resource` is that of the span.

    Raises:
        ValueError: The body is no such message.
        UnsupportedError: Its encoding is not known.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding in ("gzip", "deflate"):
        try:
            body = zlib.decompress(body, GZIP_OR_ZLIB)
        except zlib.error as error:
            raise ValueError(str(error)) from None
    elif encoding != "identity":
        raise UnsupportedError(encoding)
    spans = []
    for resource_spans in _messages(body, 1):
        attributes = [_pair(kv) for res in _messages(resource_spans, 1) for kv in _messages(res, 1)]
        for scope_spans in _messages(resource_spans, 2):
            for message in _messages(scope_spans, 2):
                spans.append({**_span(message), "resource": dict(attributes)})
    return spans


def partial_success(refused: int, message: str) -> bytes:
    """Return an answer that tells of refused spans."""
    said = message.encode()
    inner = b"\x08" + wire.varint(refused) + b"\x12" + wire.varint(len(said)) + said
    return b"\x0a" + wire.varint(len(inner)) + inner


def _span(message: bytes) -> dict[str, Any]:
    found: dict[int, Any] = dict(fields(message))
    attributes = dict(_pair(pair) for pair in _messages(message, 9))
    ids = {
        name: attributes.get(f"everyspan.{name}", found.get(number, b"").hex() or None)
        for name, number in (("trace_id", 1), ("span_id", 2), ("parent_id", 4))
    }
    status: dict[int, Any] = dict(fields(found.get(15, b"")))
    return {
        "id": ids.pop("span_id"),
        **ids,
        "hex": found.get(2, b"").hex(),
        "parent_hex": found.get(4, b"").hex(),
        "trace_hex": found.get(1, b"").hex(),
        "trace_state": found.get(3, b"").decode(),
        "name": found.get(5, b"").decode(),
        "kind": found.get(6, 0),
        "start_ns": _whole(found.get(7)),
        "end_ns": _whole(found.get(8)),
        "attributes": attributes,
        "events": [_event(event) for event in _messages(message, 11)],
        "status": status.get(3, 0),
        "status_message": status.get(2, b"").decode(),
        "flags": _whole(found.get(16)),
    }


def _event(message: bytes) -> tuple[str, dict[str, Any]]:
    (name,) = _messages(message, 2)
    return name.decode(), dict(_pair(pair) for pair in _messages(message, 3))


def _pair(message: bytes) -> tuple[str, Any]:
    found: dict[int, Any] = dict(fields(message))
    return found.get(1, b"").decode(), _value(found.get(2, b""))


def _value(message: bytes) -> Any:
    for number, value in fields(message):
        if number == 1 and isinstance(value, bytes):
            return value.decode()
        if number == 2:
            return bool(value)
        if number == 3 and isinstance(value, int):
            return value if value <= wire.INT_MAX else value - 2**64
        if number == 4 and isinstance(value, bytes):
            return struct.unpack("<d", value)[0]
        return value
    return None


def _whole(value: bytes | None) -> int:
    return int.from_bytes(value or b"", "little")


def _messages(message: bytes, number: int) -> Iterator[bytes]:
    for found, value in fields(message):
        if found == number:
            if not isinstance(value, bytes):
                raise ValueError(f"field {number} is no message")
            yield value
