"""How a span goes into the SQLite store's tables and comes out.

A payload body is JSON text, an object with the keys input, output, metadata and expected, each
absent where None, packed as `sqlite_codec` says.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw

from everyspan.errors import StoreError
from everyspan.model.w3c import span_hex, trace_hex
from everyspan.server.row import SpanRow, UsageFrom, VersionKey

ROW_BYTES = 512
"""What a row costs beside its payloads, roughly."""

ROW_COLUMNS = (
    "account",
    "trace_id",
    "id",
    "name",
    "start_ns",
    "end_ns",
    "parent_id",
    "task_id",
    "type",
    "status",
    "group_id",
    "application_interaction_id",
    "application_variant_id",
    "obs_trace_id",
    "obs_span_id",
    "rev",
    "older",
)
"""What a row is read back from, beside its payloads."""
DERIVED_COLUMNS = (
    "otel_trace_id",
    "otel_span_id",
    "payload_bytes",
    "record",
    "model",
    "agent",
    "cost_usd",
    "input_tokens",
    "output_tokens",
    "aggregated",
    "error_type",
    "error_message",
    "input_bytes",
    "output_bytes",
)
"""What follows from the row, to be filtered, sorted and summed by."""
SELECT_ROW_SQL = (
    "SELECT " + ", ".join(f"s.{column}" for column in ROW_COLUMNS) + ", unpack(p.codec, p.body) "
    "FROM spans s JOIN payloads p USING (seq) "
)
BY_ID_SQL = "spans INDEXED BY spans_by_id WHERE otel_span_id = ? AND account = ? AND id = ? "
"""All spans with an id, in whatever trace; its parameters are `by_id`."""
BY_IDENTITY_SQL = (
    "spans INDEXED BY spans_by_id WHERE otel_span_id = ? AND otel_trace_id = ? "
    "AND account = ? AND id = ? AND trace_id = ?"
)
"""The one span of an identity; its parameters are `by_identity`."""
_AGGREGATED: dict[UsageFrom | None, int] = {
    None: 0,
    "output.usage": 0,
    "metadata.usage": 1,
    "metadata.cost_usd": 1,
    "metadata.aggregated_usage": 2,
}


class Payloads(msgspec.Struct):
    """The stored form of a span's payloads."""

    input: Raw = Raw()
    output: Raw = Raw()
    metadata: Raw = Raw()
    expected: Raw = Raw()


_decode_payloads = msgspec.json.Decoder(Payloads).decode
_encode_older = msgspec.json.Encoder().encode
_decode_older = msgspec.json.Decoder(dict[str, VersionKey]).decode


def to_values(row: SpanRow) -> tuple[Any, ...]:
    """Return what goes into ROW_COLUMNS and DERIVED_COLUMNS."""
    facts = row.facts
    return (
        row.account,
        row.trace_id,
        row.id,
        row.name,
        row.start_ns,
        row.end_ns,
        row.parent_id,
        row.task_id,
        row.type,
        row.status,
        row.group_id,
        row.application_interaction_id,
        row.application_variant_id,
        row.obs_trace_id,
        row.obs_span_id,
        row.rev,
        None if row.older is None else _encode_older(row.older).decode(),
        otel_trace_id(row.trace_id),
        otel_span_id(row.id),
        row.payload_bytes,
        facts.record,
        facts.model,
        facts.agent,
        facts.cost_usd,
        facts.input_tokens,
        facts.output_tokens,
        _AGGREGATED[facts.usage_from],
        facts.error_type,
        facts.error_message,
        len(row.input or b""),
        len(row.output or b""),
    )


@lru_cache(maxsize=4_096)  # A batch holds few traces.
def otel_trace_id(trace_id: str) -> bytes:
    """Return the 16 bytes that stand for a trace in OpenTelemetry (`otlp:F2`)."""
    return bytes.fromhex(trace_hex(trace_id))


def by_id(account: str, span_id: str) -> tuple[Any, ...]:
    """Return the parameters of BY_ID_SQL."""
    return (otel_span_id(span_id), account, span_id)


def by_identity(account: str, trace_id: str, span_id: str) -> tuple[Any, ...]:
    """Return the parameters of BY_IDENTITY_SQL."""
    return (otel_span_id(span_id), otel_trace_id(trace_id), account, span_id, trace_id)


@lru_cache(maxsize=4_096)  # Asked twice for every span that is written.
def otel_span_id(span_id: str) -> bytes:
    """Return the 8 bytes that stand for a span in OpenTelemetry (`otlp:F2`)."""
    return bytes.fromhex(span_hex(span_id))


def to_body(row: SpanRow) -> bytes:
    """Return the row's payloads, not yet packed."""
    # Joined by hand: the payloads are JSON text already, an encoder would check each again.
    parts: list[bytes] = []
    for opening, payload in (
        (b',"input":', row.input),
        (b',"output":', row.output),
        (b',"metadata":', row.metadata),
        (b',"expected":', row.expected),
    ):
        if payload is not None:
            parts += opening, payload
    if not parts:
        return b"{}"
    parts[0] = b"{" + parts[0][1:]
    return b"".join((*parts, b"}"))


def from_values(values: tuple[Any, ...]) -> SpanRow:
    """Return the row behind one result of SELECT_ROW_SQL."""
    *columns, older, body = values
    payloads = _decode(body)
    return SpanRow(
        **dict(zip(ROW_COLUMNS, columns, strict=False)),
        older=None if older is None else _decode_older(older),
        input=bytes(payloads.input) or None,
        output=bytes(payloads.output) or None,
        metadata=bytes(payloads.metadata) or None,
        expected=bytes(payloads.expected) or None,
    )


def read_metadata(body: bytes) -> bytes | None:
    """Return the metadata inside a body."""
    return bytes(_decode(body).metadata) or None


def read_payloads(body: bytes) -> list[bytes]:
    """Return input, output and metadata inside a body, where there are any."""
    payloads = _decode(body)
    found = map(bytes, (payloads.input, payloads.output, payloads.metadata))
    return [payload for payload in found if payload]


def _decode(body: bytes) -> Payloads:
    try:
        return _decode_payloads(body)
    except msgspec.MsgspecError:
        raise StoreError("a stored payload is damaged") from None
