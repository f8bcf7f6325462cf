"""What every store must answer about traces; mixed into a store's test class."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, get_args

import pytest

from everyspan.model.w3c import span_hex, trace_hex
from everyspan.server.patch import SpanPatch
from everyspan.server.row import SpanRow
from everyspan.server.stores.base import Store
from everyspan.server.stores.traces import (
    SpanPosition,
    Trace,
    TraceFilter,
    TracePosition,
    TraceQuery,
)
from everyspan.server.summary import TraceSort
from tests.server.rows import START_NS, make_row
from tests.server.stores.producers_contract import lost, make_report
from tests.waiting import DEADLINE_S

SECOND_NS = 1_000_000_000
MODELS = ("gpt", "claude", "gemini")


def key(trace_id: str) -> bytes:
    return bytes.fromhex(trace_hex(trace_id))


async def wait_for(condition: Callable[[], Awaitable[Any]]) -> Any:
    """Return what is true of the store soon after a write."""
    until_s = time.monotonic() + DEADLINE_S
    while not (value := await condition()):
        assert time.monotonic() < until_s, "the summaries do not follow"
        await asyncio.sleep(0.005)
    return value


async def listed(store: Store, *, account: str = "a", **fields: Any) -> list[Trace]:
    """Return the first page; `count` waits until it has so many."""
    count = fields.pop("count", None)
    page: dict[str, Any] = {"limit": 1_000}
    page |= {name: fields.pop(name) for name in ("sort", "descending", "limit") if name in fields}
    query = TraceQuery(filter=TraceFilter(account=account, **fields), **page)

    async def look() -> list[Trace] | None:
        found = (await store.list_traces(query)).traces
        return found if len(found) == count else None

    if count is None:
        return (await store.list_traces(query)).traces
    traces: list[Trace] = await wait_for(look)
    return traces


async def read_all(
    store: Store, sort: TraceSort, *, backward: bool, limit: int = 3, **fields: Any
) -> list[bytes]:
    """Return the keys of all traces, page by page, from the first or from the last."""
    descending = fields.pop("descending", True)
    filter_ = TraceFilter(account="a", **fields)
    keys: list[bytes] = []
    position = None
    if backward:
        edge = -1 if descending else 2**62
        position = TracePosition(sort, edge, b"" if descending else b"\xff" * 16)
    for _ in range(1_000):
        page = await store.list_traces(
            TraceQuery(
                filter=filter_,
                sort=sort,
                descending=descending,
                limit=limit,
                after=None if backward else position,
                before=position if backward else None,
            )
        )
        found = [trace.key for trace in page.traces]
        keys = found + keys if backward else keys + found
        if not (page.has_previous if backward else page.has_next):
            return keys
        edge_trace = page.traces[0 if backward else -1]
        position = TracePosition(sort, edge_trace.summary.sort_value(sort), edge_trace.key)
    raise AssertionError("paging loops")


def some_rows(seed: int, traces: int) -> list[SpanRow]:
    """Traces of 1 to 4 spans that differ in everything one can filter and sort by."""
    random_ = random.Random(seed)
    rows: list[SpanRow] = []
    for n in range(traces):
        start_ns = START_NS + random_.randrange(20) * SECOND_NS
        for m in range(random_.randint(1, 4)):
            began_ns = start_ns + m * SECOND_NS // 10
            metadata: dict[str, Any] = {"__agent_name__": random_.choice(["x", "y"])}
            output: dict[str, Any] = {}
            if random_.random() < 0.7:
                metadata["model"] = random_.choice(MODELS)
                metadata["cost_usd"] = random_.randrange(5) / 10
                output["usage"] = {"input_tokens": random_.randrange(50)}
            error = random_.random() < 0.2
            if error:
                metadata["__error__"] = {"type": random_.choice(["Boom", "Bang"]), "message": "m"}
            rows.append(
                make_row(
                    trace_id=f"t{n}",
                    id=f"{n}-{m}",
                    parent_id=f"{n}-0" if m else None,
                    name=random_.choice(["turn", "tool", "<b>"]),
                    type=random_.choice([None, "COMPLETION"]),
                    status="ERROR" if error else None,
                    start_ns=began_ns,
                    end_ns=None if random_.random() < 0.1 else began_ns + random_.randrange(9**9),
                    task_id=random_.choice([None, f"task{n % 5}"]),
                    metadata=json.dumps(metadata).encode(),
                    output=json.dumps(output).encode(),
                )
            )
    random_.shuffle(rows)
    return rows


class TraceContract:
    """Summaries, lists, figures and spans of traces."""

    async def test_a_trace_is_one_row(self, store: Store) -> None:
        """Issue acceptance: what the list shows of a trace."""
        record = {"__everyspan__": {"p": "part", "n": 2, "rev": 1, "total": 2}}
        root = make_row(
            id="root",
            name="turn",
            task_id="task",
            input=b'{"messages":[{"role":"user","content":"Where is my order?"}]}',
            output=b'{"response":"It is lost."}',
            metadata=json.dumps(record | {"__agent_name__": "shop", "user_id": "u1"}).encode(),
        )
        model = make_row(
            parent_id="root",
            name="model",
            type="COMPLETION",
            status="ERROR",
            output=b'{"usage":{"prompt_tokens":7,"completion_tokens":3}}',
            metadata=b'{"model":"gpt","cost_usd":0.5,"__source__":"otel",'
            b'"__error__":{"type":"E","message":"m"},"__everyspan__":{"p":"part","n":1,"rev":1}}',
        )
        await store.upsert([model, root])
        [trace] = await listed(store, count=1)
        summary = trace.summary
        assert trace.key == key("t")
        assert (summary.trace_id, summary.name, summary.root_id) == ("t", "turn", "root")
        assert (summary.state, summary.words) == ("complete", "2 of 2")
        assert (summary.errors, summary.error_type, summary.error_message) == (1, "E", "m")
        assert (summary.input_tokens, summary.output_tokens) == (7, 3)
        assert (summary.cost_usd, summary.cost_rule) == (0.5, "per call")
        assert (summary.agent, summary.models) == ("shop", ["gpt"])
        assert (summary.session, summary.user) == ("task", "u1")
        assert (summary.input, summary.output) == ("Where is my order?", "It is lost.")
        assert await store.get_trace("a", key("t")) == trace

    async def test_a_trace_can_be_had_at_once(self, store: Store) -> None:
        """S1: its page opens from its spans, whether or not its row is there yet."""
        await store.upsert([make_row()])
        trace = await store.get_trace("a", key("t"))
        assert trace is not None
        assert trace.summary.spans == 1
        assert await store.get_trace("a", key("u")) is None
        assert await store.get_trace("b", key("t")) is None

    async def test_a_trace_of_two_protocols_is_one(self, store: Store) -> None:
        """`otlp:F2`: a UUID, and the 32 digits that stand for it."""
        uuid = "0b7e5a52-8f0e-4f83-9c6d-9a6e4b1f2c3d"
        span = "7f0b6a52-8f0e-4f83-9c6d-9a6e4b1f2c3d"
        await store.upsert([make_row(trace_id=uuid, id=span)])
        await store.upsert(
            [make_row(trace_id=trace_hex(uuid), id="a" * 16, parent_id=span_hex(span))]
        )
        [trace] = await wait_for(lambda: _with_spans(store, 2))
        assert trace.summary.trace_id == uuid
        assert trace.summary.parents_missing == 0
        assert len((await store.trace_spans("a", key(uuid), limit=9)).spans) == 2
        found = await store.trace_span("a", key(uuid), span_hex(span))
        assert found is not None
        assert found.id == span

    async def test_a_row_follows_its_spans(self, store: Store) -> None:
        """Acceptance: a trace that completes while it is read changes in place."""
        root = make_row(id="root", end_ns=None)
        await store.upsert([root])
        [trace] = await listed(store, count=1)
        assert (trace.summary.state, trace.summary.end_ns) == ("running", None)
        await store.upsert([make_row(id="root", output=b'{"x":"done"}')])
        [later] = await wait_for(lambda: store.changed_traces("a", after=trace.change, limit=9))
        assert later.summary.end_ns is not None
        assert later.summary.output == "done"
        assert [trace.key for trace in await listed(store)] == [key("t")]
        assert await store.changed_traces("a", after=later.change, limit=9) == []

    async def test_a_loss_that_was_reported_later_tells(self, store: Store) -> None:
        """P11: a producer's report changes the row, though no span was written."""
        record = b'{"__everyspan__":{"p":"p-1","n":1,"rev":1,"total":2}}'
        await store.upsert([make_row(metadata=record)])
        [trace] = await listed(store, count=1)
        assert trace.summary.state == "unaccounted"
        report = make_report(losses=[lost("t", "p-1", total=2, expired=1)])
        await store.put_report("a", "p", report)
        [later] = await wait_for(lambda: store.changed_traces("a", after=trace.change, limit=9))
        assert (later.summary.state, later.summary.dropped) == ("lost", {"expired": 1})

    async def test_a_span_that_moves_leaves_its_trace(self, store: Store) -> None:
        """A change of `trace_id`: the one is recounted, or gone, the other has it."""
        await store.upsert([make_row(id="x"), make_row(id="y"), make_row(id="z", trace_id="u")])
        await listed(store, count=2)
        await store.patch("a", "x", SpanPatch(trace_id="u"))
        await store.patch("a", "y", SpanPatch(trace_id="u"))
        [trace] = await listed(store, count=1)
        assert (trace.key, trace.summary.spans) == (key("u"), 3)

    @pytest.mark.parametrize("sort", get_args(TraceSort))
    async def test_pages_show_each_trace_once(self, store: Store, sort: TraceSort) -> None:
        """S4: every order, both ways, equal values included."""
        await store.upsert(some_rows(1, 30))
        traces = await listed(store, count=30)
        expected = [
            trace.key
            for trace in sorted(
                traces, key=lambda trace: (trace.summary.sort_value(sort), trace.key)
            )
        ]
        for backward in (False, True):
            for descending in (False, True):
                keys = await read_all(store, sort, backward=backward, descending=descending)
                assert keys == (expected[::-1] if descending else expected)

    async def test_paging_during_ingest_skips_nothing(self, store: Store) -> None:
        """Acceptance: none twice, none skipped, while younger and older traces come."""
        await store.upsert(some_rows(2, 40))
        before = {trace.key for trace in await listed(store, count=40)}
        done = asyncio.Event()

        async def ingest() -> None:
            for n in range(60):
                at_ns = START_NS + (n - 30) * SECOND_NS
                await store.upsert([make_row(trace_id=f"new{n}", start_ns=at_ns, end_ns=at_ns)])
            done.set()

        writing = asyncio.create_task(ingest())
        while not done.is_set():
            keys = await read_all(store, "start", backward=False, limit=7)
            assert len(keys) == len(set(keys))
            assert before <= set(keys)
        await writing

    async def test_filters_find_what_a_look_at_each_trace_finds(self, store: Store) -> None:
        """Each filter alone, and pairs of them, in two orders."""
        await store.upsert(some_rows(3, 60))
        spans: dict[bytes, list[SpanRow]] = {}
        for row in some_rows(3, 60):
            spans.setdefault(key(row.trace_id), []).append(row)
        traces = await listed(store, count=60)

        def any_span(test: Callable[[SpanRow], object]) -> Callable[[Trace], bool]:
            return lambda trace: any(test(row) for row in spans[trace.key])

        middle_ns = START_NS + 10 * SECOND_NS
        filters: list[tuple[dict[str, Any], Callable[[Trace], object]]] = [
            ({"from_ns": middle_ns}, lambda t: t.summary.start_ns >= middle_ns),
            ({"to_ns": middle_ns}, lambda t: t.summary.start_ns < middle_ns),
            ({"min_duration_ns": 3 * 10**8}, lambda t: t.summary.duration_ns >= 3 * 10**8),
            ({"max_duration_ns": 3 * 10**8}, lambda t: t.summary.duration_ns <= 3 * 10**8),
            ({"min_tokens": 20}, lambda t: t.summary.tokens >= 20),
            ({"traces": (key("t1"), key("t2"))}, lambda t: t.key in (key("t1"), key("t2"))),
            ({"traces": ()}, lambda _: False),
            ({"min_cost_usd": 0.3}, lambda t: (t.summary.cost_usd or 0) >= 0.3),
        ]
        facets: list[tuple[str, tuple[str, ...], Callable[[Trace], object]]] = [
            ("name", ("tool",), any_span(lambda row: row.name == "tool")),
            ("name", ("tool", "<b>"), any_span(lambda row: row.name in ("tool", "<b>"))),
            ("type", ("COMPLETION",), any_span(lambda row: row.type == "COMPLETION")),
            ("model", ("gpt", "claude"), any_span(lambda r: r.facts.model in ("gpt", "claude"))),
            ("agent", ("x",), any_span(lambda row: row.facts.agent == "x")),
            ("error", ("Boom",), any_span(lambda row: row.facts.error_type == "Boom")),
            ("has_error", ("true",), lambda t: t.summary.errors),
            ("session", ("task1",), lambda t: t.summary.session == "task1"),
            ("status", ("ERROR",), lambda t: t.summary.status == "ERROR"),
            ("state", ("running",), lambda t: t.summary.state == "running"),
            ("name", ("' OR 1=1 --",), lambda _: False),
        ]
        filters += [({"facets": ((name, values),)}, test) for name, values, test in facets]
        for fields, test in filters:
            for more, also in filters:
                wanted = {t.key for t in traces if test(t) and also(t)}
                both = {**fields, **more}
                both["facets"] = fields.get("facets", ()) + more.get("facets", ())
                if fields.keys() & more.keys() - {"facets"} and fields is not more:
                    continue
                for sort in ("start", "tokens"):
                    assert {t.key for t in await listed(store, sort=sort, **both)} == wanted, both
            assert set(await read_all(store, "start", backward=True, **fields)) == {
                t.key for t in traces if test(t)
            }

    async def test_facets_count_traces(self, store: Store) -> None:
        """Each value with the traces that have it, the most frequent first."""
        rows = some_rows(4, 30)
        await store.upsert(rows)
        await listed(store, count=30)
        models: dict[str, set[str]] = {}
        for row in rows:
            if row.facts.model is not None:
                models.setdefault(row.facts.model, set()).add(row.trace_id)
        found = await store.facet_values(TraceFilter(account="a"), "model", limit=10)
        assert {value.value: value.traces for value in found} == {
            model: len(traces) for model, traces in models.items()
        }
        assert [value.traces for value in found] == sorted((v.traces for v in found), reverse=True)
        assert len(await store.facet_values(TraceFilter(account="a"), "model", limit=1)) == 1
        assert await store.facet_values(TraceFilter(account="b"), "model", limit=1) == []

    async def test_series_add_up(self, store: Store) -> None:
        """Counts, errors, tokens and latencies by time, and all together."""
        await store.upsert(some_rows(5, 50))
        traces = [trace.summary for trace in await listed(store, count=50)]
        series = await store.series(TraceFilter(account="a"), buckets=7)
        total = series.total
        assert total.count == 50 == sum(figures.count for _, figures in series.buckets)
        assert total.errors == sum(trace.errors > 0 for trace in traces)
        assert total.running == sum(trace.state == "running" for trace in traces)
        assert total.tokens == sum(trace.tokens for trace in traces)
        assert total.cost_usd == pytest.approx(sum(trace.cost_usd or 0 for trace in traces))
        ended = sorted(t.duration_ns for t in traces if t.end_ns is not None)
        assert total.p95_ns == pytest.approx(ended[-(-len(ended) * 95 // 100) - 1], rel=0.02)
        for bucket, figures in series.buckets:
            from_ns = series.from_ns + bucket * series.bucket_ns
            inside = [t for t in traces if from_ns <= t.start_ns < from_ns + series.bucket_ns]
            assert figures.count == len(inside)
        assert len(series.buckets) <= 7
        for facets in ((("model", ("gpt",)),), (("model", ("gpt", "claude")),)):
            some = await listed(store, facets=facets)
            series = await store.series(TraceFilter(account="a", facets=facets), buckets=7)
            assert series.total.count == len(some)
        nothing = await store.series(TraceFilter(account="nobody"), buckets=7)
        assert (nothing.total.count, nothing.total.p50_ns, nothing.buckets) == (0, None, [])

    async def test_an_overview_adds_up(self, store: Store) -> None:
        """Figures of spans by what they share."""
        rows = some_rows(6, 30)
        await store.upsert(rows)
        for group_by in ("name", "model"):
            overview = await store.overview(
                "a", from_ns=None, to_ns=None, group_by=group_by, limit=10
            )
            assert overview.spans == len(rows) == sum(g.figures.count for g in overview.groups)
            assert not overview.is_partial
        by_model = {group.value: group.figures for group in overview.groups}
        gpt = [row for row in rows if row.facts.model == "gpt"]
        assert by_model["gpt"].count == len(gpt)
        assert by_model["gpt"].tokens == sum(row.facts.input_tokens or 0 for row in gpt)
        assert by_model["gpt"].errors == sum(row.status == "ERROR" for row in gpt)

    async def test_spans_come_in_pages_by_start(self, store: Store) -> None:
        """Outlines: each span once, by start."""
        rows = [make_row(id=str(n), start_ns=START_NS + n % 7, end_ns=None) for n in range(50)]
        await store.upsert(rows)
        ids: list[str] = []
        after = None
        while True:
            page = await store.trace_spans("a", key("t"), after=after, limit=8)
            ids += [span.id for span in page.spans]
            if not page.has_next:
                break
            last = page.spans[-1]
            after = SpanPosition(last.start_ns, last.id, last.trace_id)
        assert ids == [row.id for row in sorted(rows, key=lambda row: (row.start_ns, row.id))]

    async def test_spans_that_came_since_are_all_there_are(self, store: Store) -> None:
        """Live growth: a second look shows what was written after the first."""
        await store.upsert([make_row(id="old", input=b'{"x":1}')])
        first = await store.trace_spans("a", key("t"), limit=9)
        assert [(span.id, span.input_bytes) for span in first.spans] == [("old", 7)]
        await store.upsert([make_row(id="new")])
        await store.upsert([make_row(id="elsewhere", trace_id="u")])
        second = await store.trace_spans("a", key("t"), since=first.change, limit=9)
        assert [span.id for span in second.spans] == ["new"]
        assert (await store.trace_spans("a", key("t"), since=second.change, limit=9)).spans == []

    async def test_accounts_do_not_see_each_other(self, store: Store) -> None:
        """Nothing of another account's trace, by whatever question."""
        await store.upsert([make_row(account="a")])
        await store.upsert([make_row(account="b", metadata=b'{"model":"m"}')])
        await listed(store, count=1)
        await listed(store, account="b", count=1)
        assert (await store.trace_spans("c", key("t"), limit=9)).spans == []
        assert await listed(store, account="c") == []
        assert await store.changed_traces("c", after=0, limit=9) == []
        assert await store.facet_values(TraceFilter(account="a"), "model", limit=9) == []


async def _with_spans(store: Store, count: int) -> Iterable[Trace]:
    traces = await listed(store)
    return traces if [trace.summary.spans for trace in traces] == [count] else []
