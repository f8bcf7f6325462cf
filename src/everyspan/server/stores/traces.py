"""What can be asked of a store about traces, and what it answers."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from everyspan.server.summary import Facet, TraceSort, TraceSummary

SpanGroup = Literal["model", "name", "type", "agent"]
QUERY_TIME_MAX_S = 10.0


class TraceFilter(msgspec.Struct, kw_only=True, frozen=True):
    """Which traces; all conditions hold together, an empty one is none.

    Times are nanoseconds of the trace's start, `to_ns` not included. `facets` holds a facet and
    the values of which a trace must have one.
    """

    account: str
    from_ns: int | None = None
    to_ns: int | None = None
    facets: tuple[tuple[Facet, tuple[str, ...]], ...] = ()
    min_duration_ns: int | None = None
    max_duration_ns: int | None = None
    min_tokens: int | None = None
    min_cost_usd: float | None = None
    traces: tuple[bytes, ...] | None = None
    """Only these, by key; none at all where it is empty."""


class TracePosition(msgspec.Struct, frozen=True, array_like=True):
    """A place between traces in an order: just beyond the one with this sort value."""

    sort: TraceSort
    value: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | float
    trace: Annotated[bytes, msgspec.Meta(max_length=16)]


class TraceQuery(msgspec.Struct, kw_only=True, frozen=True):
    """One page of traces; at most one of `after` and `before` is set."""

    filter: TraceFilter
    sort: TraceSort = "start"
    descending: bool = True
    limit: int = 100
    after: TracePosition | None = None
    before: TracePosition | None = None


class Trace(msgspec.Struct, frozen=True):
    """A trace: its 16 bytes in OpenTelemetry, the change that summarised it, and its summary."""

    key: bytes
    change: int
    summary: TraceSummary


class TracePage(msgspec.Struct, frozen=True):
    """Traces in the order asked for, backward pages too; whether there are more either way."""

    traces: list[Trace]
    has_next: bool
    has_previous: bool


class FacetValue(msgspec.Struct, frozen=True):
    """A value of a facet, and how many traces have it."""

    value: str
    traces: int


class Figures(msgspec.Struct, kw_only=True):
    """Sums over traces, or over spans; latencies of those that ended, in nanoseconds, within 2 %.

    `errors` counts traces or spans with an error; `running` and `incomplete` are of traces.
    """

    count: int = 0
    errors: int = 0
    running: int = 0
    incomplete: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    p50_ns: int | None = None
    p95_ns: int | None = None
    p99_ns: int | None = None


class Series(msgspec.Struct, frozen=True):
    """Figures over time: bucket `n` begins `n` buckets after `from_ns`; empty ones are left out."""

    from_ns: int
    bucket_ns: int
    total: Figures
    buckets: list[tuple[int, Figures]]


class Group(msgspec.Struct, frozen=True):
    """Figures of the spans that share a value; None is that of spans without one."""

    value: str | None
    figures: Figures


class Overview(msgspec.Struct, frozen=True):
    """Groups, the largest first; `since_ns` is the start of the oldest span looked at.

    `is_partial`: there were more spans, older ones, than are looked at.
    """

    groups: list[Group]
    spans: int
    since_ns: int | None
    is_partial: bool


class SpanOutline(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A span without its payloads."""

    change: int
    id: str
    trace_id: str
    parent_id: str | None
    name: str
    start_ns: int
    end_ns: int | None
    type: str | None
    status: str | None
    model: str | None
    agent: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    error_type: str | None
    input_bytes: int
    output_bytes: int


class SpanPosition(msgspec.Struct, frozen=True, array_like=True):
    """A place between spans of a trace, by start."""

    start_ns: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    id: str
    trace_id: str


class OutlinePage(msgspec.Struct, frozen=True):
    """Spans by start; `change` is the store's number when they were read."""

    spans: list[SpanOutline]
    has_next: bool
    change: int
