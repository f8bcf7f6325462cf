"""Bodies of the SGP spans API to rows and back (`sgp` §3, §6, §7).

C1  Every rule that needs no store is checked here, before anything is written (`sgp:E5`).
C2  Every offending item of a batch is named by its path, so that a sender can cut them all out
    at once (`sgp:E4`); at most ERRORS_MAX are listed.
C3  Error texts never repeat what was sent.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from everyspan.errors import RequestError
from everyspan.model.ids import new_id
from everyspan.model.span import SpanStatus, SpanType
from everyspan.server import json_text
from everyspan.server.problem import Detail, InvalidRequestError
from everyspan.server.row import (
    DEFAULT_STATUS,
    DEFAULT_TYPE,
    EMPTY_OBJECT,
    SpanRow,
    read_rev,
    read_usage,
)
from everyspan.server.stores.base import (
    Position,
    SearchPage,
    SearchQuery,
    SortBy,
    SpanPatch,
    sort_value,
)
from everyspan.server.timestamps import format_timestamp, parse_timestamp

ITEMS_MAX = 1_000
ID_MAX = 256
TRACE_ID_MAX = 4_096
"""Chosen: "any text" must still fit an index."""
ERRORS_MAX = 100
SEARCH_IDS_MAX = 10_000
SEARCH_LIMIT_MAX = 10_000
SEARCH_VALUES_MAX = 1_000
"""Values of each other list in a search; chosen: SQL takes about 32,000 in all."""
_BIG_BODY_BYTES = 4 * 1024 * 1024
_DURATION_MS_MAX = 2**63 // 1_000_000
_CURSOR_PREFIX = "esc1."

_T = TypeVar("_T")
_Loc = tuple[str | int, ...]


# -- Shapes on the wire


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


class _Pair(msgspec.Struct):
    trace_id: str
    span_id: str


class _Search(msgspec.Struct, forbid_unknown_fields=True):
    trace_ids: list[str] | None = None
    span_ids: list[str] | None = None
    parent_ids: list[str] | None = None
    spans: list[_Pair] | None = None
    excluded_span_ids: list[str] | None = None
    excluded_trace_ids: list[str] | None = None
    excluded_spans: list[_Pair] | None = None
    parents_only: bool | None = None
    names: list[str] | None = None
    statuses: list[str] | None = None
    types: list[str] | None = None
    group_id: str | None = None
    application_variant_ids: list[str] | None = None
    acp_types: list[str] | None = None
    agentex_agent_names: list[str] | None = None
    agentex_agent_ids: list[str] | None = None
    obs_trace_ids: list[str] | None = None
    obs_span_ids: list[str] | None = None
    min_duration_ms: int | None = None
    max_duration_ms: int | None = None
    extra_metadata: dict[str, Any] | None = None
    assessment_types: list[Any] | None = None
    search_texts: list[Any] | None = None


class _SpanOut(msgspec.Struct, tag_field="object", tag="span"):
    id: str
    trace_id: str
    account_id: str
    name: str
    start_timestamp: str
    type: str
    status: str
    end_timestamp: str | UnsetType = UNSET
    parent_id: str | UnsetType = UNSET
    group_id: str | UnsetType = UNSET
    application_interaction_id: str | UnsetType = UNSET
    application_variant_id: str | UnsetType = UNSET
    obs_trace_id: str | UnsetType = UNSET
    obs_span_id: str | UnsetType = UNSET
    input: Any = UNSET
    output: Any = UNSET
    metadata: Any = UNSET
    expected: Any = UNSET
    input_tokens: int | UnsetType = UNSET
    output_tokens: int | UnsetType = UNSET


class _ListOut(msgspec.Struct, tag_field="object", tag="list"):
    items: list[_SpanOut]


class _PageOut(msgspec.Struct, tag_field="object", tag="list"):
    items: list[_SpanOut]
    has_more: bool
    limit: int
    total: int
    next_cursor: str | None
    prev_cursor: str | None
    search_status: str
    searched_through: str | None


_decode_batch = msgspec.json.Decoder(_Batch).decode
_decode_raw_batch = msgspec.json.Decoder(_RawBatch).decode
_decode_counted_batch = msgspec.json.Decoder(_CountedBatch).decode
_decode_create = msgspec.json.Decoder(_SpanCreate).decode
_decode_patch = msgspec.json.Decoder(_SpanPatch).decode
_decode_search = msgspec.json.Decoder(_Search).decode
_encode = msgspec.json.Encoder().encode


# -- Writing


def decode_batch(body: bytes, account: str) -> list[SpanRow]:
    """Return the rows of `{"items": [...]}`, in order.

    Raises:
        InvalidRequestError: 422 or 400, with all offenders.
    """
    body, marker = json_text.mark_unsafe(body)
    if len(body) > _BIG_BODY_BYTES:
        # A million tiny items would cost a hundred times their text: count before building them.
        _check_count(_decode(_decode_counted_batch, body).items)
    try:
        items = _decode_batch(body).items
    except msgspec.ValidationError as error:
        _raise_all(body, account, marker, error)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _malformed(error) from None
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
    item = _decode(_decode_create, body)
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
    item = _decode(_decode_patch, body)
    check = _Check("", marker, has_long_number=json_text.has_long_number(body))
    loc: _Loc = ("body",)
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

    def row(self, item: _SpanCreate, loc: _Loc) -> SpanRow:
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

    def timestamp(self, text: str | None, loc: _Loc, field: str) -> int | None:
        if text is None:
            return None
        try:
            return parse_timestamp(text)
        except ValueError as error:
            self._say(loc, field, f"{field} is {error}", "timestamp")
            return None

    def payload(self, raw: Raw, loc: _Loc, field: str) -> bytes | None:
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

    def _identity(self, text: str | None, loc: _Loc, field: str, length_max: int) -> str | None:
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

    def _hex(self, text: str | None, loc: _Loc, field: str, length: int) -> str | None:
        if text is not None and not _is_hex(text, length):
            self._say(loc, field, f"{field} is not {length} lowercase hex digits", "hex")
        return text

    def _say(self, loc: _Loc, field: str, message: str, kind: str) -> None:
        self.add(Detail((*loc, field), message, kind))


def _check_count(items: Sequence[object]) -> None:
    if len(items) > ITEMS_MAX:
        message = f"more than {ITEMS_MAX} items"
        raise InvalidRequestError(422, [Detail(("body", "items"), message, "too_long")])


def _decode(decode: Callable[[bytes], _T], body: bytes) -> _T:
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(422, [_detail(error, ("body",))]) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _malformed(error) from None


def _raise_all(
    body: bytes, account: str, marker: str | None, first: msgspec.ValidationError
) -> NoReturn:
    """Decode item by item, to name every offender and not just the first."""
    only_first = InvalidRequestError(422, [_detail(first, ("body",))])
    if body.count(b",") > 1_000_000:
        raise only_first  # As many items could cost a gigabyte here.
    try:
        items = _decode_raw_batch(body).items
    except (msgspec.MsgspecError, RecursionError):
        raise only_first from None
    _check_count(items)
    check = _Check(account, marker, has_long_number=json_text.has_long_number(body))
    for n, raw in enumerate(items):
        loc: _Loc = ("body", "items", n)
        try:
            check.row(_decode_create(raw), loc)
        except msgspec.ValidationError as error:
            check.add(_detail(error, loc))
    check.finish()
    raise only_first


_PATH = re.compile(r" - at `\$(.*)`$")
_STEP = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(\w+)`")


def _detail(error: msgspec.ValidationError, loc: _Loc) -> Detail:
    """Turn msgspec's text into path and message."""
    text = str(error)
    path = _PATH.search(text)
    if path is not None:
        text = text[: path.start()]
        steps = _STEP.findall(path.group(1))
        loc = (*loc, *(name if name else int(index) for name, index in steps))
    missing = _MISSING.match(text)
    if missing is not None:
        return Detail((*loc, missing.group(1)), "is required", "missing")
    unknown = _UNKNOWN.match(text)
    if unknown is not None:
        return Detail((*loc, unknown.group(1)[:64]), "unknown field", "unknown")
    if text.startswith("Invalid enum value"):
        text = "not one of the allowed values"  # Its text repeats what was sent (C3).
    return Detail(loc, text.replace("`", ""), "type")


