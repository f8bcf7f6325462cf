"""Spans as they are written over the SGP spans API (`sgp` §3, §6): bodies to rows.

C1  Every rule that needs no store is checked here, before anything is written (`sgp:E5`).
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
from everyspan.server.json_body import Loc, decode_json, malformed, to_detail
from everyspan.server.problem import Detail, InvalidRequestError
from everyspan.server.row import EMPTY_OBJECT, SpanRow, read_rev, read_usage
from everyspan.server.stores.base import SpanPatch
from everyspan.server.timestamps import parse_timestamp

ITEMS_MAX = 1_000
ID_MAX = 256
TRACE_ID_MAX = 4_096
"""Chosen: "any text" must still fit an index."""
ERRORS_MAX = 100
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
    check = _Check(account, marker, has_long_number=json_text.has_long_number(body))
    rows = [check.row(item, ("body", "items", n)) for n, item in enumerate(items)]
    check.finish()
    return rows


def decode_create(body: bytes, account: str) -> SpanRow:
    """Return the row of one SpanCreate.

    Raises:
        InvalidRequestError: 422 or 400.
    """
    body, marker = json_text.mark_unsafe(body)
    item = decode_json(_decode_create, body)
    check = _Check(account, marker, has_long_number=json_text.has_long_number(body))
    row = check.row(item, ("body",))
    check.finish()
    return row


def decode_patch(body: bytes) -> SpanPatch:
    """Return the changes of one SpanPatch.

    Raises:
        InvalidRequestError: 422 or 400.
    """
    body, marker = json_text.mark_unsafe(body)
    item = decode_json(_decode_patch, body)
    check = _Check("", marker, has_long_number=json_text.has_long_number(body))
    loc: Loc = ("body",)
    patch = SpanPatch(
        name=None if item.name is None else check.text(item.name),
        end_ns=check.timestamp(item.end_timestamp, loc, "end_timestamp"),
        status=None if item.status is None else item.status.value,
        output=check.payload(item.output, loc, "output"),
        metadata=check.payload(item.metadata, loc, "metadata"),
    )
    check.finish()
    return patch


class _Check:
    """Turns decoded items into rows, and gathers what is wrong with them."""

    def __init__(self, account: str, marker: str | None, *, has_long_number: bool) -> None:
        self._account = account
        self._marker = marker
        self._has_long_number = has_long_number
        self._errors: list[Detail] = []
        self._status = 0

    def finish(self) -> None:
        if self._errors:
            raise InvalidRequestError(self._status, self._errors[:ERRORS_MAX])

    def add(self, detail: Detail, *, status: int = 422) -> None:
        # 422 wins where an item breaks rules of both kinds.
        self._status = max(self._status, status)
        self._errors.append(detail)

    def row(self, item: _SpanCreate, loc: Loc) -> SpanRow:
        start_ns = self.timestamp(item.start_timestamp, loc, "start_timestamp")
        end_ns = self.timestamp(item.end_timestamp, loc, "end_timestamp")
        if end_ns is not None and start_ns is not None and end_ns < start_ns:
            self._say(loc, "end_timestamp", "end_timestamp is before start_timestamp", "range")
        if item.obs_span_id is not None and item.obs_trace_id is None:
            self._say(loc, "obs_span_id", "obs_span_id needs obs_trace_id", "missing")
        metadata = self.payload(item.metadata, loc, "metadata")
        output = self.payload(item.output, loc, "output")
        input_tokens, output_tokens = read_usage(metadata, output)
        span_id = item.id
        return SpanRow(
            account=self._account,
            trace_id=self._identity(item.trace_id, loc, "trace_id", TRACE_ID_MAX) or "",
            id=new_id() if span_id is None else self._identity(span_id, loc, "id", ID_MAX) or "",
            name=self.text(item.name),
            start_ns=start_ns or 0,
            end_ns=end_ns,
            # An empty text is how some senders write "none"; no span can have that id.
            parent_id=self._identity(item.parent_id or None, loc, "parent_id", ID_MAX),
            type=None if item.type is None else item.type.value,
            status=None if item.status is None else item.status.value,
            group_id=self._identity(item.group_id or None, loc, "group_id", ID_MAX),
            application_interaction_id=self._optional(item.application_interaction_id),
            application_variant_id=self._optional(item.application_variant_id),
            obs_trace_id=self._hex(item.obs_trace_id, loc, "obs_trace_id", 32),
            obs_span_id=self._hex(item.obs_span_id, loc, "obs_span_id", 16),
            input=self.payload(item.input, loc, "input"),
            output=output,
            metadata=metadata,
            expected=self.payload(item.expected, loc, "expected"),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            rev=read_rev(metadata),
        )

    def timestamp(self, text: str | None, loc: Loc, field: str) -> int | None:
        if text is None:
            return None
        try:
            return parse_timestamp(text)
        except ValueError as error:
            self._say(loc, field, f"{field} is {error}", "timestamp")
            return None

    def payload(self, raw: Raw, loc: Loc, field: str) -> bytes | None:
        text = bytes(raw)
        if not text or text == b"null":
            return None
        if text[0] != 123:  # "{"
            self._say(loc, field, f"{field} is not an object", "object_type")
        elif len(text) < 64 and not text[1:-1].strip():
            return EMPTY_OBJECT
        elif json_text.is_too_deep(text):
            self._say(loc, field, f"{field} nests deeper than {json_text.DEPTH_MAX}", "too_deep")
        elif self._has_long_number and json_text.has_long_number(text):
            self._say(
                loc,
                field,
                f"{field} has a number of over {json_text.DIGITS_MAX} digits",
                "too_long",
            )
        return text if self._marker is None else json_text.replace_marker(text, self._marker)

    def text(self, text: str) -> str:
        return text if self._marker is None else text.replace(self._marker, json_text.REPLACEMENT)

    def _optional(self, text: str | None) -> str | None:
        return None if text is None else self.text(text)

    def _identity(self, text: str | None, loc: Loc, field: str, length_max: int) -> str | None:
        if text is None:
            return None
        if not text:
            self._say(loc, field, f"{field} is empty", "too_short")
        elif len(text) > length_max:
            self._say(loc, field, f"{field} has more than {length_max} characters", "too_long")
        elif not text.isascii() and len(text.encode()) > length_max:
            detail = Detail((*loc, field), f"{field} has more than {length_max} bytes", "too_long")
            self.add(detail, status=400)
        if self._marker is not None and self._marker in text:
            detail = Detail((*loc, field), f"{field} holds NUL or invalid UTF-8", "encoding")
            self.add(detail, status=400)
        return text

    def _hex(self, text: str | None, loc: Loc, field: str, length: int) -> str | None:
        if text is not None and not is_hex(text, length):
            self._say(loc, field, f"{field} is not {length} lowercase hex digits", "hex")
        return text

    def _say(self, loc: Loc, field: str, message: str, kind: str) -> None:
        self.add(Detail((*loc, field), message, kind))


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
    check = _Check(account, marker, has_long_number=json_text.has_long_number(body))
    for n, raw in enumerate(items):
        loc: Loc = ("body", "items", n)
        try:
            check.row(_decode_create(raw), loc)
        except msgspec.ValidationError as error:
            check.add(to_detail(error, loc))
    check.finish()
    raise only_first


def is_hex(text: str, length: int) -> bool:
    """Whether `text` is that many lowercase hex digits."""
    return len(text) == length and not set(text) - set("0123456789abcdef")
