"""Spans as they come over the AgentEx spans API (`agx` §2, §3, §7): bodies and queries to rows.

X1  A payload is stored as it came, an array as an array; a task lies beside the metadata. Each API
    shows a row in its own words.
X2  What `data` says of type and error is said to the store too, so that it can be searched for:
    `__span_type__` is the type, `__error__` makes the status ERROR and adds the members by which
    the SGP spans API knows it. `agentex_reply` takes those out again.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import Raw

from everyspan.model.ids import new_id
from everyspan.model.span import SPAN_ERROR_KEY, SPAN_TYPE_KEY, SpanStatus, SpanType
from everyspan.server import json_text
from everyspan.server.checks import ID_MAX, TRACE_ID_MAX, Checks
from everyspan.server.json_body import Loc, decode_json
from everyspan.server.patch import SpanPatch
from everyspan.server.problem import Detail, InvalidRequestError
from everyspan.server.row import (
    TASK_ID_MAX,
    SpanRow,
    is_array,
    members,
    read_rev,
    read_task_id,
    with_members,
)
from everyspan.server.stores.base import ListQuery, OrderBy

LIMIT_MAX = 1_000
CANCELLED = "CancelledError"
END_BEFORE_START = "end_time is before start_time"
_OFFSET_MAX = 2**62
_DIGITS_MAX = 15
_TYPES = frozenset(SpanType)
_BODY: Loc = ("body",)

_COLUMNS: dict[str, OrderBy] = {
    "id": "id",
    "trace_id": "trace_id",
    "parent_id": "parent_id",
    "task_id": "task_id",
    "name": "name",
    "start_time": "start_ns",
    "end_time": "end_ns",
}


class _Fields(msgspec.Struct, kw_only=True):
    parent_id: str | None = None
    task_id: str | None = None
    end_time: str | None = None
    input: Raw = Raw()
    output: Raw = Raw()
    data: Raw = Raw()


class _SpanCreate(_Fields, kw_only=True):
    name: str
    trace_id: str
    start_time: str
    id: str | None = None


class _SpanPatch(_Fields, kw_only=True):
    name: str | None = None
    trace_id: str | None = None
    start_time: str | None = None


class _Error(msgspec.Struct):
    type: str = "Error"
    message: str = ""
    category: str = "unknown"


class _Said(msgspec.Struct):
    """What `data` says of more than itself."""

    type: str | None
    status: str | None
    metadata: bytes | None


_decode_create = msgspec.json.Decoder(_SpanCreate).decode
_decode_patch = msgspec.json.Decoder(_SpanPatch).decode
_decode_error = msgspec.json.Decoder(_Error).decode


def decode_create(body: bytes, account: str) -> SpanRow:
    """Return the row of one Create.

    Raises:
        InvalidRequestError: 422, with all that is wrong.
    """
    with _all_422():
        body, marker = json_text.mark_unsafe(body)
        item = decode_json(_decode_create, body)
        check = Checks(marker, has_long_number=json_text.has_long_number(body))
        span_id = item.id
        row = SpanRow(
            account=account,
            trace_id=check.identity(item.trace_id, _BODY, "trace_id", TRACE_ID_MAX) or "",
            id=new_id() if span_id is None else check.identity(span_id, _BODY, "id", ID_MAX) or "",
            name=check.text(item.name),
            start_ns=check.timestamp(item.start_time, _BODY, "start_time") or 0,
            **_read(item, check),
        )
        if row.end_ns is not None and row.end_ns < row.start_ns:
            check.say(_BODY, "end_time", END_BEFORE_START, "range")
        check.finish()
    row.rev = read_rev(row.metadata)
    return row


def decode_patch(body: bytes) -> SpanPatch:
    """Return the changes of one Patch.

    Raises:
        InvalidRequestError: 422, with all that is wrong.
    """
    with _all_422():
        body, marker = json_text.mark_unsafe(body)
        item = decode_json(_decode_patch, body)
        check = Checks(marker, has_long_number=json_text.has_long_number(body))
        patch = SpanPatch(
            trace_id=check.identity(item.trace_id, _BODY, "trace_id", TRACE_ID_MAX),
            name=check.optional(item.name),
            start_ns=check.timestamp(item.start_time, _BODY, "start_time"),
            merges_metadata=True,
            **_read(item, check),
        )
        check.finish()
    return patch


def decode_list(params: Mapping[str, str], account: str) -> ListQuery:
    """Return the query of a list.

    Raises:
        InvalidRequestError: 422; a page or its size is none.
    """
    errors: list[Detail] = []
    limit = _number(params, "limit", 50, errors)
    if limit > LIMIT_MAX:
        errors.append(Detail(("query", "limit"), f"limit is over {LIMIT_MAX}", "range"))
    page_number = _number(params, "page_number", 1, errors)
    if errors:
        raise InvalidRequestError(422, errors)
    return ListQuery(
        account=account,
        trace_id=params.get("trace_id") or None,
        task_id=params.get("task_id") or None,
        order_by=_COLUMNS.get(params.get("order_by", ""), "start_ns"),
        descending=params.get("order_direction", "desc").lower() == "desc",
        limit=limit,
        offset=min((page_number - 1) * limit, _OFFSET_MAX),
    )


def _number(params: Mapping[str, str], name: str, default: int, errors: list[Detail]) -> int:
    text = params.get(name)
    if text is None:
        return default
    if text.isascii() and text.isdigit() and (digits := text.lstrip("0")):
        # More digits name a place beyond any end, and more than 4,300 are too many for `int`.
        return int(digits) if len(digits) <= _DIGITS_MAX else 10**_DIGITS_MAX
    errors.append(Detail(("query", name), f"{name} is not a number from 1 on", "range"))
    return default


@contextmanager
def _all_422() -> Generator[None]:
    # This API has one status for whatever a request's validation finds (`agx` §4).
    try:
        yield
    except InvalidRequestError as error:
        raise InvalidRequestError(422, error.details) from None


def _read(item: _Fields, check: Checks) -> dict[str, Any]:
    """Return what a Create and a Patch say alike, by the names of a row's fields."""
    data = _say(check.payload(item.data, _BODY, "data", arrays=True))
    # An empty text is how some senders write "none"; nothing can have that id.
    task_id = check.identity(item.task_id or None, _BODY, "task_id", TASK_ID_MAX)
    return {
        "parent_id": check.identity(item.parent_id or None, _BODY, "parent_id", ID_MAX),
        "task_id": task_id or read_task_id(data.metadata),
        "end_ns": check.timestamp(item.end_time, _BODY, "end_time"),
        "type": data.type,
        "status": data.status,
        "input": check.payload(item.input, _BODY, "input", arrays=True),
        "output": check.payload(item.output, _BODY, "output", arrays=True),
        "metadata": data.metadata,
    }