def _malformed(error: Exception) -> InvalidRequestError:
    if isinstance(error, RecursionError):
        return InvalidRequestError(400, [Detail(("body",), "nests too deep", "too_deep")])
    return InvalidRequestError(
        400, [Detail(("body",), str(error), "json_invalid")], code="INVALID_JSON"
    )


# -- Reading


def decode_search(body: bytes, params: Mapping[str, str], account: str) -> SearchQuery:
    """Return the query of a search request.

    Raises:
        InvalidRequestError: 422; a value that is not allowed, or a filter that is not supported.
        RequestError: 400 INVALID_CURSOR.
    """
    body, _ = json_text.mark_unsafe(body)
    filters = _decode(_decode_search, body) if body.strip() else _Search()
    errors: list[Detail] = []

    for field in ("assessment_types", "search_texts"):
        if getattr(filters, field):
            errors.append(
                Detail(
                    ("body", field), "this filter is not supported by this server", "unsupported"
                )
            )
    ids = 0
    for name, values in msgspec.structs.asdict(filters).items():
        if not isinstance(values, list):
            continue
        if name in _ID_LISTS:
            ids += len(values) * _ID_LISTS[name]
        elif len(values) > SEARCH_VALUES_MAX:
            errors.append(
                Detail(("body", name), f"more than {SEARCH_VALUES_MAX} values", "too_long")
            )
    if ids > SEARCH_IDS_MAX:
        errors.append(Detail(("body",), f"more than {SEARCH_IDS_MAX} ids", "too_long"))
    for name, length in (("obs_trace_ids", 32), ("obs_span_ids", 16)):
        for n, value in enumerate(getattr(filters, name) or ()):
            if not _is_hex(value, length):
                errors.append(
                    Detail(("body", name, n), f"not {length} lowercase hex digits", "hex")
                )
    for name in ("min_duration_ms", "max_duration_ms"):
        value = getattr(filters, name)
        if value is not None and not 0 <= value < _DURATION_MS_MAX:
            errors.append(Detail(("body", name), "not a duration in milliseconds", "range"))

    limit = _limit(params.get("limit"), errors)
    sort_by = _sort_by(params.get("sort_by"))
    descending = _choice(params, "sort_order", {"asc": False, "desc": True}, errors)
    from_ns = _time_param(params, "from_ts", errors)
    to_ns = _time_param(params, "to_ts", errors)
    if from_ns is not None and to_ns is not None and from_ns > to_ns:
        errors.append(Detail(("query", "from_ts"), "from_ts is after to_ts", "range"))
    after, before = params.get("starting_after"), params.get("ending_before")
    if after and before:
        errors.append(
            Detail(("query", "ending_before"), "starting_after is given too", "exclusive")
        )
    if errors:
        raise InvalidRequestError(422, errors[:ERRORS_MAX])

    return SearchQuery(
        account=account,
        limit=limit,
        sort_by=sort_by,
        descending=descending,
        after=_cursor(after, sort_by),
        before=_cursor(before, sort_by),
        from_ns=from_ns,
        to_ns=to_ns,
        trace_ids=_distinct(filters.trace_ids),
        span_ids=_distinct(filters.span_ids),
        parent_ids=_distinct(filters.parent_ids),
        spans=_pairs(filters.spans),
        excluded_span_ids=_distinct(filters.excluded_span_ids),
        excluded_trace_ids=_distinct(filters.excluded_trace_ids),
        excluded_spans=_pairs(filters.excluded_spans),
        parents_only=bool(filters.parents_only),
        names=_distinct(filters.names),
        statuses=_distinct(filters.statuses),
        types=_distinct(filters.types),
        group_id=filters.group_id,
        application_variant_ids=_distinct(filters.application_variant_ids),
        obs_trace_ids=_distinct(filters.obs_trace_ids),
        obs_span_ids=_distinct(filters.obs_span_ids),
        min_duration_ns=_ms_to_ns(filters.min_duration_ms),
        max_duration_ns=_ms_to_ns(filters.max_duration_ms),
        metadata=_metadata(filters),
    )


