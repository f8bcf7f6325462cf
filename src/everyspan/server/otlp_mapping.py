"""OTLP spans to rows (`otlp` §3, F1 to F13).

What a row calls metadata is the `data` of the specification. Nothing a span says is lost: what has
no place of its own stays under `attributes`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from everyspan.model.span import (
    AGENT_NAME_KEY,
    SPAN_ERROR_KEY,
    SPAN_TYPE_KEY,
    SpanStatus,
    SpanType,
)
from everyspan.model.w3c import span_hex, trace_hex
from everyspan.server import json_text
from everyspan.server import otlp_tables as tables
from everyspan.server.checks import ID_MAX, TRACE_ID_MAX, is_hex
from everyspan.server.otlp_attributes import AttributeReader
from everyspan.server.otlp_content import INPUT_EVENTS, OUTPUT_EVENTS, Content, read_content
from everyspan.server.otlp_span import (
    KIND_CLIENT,
    KINDS,
    STATUS_ERROR,
    OtlpEvent,
    OtlpLink,
    OtlpOrigin,
    OtlpSpan,
    parent_or_none,
)
from everyspan.server.otlp_values import are_messages, is_object, with_member
from everyspan.server.row import TASK_ID_MAX, SpanRow, read_rev
from everyspan.server.timestamps import format_timestamp

UNKNOWN_NAME = "unknown"
UNKNOWN_SERVICE = "unknown_service"
SOURCE = "otel"
RESOURCE_BYTES_MAX = 16 * 1024
"""It stands in every row of a request; of a larger one, the attributes that still fit are kept."""
_NS_MAX = 2**63 - 1
_EXCEPTION_EVENT = "exception"
_CANCELLED = "CancelledError"
_NOTHING: tuple[Any, ...] = (None, "", [], {})
_encode = msgspec.json.Encoder().encode


class Mapper:
    """Makes rows of the spans of one request.

    Args:
        now_ns: When the request arrived; the start of a span that has no time at all.
    """

    def __init__(self, account: str, now_ns: int) -> None:
        self._account = account
        self._now_ns = now_ns
        self._origin: OtlpOrigin | None = None
        self._common: dict[str, Any] = {}

    def to_row(self, span: OtlpSpan) -> SpanRow:
        """Return the row of a span."""
        read = AttributeReader(span.attributes)
        trace_id, span_id, parent_id = _ids(span, read)
        is_pending = _is_pending(span, read)
        if is_pending:
            # The row that the span itself will complete (F5).
            assert parent_id is not None
            span_id, parent_id = parent_id, _pending_parent(read)
        start_ns, end_ns, is_odd = self._times(span)
        if is_pending:
            end_ns = None
        name = _name(span, read)
        operation, type_ = _kind_of(span, read, has_parent=parent_id is not None)
        content = Content()
        is_call = operation == "llm" or type_ == SpanType.COMPLETION
        if is_call:
            content = read_content(span)
        unseen: set[str] = set()
        input_ = _input(read, content, unseen, is_call=is_call)
        output = _output(read, content, unseen, is_call=is_call)

        usage = _usage(read, tables.USAGE, tables.USAGE_KEYS)
        aggregated = _usage(read, tables.AGGREGATED_USAGE, tables.AGGREGATED_USAGE_KEYS)
        if operation in tables.AGGREGATING:
            usage, aggregated = {}, {**usage, **aggregated}
        if usage:
            output = with_member({} if output is None else output, "usage", usage)

        status, error = _outcome(span, read)
        group_id = read.text(tables.GROUP_ID, ID_MAX)
        task_id = read.text(tables.TASK_ID, TASK_ID_MAX)
        obs_trace_id, obs_span_id = _obs_ids(read)
        told = {
            "__source__": SOURCE,
            SPAN_TYPE_KEY: type_.value,
            "operation": operation,
            "aggregated_usage": aggregated,
            SPAN_ERROR_KEY: error,
            "time_error": is_odd or None,
            "events": [_event(event) for event in span.events if event.name not in unseen],
        }
        # Last, for it takes what nothing else has used.
        metadata = _payload(self._data(span, read, told))
        output_text = None if output is None else _payload(output)
        return SpanRow(
            account=self._account,
            trace_id=trace_id,
            id=span_id,
            parent_id=parent_id,
            name=name,
            start_ns=start_ns,
            end_ns=end_ns,
            type=type_.value,
            status=None if end_ns is None and status is SpanStatus.SUCCESS else status.value,
            group_id=group_id,
            task_id=task_id,
            obs_trace_id=obs_trace_id,
            obs_span_id=obs_span_id,
            input=None if input_ is None else _payload(input_),
            output=output_text,
            metadata=metadata,
            rev=read_rev(metadata),
        )

    def _data(self, span: OtlpSpan, read: AttributeReader, told: dict[str, Any]) -> dict[str, Any]:
        """Return a span's data (F8): what was `told`, what keys say, and the rest."""
        counts = zip(("attributes", "events", "links"), span.dropped, strict=True)
        data: dict[str, Any] = {
            **told,
            AGENT_NAME_KEY: read.text(tables.AGENT_NAME) or _service(span.origin),
            "model": read.text(tables.MODEL),
            "provider": read.text(tables.PROVIDER),
            "user_id": read.text(tables.USER_ID),
            "tool": _some({"name": read.text(tables.TOOL_NAME), "id": read.text(tables.TOOL_ID)}),
            "cost_usd": read.amount(tables.COST_USD),
            "tags": read.first(tables.TAGS)[1],
            "metadata": _metadata(read),
            "kind": KINDS[span.kind] if 2 <= span.kind < len(KINDS) else None,
            "links": list(map(_link, span.links)),
            "dropped": {name: count for name, count in counts if count},
            **self._common_of(span.origin),
        }
        # What an everyspan producer said of itself counts most.
        own = read.below((tables.EVERYSPAN_DATA,))
        return _some(data | {"attributes": read.rest()}) | own

    def _times(self, span: OtlpSpan) -> tuple[int, int | None, bool]:
        """Return start, end (None: in progress) and whether they had to be mended (F3)."""
        start_ns, end_ns = _clamp(span.start_ns), _clamp(span.end_ns)
        is_odd = (start_ns, end_ns) != (span.start_ns, span.end_ns)
        start_ns = start_ns or end_ns or self._now_ns
        if end_ns == 0:
            return start_ns, None, is_odd
        if end_ns < start_ns:
            return start_ns, start_ns, True
        return start_ns, end_ns, is_odd

    def _common_of(self, origin: OtlpOrigin) -> dict[str, Any]:
        # The same object for all spans that were sent together.
        if origin is not self._origin:
            self._origin = origin
            self._common = {
                "resource": _fitting(origin.resource) if origin.resource else None,
                "scope": _some({"name": origin.scope_name, "version": origin.scope_version}),
            }
        return self._common


