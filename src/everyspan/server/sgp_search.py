"""Searches over the SGP spans API (`sgp` §7): body, query string and cursors to a query.

A filter that is not supported is refused by name, never ignored.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from everyspan.errors import RequestError
from everyspan.model.span import TASK_ID_KEY
from everyspan.server import json_text
from everyspan.server.assessments import AssessmentType
from everyspan.server.checks import ERRORS_MAX, is_hex
from everyspan.server.json_body import decode_json
from everyspan.server.problem import Detail, InvalidRequestError
from everyspan.server.row import SpanRow, is_task_id
from everyspan.server.stores.base import Position, SearchQuery, SortBy, sort_value
from everyspan.server.terms import (
    TERM_LENGTH_MAX,
    TERM_LENGTH_MIN,
    TERMS_MAX,
    Texts,
    parse_texts,
)
from everyspan.server.timestamps import parse_timestamp

SEARCH_IDS_MAX = 10_000
SEARCH_LIMIT_MAX = 10_000
SEARCH_VALUES_MAX = 1_000
"""Values of each other list in a search; chosen: SQL takes about 32,000 in all."""
_DURATION_MS_MAX = 2**63 // 1_000_000
_CURSOR_PREFIX = "esc1."


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
    assessment_types: list[AssessmentType] | None = None
    search_texts: list[str] | None = None


_decode_search = msgspec.json.Decoder(_Search).decode
_encode = msgspec.json.Encoder().encode


def decode_search(body: bytes, params: Mapping[str, str], account: str) -> SearchQuery:
    """Return the query of a search request.

    Raises:
        InvalidRequestError: 422; a value that is not allowed, or a filter that is not supported.
        RequestError: 400 INVALID_CURSOR.
    """
    body, _ = json_text.mark_unsafe(body)
    filters = decode_json(_decode_search, body) if body.strip() else _Search()
    errors: list[Detail] = []

    texts = _texts(filters.search_texts or [], errors)
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
            if not is_hex(value, length):
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

    metadata = _metadata(filters)
    task_ids = _take_task_ids(metadata)
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
        task_ids=task_ids,
        metadata=tuple(metadata),
        assessment_types=tuple(dict.fromkeys(filters.assessment_types or ())),
        texts=texts,
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


def _texts(typed: list[str], errors: list[Detail]) -> Texts:
    if len(typed) > TERMS_MAX:
        errors.append(Detail(("body", "search_texts"), f"more than {TERMS_MAX} terms", "too_long"))
        return Texts()
    try:
        return parse_texts(typed)
    except ValueError as error:
        message = f"not {TERM_LENGTH_MIN} to {TERM_LENGTH_MAX} characters"
        errors.append(Detail(("body", "search_texts", *error.args), message, "length"))
        return Texts()


def _metadata(filters: _Search) -> list[tuple[str, tuple[Any, ...]]]:
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
    return wanted


def _take_task_ids(metadata: list[tuple[str, tuple[Any, ...]]]) -> tuple[str, ...]:
    """Return, and take out of `metadata`, the tasks asked for: rows hold them apart."""
    for place, (key, values) in enumerate(metadata):
        if key == TASK_ID_KEY and values and all(is_task_id(value) for value in values):
            del metadata[place]
            return values
    return ()


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


def place_of(row: SpanRow, sort_by: SortBy) -> Position:
    """Return where `row` lies."""
    return Position(sort_value(row, sort_by), row.trace_id, row.id)


def to_cursor(place: Position, sort_by: SortBy) -> str:
    """Return the opaque cursor of a place."""
    text = _encode((sort_by, place.value, place.trace_id, place.id))
    return _CURSOR_PREFIX + base64.urlsafe_b64encode(text).decode()