def reads_partial_results(params: Mapping[str, str]) -> bool:
    """Return `allow_partial_results`.

    Raises:
        InvalidRequestError: 422; neither true nor false.
    """
    errors: list[Detail] = []
    answer = _choice(params, "allow_partial_results", {"false": False, "true": True}, errors)
    if errors:
        raise InvalidRequestError(422, errors)
    return answer


_ID_LISTS = {
    "trace_ids": 1,
    "span_ids": 1,
    "parent_ids": 1,
    "excluded_span_ids": 1,
    "excluded_trace_ids": 1,
    "spans": 2,
    "excluded_spans": 2,
}


def _limit(text: str | None, errors: list[Detail]) -> int:
    if text is None:
        return 100
    if text.isascii() and text.isdigit() and len(text) < 7 and 1 <= int(text) <= SEARCH_LIMIT_MAX:
        return int(text)
    errors.append(Detail(("query", "limit"), f"not a number from 1 to {SEARCH_LIMIT_MAX}", "range"))
    return 1


def _sort_by(text: str | None) -> SortBy:
    match text:
        case "duration_ms" | "input_tokens" | "output_tokens":
            return text
        case _:
            return "start_timestamp"  # An unknown value too (`sgp` §7).


def _choice(
    params: Mapping[str, str], name: str, choices: dict[str, bool], errors: list[Detail]
) -> bool:
    text = params.get(name)
    if text is None:
        return False
    if text not in choices:
        errors.append(Detail(("query", name), f"not one of {', '.join(choices)}", "enum"))
        return False
    return choices[text]


