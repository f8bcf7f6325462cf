"""Protocol Buffers, as far as OTLP traces need them: messages out of bytes, and fields back.

E1  What is written is what the protobuf runtime writes for the same message, byte for byte: fields
    in the order of their numbers, those with their default left out.
E2  Texts are handed over as UTF-8, and not looked at.

By hand, since the runtime would be a dependency whose versions conflict with everybody's, and costs
an object for every field (`docs/decisions/031-otlp.md`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

_SMALL = [bytes((n,)) for n in range(128)]
_TRUE, _FALSE = b"\x10\x01", b"\x10\x00"
_fixed64 = struct.Struct("<Q").pack
_fixed32 = struct.Struct("<I").pack
_double = struct.Struct("<d").pack

INT_MIN, INT_MAX = -(2**63), 2**63 - 1


# -- writing


def varint(number: int) -> bytes:
    """Return a number of at least 0 and less than 2**64."""
    if number < 0x80:
        return _SMALL[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    octets = bytearray()
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def key(name: str) -> bytes:
    """Return the beginning of a KeyValue: its key."""
    encoded = name.encode("utf-8", "replace")
    return b"\x0a%b%b" % (varint(len(encoded)), encoded) if encoded else b""


def text(key: bytes, value: bytes) -> bytes:
    """Return the KeyValue of a text."""
    length = len(value)
    if length < 126:
        return b"%b\x12%b\x0a%b%b" % (key, _SMALL[length + 2], _SMALL[length], value)
    size = varint(length)
    return b"%b\x12%b\x0a%b%b" % (key, varint(1 + len(size) + length), size, value)


def number(key: bytes, value: int) -> bytes:
    """Return the KeyValue of an integer from INT_MIN to INT_MAX."""
    encoded = varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    return b"%b\x12%b\x18%b" % (key, _SMALL[1 + len(encoded)], encoded)


def double(key: bytes, value: float) -> bytes:
    """Return the KeyValue of a floating-point number."""
    return b"%b\x12\x09\x21%b" % (key, _double(value))


def boolean(key: bytes, *, value: bool) -> bytes:
    """Return the KeyValue of a yes or no."""
    return b"%b\x12\x02%b" % (key, _TRUE if value else _FALSE)


def event(*, time_ns: int, name: bytes, attributes: Iterable[bytes]) -> bytes:
    """Return a Span.Event."""
    return b"%b%b%b" % (
        b"\x09" + _fixed64(time_ns) if time_ns else b"",
        _field(b"\x12", name) if name else b"",
        b"".join([_field(b"\x1a", each) for each in attributes]),
    )


def status(*, code: int, message: bytes) -> bytes:
    """Return a Status whose code is not 0."""
    return b"%b\x18%b" % (_field(b"\x12", message) if message else b"", _SMALL[code])


def span(
    *,
    trace_id: bytes,
    span_id: bytes,
    trace_state: bytes,
    parent_span_id: bytes,
    name: bytes,
    kind: int,
    start_ns: int,
    end_ns: int,
    attributes: Iterable[bytes],
    events: Iterable[bytes] = (),
    status: bytes = b"",
    flags: int,
) -> bytes:
    """Return a Span; what is empty or 0 is left out.

    Args:
        attributes: KeyValues.
        events: As `event` makes them.
        status: As `status` makes it; empty for UNSET.
        flags: Not 0.
    """
    parts = [
        _field(b"\x0a", trace_id),
        _field(b"\x12", span_id),
        _field(b"\x1a", trace_state) if trace_state else b"",
        _field(b"\x22", parent_span_id) if parent_span_id else b"",
        _field(b"\x2a", name) if name else b"",
        b"\x30" + _SMALL[kind],
        b"\x39" + _fixed64(start_ns) if start_ns else b"",
        b"\x41" + _fixed64(end_ns) if end_ns else b"",
    ]
    for each in attributes:
        length = len(each)
        parts += (b"\x4a", _SMALL[length] if length < 128 else varint(length), each)
    for each in events:
        parts.append(_field(b"\x5a", each))
    if status:
        parts.append(_field(b"\x7a", status))
    parts += (b"\x85\x01", _fixed32(flags))
    return b"".join(parts)


def resource(attributes: Iterable[bytes]) -> bytes:
    """Return a Resource of these KeyValues."""
    return b"".join([_field(b"\x0a", each) for each in attributes])


def scope(*, name: bytes, version: bytes) -> bytes:
    """Return an InstrumentationScope."""
    return _field(b"\x0a", name) + _field(b"\x12", version)


def request(*, resource: bytes, scope: bytes, spans: Iterable[bytes]) -> bytes:
    """Return an ExportTraceServiceRequest of spans of one resource and scope."""
    parts = [b"", _field(b"\x0a", scope)]
    for each in spans:
        parts += (b"\x12", varint(len(each)), each)
    # What is around the spans ends before them: they are copied once.
    scope_size = sum(map(len, parts))
    inner = _field(b"\x0a", resource) + b"\x12" + varint(scope_size)
    parts[0] = b"\x0a%b%b" % (varint(len(inner) + scope_size), inner)
    return b"".join(parts)


def _field(tag: bytes, message: bytes) -> bytes:
    return b"%b%b%b" % (tag, varint(len(message)), message)


# -- reading


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field; fixed ones as the bytes that they are.

    Raises:
        ValueError: The message is none.
    """
    position, end = 0, len(message)
    while position < end:
        tag, position = _read_varint(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = _read_varint(message, position)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, position = _read_varint(message, position)
        else:
            size = {1: 8, 5: 4}.get(kind, -1)
        if size < 0 or position + size > end:
            raise ValueError("not a protobuf message")
        yield tag >> 3, message[position : position + size]
        position += size


def partial_success(response: bytes) -> tuple[int, bytes]:
    """Return what an ExportTraceServiceResponse says of spans that were refused: count, message.

    (0, empty) where it says nothing, or cannot be read.
    """
    refused, message = 0, b""
    try:
        for number, part in fields(response):
            if number != 1 or not isinstance(part, bytes):
                continue
            for inner, value in fields(part):
                if inner == 1 and isinstance(value, int):
                    # As the protocol has it, a signed number.
                    refused = value if value <= INT_MAX else 0
                elif inner == 2 and isinstance(value, bytes):
                    message = value
    except ValueError:
        return 0, b""
    return refused, message


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if position >= len(message):
            break
        octet = message[position]
        position += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, position
        shift += 7
    raise ValueError("not a protobuf message")
