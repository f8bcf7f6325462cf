"""What the AgentEx spans API answers (`agx` §2, §4): rows to JSON text, payloads unparsed.

What came over this API goes out as it came. What came over the SGP spans API says its type, error
and task here in this API's way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw
from starlette.responses import Response

from everyspan.model.span import SPAN_ERROR_KEY, SPAN_TYPE_KEY, TASK_ID_KEY, SpanStatus
from everyspan.server.agentex_spans import CANCELLED, decode_value, error_members
from everyspan.server.problem import Detail
from everyspan.server.row import EMPTY_OBJECT, SpanRow, is_array, members
from everyspan.server.timestamps import format_timestamp

INVALID = 10422
"""`status_code` of a request that fails validation, beside the status 422 (`agx` §4)."""


class _SpanOut(msgspec.Struct):
    id: str
    trace_id: str
    parent_id: str | None
    name: str
    start_time: str
    end_time: str | None
    input: Raw | None
    output: Raw | None
    data: Raw | None
    task_id: str | None


class _Invalid(msgspec.Struct):
    message: str
    status_code: int = INVALID
    data: None = None


class _Error(msgspec.Struct):
    message: str
    code: int
    data: None = None


_encode = msgspec.json.Encoder().encode


def encode_span(row: SpanRow) -> bytes:
    """Return a Span."""
    return _encode(_to_out(row))


def encode_spans(rows: Sequence[SpanRow]) -> bytes:
    """Return a bare array of Spans."""
    return _encode([_to_out(row) for row in rows])


def agentex_problem(
    status: int,
    code: str,  # This API has no words for programs.
    message: str,
    *,
    details: Sequence[Detail] = (),
    headers: Mapping[str, str] | None = None,
    request_id: str | None = None,
) -> Response:
    """Return an error as this API words it."""
    if details:
        message = "; ".join(f"{'.'.join(map(str, each.loc))}: {each.msg}" for each in details)
    # This API has no field for it; where somebody has to look into our log, its text has it.
    if request_id is not None and status >= 500:
        message = f"{message}, request {request_id}"
    body = _Invalid(message) if status == 422 else _Error(message, status)
    return Response(_encode(body), status, dict(headers or {}), media_type="application/json")


def _to_out(row: SpanRow) -> _SpanOut:
    return _SpanOut(
        id=row.id,
        trace_id=row.trace_id,
        parent_id=row.parent_id,
        name=row.name,
        start_time=format_timestamp(row.start_ns),
        end_time=None if row.end_ns is None else format_timestamp(row.end_ns),
        input=None if row.input is None else Raw(row.input),
        output=None if row.output is None else Raw(row.output),
        data=_data(row),
        task_id=row.task_id,
    )


def _data(row: SpanRow) -> Raw | None:
    if row.metadata is not None and is_array(row.metadata):
        return Raw(row.metadata)
    stored: dict[str, Any] = dict(members(row.metadata or EMPTY_OBJECT))
    shown = stored.copy()
    if row.task_id is not None and decode_value(stored.get(TASK_ID_KEY)) == row.task_id:
        del shown[TASK_ID_KEY]
    if row.type is not None:
        shown.setdefault(SPAN_TYPE_KEY, row.type)
    error = stored.get(SPAN_ERROR_KEY)
    if error is not None:
        known = error_members(error)
        if all(decode_value(stored.get(name)) == value for name, value in known.items()):
            for name in known:
                del shown[name]
    elif row.status in (SpanStatus.ERROR, SpanStatus.CANCELED):
        shown[SPAN_ERROR_KEY] = _error(stored, row.status)
    if shown == stored:
        return None if row.metadata is None else Raw(row.metadata)
    return Raw(_encode(shown))


def _error(stored: Mapping[str, Raw], status: str) -> dict[str, str]:
    """Return an `__error__` of what the SGP spans API knows of one."""

    def text(name: str, default: str) -> str:
        value = decode_value(stored.get(name))
        return value if isinstance(value, str) else default

    return {
        "type": CANCELLED if status == SpanStatus.CANCELED else text("error_type", "Error"),
        "message": text("error_message", ""),
        "category": text("error_category", "unknown"),
    }
