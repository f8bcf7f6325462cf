"""What a search of spans must answer, by looking at each row: slow, short and plain (`sgp` §7)."""

from __future__ import annotations

import json
from typing import Any

from everyspan.server.row import SpanRow, as_object
from everyspan.server.stores.base import Position, SearchQuery, sort_value
from everyspan.server.terms import Answers, readable

Assessed = dict[tuple[str, str, str], str]
"""The type of the assessment that a span has, by account, trace and id."""


def order_of(row: SpanRow, query: SearchQuery) -> tuple[int, str, str]:
    return (sort_value(row, query.sort_by), row.trace_id, row.id)


def matches(row: SpanRow, query: SearchQuery, assessed: Assessed) -> bool:
    """Whether a row passes all filters."""
    duration = -1 if row.end_ns is None else row.end_ns - row.start_ns
    pair = (row.trace_id, row.id)
    if query.excluded_spans:
        excluded = pair in query.excluded_spans
    else:
        excluded = row.id in query.excluded_span_ids
    any_of: list[tuple[Any, tuple[Any, ...]]] = [
        (row.trace_id, query.trace_ids),
        (row.task_id, query.task_ids),
        (row.id, query.span_ids),
        (row.parent_id, query.parent_ids),
        (pair, query.spans),
        (row.name, query.names),
        (row.status or "SUCCESS", query.statuses),
        (row.type or "STANDALONE", query.types),
        (row.application_variant_id, query.application_variant_ids),
        (row.obs_trace_id, query.obs_trace_ids),
        (row.obs_span_id, query.obs_span_ids),
    ]
    return (
        row.account == query.account
        and all(not wanted or value in wanted for value, wanted in any_of)
        and not excluded
        and row.trace_id not in query.excluded_trace_ids
        and not (query.parents_only and row.parent_id is not None)
        and query.group_id in (None, row.group_id)
        and (query.from_ns is None or row.start_ns >= query.from_ns)
        and (query.to_ns is None or row.start_ns <= query.to_ns)
        and (query.min_duration_ns is None or duration >= query.min_duration_ns >= 0)
        and (query.max_duration_ns is None or 0 <= duration <= query.max_duration_ns)
        and _any_in(assessed.get((row.account, row.trace_id, row.id)), query.assessment_types)
        and all(_has_metadata(row, key, values) for key, values in query.metadata)
        and _has_texts(row, query)
    )


def search(rows: list[SpanRow], query: SearchQuery, assessed: Assessed) -> list[SpanRow]:
    """Return all rows that match, beyond the Position of the query, in the asked order."""
    found = [row for row in rows if matches(row, query, assessed)]
    found.sort(key=lambda row: order_of(row, query), reverse=query.descending)
    place = query.after or query.before
    if place is not None:
        assert isinstance(place, Position)
        at = (place.value, place.trace_id, place.id)
        beyond = query.descending != (query.before is not None)
        found = [
            row
            for row in found
            if (order_of(row, query) < at if beyond else order_of(row, query) > at)
        ]
    return found


def _any_in(found: str | None, wanted: tuple[str, ...]) -> bool:
    return not wanted or found in wanted


def _has_metadata(row: SpanRow, key: str, values: tuple[Any, ...]) -> bool:
    members = json.loads(as_object(row.metadata or b"{}"))
    return key in members and any(
        json.dumps(members[key], sort_keys=True) == json.dumps(value, sort_keys=True)
        for value in values
    )


def _has_texts(row: SpanRow, query: SearchQuery) -> bool:
    if not query.texts.terms and not query.texts.trace_ids:
        return True
    payloads = [payload for payload in (row.input, row.output, row.metadata) if payload]
    return Answers(query.texts).hit(row.trace_id, row.name, map(readable, payloads))
