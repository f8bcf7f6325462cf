"""What `/api` answers of traces and spans, as structs: they are the JSON, and its schema.

Counts that may pass 2**53 and all nanoseconds are text, since a browser's numbers end there.
"""

from __future__ import annotations

import msgspec

from everyspan.model.w3c import by_span_hex, span_hex
from everyspan.server.row import DEFAULT_STATUS, DEFAULT_TYPE, SpanRow
from everyspan.server.stores.traces import Figures, OutlinePage, Trace
from everyspan.server.timestamps import format_timestamp

PIECE_BYTES = 64 * 1024
"""What a span's page shows of a payload unasked (chosen)."""


class Root(msgspec.Struct, frozen=True):
    """The span that names a trace; `stored` is false where it has a parent that is missing."""

    span_id: str
    stored: bool


class Completeness(msgspec.Struct, kw_only=True, frozen=True):
    """What is stored against what should be; `model.completeness.Verdict` has the words."""

    state: str
    sign: str
    words: str
    stalled: bool
    stored: int
    counted: int
    expected: int
    missing: int
    dropped: dict[str, int]
    late: int
    unaccounted: int
    open: int
    parents_missing: int


class Errors(msgspec.Struct, frozen=True):
    """How many spans failed, and what the first said."""

    count: int
    type: str | None
    message: str | None


class TokenFigure(msgspec.Struct, frozen=True):
    """Tokens by a rule."""

    input: int | None
    output: int | None
    rule: str | None


class Tokens(msgspec.Struct, frozen=True):
    """Tokens by the rule; `other` is another rule's figure, where the two disagree."""

    input: int | None
    output: int | None
    rule: str | None
    other: TokenFigure | None


class CostFigure(msgspec.Struct, frozen=True):
    """A cost by a rule."""

    usd: float | None
    rule: str | None


class Cost(msgspec.Struct, frozen=True):
    """The cost by the rule; `other` is another rule's figure, where the two disagree."""

    usd: float | None
    rule: str | None
    other: CostFigure | None


class TraceItem(msgspec.Struct, kw_only=True, frozen=True):
    """One trace. `id` is for addresses: 32 hexadecimal digits, whatever its producers wrote.

    `end` is null while a span is open; `duration_ns` runs to the newest start or end.
    """

    id: str
    trace_id: str
    change: str
    root: Root
    name: str
    type: str
    status: str
    start: str
    start_ns: str
    end: str | None
    end_ns: str | None
    duration_ns: str
    spans: int
    completeness: Completeness
    errors: Errors
    tokens: Tokens
    cost: Cost
    agent: str | None
    models: list[str]
    session: str | None
    user: str | None
    input: str | None
    output: str | None


class TraceList(msgspec.Struct, frozen=True):
    """Traces in order; `next` and `previous` are cursors for `after` and `before`.

    `partial`: more traces may hold the text than those that are listed, which hold it last.
    """

    items: list[TraceItem]
    next: str | None
    previous: str | None
    partial: bool


class Conversation(msgspec.Struct, frozen=True):
    """The turns of a conversation, the first one first."""

    session: str
    items: list[TraceItem]
    next: str | None
    previous: str | None


class SpanTable(msgspec.Struct, kw_only=True):
    """Spans in columns, one entry a span in each.

    `parent` is the parent's place in `id`, its id where it is not in this answer, null for none.
    `name`, `type`, `status` and `model` are places in the lists beside this table, -1 for none.
    `start` is nanoseconds from `base_ns`, `duration` null while open.
    """

    id: list[str]
    parent: list[int | str | None]
    name: list[int]
    type: list[int]
    status: list[int]
    model: list[int]
    start: list[str]
    duration: list[str | None]
    input_bytes: list[int]
    output_bytes: list[int]


class UsageTable(msgspec.Struct, kw_only=True):
    """What some of the spans report, in columns; `span` is the span's place in the table."""

    span: list[int]
    input: list[int | None]
    output: list[int | None]
    cost_usd: list[float | None]


class SpanError(msgspec.Struct, frozen=True):
    """The type of error of the span in one place of the table."""

    span: int
    type: str


class SpanSkeleton(msgspec.Struct, kw_only=True, frozen=True):
    """Spans of a trace by start, without payloads. `change` is for `since`, `next` for `after`."""

    base_ns: str
    change: str
    names: list[str]
    types: list[str]
    statuses: list[str]
    models: list[str]
    spans: SpanTable
    usage: UsageTable
    errors: list[SpanError]
    next: str | None


class Piece(msgspec.Struct, frozen=True):
    """A part of a payload's JSON text: of `size` bytes those from `offset` on, up to `next`.

    A piece ends where a character does; `next` is null at the end of the payload.
    """

    offset: int
    size: int
    text: str
    next: int | None


