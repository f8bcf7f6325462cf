"""Spans as they are written over the SGP spans API (`sgp` §3, §6): bodies to rows.

C1  Every rule that needs no store is checked before anything is written (`sgp:E5`).
C2  Every offending item of a batch is named by its path, so that a sender can cut them all out
    at once (`sgp:E4`); at most ERRORS_MAX are listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import msgspec
from msgspec import Raw

from everyspan.model.ids import new_id
from everyspan.model.span import SpanStatus, SpanType
from everyspan.server import json_text
from everyspan.server.checks import ID_MAX, TRACE_ID_MAX, Checks
from everyspan.server.json_body import Loc, decode_json, malformed, to_detail
from everyspan.server.patch import SpanPatch
from everyspan.server.problem import Detail, InvalidRequestError
from everyspan.server.row import SpanRow, read_rev, read_task_id

ITEMS_MAX = 1_000
_BIG_BODY_BYTES = 4 * 1024 * 1024


class _SpanCreate(msgspec.Struct):
    name: str
    start_timestamp: str
    trace_id: str
    id: str | None = None
    parent_id: str | None = None
    end_timestamp: str | None = None
    input: Raw = Raw()
    output: Raw = Raw()
    metadata: Raw = Raw()
    expected: Raw = Raw()
    status: SpanStatus | None = None
    type: SpanType | None = None
    group_id: str | None = None
    application_interaction_id: str | None = None
    application_variant_id: str | None = None
    obs_trace_id: str | None = None
    obs_span_id: str | None = None


class _Batch(msgspec.Struct):
    items: list[_SpanCreate]


class _RawBatch(msgspec.Struct):
    items: list[Raw]


class _Anything(msgspec.Struct, gc=False):
    pass


class _CountedBatch(msgspec.Struct):
    items: list[_Anything]


class _SpanPatch(msgspec.Struct):
    name: str | None = None
    end_timestamp: str | None = None
    status: SpanStatus | None = None
    output: Raw = Raw()
    metadata: Raw = Raw()


_decode_batch = msgspec.json.Decoder(_Batch).decode
_decode_raw_batch = msgspec.json.Decoder(_RawBatch).decode
_decode_counted_batch = msgspec.json.Decoder(_CountedBatch).decode
_decode_create = msgspec.json.Decoder(_SpanCreate).decode
_decode_patch = msgspec.json.Decoder(_SpanPatch).decode


def decode_batch(body: bytes, account: str) -> list[SpanRow]:
    """Return the rows of `{"items": [...]}`, in order.

    Raises:
        InvalidRequestError: 422 or 400, with all offenders.
    """
    body, marker = json_text.mark_unsafe(body)
    if len(body) > _BIG_BODY_BYTES:
        # A million tiny items would cost a hundred times their text: count before building them.
        _check_count(decode_json(_decode_counted_batch, body).items)
    try:
        items = _decode_batch(body).items
    except msgspec.ValidationError as error:
        _raise_all(body, account, marker, error)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise malformed(error) from None
    _check_count(items)
    check = Checks(marker, has_long_number=json_text.has_long_number(body))
    rows = [_to_row(check, item, ("body", "items", n), account) for n, item in enumerate(items)]
    check.finish()
    return rows


def decode_create(body: bytes, account: str) -> SpanRow:
    """Return the row of one SpanCreate.

    Raises:
        InvalidRequestError: 422 or 400.
    """
    body, marker = json_text.mark_unsafe(body)
    item = decode_json(_decode_create, body)
    check = Checks(marker, has_long_number=json_text.has_long_number(body))
    row = _to_row(check, item, ("body",), account)
    check.finish()
    return row


def decode_patch(body: bytes) -> SpanPatch:
    """Return the changes of one SpanPatch.

    Raises:
        InvalidRequestError: 422 or 400.
    """
    body, marker = json_text.mark_unsafe(body)
    item = decode_json(_decode_patch, body)
    check = Checks(marker, has_long_number=json_text.has_long_number(body))
    loc: Loc = ("body",)
    metadata = check.payload(item.metadata, loc, "metadata")
    patch = SpanPatch(
        name=None if item.name is None else check.text(item.name),
        end_ns=check.timestamp(item.end_timestamp, loc, "end_timestamp"),
        status=None if item.status is None else item.status.value,
        output=check.payload(item.output, loc, "output"),
        metadata=metadata,
        task_id=read_task_id(metadata),
    )
    check.finish()
    return patch


def _to_row(check: Checks, item: _SpanCreate, loc: Loc, account: str) -> SpanRow:
    start_ns = check.timestamp(item.start_timestamp, loc, "start_timestamp")
    end_ns = check.timestamp(item.end_timestamp, loc, "end_timestamp")
    if end_ns is not None and start_ns is not None and end_ns < start_ns:
        check.say(loc, "end_timestamp", "end_timestamp is before start_timestamp", "range")
    if item.obs_span_id is not None and item.obs_trace_id is None:
        check.say(loc, "obs_span_id", "obs_span_id needs obs_trace_id", "missing")
    metadata = check.payload(item.metadata, loc, "metadata")
    output = check.payload(item.output, loc, "output")
    span_id = item.id
    return SpanRow(
        account=account,
        trace_id=check.identity(item.trace_id, loc, "trace_id", TRACE_ID_MAX) or "",
        id=new_id() if span_id is None else check.identity(span_id, loc, "id", ID_MAX) or "",
        name=check.text(item.name),
        start_ns=start_ns or 0,
        end_ns=end_ns,
        # An empty text is how some senders write "none"; no span can have that id.
        parent_id=check.identity(item.parent_id or None, loc, "parent_id", ID_MAX),
        task_id=read_task_id(metadata),
        type=None if item.type is None else item.type.value,
        status=None if item.status is None else item.status.value,
        group_id=check.identity(item.group_id or None, loc, "group_id", ID_MAX),
        application_interaction_id=check.optional(item.application_interaction_id),
        application_variant_id=check.optional(item.application_variant_id),
        obs_trace_id=check.hex(item.obs_trace_id, loc, "obs_trace_id", 32),
        obs_span_id=check.hex(item.obs_span_id, loc, "obs_span_id", 16),
        input=check.payload(item.input, loc, "input"),
        output=output,
        metadata=metadata,
        expected=check.payload(item.expected, loc, "expected"),
        rev=read_rev(metadata),
    )


def _check_count(items: Sequence[object]) -> None:
    if len(items) > ITEMS_MAX:
        message = f"more than {ITEMS_MAX} items"
        raise InvalidRequestError(422, [Detail(("body", "items"), message, "too_long")])


def _raise_all(
    body: bytes, account: str, marker: str | None, first: msgspec.ValidationError
) -> NoReturn:
    """Decode item by item, to name every offender and not just the first."""
    only_first = InvalidRequestError(422, [to_detail(first, ("body",))])
    if body.count(b",") > 1_000_000:
        raise only_first  # As many items could cost a gigabyte here.
    try:
        items = _decode_raw_batch(body).items
    except (msgspec.MsgspecError, RecursionError):
        raise only_first from None
    _check_count(items)
    check = Checks(marker, has_long_number=json_text.has_long_number(body))
    for n, raw in enumerate(items):
        loc: Loc = ("body", "items", n)
        try:
            _to_row(check, _decode_create(raw), loc, account)
        except msgspec.ValidationError as error:
            check.add(to_detail(error, loc))
    check.finish()
    raise only_first
