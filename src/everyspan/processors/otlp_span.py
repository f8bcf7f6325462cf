"""Says a frozen span in OTLP: its ids, times, status and kind; its attributes are said elsewhere.

O1  Whatever a span holds, it is a valid message: texts are UTF-8, ids have their length, not zero.
O2  A span is at most SPAN_BYTES_MAX; of a larger one the longest texts are cut (`otlp:B6`).
O3  One version of a span is said in the same bytes each time, so that repeating it is safe.
"""

from __future__ import annotations

import functools
import hashlib

import msgspec

from everyspan.model.genai import CLIENT_OPERATIONS, OWN
from everyspan.model.record import NAME_LENGTH_MAX, SpanRecord
from everyspan.model.shorten import shorten
from everyspan.model.span import SpanStatus, SpanType
from everyspan.model.w3c import foreign_state, span_hex, trace_hex
from everyspan.processors import otlp_wire as wire
from everyspan.processors.otlp_attributes import about, operation_of, work
from everyspan.processors.otlp_values import members_of, utf8

SPAN_BYTES_MAX = 1 << 20
"""`otlp:B6`."""

ROOM_MIN = 4 << 10
"""Bytes of payload that a span keeps, whatever stands around them."""

INTERNAL, SERVER, CLIENT = 1, 2, 3
ERROR = 2
SAMPLED, HAS_IS_REMOTE, IS_REMOTE = 0x1, 0x100, 0x200
"""`otlp:B3`."""

NOBODY = "0" * 16

_SPAN_ID = wire.key(OWN + "span_id")
_TRACE_ID = wire.key(OWN + "trace_id")
_PARENT_ID = wire.key(OWN + "parent_id")
_STATUS = wire.key(OWN + "status")
_TRUNCATED = wire.key(OWN + "truncated")
_ERROR_TYPE = wire.key("error.type")
_EXCEPTION_TYPE = wire.key("exception.type")
_EXCEPTION_MESSAGE = wire.key("exception.message")
_PENDING_TYPE = wire.key("logfire.span_type")
_PENDING_PARENT = wire.key("logfire.pending_parent_id")

# Spans of one batch share most of these.
_trace_hex = functools.lru_cache(maxsize=1024)(trace_hex)
_span_hex = functools.lru_cache(maxsize=4096)(span_hex)
CACHED_LENGTH_MAX = 64