class SpanPayloads(msgspec.Struct, frozen=True):
    """The beginning of each payload, null where the span has none."""

    input: Piece | None
    output: Piece | None
    metadata: Piece | None
    expected: Piece | None


class SpanItem(msgspec.Struct, kw_only=True, frozen=True):
    """One span."""

    id: str
    otel_span_id: str
    trace_id: str
    parent_id: str | None
    name: str
    type: str
    status: str
    start: str
    start_ns: str
    end: str | None
    end_ns: str | None
    duration_ns: str | None
    task_id: str | None
    group_id: str | None
    application_interaction_id: str | None
    application_variant_id: str | None
    obs_trace_id: str | None
    obs_span_id: str | None
    agent: str | None
    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    error_type: str | None
    error_message: str | None
    payloads: SpanPayloads


class FacetItem(msgspec.Struct, frozen=True):
    """A value, and how many traces have it."""

    value: str
    traces: int


class FacetList(msgspec.Struct, frozen=True):
    """Values of a facet, the most frequent first."""

    facet: str
    items: list[FacetItem]


class FigureItem(msgspec.Struct, kw_only=True, frozen=True):
    """Sums; latencies are of those that ended, within 2 %, null where none did."""

    count: int
    errors: int
    running: int
    incomplete: int
    tokens: int
    cost_usd: float
    p50_ns: str | None
    p95_ns: str | None
    p99_ns: str | None


class BucketItem(msgspec.Struct, frozen=True):
    """The traces that started within `bucket_ns` from here."""

    start: str
    start_ns: str
    figures: FigureItem


class SeriesAnswer(msgspec.Struct, frozen=True):
    """Figures over time; buckets without a trace are left out. `partial` as in a list."""

    bucket_ns: str
    total: FigureItem
    items: list[BucketItem]
    partial: bool


class GroupItem(msgspec.Struct, frozen=True):
    """The spans that share a value; null is that of those without one."""

    value: str | None
    figures: FigureItem


class OverviewAnswer(msgspec.Struct, frozen=True):
    """Groups of spans, the largest first.

    `partial`: only the newest `spans` were looked at, back to `since`.
    """

    items: list[GroupItem]
    spans: int
    since: str | None
    partial: bool


class HealthAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """How the server is; `waiting` counts writes that are not yet committed.

    `size_bytes` is what the store takes, `free_bytes` what its disk has left. `unsummarized` and
    `unindexed` spans are stored, and not yet seen in lists, or found by their text.
    """

    status: str
    version: str
    spans: int
    waiting: int
    waiting_bytes: int
    size_bytes: int
    free_bytes: int | None
    unsummarized: int
    unindexed: int


def trace_item(trace: Trace) -> TraceItem:
    """Return a trace as `/api` shows it."""
    it = trace.summary
    return TraceItem(
        id=trace.key.hex(),
        trace_id=it.trace_id,
        change=str(trace.change),
        root=Root(it.root_id, it.root_stored),
        name=it.name,
        type=it.type,
        status=it.status,
        start=format_timestamp(it.start_ns),
        start_ns=str(it.start_ns),
        end=None if it.end_ns is None else format_timestamp(it.end_ns),
        end_ns=None if it.end_ns is None else str(it.end_ns),
        duration_ns=str(it.duration_ns),
        spans=it.spans,
        completeness=Completeness(
            state=it.state,
            sign=it.sign,
            words=it.words,
            stalled=it.stalled,
            stored=it.spans,
            counted=it.counted,
            expected=it.expected,
            missing=it.expected - it.counted,
            dropped=it.dropped,
            late=it.late,
            unaccounted=it.unaccounted,
            open=it.open,
            parents_missing=it.parents_missing,
        ),
        errors=Errors(it.errors, it.error_type, it.error_message),
        tokens=Tokens(
            it.input_tokens,
            it.output_tokens,
            it.tokens_rule,
            None
            if it.other_tokens_rule is None
            else TokenFigure(it.other_input_tokens, it.other_output_tokens, it.other_tokens_rule),
        ),
        cost=Cost(
            it.cost_usd,
            it.cost_rule,
            None
            if it.other_cost_rule is None
            else CostFigure(it.other_cost_usd, it.other_cost_rule),
        ),
        agent=it.agent,
        models=it.models,
        session=it.session,
        user=it.user,
        input=it.input,
        output=it.output,
    )


