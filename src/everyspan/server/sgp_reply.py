"""What the SGP spans API answers (`sgp` §3): rows to JSON text, payloads spliced in unparsed.

It knows neither arrays nor tasks: an array shows as `{"items": [...]}`, a task in the metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from everyspan.model.span import TASK_ID_KEY
from everyspan.server.row import (
    DEFAULT_STATUS,
    DEFAULT_TYPE,
    SpanRow,
    as_object,
    read_task_id,
    with_members,
)
from everyspan.server.sgp_search import place_of, to_cursor
from everyspan.server.stores.base import SearchPage, SearchQuery
from everyspan.server.timestamps import format_timestamp

_T = TypeVar("_T")


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


_encode = msgspec.json.Encoder().encode


def encode_span(row: SpanRow) -> bytes:
    """Return a Span."""
    return _encode(_to_out(row))


def encode_list(rows: Sequence[SpanRow]) -> bytes:
    """Return a SpanList."""
    return _encode(_ListOut([_to_out(row) for row in rows]))


def encode_page(page: SearchPage, query: SearchQuery) -> bytes:
    """Return a SpanPage."""
    rows, sort_by = page.rows, query.sort_by
    backward = query.before is not None
    # The places of the first and the last of what was looked at, in the asked order.
    ends = [place_of(row, sort_by) for row in (rows[:1] + rows[-1:])]
    if page.through is not None:
        # Time was over; further spans were looked at in vain.
        ends = [page.through, *ends[1:]] if backward else [*ends[:1], page.through]
    more_after = bool(ends) and (backward or page.has_more)
    more_before = bool(ends) and (page.has_more if backward else query.after is not None)
    partial = page.stopped == "time"
    through = ends[0 if backward else -1].value if ends else None
    return _encode(
        _PageOut(
            items=[_to_out(row) for row in rows],
            has_more=page.has_more,
            limit=query.limit,
            total=0,
            next_cursor=to_cursor(ends[-1], sort_by) if more_after else None,
            prev_cursor=to_cursor(ends[0], sort_by) if more_before else None,
            search_status="partial" if partial else "complete",
            searched_through=(
                format_timestamp(through)
                if partial and sort_by == "start_timestamp" and through is not None
                else None
            ),
        )
    )


def _to_out(row: SpanRow) -> _SpanOut:
    def optional(value: _T | None) -> _T | UnsetType:
        return UNSET if value is None else value

    def payload(value: bytes | None) -> Raw | UnsetType:
        return UNSET if value is None else Raw(as_object(value))

    facts = row.facts
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
        metadata=payload(_metadata(row)),
        expected=payload(row.expected),
        input_tokens=optional(facts.input_tokens),
        output_tokens=optional(facts.output_tokens),
    )


def _metadata(row: SpanRow) -> bytes | None:
    metadata = row.metadata
    if row.task_id is None or read_task_id(metadata) == row.task_id:
        return metadata
    return with_members(metadata and as_object(metadata), {TASK_ID_KEY: row.task_id})
