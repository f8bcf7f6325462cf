"""What a span store promises. Nothing above this interface knows SQL.

S1  `upsert` returns only after the rows would survive a power cut (P8).
S2  Rows of one call are stored together or not at all.
S3  Identity is (account, trace_id, id); versions of one identity meet by `merge`.
S4  A page of a search is keyset, never offset: concurrent inserts make it neither loop nor skip
    (`sgp:K5`). A page of a listing is an offset, as its API counts pages (`agx` §3).
S5  Every wait is bounded: a full queue raises StoreBusyError, a search stops at its budgets.

A store keeps no state that another server process in front of the same data could not see.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from everyspan.model.report import ProducerReport
from everyspan.server.assessments import Assessment, AssessmentType, Author, Change, Draft
from everyspan.server.keys import Key
from everyspan.server.patch import SpanPatch
from everyspan.server.producers import Loss, LossQuery, Producer
from everyspan.server.row import SpanRow
from everyspan.server.stores.traces import (
    FacetValue,
    OutlinePage,
    Overview,
    Series,
    SpanGroup,
    SpanPosition,
    Trace,
    TraceFilter,
    TracePage,
    TraceQuery,
)
from everyspan.server.summary import Facet
from everyspan.server.terms import Texts

SortBy = Literal["start_timestamp", "duration_ms", "input_tokens", "output_tokens"]
Stopped = Literal["bytes", "time"] | None
"""Which budget ended a page early."""


BEHIND_MAX = 10_000
SESSIONS_MAX = 100
"""Browsers that are logged in with one key."""


class Position(msgspec.Struct, frozen=True):
    """A place between rows: just after or just before the row with this sort key."""

    value: int
    trace_id: str
    id: str


class SearchQuery(msgspec.Struct, kw_only=True, frozen=True):
    """Which spans, in which order, from where. All filters hold together; an empty one is none.

    `after` and `before` are a Position, or a bare span id as the SGP client sends it (`sgp:K1`);
    at most one of them is set. Times and durations are nanoseconds, inclusive at both ends.
    """

    account: str
    limit: int = 100
    sort_by: SortBy = "start_timestamp"
    descending: bool = False
    after: Position | str | None = None
    before: Position | str | None = None
    from_ns: int | None = None
    to_ns: int | None = None
    trace_ids: tuple[str, ...] = ()
    """In whatever form they were written: text, UUID or the 32 hex digits that stand for it."""
    task_ids: tuple[str, ...] = ()
    span_ids: tuple[str, ...] = ()
    parent_ids: tuple[str, ...] = ()
    spans: tuple[tuple[str, str], ...] = ()
    excluded_span_ids: tuple[str, ...] = ()
    excluded_trace_ids: tuple[str, ...] = ()
    excluded_spans: tuple[tuple[str, str], ...] = ()
    parents_only: bool = False
    names: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    group_id: str | None = None
    application_variant_ids: tuple[str, ...] = ()
    obs_trace_ids: tuple[str, ...] = ()
    obs_span_ids: tuple[str, ...] = ()
    min_duration_ns: int | None = None
    max_duration_ns: int | None = None
    metadata: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    """Key and the values of which it must deeply equal one."""
    assessment_types: tuple[AssessmentType, ...] = ()
    """The span has an assessment of one of these."""
    texts: Texts = Texts()
    """What the text of a span must hold; see `terms`. Without terms and traces: nothing."""
    bytes_max: int = 32 * 1024 * 1024
    """The page stops before the row that would exceed this, but never before its first."""
    time_max_s: float = 10.0


class SearchPage(msgspec.Struct, kw_only=True, frozen=True):
    """Rows in the asked order, forward and backward alike (`sgp:K2`)."""

    rows: list[SpanRow]
    has_more: bool
    stopped: Stopped = None
    through: Position | None = None
    """How far was looked, where time ended the page and no row beyond its last was left out."""


class MatchingTraces(msgspec.Struct, kw_only=True, frozen=True):
    """Traces with a span that matches, in the order of the first such span of each.

    `through` is the place of the last span looked at; a query `after` it goes on from there, and
    may name a trace again. None at the end.
    """

    trace_ids: list[str]
    through: Position | None
    stopped: Stopped = None


OrderBy = Literal["start_ns", "end_ns", "id", "trace_id", "parent_id", "name", "task_id"]


class ListQuery(msgspec.Struct, kw_only=True, frozen=True):
    """Which spans to list, in which order, from which place on; filters hold together.

    Rows that are equal in `order_by` come in the order they first arrived, whatever the direction.
    A missing value is greater than any other.
    """

    account: str
    trace_id: str | None = None
    task_id: str | None = None
    """Matches the spans of this task, and all of the trace with this id (`agx` §3)."""
    order_by: OrderBy = "start_ns"
    descending: bool = True
    limit: int = 50
    offset: int = 0
    bytes_max: int = 32 * 1024 * 1024
    """A page may not be larger, unless it is one row."""
    time_max_s: float = 10.0


class StoreHealth(msgspec.Struct, kw_only=True, frozen=True):
    """How the store is. `waiting` counts upserts not yet committed.

    `size_bytes` is what it takes, `free_bytes` what its disk has left; None where no disk is ours.
    `unsummarized` and `unindexed` count spans that are stored, and neither in their trace's summary
    nor in the text index yet: at most BEHIND_MAX.
    """

    ok: bool
    spans: int
    waiting: int
    waiting_bytes: int
    size_bytes: int
    free_bytes: int | None
    unsummarized: int
    unindexed: int


class Store(ABC):
    """Holds spans."""

    @abstractmethod
    async def upsert(
        self, rows: Sequence[SpanRow], *, foreign_parents: bool = False, cut_cycles: bool = False
    ) -> list[SpanRow]:
        """Store new versions; return once they are safe (S1).

        Args:
            rows: One account; any order, repeats allowed (`sgp:M4`).
            foreign_parents: A parent in another trace is taken as one that is not known.
            cut_cycles: A link that would close a cycle is left out and its span stored as a root,
                for senders that cannot mend what is refused.

        Returns:
            The rows as stored, one per identity, in the order each first appears.

        Raises:
            RequestError: 409; a parent lies in another trace, or parents form a cycle. `loc` starts
                with the row's position in `rows`. Nothing was stored.
            StoreBusyError: Come back later; nothing was stored.
            StoreError: Perhaps stored; repeating is safe.
        """

    @abstractmethod
    async def patch(self, account: str, span_id: str, patch: SpanPatch) -> SpanRow | None:
        """Set fields of one span in one transaction; None if no span has this id.

        Where several traces have the id, the span meant is that in `patch.trace_id`, else the most
        recently written one. `parent_id` may name a span of another trace. See `apply_patch`.

        Raises:
            RequestError: 422; see `apply_patch`. 409; its parents would form a cycle.
            StoreBusyError: Come back later; nothing was stored.
        """

    @abstractmethod
    async def get(self, account: str, span_id: str) -> SpanRow | None:
        """Return the most recently written span with this id, in whatever trace."""

    @abstractmethod
    async def search(self, query: SearchQuery) -> SearchPage:
        """Return one page.

        A page with more behind it never ends (backward: begins) on a row whose id occurs twice
        among the matching ones (`sgp:K3`): it is shortened, or lengthened where it would become
        empty. So a reader may go on from the bare id, whichever kind of cursor brought it here.

        Raises:
            RequestError: 400 INVALID_CURSOR; the bare id names no span, or not just one.
                400 SEARCH_RESULT_TOO_LARGE; no page end can be found within the budgets.
            StoreBusyError: Come back later.
        """

    @abstractmethod
    async def search_traces(self, query: SearchQuery) -> MatchingTraces:
        """Return up to `limit` traces that hold a span that matches.

        With `descending`, those come first that hold the newest. Searches forward only, from a
        Position.

        Raises:
            StoreBusyError: Come back later.
        """

    @abstractmethod
    async def list_spans(self, query: ListQuery) -> list[SpanRow]:
        """Return one page; empty beyond the end.

        Raises:
            RequestError: 400 RESULT_TOO_LARGE or QUERY_TOO_BROAD; the page is over a budget.
            StoreBusyError: Come back later.
        """

    @abstractmethod
    async def add_assessment(self, account: str, draft: Draft, author: Author) -> Assessment:
        """Keep a new assessment.

        Raises:
            RequestError: 404; no such span, or the trace has no root. 409; the span has an
                overwrite. 422; the span has too many.
            StoreBusyError: Come back later; nothing was stored.
        """

    @abstractmethod
    async def assessment(self, account: str, assessment_id: str) -> Assessment | None:
        """Return one assessment."""

    @abstractmethod
    async def assessments(
        self,
        account: str,
        *,
        span_id: str | None = None,
        trace_id: str | None = None,
        kind: AssessmentType | None = None,
    ) -> list[Assessment]:
        """Return those of the spans with an id, or of a trace, the oldest first.

        Raises:
            RequestError: 400 RESULT_TOO_LARGE.
            StoreBusyError: Come back later.
        """

    @abstractmethod
    async def change_assessment(
        self, account: str, assessment_id: str, change: Change, author: Author
    ) -> Assessment | None:
        """Change fields of an assessment in one transaction; None if there is none.

        Raises:
            RequestError: 403; it is another's. 409; the span has an overwrite. 422; see `changed`.
            StoreBusyError: Come back later; nothing was stored.
        """

    @abstractmethod
    async def delete_assessment(self, account: str, assessment_id: str, author: Author) -> bool:
        """Delete an assessment for good; False if there is none.

        Raises:
            RequestError: 403; it is another's.
            StoreBusyError: Come back later; nothing was deleted.
        """

    @abstractmethod
    async def put_report(self, account: str, producer_id: str, report: ProducerReport) -> bool:
        """Take a producer's report, idempotently; False if a newer one was taken before.

        Its losses count in either case: of two figures the greater is the later one.

        Raises:
            StoreBusyError: Come back later; nothing was stored.
        """

    @abstractmethod
    async def producer(self, account: str, producer_id: str) -> Producer | None:
        """Return one producer with its newest report."""

    @abstractmethod
    async def producers(
        self, account: str, *, limit: int, after: tuple[int, str] | None = None
    ) -> list[Producer]:
        """Return producers, those seen last first; `after` is (seen_ns, id) of one."""

    @abstractmethod
    async def losses(self, query: LossQuery) -> list[Loss]:
        """Return losses that producers reported, those told last first."""

    @abstractmethod
    async def keys(self) -> list[Key]:
        """Return every key that was made, ended ones too, the oldest first."""

    @abstractmethod
    async def add_key(self, key: Key) -> None:
        """Keep a new key; of the sessions of one key, the SESSIONS_MAX newest stay."""

    @abstractmethod
    async def revoke_key(self, key_id: str) -> bool:
        """End a key, and its sessions with it; a session leaves nothing behind.

        Returns:
            False if there is no such key or it had been revoked.
        """

    @abstractmethod
    async def list_traces(self, query: TraceQuery) -> TracePage:
        """Return one page of traces, keyset both ways (S4); a trace shows soon after its spans.

        Raises:
            RequestError: 400 QUERY_TOO_BROAD; it takes longer than QUERY_TIME_MAX_S.
            StoreBusyError: Come back later. Both hold for all that follow.
        """

    @abstractmethod
    async def get_trace(self, account: str, key: bytes) -> Trace | None:
        """Return one trace by its 16 bytes in OpenTelemetry; None where no span of it is stored."""

    @abstractmethod
    async def last_change(self) -> int:
        """Return the number of the last change; all that follow are greater."""

    @abstractmethod
    def watch(self, call: Callable[[], object]) -> None:
        """Have `call` called after commits of this process, from any thread; it must not wait."""

    @abstractmethod
    async def changed_traces(self, account: str, *, after: int, limit: int) -> list[Trace]:
        """Return the traces summarised after a change, by change; each once, as it is now."""

    @abstractmethod
    async def trace_spans(
        self,
        account: str,
        key: bytes,
        *,
        after: SpanPosition | None = None,
        since: int = 0,
        limit: int,
    ) -> OutlinePage:
        """Return spans of a trace by start, without payloads; those written after change `since`.

        Whoever reads again from the `change` of the answer misses nothing.
        """

    @abstractmethod
    async def trace_span(self, account: str, key: bytes, span_id: str) -> SpanRow | None:
        """Return a span of a trace by its id, else by what that is in OpenTelemetry."""

    @abstractmethod
    async def facet_values(
        self, filter_: TraceFilter, facet: Facet, *, limit: int
    ) -> list[FacetValue]:
        """Return the values of a facet, the most frequent first, among the window's traces.

        Only the account and the times of the filter count.
        """

    @abstractmethod
    async def series(self, filter_: TraceFilter, *, buckets: int) -> Series:
        """Return figures of the traces over time, in at most so many buckets."""

    @abstractmethod
    async def overview(
        self,
        account: str,
        *,
        from_ns: int | None,
        to_ns: int | None,
        group_by: SpanGroup,
        limit: int,
    ) -> Overview:
        """Return figures of the window's spans, by group; at least of the newest 100,000."""

    @abstractmethod
    async def health(self) -> StoreHealth:
        """Return how the store is, cheaply enough to be asked every second."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what was accepted, then release everything. Later calls raise StoreError."""


def sort_value(row: SpanRow, sort_by: SortBy) -> int:
    """Return the number that `row` is sorted by; what is missing counts as 0 (`sgp` §7)."""
    if sort_by == "start_timestamp":
        return row.start_ns
    if sort_by == "duration_ms":
        return 0 if row.end_ns is None else row.end_ns - row.start_ns
    facts = row.facts
    return (facts.input_tokens if sort_by == "input_tokens" else facts.output_tokens) or 0