def skeleton(page: OutlinePage, *, next_cursor: str | None) -> SpanSkeleton:
    """Return spans without their payloads, as `/api` shows them."""
    spans = page.spans
    base_ns = min((span.start_ns for span in spans), default=0)
    places = {span.id: place for place, span in enumerate(spans)}
    by_hex: dict[str, str] | None = None
    names, types, statuses, models = _Places(), _Places(), _Places(), _Places()
    table = SpanTable(**{name: [] for name in SpanTable.__struct_fields__})
    usage = UsageTable(span=[], input=[], output=[], cost_usd=[])
    errors: list[SpanError] = []
    for place, span in enumerate(spans):
        parent: int | str | None = span.parent_id or None
        if parent is not None and span.parent_id is not None:
            parent = places.get(span.parent_id, span.parent_id)
            if isinstance(parent, str):
                # A parent may be named by what OpenTelemetry calls it (`otlp:F2`).
                by_hex = by_span_hex(places) if by_hex is None else by_hex
                known = by_hex.get(span_hex(parent))
                parent = parent if known is None else places[known]
        table.id.append(span.id)
        table.parent.append(parent)
        table.name.append(names.of(span.name))
        table.type.append(types.of(span.type or DEFAULT_TYPE))
        table.status.append(statuses.of(span.status or DEFAULT_STATUS))
        table.model.append(models.of(span.model))
        table.start.append(str(span.start_ns - base_ns))
        table.duration.append(None if span.end_ns is None else str(span.end_ns - span.start_ns))
        table.input_bytes.append(span.input_bytes)
        table.output_bytes.append(span.output_bytes)
        if (span.input_tokens, span.output_tokens, span.cost_usd) != (None, None, None):
            usage.span.append(place)
            usage.input.append(span.input_tokens)
            usage.output.append(span.output_tokens)
            usage.cost_usd.append(span.cost_usd)
        if span.error_type is not None:
            errors.append(SpanError(place, span.error_type))
    return SpanSkeleton(
        base_ns=str(base_ns),
        change=str(page.change),
        names=names.values,
        types=types.values,
        statuses=statuses.values,
        models=models.values,
        spans=table,
        usage=usage,
        errors=errors,
        next=next_cursor,
    )


def span_item(row: SpanRow) -> SpanItem:
    """Return one span with the beginnings of its payloads."""
    facts = row.facts
    return SpanItem(
        id=row.id,
        otel_span_id=span_hex(row.id),
        trace_id=row.trace_id,
        parent_id=row.parent_id,
        name=row.name,
        type=row.type or DEFAULT_TYPE,
        status=row.status or DEFAULT_STATUS,
        start=format_timestamp(row.start_ns),
        start_ns=str(row.start_ns),
        end=None if row.end_ns is None else format_timestamp(row.end_ns),
        end_ns=None if row.end_ns is None else str(row.end_ns),
        duration_ns=None if row.end_ns is None else str(row.end_ns - row.start_ns),
        task_id=row.task_id,
        group_id=row.group_id,
        application_interaction_id=row.application_interaction_id,
        application_variant_id=row.application_variant_id,
        obs_trace_id=row.obs_trace_id,
        obs_span_id=row.obs_span_id,
        agent=facts.agent,
        model=facts.model,
        input_tokens=facts.input_tokens,
        output_tokens=facts.output_tokens,
        cost_usd=facts.cost_usd,
        error_type=facts.error_type,
        error_message=facts.error_message,
        payloads=SpanPayloads(
            *(
                None if payload is None else piece(payload, 0, PIECE_BYTES)
                for payload in (row.input, row.output, row.metadata, row.expected)
            )
        ),
    )


def piece(payload: bytes, offset: int, length: int) -> Piece:
    """Return up to `length` bytes of a payload, whole characters; at least one, where any is left.

    An `offset` within a character begins with the next one.
    """
    size = len(payload)
    while offset < size and payload[offset] & 0xC0 == 0x80:
        offset += 1
    end = min(size, offset + max(length, 4))
    while end < size and payload[end] & 0xC0 == 0x80:
        end -= 1
    return Piece(offset, size, payload[offset:end].decode(), None if end >= size else end)


def figure_item(figures: Figures) -> FigureItem:
    """Return sums as `/api` shows them."""
    return FigureItem(
        count=figures.count,
        errors=figures.errors,
        running=figures.running,
        incomplete=figures.incomplete,
        tokens=figures.tokens,
        cost_usd=figures.cost_usd,
        p50_ns=None if figures.p50_ns is None else str(figures.p50_ns),
        p95_ns=None if figures.p95_ns is None else str(figures.p95_ns),
        p99_ns=None if figures.p99_ns is None else str(figures.p99_ns),
    )


class _Places:
    """Numbers values as they come."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def of(self, value: str | None) -> int:
        if value is None:
            return -1
        return self._places.setdefault(value, len(self._places))

    @property
    def values(self) -> list[str]:
        return list(self._places)
