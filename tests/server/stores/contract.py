"""What every store must do; a store's test module subclasses StoreContract and gives it `store`."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from itertools import permutations
from operator import attrgetter
from typing import Any, get_args

import msgspec
import pytest

from everyspan.errors import RequestError
from everyspan.server.assessments import Author, Change, Content, Draft
from everyspan.server.keys import make_key
from everyspan.server.merge import merge
from everyspan.server.patch import SpanPatch
from everyspan.server.row import SpanRow
from everyspan.server.stores.base import (
    SESSIONS_MAX,
    ListQuery,
    OrderBy,
    Position,
    SearchQuery,
    Store,
    sort_value,
)
from tests.server.rows import END_NS, START_NS, make_row

FAR_NS = 2**62
SORTS = ("start_timestamp", "duration_ms", "input_tokens", "output_tokens")


def query(**fields: Any) -> SearchQuery:
    return SearchQuery(**({"account": "a"} | fields))


async def ids(store: Store, **fields: Any) -> list[str]:
    return [row.id for row in (await store.search(query(**fields))).rows]


def identities(rows: list[SpanRow]) -> list[tuple[str, str]]:
    return [(row.trace_id, row.id) for row in rows]


async def read_all(
    store: Store, *, bare: bool, backward: bool = False, limit: int = 3, **fields: Any
) -> list[SpanRow]:
    """Page through everything, as the SGP client does (`bare`), or with positions."""
    rows: list[SpanRow] = []
    cursor: Position | str | None = None
    for _ in range(10_000):
        side = "before" if backward else "after"
        if backward and cursor is None:
            # The client starts backward from an id it has; ours from beyond the end.
            cursor = Position(2**63 - 1, "\U0010ffff", "\U0010ffff")
            if fields.get("descending"):
                cursor = Position(-1, "", "")
        page = await store.search(query(limit=limit, **{side: cursor}, **fields))
        if backward:
            rows[:0] = page.rows
        else:
            rows += page.rows
        if not page.has_more or not page.rows:
            return rows
        edge = page.rows[0 if backward else -1]
        sort_by = fields.get("sort_by", "start_timestamp")
        cursor = edge.id if bare else Position(sort_value(edge, sort_by), edge.trace_id, edge.id)
    raise AssertionError("paging loops")


class StoreContract:
    """The promises of `stores.base`, S1 to S5, but for what only a crash shows."""

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    # -- Writing

    async def test_what_was_stored_comes_back_whole(self, store: Store) -> None:
        row = make_row(
            trace_id="trace/é😀",
            id="id with / and ☃",
            parent_id="p",
            task_id="task/é",
            type="COMPLETION",
            status="ERROR",
            group_id="g",
            application_interaction_id="ai",
            application_variant_id="av",
            obs_trace_id="0" * 32,
            obs_span_id="1" * 16,
            input='{"é":"\ufffd"}'.encode(),
            output=b"{}",
            metadata=b'{"usage":{"input_tokens":3,"output_tokens":4}}',
            expected=b'{"n": 11111111111111111111111111}',
            rev=5,
        )
        assert await store.upsert([row]) == [row]
        assert await store.get("a", row.id) == row
        assert (await store.search(query())).rows == [row]

    async def test_nothing_in_nothing_out(self, store: Store) -> None:
        assert await store.upsert([]) == []
        assert await store.get("a", "x") is None
        page = await store.search(query())
        assert (page.rows, page.has_more) == ([], False)

    async def test_every_order_and_grouping_of_versions_gives_one_row(self, store: Store) -> None:
        """S3, P6, `sgp:M1`-`M4`: across calls and within one."""
        versions = [
            make_row(id="s", end_ns=None, rev=0, input=b'{"i":0}', status="ERROR", type="TRACER"),
            make_row(id="s", end_ns=None, rev=1, group_id="g", output=b'{"half":1}'),
            make_row(id="s", rev=2, output=b'{"o":2}', metadata=b'{"usage":{"input_tokens":7}}'),
            make_row(id="s", rev=3, input=b"{}", expected=b'{"e":1}'),
        ]
        expected = versions[0]
        for version in versions[1:]:
            expected = merge(expected, version)
        for n, order in enumerate(permutations(versions)):
            account = f"order {n}"
            rows = [msgspec.structs.replace(row, account=account) for row in order]
            cut = n % 4
            await store.upsert(rows[:cut])
            stored = await store.upsert([*rows[cut:], rows[0]])
            assert stored == [msgspec.structs.replace(expected, account=account)]
            assert await store.get(account, "s") == stored[0]
        assert expected.facts.input_tokens == 7

    async def test_one_row_per_identity_in_order_of_appearance(self, store: Store) -> None:
        """`sgp:M4`."""
        rows = [
            make_row(id="b"),
            make_row(id="a"),
            make_row(id="b"),
            make_row(id="b", trace_id="u"),
        ]
        stored = await store.upsert(rows)
        assert identities(stored) == [("t", "b"), ("t", "a"), ("u", "b")]
        assert await ids(store) == ["a", "b", "b"]

    async def test_accounts_never_see_each_other(self, store: Store) -> None:
        await store.upsert([make_row(id="s", name="mine")])
        await store.upsert([make_row(id="s", name="theirs", account="b")])
        mine = await store.get("a", "s")
        assert mine is not None
        assert mine.name == "mine"
        assert len((await store.search(query())).rows) == 1
        assert await store.get("c", "s") is None

    async def test_get_returns_the_most_recently_written_of_several_traces(
        self, store: Store
    ) -> None:
        """`sgp` §7 retrieve."""
        for trace_id in ("t1", "t2", "t1"):
            await store.upsert([make_row(id="s", trace_id=trace_id)])
        row = await store.get("a", "s")
        assert row is not None
        assert row.trace_id == "t1"

    async def test_writes_at_once_are_all_kept(self, store: Store) -> None:
        async def write(n: int) -> None:
            await store.upsert([make_row(id=f"{n} {i}", trace_id=f"t{n}") for i in range(5)])

        await asyncio.gather(*(write(n) for n in range(40)))
        assert len((await store.search(query(limit=1_000))).rows) == 200

    # -- Parents

    @pytest.mark.parametrize("split", [0, 1, 2])
    async def test_a_cycle_is_refused_and_nothing_stored(self, store: Store, split: int) -> None:
        """S2, `sgp` §6: in the batch, with the store, and through both."""
        cycle = [
            make_row(id="x", parent_id="y"),
            make_row(id="y", parent_id="z"),
            make_row(id="z", parent_id="x"),
        ]
        await store.upsert(cycle[:split])
        with pytest.raises(RequestError) as error:
            await store.upsert([make_row(id="bystander"), *cycle[split:]])
        assert (error.value.status, error.value.code) == (409, "PARENT_CYCLE")
        assert error.value.loc[1] == "parent_id"
        assert sorted(await ids(store)) == ["x", "y"][:split]

    async def test_a_span_cannot_be_its_own_parent(self, store: Store) -> None:
        with pytest.raises(RequestError) as error:
            await store.upsert([make_row(id="ok"), make_row(id="s", parent_id="s")])
        assert error.value.loc == (1, "parent_id")

    @pytest.mark.parametrize("same_call", [True, False])
    async def test_a_parent_in_another_trace_is_refused(
        self, store: Store, same_call: bool
    ) -> None:
        parent = make_row(id="p", trace_id="other")
        child = make_row(id="c", parent_id="p")
        if not same_call:
            await store.upsert([parent])
        with pytest.raises(RequestError) as error:
            await store.upsert([child, parent])
        assert (error.value.status, error.value.code) == (409, "PARENT_IN_ANOTHER_TRACE")
        assert error.value.loc == (0, "parent_id")
        assert await ids(store) == ([] if same_call else ["p"])

    async def test_parents_that_are_allowed(self, store: Store) -> None:
        """`sgp` §6: unknown; unknown here but in several traces; here and elsewhere."""
        await store.upsert([make_row(id="early", parent_id="late")])
        await store.upsert([make_row(id="late")])
        assert await ids(store, parent_ids=("late",)) == ["early"]
        await store.upsert([make_row(id="p", trace_id="u1"), make_row(id="p", trace_id="u2")])
        await store.upsert([make_row(id="c", parent_id="p")])
        await store.upsert([make_row(id="late", trace_id="u1")])
        await store.upsert([make_row(id="early2", parent_id="late")])
        # What an API takes that asks not where a parent is (`agx` §2).
        await store.upsert([make_row(id="only there", trace_id="u1")])
        await store.upsert([make_row(id="c2", parent_id="only there")], foreign_parents=True)
        with pytest.raises(RequestError):
            await store.upsert([make_row(id="c3", parent_id="c3")], foreign_parents=True)
        # An end that repeats its start's parent adds no link.
        await store.upsert([make_row(id="early", parent_id="late", rev=1)])

    async def test_links_that_close_a_cycle_may_be_left_out(self, store: Store) -> None:
        """P5: a span of itself, a cycle within a call, and one through what is stored."""
        await store.upsert(
            [
                make_row(id="self", parent_id="self"),
                make_row(id="a", parent_id="b"),
                make_row(id="b", parent_id="a"),
                make_row(id="below", parent_id="b"),
                make_row(id="x", parent_id="y"),
            ],
            cut_cycles=True,
        )
        rows = await store.upsert([make_row(id="y", parent_id="x")], cut_cycles=True)
        assert rows[0].parent_id is None
        page = await store.search(SearchQuery(account="a"))
        parents = {row.id: row.parent_id for row in page.rows}
        links = {"a": None, "b": "a", "below": "b", "x": "y", "y": None}
        assert parents == {"self": None, **links}

    async def test_a_trace_is_one_in_every_form_of_its_id(self, store: Store) -> None:
        """otlp:F2: for filters and for parents."""
        text = "0191d7a8-3f9c-7a70-8f0e-2f5c1b7e9a11"
        digits = text.replace("-", "")
        await store.upsert([make_row(id="p", trace_id=digits)])
        await store.upsert([make_row(id="c", trace_id=text, parent_id="p")])
        for trace_id in (text, digits):
            assert sorted(await ids(store, trace_ids=(trace_id,))) == ["c", "p"]
            listed = await store.list_spans(ListQuery(account="a", trace_id=trace_id))
            assert {row.id for row in listed} == {"p", "c"}

    async def test_a_refused_call_costs_no_other(self, store: Store) -> None:
        """P5: calls that share a commit."""
        calls = [
            store.upsert([make_row(id=str(n), parent_id=str(n) if n % 3 == 0 else None)])
            for n in range(30)
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        refused = [n for n, result in enumerate(results) if isinstance(result, RequestError)]
        assert refused == list(range(0, 30, 3))
        assert len(await ids(store)) == 20

    async def test_a_call_that_fails_while_it_writes_leaves_nothing(self, store: Store) -> None:
        """S2, P5: the second row cannot be written at all; calls beside it are not touched."""
        results = await asyncio.gather(
            store.upsert([make_row(id="before")]),
            store.upsert([make_row(id="first"), make_row(id="second", name="\ud800")]),
            store.upsert([make_row(id="after")]),
            return_exceptions=True,
        )
        assert [isinstance(result, Exception) for result in results] == [False, True, False]
        assert sorted(await ids(store)) == ["after", "before"]

    async def test_a_deep_chain_sent_leaf_first_is_stored(self, store: Store) -> None:
        chain = [make_row(id=f"{n:04}", parent_id=f"{n + 1:04}") for n in range(1_500)]
        for start in range(0, 1_500, 500):
            await store.upsert(chain[start : start + 500])
        assert len(await ids(store, limit=2_000)) == 1_500

    # -- Patch

    async def test_patch_changes_what_it_names_only(self, store: Store) -> None:
        start = make_row(
            id="s", end_ns=None, input=b'{"i":1}', metadata=b'{"__everyspan__":{"p":"x"}}'
        )
        await store.upsert([start])
        patch = SpanPatch(
            name="new", end_ns=END_NS, output=b'{"usage":{"input_tokens":2}}', metadata=b'{"m":1}'
        )
        row = await store.patch("a", "s", patch)
        assert row is not None
        assert (row.name, row.end_ns, row.input, row.facts.input_tokens) == (
            "new",
            END_NS,
            b'{"i":1}',
            2,
        )
        assert row.metadata is not None
        assert msgspec.json.decode(row.metadata) == {"m": 1, "__everyspan__": {"p": "x"}}
        assert await store.get("a", "s") == row
        assert await store.patch("a", "unknown", patch) is None
        with pytest.raises(RequestError) as error:
            await store.patch("a", "s", SpanPatch(end_ns=START_NS - 1))
        assert (error.value.status, error.value.loc) == (422, ("end_timestamp",))
        assert await store.get("a", "s") == row

    async def test_patch_merges_metadata_one_level_deep_where_asked(self, store: Store) -> None:
        """`agx` §3."""
        cases = [
            (b'{"a":{"x":1},"b":1}', b'{"a":{"y":2},"c":3}', {"a": {"y": 2}, "b": 1, "c": 3}),
            (b'{"a":1}', b"{}", {"a": 1}),
            (b'{"a":1}', b'[{"b":2}]', [{"b": 2}]),
            (b'[{"a":1}]', b'{"b":2}', {"b": 2}),
            (None, b'{"b":2}', {"b": 2}),
            (b"{}", b'[{"b":2}]', [{"b": 2}]),
            (b'{"__everyspan__":{"p":"x"}}', b'{"b":2}', {"__everyspan__": {"p": "x"}, "b": 2}),
            (
                b'{"__everyspan__":{"p":"x"}}',
                b'[{"b":2}]',
                {"__everyspan__": {"p": "x"}, "items": [{"b": 2}]},
            ),
        ]
        for n, (old, new, merged) in enumerate(cases):
            await store.upsert([make_row(id=str(n), metadata=old)])
            patch = SpanPatch(metadata=new, merges_metadata=True)
            row = await store.patch("a", str(n), patch)
            assert row is not None
            assert row.metadata is not None
            assert msgspec.json.decode(row.metadata) == merged
            assert await store.get("a", str(n)) == row

    async def test_patches_at_once_lose_no_member(self, store: Store) -> None:
        """`agx` §3: each reads and writes in one transaction."""
        await store.upsert([make_row(id="s", metadata=b'{"there":1}')])
        await asyncio.gather(
            *(
                store.patch("a", "s", SpanPatch(metadata=b'{"%d":1}' % n, merges_metadata=True))
                for n in range(200)
            )
        )
        row = await store.get("a", "s")
        assert row is not None
        assert row.metadata is not None
        assert set(msgspec.json.decode(row.metadata)) == {"there", *map(str, range(200))}

    async def test_patch_can_move_a_span_into_another_trace(self, store: Store) -> None:
        await store.upsert(
            [make_row(id="s", input=b'{"i":1}'), make_row(id="child", parent_id="s")]
        )
        moved = await store.patch("a", "s", SpanPatch(trace_id="u", parent_id="p", task_id="k"))
        assert moved is not None
        assert (moved.trace_id, moved.parent_id, moved.input) == ("u", "p", b'{"i":1}')
        assert await ids(store, trace_ids=("t",)) == ["child"]
        assert (await store.search(query(trace_ids=("u",), task_ids=("k",)))).rows == [moved]
        # Versions that come now belong to the span where it is.
        (row,) = await store.upsert([make_row(id="s", trace_id="u", output=b'{"o":1}', rev=1)])
        assert (row.input, row.output) == (b'{"i":1}', b'{"o":1}')
        # An id that stands in several traces: the one in the trace named, else the latest written.
        await store.upsert([make_row(id="s")])
        named = await store.patch("a", "s", SpanPatch(trace_id="u", name="named"))
        latest = await store.patch("a", "s", SpanPatch(name="latest"))
        assert named is not None
        assert latest is not None
        assert (named.trace_id, latest.trace_id) == ("u", "u")
        await store.upsert([make_row(id="s", rev=1)])
        again = await store.patch("a", "s", SpanPatch(trace_id="v"))
        assert again is not None
        assert sorted((r.trace_id, r.name) for r in (await store.search(query())).rows) == [
            ("t", "n"),
            ("u", "latest"),
            ("v", "n"),
        ]

    async def test_patch_links_any_parent_but_no_cycle(self, store: Store) -> None:
        await store.upsert([make_row(id="x", parent_id="y"), make_row(id="y")])
        await store.upsert([make_row(id="elsewhere", trace_id="u")])
        for patch in (SpanPatch(parent_id="x"), SpanPatch(parent_id="y")):
            with pytest.raises(RequestError) as error:
                await store.patch("a", "y", patch)
            assert (error.value.status, error.value.code) == (409, "PARENT_CYCLE")
        for parent_id in ("elsewhere", "unknown"):
            row = await store.patch("a", "y", SpanPatch(parent_id=parent_id))
            assert row is not None
            assert row.parent_id == parent_id

    # -- Listing

    async def test_a_list_is_ordered_by_any_column_and_then_by_arrival(self, store: Store) -> None:
        """`agx` §3; what is missing is greater than anything."""
        rows = [
            make_row(
                id=f"{n * 7 % 10}",
                trace_id=f"t{n % 2}",
                name=f"n{n % 3}",
                start_ns=START_NS + n % 4,
                end_ns=None if n % 5 == 0 else END_NS + n % 3,
                parent_id=None if n % 2 else f"p{n % 3}",
                task_id=f"k{n % 3}" if n > 4 else None,
            )
            for n in range(10)
        ]
        for row in rows:
            await store.upsert([row])
        await store.upsert([rows[0]])  # Written again; it arrived first all the same.
        for order_by in get_args(OrderBy):
            present = [row for row in rows if getattr(row, order_by) is not None]
            missing = [row for row in rows if getattr(row, order_by) is None]
            rising = sorted(present, key=attrgetter(order_by))
            falling = sorted(present, key=attrgetter(order_by), reverse=True)
            for descending, expected in ((False, rising + missing), (True, missing + falling)):
                listed = ListQuery(account="a", order_by=order_by, descending=descending, limit=100)
                assert await store.list_spans(listed) == expected, (order_by, descending)
                pages = [
                    await store.list_spans(msgspec.structs.replace(listed, limit=3, offset=offset))
                    for offset in range(0, 15, 3)
                ]
                assert [row for page in pages for row in page] == expected
                assert pages[-1] == []

    async def test_a_list_is_filtered_by_trace_and_task(self, store: Store) -> None:
        """`agx` §3: a task is looked for in both columns."""
        await store.upsert(
            [
                make_row(id="in both", trace_id="k", task_id="k"),
                make_row(id="by trace", trace_id="k"),
                make_row(id="by task", trace_id="t", task_id="k"),
                make_row(id="neither", trace_id="t", task_id="l"),
            ]
        )
        await store.upsert([make_row(id="theirs", trace_id="k", task_id="k", account="b")])
        cases: list[tuple[dict[str, Any], list[str]]] = [
            ({}, ["in both", "by trace", "by task", "neither"]),
            ({"task_id": "k"}, ["in both", "by trace", "by task"]),
            ({"trace_id": "k"}, ["in both", "by trace"]),
            ({"trace_id": "t", "task_id": "k"}, ["by task"]),
            ({"trace_id": "k", "task_id": "k"}, ["in both", "by trace"]),
            ({"task_id": "unknown"}, []),
            ({"task_id": "a\0b"}, []),
            ({"offset": 2**62}, []),
        ]
        for fields, expected in cases:
            listed = await store.list_spans(ListQuery(account="a", **fields))
            assert [row.id for row in listed] == expected, fields

    async def test_a_list_stops_at_its_budgets(self, store: Store) -> None:
        """S5: a page that is too large is refused, not cut; one row always fits."""
        await store.upsert([make_row(input=b'{"x":"%b"}' % (b"x" * 1_000)) for _ in range(50)])
        assert len(await store.list_spans(ListQuery(account="a", limit=1, bytes_max=1))) == 1
        assert len(await store.list_spans(ListQuery(account="a"))) == 50
        with pytest.raises(RequestError) as error:
            await store.list_spans(ListQuery(account="a", bytes_max=5_000))
        assert (error.value.status, error.value.code) == (400, "RESULT_TOO_LARGE")
        await store.upsert([make_row(name=str(n)) for n in range(3_000)])
        with pytest.raises(RequestError) as error:
            await store.list_spans(ListQuery(account="a", order_by="name", time_max_s=0.0))
        assert (error.value.status, error.value.code) == (400, "QUERY_TOO_BROAD")
        assert len(await store.list_spans(ListQuery(account="a", limit=10))) == 10

    # -- Filters

    async def test_every_filter_alone_and_together(self, store: Store) -> None:
        """`sgp` §7: ANDed; an empty one is none."""
        rows = {
            "root": make_row(id="root", name="a", type="TRACER", group_id="g1"),
            "child": make_row(
                id="child",
                parent_id="root",
                start_ns=START_NS + 5_000_000,
                name="b",
                status="ERROR",
                task_id="k",
                application_variant_id="v1",
                obs_trace_id="a" * 32,
                obs_span_id="b" * 16,
            ),
            "open": make_row(id="open", trace_id="t2", end_ns=None, start_ns=START_NS + 10_000_000),
            "twin": make_row(
                id="root",
                trace_id="t2",
                start_ns=START_NS + 20_000_000,
                end_ns=START_NS + 23_000_000,
                status="CANCELED",
                task_id="k",
                metadata=b'{"k":1,"b":true,"o":{"x":[1,2.0]},"s":"v","l":[1,2]}',
            ),
        }
        await store.upsert(list(rows.values()))
        cases: list[tuple[dict[str, Any], str]] = [
            ({}, "root child open twin"),
            ({"trace_ids": ("t2",)}, "open twin"),
            ({"trace_ids": ("t2", "t", "nope")}, "root child open twin"),
            ({"span_ids": ("root",)}, "root twin"),
            ({"span_ids": ("root",), "trace_ids": ("t2",)}, "twin"),
            ({"parent_ids": ("root",)}, "child"),
            ({"spans": (("t2", "root"), ("t", "child"), ("t2", "child"))}, "child twin"),
            ({"spans": (("t2", "root"), ("t", "child")), "span_ids": ("root",)}, "twin"),
            ({"excluded_span_ids": ("root",)}, "child open"),
            ({"excluded_trace_ids": ("t",)}, "open twin"),
            (
                {"excluded_spans": (("t", "root"),), "excluded_span_ids": ("open",)},
                "child open twin",
            ),
            ({"parents_only": True}, "root open twin"),
            ({"names": ("b", "x")}, "child"),
            ({"statuses": ("SUCCESS",)}, "root open"),
            ({"statuses": ("ERROR", "CANCELED")}, "child twin"),
            ({"types": ("STANDALONE",)}, "child open twin"),
            ({"types": ("TRACER",)}, "root"),
            ({"task_ids": ("k", "l")}, "child twin"),
            ({"task_ids": ("k",), "trace_ids": ("t2",)}, "twin"),
            ({"group_id": "g1"}, "root"),
            ({"application_variant_ids": ("v1", "v2")}, "child"),
            ({"obs_trace_ids": ("a" * 32,)}, "child"),
            ({"obs_span_ids": ("b" * 16,)}, "child"),
            ({"from_ns": START_NS + 5_000_000}, "child open twin"),
            ({"to_ns": START_NS + 5_000_000}, "root child"),
            ({"from_ns": START_NS + 5_000_000, "to_ns": START_NS + 5_000_000}, "child"),
            ({"min_duration_ns": 3_000_001}, "root child"),
            ({"max_duration_ns": 3_000_000}, "twin"),
            ({"min_duration_ns": 3_000_000, "max_duration_ns": 3_000_000}, "twin"),
            ({"min_duration_ns": 2, "max_duration_ns": 1}, ""),
            ({"metadata": (("k", (1,)),)}, "twin"),
            ({"metadata": (("k", (1.0,)),)}, "twin"),
            ({"metadata": (("k", (True,)),)}, ""),
            ({"metadata": (("b", (1,)),)}, ""),
            ({"metadata": (("k", (5, 1)), ("s", ("v",)))}, "twin"),
            ({"metadata": (("k", (1,)), ("s", ("w",)))}, ""),
            ({"metadata": (("o", ({"x": [1.0, 2]},)),)}, "twin"),
            ({"metadata": (("o", ({"x": [1]},)),)}, ""),
            ({"metadata": (("missing", (None,)),)}, ""),
            ({"metadata": (("k", ()),)}, ""),
            ({"names": ("n",), "statuses": ("SUCCESS",), "parents_only": True}, "open"),
        ]  # fmt: skip
        for fields, names in cases:
            page = await store.search(query(**fields))
            assert identities(page.rows) == [
                (rows[name].trace_id, rows[name].id) for name in names.split()
            ], fields

    async def test_thousands_of_ids_in_one_search(self, store: Store) -> None:
        await store.upsert([make_row(id=f"s{n}") for n in range(50)])
        many = tuple(f"s{n}" for n in range(10_000))
        assert len(await ids(store, span_ids=many)) == 50
        assert await ids(store, excluded_span_ids=many) == []
        pairs = tuple(("t", id_) for id_ in many[:5_000])
        assert len(await ids(store, spans=pairs)) == 50
        assert len(await ids(store, trace_ids=(*many, "t")[-10_000:])) == 50

    # -- Order and paging

    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("sort_by", SORTS)
    async def test_pages_forward_and_backward_hold_everything_once(
        self, store: Store, sort_by: str, descending: bool
    ) -> None:
        """S4, `sgp:K1`-`K3`: with equal sort keys and ids that repeat across traces."""
        rng = random.Random(f"{sort_by} {descending}")
        rows = []
        for trace in range(4):
            for n in range(9):
                usage = b'{"usage":{"input_tokens":%d,"output_tokens":%d}}' % (n % 3, trace % 2)
                rows.append(
                    make_row(
                        trace_id=f"t{trace}",
                        # The first five ids of traces 0 and 1 are the same.
                        id=f"{'same' if trace < 2 and n < 5 else trace}-{n}",
                        start_ns=START_NS + rng.randrange(3),
                        end_ns=None if n % 4 == 0 else END_NS + rng.randrange(3),
                        metadata=usage,
                    )
                )
        rng.shuffle(rows)
        await store.upsert(rows)
        expected = sorted(
            rows,
            key=lambda row: (sort_value(row, sort_by), row.trace_id, row.id),  # type: ignore[arg-type]
            reverse=descending,
        )
        for backward in (False, True):
            for bare in (False, True):
                for limit in (1, 2, 5, 36):
                    read = await read_all(
                        store, bare=bare, backward=backward, limit=limit, sort_by=sort_by,
                        descending=descending,
                    )  # fmt: skip
                    assert identities(read) == identities(expected), (backward, bare, limit)

    async def test_a_page_ends_on_an_id_that_occurs_once(self, store: Store) -> None:
        """`sgp:K3`: shortened, or lengthened where it would become empty."""
        await store.upsert(
            [
                make_row(id=id_, trace_id=f"t{n}", start_ns=START_NS + n)
                for n, id_ in enumerate(["u", "d", "d", "e", "e", "v", "w"])
            ]
        )
        shortened = await store.search(query(limit=2))
        assert [row.id for row in shortened.rows] == ["u"]
        lengthened = await store.search(query(limit=2, after="u"))
        assert [row.id for row in lengthened.rows] == ["d", "d", "e", "e", "v"]
        assert lengthened.has_more
        # The same after a position: the client may go on from the bare id.
        exact = await store.search(query(limit=3, after=Position(START_NS, "t0", "u")))
        assert [row.id for row in exact.rows] == ["d", "d", "e", "e", "v"]
        # What the filter leaves out makes nothing ambiguous.
        assert await ids(store, limit=2, trace_ids=("t0", "t1", "t3")) == ["u", "d"]
        # The last page may end on anything.
        last = await store.search(query(limit=2, trace_ids=("t3", "t4")))
        assert ([row.id for row in last.rows], last.has_more) == (["e", "e"], False)

    @pytest.mark.parametrize("bare", [True, False])
    async def test_paging_is_stable_while_others_write(self, store: Store, bare: bool) -> None:
        """`sgp:K5`: nothing that was there is skipped or seen twice; also when ids get twins."""
        there = [make_row(id=f"{n:03}", start_ns=START_NS + n // 7) for n in range(120)]
        await store.upsert(there)
        rng = random.Random(5)
        stop = asyncio.Event()

        async def write() -> int:
            n = 0
            while not stop.is_set():
                n += 1
                twin = make_row(
                    id=rng.choice(there).id, trace_id=f"other {n}", start_ns=START_NS + n % 20
                )
                fresh = make_row(id=f"fresh {n}", start_ns=START_NS + rng.randrange(20))
                await store.upsert([twin, fresh])
            return n

        writer = asyncio.create_task(write())
        try:
            for _ in range(3):
                seen = Counter(identities(await read_all(store, bare=bare, limit=7)))
                assert set(seen.values()) == {1}
                assert all(seen[row.trace_id, row.id] for row in there)
        finally:
            stop.set()
            assert await writer > 0

    async def test_an_id_that_names_no_row_is_no_cursor(self, store: Store) -> None:
        """`sgp:K4`."""
        await store.upsert([make_row(id="s"), make_row(id="d", trace_id="u"), make_row(id="d")])
        for fields in ({"after": "nope"}, {"before": "nope"}, {"after": "d", "names": ("x",)}):
            with pytest.raises(RequestError) as error:
                await store.search(query(**fields))
            assert (error.value.status, error.value.code) == (400, "INVALID_CURSOR")
        # A row that matches no longer still says where to go on.
        assert await ids(store, after="s", names=("n",)) == ["d"]
        assert await ids(store, after="s", names=("x",)) == []

    async def test_ids_that_all_repeat_are_an_error_not_a_loop(self, store: Store) -> None:
        """`sgp:K3` has an end."""
        rows = [
            make_row(id=f"{n:05}", trace_id=trace) for trace in ("t", "u") for n in range(10_500)
        ]
        await store.upsert(rows)
        with pytest.raises(RequestError) as error:
            await store.search(query(limit=10_000))
        assert error.value.code == "SEARCH_RESULT_TOO_LARGE"
        assert len(await ids(store, limit=10_000, trace_ids=("t",))) == 10_000

    # -- Budgets

    async def test_a_page_stops_at_its_bytes_but_never_before_its_first_row(
        self, store: Store
    ) -> None:
        """S5."""
        big = b'{"x":"' + b"x" * 10_000 + b'"}'
        await store.upsert([make_row(id=f"{n}", input=big) for n in range(5)])
        page = await store.search(query(bytes_max=25_000))
        assert ([row.id for row in page.rows], page.stopped) == (["0", "1"], "bytes")
        assert page.has_more
        assert [row.id for row in (await store.search(query(bytes_max=10))).rows] == ["0"]
        rest = await store.search(query(bytes_max=35_000, after="1"))
        assert ([row.id for row in rest.rows], rest.stopped) == (["2", "3", "4"], None)

    async def test_a_search_stops_at_its_time(self, store: Store) -> None:
        """S5: and says so; readers stay usable."""
        await store.upsert([make_row(metadata=b'{"k":1}') for _ in range(3_000)])
        page = await store.search(query(time_max_s=0.0, limit=1_000, metadata=(("k", (2,)),)))
        assert (page.rows, page.stopped, page.has_more) == ([], "time", True)
        assert len(await ids(store, limit=10)) == 10

    async def test_slow_searches_delay_no_write_and_no_read_of_one_row(self, store: Store) -> None:
        """S5: more of them than any store has threads for, each up to its time."""
        await store.upsert([make_row(metadata=b'{"k":1}') for _ in range(8_000)])
        slow = [
            asyncio.create_task(
                store.search(query(time_max_s=5.0, limit=10_000, metadata=(("k", (2,)),)))
            )
            for _ in range(60)
        ]
        await store.upsert([make_row(id="written meanwhile")])
        assert await store.get("a", "written meanwhile") is not None
        assert (await store.health()).ok
        assert not slow[30].done()
        for search in slow:
            search.cancel()

    async def test_health_counts(self, store: Store) -> None:
        await store.upsert([make_row(), make_row()])
        health = await store.health()
        assert (health.ok, health.spans, health.waiting, health.waiting_bytes) == (True, 2, 0, 0)

    # -- Keys

    async def test_a_key_comes_back_whole(self, store: Store) -> None:
        assert await store.keys() == []
        first, _ = make_key(name="é ci", accounts=["a", "*"], scopes=["write"], now_ns=1)
        second, _ = make_key(
            name="n", accounts=["b"], scopes=["read", "write"], now_ns=2, expires_ns=3
        )
        await store.add_key(second)
        await store.add_key(first)
        assert await store.keys() == [first, second]

    async def test_a_key_is_revoked_once_and_stays_known(self, store: Store) -> None:
        key, _ = make_key(name="n", accounts=["a"], scopes=["read"], now_ns=1)
        await store.add_key(key)
        assert await store.revoke_key(key.id)
        (revoked,) = await store.keys()
        assert revoked == msgspec.structs.replace(key, revoked_ns=revoked.revoked_ns)
        assert revoked.revoked_ns
        assert not await store.revoke_key(key.id)
        assert not await store.revoke_key("nope")
        assert await store.keys() == [revoked]

    async def test_sessions_end_with_their_key_and_leave_nothing(self, store: Store) -> None:
        key, _ = make_key(name="n", accounts=["a"], scopes=["read"], now_ns=1)
        other, _ = make_key(name="o", accounts=["a"], scopes=["read"], now_ns=2)
        sessions = [
            make_key(
                name="n",
                accounts=["a"],
                scopes=["read"],
                now_ns=3,
                expires_ns=FAR_NS,
                parent=parent.id,
            )[0]
            for parent in (key, key, other)
        ]
        for each in (key, other, *sessions):
            await store.add_key(each)
        assert await store.revoke_key(sessions[0].id)
        assert {each.id for each in await store.keys()} == {
            key.id,
            other.id,
            sessions[1].id,
            sessions[2].id,
        }
        await store.revoke_key(key.id)
        assert {each.id for each in await store.keys()} == {key.id, other.id, sessions[2].id}

    async def test_sessions_are_bounded_and_expired_ones_go(self, store: Store) -> None:
        key, _ = make_key(name="n", accounts=["a"], scopes=["read"], now_ns=1)
        await store.add_key(key)
        fields = {"name": "n", "accounts": ["a"], "scopes": ["read"], "parent": key.id}
        expired, _ = make_key(now_ns=2, expires_ns=3, **fields)  # type: ignore[arg-type]
        await store.add_key(expired)
        made = [
            make_key(now_ns=10 + n, expires_ns=FAR_NS, **fields)[0]  # type: ignore[arg-type]
            for n in range(SESSIONS_MAX + 2)
        ]
        await asyncio.gather(*[store.add_key(session) for session in made])
        left = {each.id for each in await store.keys()}
        assert left == {key.id, *(session.id for session in made[2:])}

    # -- Assessments

    async def test_assessments_follow_their_span(self, store: Store) -> None:
        """`sgp` §8: into another trace, too."""
        await store.upsert([make_row(id="s"), make_row(id="s", trace_id="u"), make_row(id="x")])
        author = Author("ann", may_all=False)
        content = Content(comment="c", metadata=b'{"n": 1e400}')
        draft = Draft(type="metadata", trace_id="t", span_id="s", content=content)
        made = await store.add_assessment("a", draft, author)
        assert (made.trace_id, made.span_id, made.created_by) == ("t", "s", "ann")
        assert (made.content, made.created_ns) == (content, made.updated_ns)
        assert await store.assessment("a", made.id) == made
        assert await store.assessment("b", made.id) is None
        assert await ids(store, assessment_types=("metadata", "comment")) == ["s"]
        assert await ids(store, assessment_types=("comment",)) == []
        await store.patch("a", "s", SpanPatch(trace_id="t", name="still there"))
        moved = await store.patch("a", "s", SpanPatch(trace_id="t2"))
        assert moved is not None
        there = [await store.assessments("a", trace_id=trace) for trace in ("t", "u", "t2")]
        assert sorted(map(len, there)) == [0, 0, 1]
        (listed,) = await store.assessments("a", span_id="s")
        assert listed == msgspec.structs.replace(made, trace_id=listed.trace_id)

    async def test_assessments_are_changed_by_their_author_alone(self, store: Store) -> None:
        """`sgp` §8."""
        await store.upsert([make_row(id="s")])
        ann, bob = Author("ann", may_all=False), Author("bob", may_all=False)
        draft = Draft(type="comment", trace_id="t", span_id=None, content=Content(comment="1"))
        made = await store.add_assessment("a", draft, ann)
        change = Change(type=None, content=Content(comment="2"))
        for refused in (
            store.change_assessment("a", made.id, change, bob),
            store.delete_assessment("a", made.id, bob),
        ):
            with pytest.raises(RequestError) as error:
                await refused
            assert error.value.status == 403
        new = await store.change_assessment("a", made.id, change, ann)
        assert new == await store.assessment("a", made.id)
        assert new is not None
        assert new.content.comment == "2"
        assert await store.change_assessment("b", made.id, change, ann) is None
        assert not await store.delete_assessment("b", made.id, ann)
        assert await store.delete_assessment("a", made.id, Author("root", may_all=True))
        assert not await store.delete_assessment("a", made.id, ann)
        assert await store.assessments("a", trace_id="t") == []

    async def test_of_two_overwrites_at_once_one_is_kept(self, store: Store) -> None:
        """`sgp` §8."""
        await store.upsert([make_row(id="s")])
        content = Content(overwrite=b'{"a":1}')
        draft = Draft(type="overwrite", trace_id="t", span_id="s", content=content)
        results = await asyncio.gather(
            *(store.add_assessment("a", draft, Author("ann", may_all=False)) for _ in range(5)),
            return_exceptions=True,
        )
        statuses = [each.status for each in results if isinstance(each, RequestError)]
        assert statuses == [409] * 4
        assert len(await store.assessments("a", span_id="s")) == 1