def _say(data: bytes | None) -> _Said:
    """Return what `data` says to the store (X2)."""
    said = _Said(None, None, data)
    if data is None or is_array(data):
        return said
    stored = members(data)
    type_ = decode_value(stored.get(SPAN_TYPE_KEY))
    if isinstance(type_, str) and type_:
        said.type = type_ if type_ in _TYPES else SpanType.CUSTOM
    error = stored.get(SPAN_ERROR_KEY)
    if error is not None and bytes(error).startswith(b"{"):
        more = error_members(error)
        is_cancelled = more.get("error_type") == CANCELLED
        said.status = SpanStatus.CANCELED if is_cancelled else SpanStatus.ERROR
        if not any(name in stored for name in more):
            said.metadata = with_members(data, more)
    return said


def error_members(error: Raw) -> dict[str, Any]:
    """Return the members by which the SGP spans API knows an `__error__`; none if it is odd."""
    try:
        known = _decode_error(error)
    except msgspec.MsgspecError:
        return {}
    return {
        "error": True,
        "error_type": known.type,
        "error_message": known.message,
        "error_category": known.category,
    }


def decode_value(raw: Raw | None) -> Any:
    """Return a member's value, None where there is none or Python cannot hold it."""
    try:
        return None if raw is None else msgspec.json.decode(raw)
    except msgspec.MsgspecError:
        return None
