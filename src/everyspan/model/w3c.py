"""W3C trace context: what `inject` writes and `extract` reads (`otlp` §4 I1-I3, §5).

An id that is no plain hexadecimal is derived from: its text travels beside it in `tracestate`, and
is believed only if it derives to the same bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import uuid
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import msgspec

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
CONTEXT_HEADERS = (TRACEPARENT, TRACESTATE)

HEADER_BYTES_MAX = 8192
STATE_MEMBERS_MAX = 32
OWN_MEMBER_MAX = 256

_TRACE_HEX = re.compile(r"[0-9a-f]{32}")
_SPAN_HEX = re.compile(r"[0-9a-f]{16}")
_RANDOM_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[47][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_FLAGS = re.compile(r"[0-9a-f]{2}")
_SAMPLED = 1
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER_KEY = re.compile(r"[a-z0-9][a-z0-9_\-*/@]{0,255}")
_MEMBER_VALUE = re.compile(r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256}")


@runtime_checkable
class Headers(Protocol):
    """Headers of any framework: names and values, a name perhaps several times."""

    def items(self) -> Iterable[tuple[Any, Any]]:
        """Return the pairs."""
        ...


class RemoteParent(msgspec.Struct, frozen=True, kw_only=True):
    """The span of another process that a request belongs to; give it to `span(parent=...)`."""

    trace_id: str
    id: str
    flags: str = "01"
    tracestate: str = ""

    @property
    def is_sampled(self) -> bool:
        """Whether that process records the trace; True where `flags` are none."""
        flags = _flags(self.flags)
        return flags is None or bool(flags & _SAMPLED)

    def decided(self, *, is_sampled: bool) -> RemoteParent:
        """Return the same parent with our decision whether the trace is recorded."""
        flags = (_flags(self.flags) or 0) & ~_SAMPLED | (_SAMPLED if is_sampled else 0)
        return msgspec.structs.replace(self, flags=f"{flags:02x}")


def trace_hex(trace_id: str) -> str:
    """Return the 32 hexadecimal digits that stand for a trace id (I1)."""
    if _TRACE_HEX.fullmatch(trace_id):
        digits = trace_id
    else:
        uuid_ = _uuid(trace_id)
        digits = uuid_.hex if uuid_ else _sha256(trace_id)[:32]
    return digits if digits.strip("0") else digits[:-1] + "1"


def span_hex(span_id: str) -> str:
    """Return the 16 hexadecimal digits that stand for a span id (I2)."""
    if _SPAN_HEX.fullmatch(span_id):
        digits = span_id
    elif _RANDOM_UUID.fullmatch(span_id):
        # As below, at a third of the time: nearly all ids are of this form.
        digits = span_id[19:23] + span_id[24:]
    else:
        uuid_ = _uuid(span_id)
        # The tail of other versions is constant on a machine.
        is_random = uuid_ is not None and uuid_.version in (4, 7)
        digits = uuid_.hex[16:] if uuid_ and is_random else _sha256(span_id)[:16]
    return digits if digits.strip("0") else digits[:-1] + "1"


def by_span_hex(span_ids: Iterable[str]) -> dict[str, str]:
    """Return span ids by what stands for them, to find a parent that is named by it (`otlp:F2`)."""
    return {span_hex(span_id): span_id for span_id in span_ids}


def format_headers(parent: RemoteParent) -> dict[str, str]:
    """Return the headers that carry a parent (W5)."""
    trace, span = trace_hex(parent.trace_id), span_hex(parent.id)
    headers = {TRACEPARENT: f"00-{trace}-{span}-{parent.flags}"}
    members = [member for member in foreign_state(parent.tracestate).split(",") if member]
    if (trace, span) != (parent.trace_id, parent.id):
        own = f"everyspan=t.{_pack(parent.trace_id)}~s.{_pack(parent.id)}"
        if len(own) <= OWN_MEMBER_MAX:
            members.insert(0, own)
    if members:
        headers[TRACESTATE] = ",".join(members[:STATE_MEMBERS_MAX])
    return headers


def foreign_state(tracestate: str) -> str:
    """Return the members of a `tracestate` that others put there."""
    members = tracestate.split(",")
    return ",".join(m for m in members if m and not m.startswith("everyspan="))


def parse_headers(headers: Headers | Iterable[tuple[Any, Any]]) -> RemoteParent | None:
    """Return the parent that headers carry, None where they carry none that is valid (W1-W4)."""
    found: dict[str, list[str]] = {TRACEPARENT: [], TRACESTATE: []}
    for name, value in headers.items() if isinstance(headers, Headers) else headers:
        key = _text(name).lower()
        if key in found:
            values = value if isinstance(value, list | tuple) else (value,)
            found[key] += map(_text, values)
    if len(found[TRACEPARENT]) != 1:
        return None
    match = _PARENT.fullmatch(found[TRACEPARENT][0].strip(" \t"))
    if match is None:
        return None
    version, trace, span, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or not trace.strip("0") or not span.strip("0"):
        return None
    tracestate = _valid_state(",".join(found[TRACESTATE]))
    trace_id, span_id = _own_ids(tracestate, trace, span)
    return RemoteParent(trace_id=trace_id, id=span_id, flags=flags, tracestate=tracestate)


def _valid_state(text: str) -> str:
    """Return the members of a `tracestate`, "" if one of them is bad (W4)."""
    if len(text) > HEADER_BYTES_MAX:
        return ""
    members = [member.strip(" \t") for member in text.split(",")]
    members = [member for member in members if member]
    keys = set()
    for member in members:
        key, equals, value = member.partition("=")
        if not equals or not _MEMBER_KEY.fullmatch(key) or not _MEMBER_VALUE.fullmatch(value):
            return ""
        keys.add(key)
    if len(keys) != len(members) or len(members) > STATE_MEMBERS_MAX:
        return ""
    return ",".join(members)


def _own_ids(tracestate: str, trace: str, span: str) -> tuple[str, str]:
    for member in tracestate.split(","):
        key, _, value = member.partition("=")
        packed = re.fullmatch(r"t\.([\w-]*)~s\.([\w-]*)", value) if key == "everyspan" else None
        if packed:
            trace_id, span_id = _unpack(packed[1]), _unpack(packed[2])
            if trace_id and span_id and trace_hex(trace_id) == trace and span_hex(span_id) == span:
                return trace_id, span_id
    return trace, span


def _flags(text: str) -> int | None:
    return int(text, 16) if _FLAGS.fullmatch(text) else None


def _pack(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode("utf-8", "replace")).rstrip(b"=").decode()


def _unpack(text: str) -> str | None:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except (binascii.Error, ValueError):
        return None


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if len(text) in (32, 36) else None
    except ValueError:
        return None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