class SpanEncoder:
    """See the module text.

    Args:
        name: Of the destination, by which losses are told (P11).
        agent_name: Whose spans these are, where they do not say it themselves.
        openinference: Also say what OpenInference has a name for.
    """

    def __init__(self, *, name: str, agent_name: str | None, openinference: bool) -> None:
        self.name = name
        self._agent_name = agent_name
        self._openinference = openinference

    def encode(self, record: SpanRecord) -> bytes:
        """Return a Span; of a START one that tells of it, as Logfire has it (`otlp:B7`)."""
        encoded = self._encode(record, is_truncated=False)
        if len(encoded) <= SPAN_BYTES_MAX:
            return encoded
        payloads = (record.input, record.output, record.data)
        room = sum(len(payload) for payload in payloads if payload is not None)
        while len(encoded) > SPAN_BYTES_MAX and room > ROOM_MIN:
            # How often a payload is said, and what stands around it, shows only in the result.
            room = max(ROOM_MIN, room * SPAN_BYTES_MAX // len(encoded) * 19 // 20)
            input_, output, data = shorten(payloads, bytes_max=room)
            shorter = msgspec.structs.replace(record, input=input_, output=output, data=data)
            encoded = self._encode(shorter, is_truncated=True)
        return encoded

    def _encode(self, record: SpanRecord, *, is_truncated: bool) -> bytes:
        trace, own = _hex(_trace_hex, record.trace_id), _hex(_span_hex, record.id)
        above = _hex(_span_hex, record.parent_id) if record.parent_id else ""
        told: list[tuple[bytes, str, str]] = [(_TRACE_ID, record.trace_id, trace)]
        if record.is_end:
            told += [(_SPAN_ID, record.id, own), (_PARENT_ID, record.parent_id or "", above)]
        else:
            # What tells of an open span is below it, and has an id that nobody gave it.
            told.append((_PARENT_ID, record.id, own))
        attributes = [
            wire.text(key, utf8(id))
            for key, id, digits in told
            # Cut, it would derive to other bytes, and not be believed (`otlp:F1`).
            if id != digits and len(id) <= NAME_LENGTH_MAX
        ]
        data = members_of(record.data)
        operation = operation_of(record, data)
        attributes += about(record, data, name=self.name)
        attributes += work(
            record,
            data,
            operation,
            agent_name=self._agent_name,
            openinference=self._openinference,
        )
        if is_truncated:
            attributes.append(wire.boolean(_TRUNCATED, value=True))
        remote = record.remote
        is_remote = remote is not None and remote.id == record.parent_id
        end_ns, status = record.start_ns, b""
        events: list[bytes] = []
        if not record.is_end:
            attributes += (
                wire.text(_PENDING_TYPE, b"pending_span"),
                wire.text(_PENDING_PARENT, (above or NOBODY).encode()),
            )
            own, above = _pending(own), own
        else:
            if record.end_ns is not None:
                end_ns = record.end_ns
            if record.status != SpanStatus.SUCCESS:
                status, events = _failure(record, end_ns, attributes)
        return wire.span(
            trace_id=bytes.fromhex(trace),
            span_id=bytes.fromhex(own),
            trace_state=b"" if remote is None else foreign_state(remote.tracestate).encode(),
            parent_span_id=bytes.fromhex(above),
            name=utf8(record.name),
            kind=_kind(record, operation, is_remote=is_remote),
            start_ns=record.start_ns,
            end_ns=end_ns,
            attributes=attributes,
            events=events,
            status=status,
            flags=SAMPLED | HAS_IS_REMOTE | (IS_REMOTE if is_remote and record.is_end else 0),
        )


def _hex(derive: functools._lru_cache_wrapper[str], id: str) -> str:
    # What is kept is charged to nobody, so it is bounded in both ways.
    return derive(id) if len(id) <= CACHED_LENGTH_MAX else derive.__wrapped__(id)


def _pending(span_hex: str) -> str:
    """Return the id of the span that tells of one that is open: the same for each of its STARTs."""
    return hashlib.sha256(b"pending " + span_hex.encode()).hexdigest()[:16]


def _failure(record: SpanRecord, end_ns: int, attributes: list[bytes]) -> tuple[bytes, list[bytes]]:
    """Return status and events of a span that failed, and add its attributes (`otlp:B8`)."""
    if record.status == SpanStatus.CANCELED:
        attributes += (
            wire.text(_ERROR_TYPE, b"CancelledError"),
            wire.text(_STATUS, record.status.encode()),
        )
        return wire.status(code=ERROR, message=b""), []
    if record.error is None:
        return wire.status(code=ERROR, message=b""), []
    kind, message, _ = record.error
    attributes.append(wire.text(_ERROR_TYPE, utf8(kind)))
    exception = wire.event(
        time_ns=end_ns,
        name=b"exception",
        attributes=(
            wire.text(_EXCEPTION_TYPE, utf8(kind)),
            wire.text(_EXCEPTION_MESSAGE, utf8(message)),
        ),
    )
    said = f"{kind}: {message}" if message else kind
    return wire.status(code=ERROR, message=utf8(said)), [exception]


def _kind(record: SpanRecord, operation: str | None, *, is_remote: bool) -> int:
    """`otlp:B9`."""
    if operation in CLIENT_OPERATIONS or record.type == SpanType.EXTERNAL_ENDPOINT:
        return CLIENT
    return SERVER if is_remote else INTERNAL