def _some(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that say something."""
    return {name: value for name, value in fields.items() if value not in _NOTHING}


def _clamp(ns: int) -> int:
    return min(max(ns, 0), _NS_MAX)


def _ids(span: OtlpSpan, read: AttributeReader) -> tuple[str, str, str | None]:
    """Return trace, span and parent: our own text where it derives to the bytes sent (F1)."""
    trace_key, span_key, parent_key = tables.EVERYSPAN_IDS
    trace_id = _own_id(read, trace_key, trace_hex, span.trace_id, TRACE_ID_MAX)
    span_id = _own_id(read, span_key, span_hex, span.id, ID_MAX)
    if span.parent_id is None:
        return trace_id, span_id, None
    return trace_id, span_id, _own_id(read, parent_key, span_hex, span.parent_id, ID_MAX)


def _own_id(
    read: AttributeReader, key: str, derive: Callable[[str], str], sent: str, length_max: int
) -> str:
    text = read.peek(key)
    if not isinstance(text, str) or not text or "\0" in text or len(text.encode()) > length_max:
        return sent
    if derive(text) != sent:
        return sent
    read.use(key)
    return text


def _obs_ids(read: AttributeReader) -> tuple[str | None, str | None]:
    """Return the ids of the observability span around one of everyspan's."""
    trace_key, span_key = tables.EVERYSPAN_OBS_IDS
    trace_id, span_id = read.peek(trace_key), read.peek(span_key)
    if not isinstance(trace_id, str) or not is_hex(trace_id, 32):
        return None, None
    read.use(trace_key)
    if not isinstance(span_id, str) or not is_hex(span_id, 16):
        return trace_id, None
    read.use(span_key)
    return trace_id, span_id


def _is_pending(span: OtlpSpan, read: AttributeReader) -> bool:
    return span.parent_id is not None and read.peek(tables.SPAN_KIND_KEY) == tables.PENDING


def _pending_parent(read: AttributeReader) -> str | None:
    read.use(tables.SPAN_KIND_KEY, tables.PENDING_PARENT_KEY)
    parent_id = read.peek(tables.PENDING_PARENT_KEY)
    if not isinstance(parent_id, str) or set(parent_id) - set("0123456789abcdef"):
        return None
    return parent_or_none(parent_id)


def _name(span: OtlpSpan, read: AttributeReader) -> str:
    name = span.name
    message = read.peek(tables.MESSAGE_KEY)
    if name and name == read.peek(tables.TEMPLATE_KEY) and isinstance(message, str) and message:
        name = message
    return name.replace("\0", json_text.REPLACEMENT) or UNKNOWN_NAME


def _kind_of(
    span: OtlpSpan, read: AttributeReader, *, has_parent: bool
) -> tuple[str | None, SpanType]:
    """Return operation and type; the operation is None where nothing tells it."""
    operation = _operation(span, read)
    said = read.peek(tables.EVERYSPAN_TYPE)
    if isinstance(said, str) and said in SpanType.__members__.values():
        read.use(tables.EVERYSPAN_TYPE)
        return operation, SpanType(said)
    if operation is not None:
        return operation, tables.OPERATIONS[operation]
    return None, SpanType.STANDALONE if has_parent else SpanType.TRACER


def _operation(span: OtlpSpan, read: AttributeReader) -> str | None:
    for key, operations in tables.TYPE_KEYS:
        value = read.peek(key)
        if isinstance(value, str) and (found := operations.get(value.lower())) is not None:
            return found
    if tables.TOOL_KEY in read:
        return "tool"
    if any(key in read for key in tables.MODEL):
        return "llm"
    if span.kind == KIND_CLIENT:
        for key, operation in tables.CLIENT_KEYS:
            if key in read:
                return operation
    return None


def _input(read: AttributeReader, content: Content, unseen: set[str], *, is_call: bool) -> Any:
    keys = tables.INPUT_LLM if is_call else tables.INPUT_OTHER
    key, value = read.first(keys, content.input)
    if key == tables.CONTENT_EVENTS:
        unseen |= INPUT_EVENTS
        read.use(tables.EVENTS_KEY)
    found = _as_object(key, value, "input")
    if key in tables.MESSAGES or (is_call and found is None):
        for name, name_key, fallback in (
            ("system", tables.SYSTEM_KEY, content.system),
            ("tools", tables.TOOLS_KEY, content.tools),
        ):
            _, more = read.first((name_key,))
            if more is None:
                more = fallback
            if more is not None:
                found = with_member({} if found is None else found, name, more)
    return found


def _output(read: AttributeReader, content: Content, unseen: set[str], *, is_call: bool) -> Any:
    keys = tables.OUTPUT_LLM if is_call else tables.OUTPUT_OTHER
    key, value = read.first(keys, content.output)
    if key == tables.CONTENT_EVENTS:
        unseen |= OUTPUT_EVENTS
        read.use(tables.EVENTS_KEY)
    return _as_object(key, value, "output")


def _as_object(key: str, value: Any, name: str) -> Any:
    """Return a payload as the object that every API can show (F12), None where there is none."""
    if value is None or is_object(value):
        return value
    if key in tables.MESSAGES or are_messages(value):
        return {"messages": value}
    return {tables.MEMBERS.get(key, name): value}


def _usage(
    read: AttributeReader, table: dict[str, tuple[str, ...]], keys: frozenset[str]
) -> dict[str, int]:
    if not read.has_any(keys):
        return {}
    found = {name: read.count(keys) for name, keys in table.items()}
    return {name: count for name, count in found.items() if count is not None}


def _outcome(span: OtlpSpan, read: AttributeReader) -> tuple[SpanStatus, dict[str, str] | None]:
    """Return status, and the error where it is one (F6, F7)."""
    said = read.peek(tables.EVERYSPAN_STATUS)
    if span.status != STATUS_ERROR:
        return SpanStatus.SUCCESS, None
    exception: dict[str, Any] = {}
    for event in span.events:
        if event.name == _EXCEPTION_EVENT:
            exception = event.attributes
    type_ = exception.get("exception.type") or read.peek("error.type")
    type_ = type_ if isinstance(type_, str) and type_ else "Error"
    type_ = type_.removeprefix("<class '").removesuffix("'>")
    message = exception.get("exception.message")
    message = message if isinstance(message, str) else span.message
    is_canceled = type_.endswith(_CANCELLED) or said == SpanStatus.CANCELED
    if said == SpanStatus.CANCELED:
        read.use(tables.EVERYSPAN_STATUS)
    status = SpanStatus.CANCELED if is_canceled else SpanStatus.ERROR
    return status, {"type": type_, "message": message}


def _service(origin: OtlpOrigin) -> str | None:
    name = origin.resource.get("service.name")
    if not isinstance(name, str) or name.startswith(UNKNOWN_SERVICE):
        return None
    return name


def _metadata(read: AttributeReader) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in tables.METADATA_KEYS:
        found = read.object(key) | found
    return read.below(tables.METADATA_PREFIXES) | found


def _event(event: OtlpEvent) -> dict[str, Any]:
    time = format_timestamp(_clamp(event.time_ns))
    return _some({"name": event.name, "time": time, "attributes": event.attributes})


def _link(link: OtlpLink) -> dict[str, Any]:
    ids = {"trace_id": link.trace_id, "span_id": link.span_id}
    return _some({**ids, "attributes": link.attributes})


def _fitting(resource: dict[str, Any]) -> Raw | dict[str, Raw]:
    """Return a resource's attributes, as many as RESOURCE_BYTES_MAX holds, encoded once."""
    text = _encode(resource)
    if len(text) <= RESOURCE_BYTES_MAX:
        return Raw(text)
    kept: dict[str, Raw] = {}
    left = RESOURCE_BYTES_MAX
    for key, value in resource.items():
        text = _encode(value)
        size = len(key.encode()) + len(text)
        if size <= left:
            left -= size
            kept[key] = Raw(text)
    return kept


def _payload(value: Any) -> bytes:
    """Return JSON text that may be stored: valid UTF-8, no NUL (`sgp` §6, bytes)."""
    text, marker = json_text.mark_unsafe(bytes(value) if isinstance(value, Raw) else _encode(value))
    return text if marker is None else json_text.replace_marker(text, marker)