def _time_param(params: Mapping[str, str], name: str, errors: list[Detail]) -> int | None:
    text = params.get(name)
    if text is None:
        return None
    try:
        return parse_timestamp(text)
    except ValueError as error:
        errors.append(Detail(("query", name), f"{name} is {error}", "timestamp"))
        return None


def _ms_to_ns(ms: int | None) -> int | None:
    return None if ms is None else ms * 1_000_000


def _distinct(values: list[str] | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values or ()))


def _pairs(pairs: list[_Pair] | None) -> tuple[tuple[str, str], ...]:
    return tuple(dict.fromkeys((pair.trace_id, pair.span_id) for pair in pairs or ()))


def _metadata(filters: _Search) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    wanted: list[tuple[str, tuple[Any, ...]]] = [
        (key, tuple(value) if isinstance(value, list) else (value,))
        for key, value in (filters.extra_metadata or {}).items()
    ]
    for key, names in (
        ("__acp_type__", filters.acp_types),
        ("__agent_name__", filters.agentex_agent_names),
        ("__agent_id__", filters.agentex_agent_ids),
    ):
        if names:
            wanted.append((key, tuple(names)))
    return tuple(wanted)


def _is_hex(text: str, length: int) -> bool:
    return len(text) == length and not set(text) - set("0123456789abcdef")


# -- Cursors


def _cursor(text: str | None, sort_by: SortBy) -> Position | str | None:
    """Return what a cursor names: our own opaque one, else a bare span id (`sgp:K1`)."""
    if not text:
        return None
    if not text.startswith(_CURSOR_PREFIX):
        return text
    try:
        order, value, trace_id, span_id = msgspec.json.decode(
            base64.urlsafe_b64decode(text[len(_CURSOR_PREFIX) :]), type=tuple[str, int, str, str]
        )
    except (ValueError, msgspec.MsgspecError):
        return text
    if order != sort_by or not 0 <= value < 2**63:
        raise RequestError(400, "INVALID_CURSOR", "the cursor belongs to another sort_by")
    return Position(value, trace_id, span_id)


def _to_cursor(row: SpanRow, sort_by: SortBy) -> str:
    place = (sort_by, sort_value(row, sort_by), row.trace_id, row.id)
    return _CURSOR_PREFIX + base64.urlsafe_b64encode(_encode(place)).decode()


# -- Replies


def encode_span(row: SpanRow) -> bytes:
    """Return a Span."""
    return _encode(_to_out(row))


def encode_list(rows: Sequence[SpanRow]) -> bytes:
    """Return a SpanList."""
    return _encode(_ListOut([_to_out(row) for row in rows]))


def encode_page(page: SearchPage, query: SearchQuery) -> bytes:
    """Return a SpanPage."""
    rows = page.rows
    backward = query.before is not None
    more_after = bool(rows) and (backward or page.has_more)
    more_before = bool(rows) and (page.has_more if backward else query.after is not None)
    partial = page.stopped == "time"
    through = rows[0 if backward else -1].start_ns if rows else None
    by_time = query.sort_by == "start_timestamp"
    return _encode(
        _PageOut(
            items=[_to_out(row) for row in rows],
            has_more=page.has_more,
            limit=query.limit,
            total=0,
            next_cursor=_to_cursor(rows[-1], query.sort_by) if more_after else None,
            prev_cursor=_to_cursor(rows[0], query.sort_by) if more_before else None,
            search_status="partial" if partial else "complete",
            searched_through=(
                format_timestamp(through) if partial and by_time and through is not None else None
            ),
        )
    )


def _to_out(row: SpanRow) -> _SpanOut:
    def optional(value: _T | None) -> _T | UnsetType:
        return UNSET if value is None else value

    def payload(value: bytes | None) -> Raw | UnsetType:
        return UNSET if value is None else Raw(value)

    return _SpanOut(
        id=row.id,
        trace_id=row.trace_id,
        account_id=row.account,
        name=row.name,
        start_timestamp=format_timestamp(row.start_ns),
        type=row.type or DEFAULT_TYPE,
        status=row.status or DEFAULT_STATUS,
        end_timestamp=UNSET if row.end_ns is None else format_timestamp(row.end_ns),
        parent_id=optional(row.parent_id),
        group_id=optional(row.group_id),
        application_interaction_id=optional(row.application_interaction_id),
        application_variant_id=optional(row.application_variant_id),
        obs_trace_id=optional(row.obs_trace_id),
        obs_span_id=optional(row.obs_span_id),
        input=payload(row.input),
        output=payload(row.output),
        metadata=payload(row.metadata),
        expected=payload(row.expected),
        input_tokens=optional(row.input_tokens),
        output_tokens=optional(row.output_tokens),
    )
