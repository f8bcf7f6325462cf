"""Searches of a store against a plain reference: every filter, sort, cursor and text (`sgp` §7)."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from everyspan.model.ids import new_id
from everyspan.server.assessments import Author, Content, Draft
from everyspan.server.row import SpanRow
from everyspan.server.stores import sqlite_text, sqlite_text_lookup
from everyspan.server.stores.base import Position, SearchQuery, SortBy, Store, sort_value
from everyspan.server.stores.sqlite import SqliteStore
from everyspan.server.terms import parse_texts
from tests.server.rows import START_NS, make_row
from tests.server.stores import reference
from tests.server.stores.text_index import is_indexed
from tests.waiting import until

SEED = 20_261_124
ROWS = 200
QUERIES = 40
SORTS: tuple[SortBy, ...] = ("start_timestamp", "duration_ms", "input_tokens", "output_tokens")
WORDS = [
    "red",
    "Red",
    "fox",
    "foxes",
    "größe",
    "日本語",
    "a_b",
    "x-1",
    "the",
    "\n",
    '"',
    "\\",
    "%",
    "OR",
]
TERMS = [
    *("red", "fox", "red fox", '"red fox"', "the", "ed", "größe", "日本", "a_b", "a_b x-1", "x-1"),
    *('"the the"', "foxes red", "b x", "\\\\", "OR", '" OR "', "AND *", "name 1", "ame", '"name"'),
    *("evspname1", "evsplongtext", "key", '{"key"', "nowhere"),
]
TRACES = [new_id(), new_id(), "t", "t2"]


def some(draw: random.Random, values: list[Any], count: int = 2) -> tuple[Any, ...]:
    return tuple(draw.sample(values, draw.randint(1, min(count, len(values)))))


def random_row(draw: random.Random, n: int) -> SpanRow:
    start_ns = START_NS + draw.randint(0, 20) * 1_000_000
    ended = draw.random() < 0.8

    def payload() -> bytes | None:
        if draw.random() < 0.4:
            return None
        text = " ".join(draw.choices(WORDS, k=draw.randint(0, 6)))
        return json.dumps({"key": text}, ensure_ascii=draw.random() < 0.5).encode()

    metadata: dict[str, Any] = {"k": draw.choice([1, True, "1", [1], {"a": {"b": 1}}])}
    if draw.random() < 0.5:
        metadata["usage"] = {
            "input_tokens": draw.randint(0, 3),
            "output_tokens": draw.randint(0, 3),
        }
    if draw.random() < 0.3:
        metadata["__agent_name__"] = draw.choice(["red", "blue"])
    return make_row(
        # Ids repeat across traces.
        id=str(draw.randint(0, ROWS // 3)),
        trace_id=draw.choice(TRACES),
        account=draw.choice(["a", "a", "a", "b"]),
        name=f"{draw.choice(['name', 'red Name', 'größe', 'a_b'])} {n % 5}",
        start_ns=start_ns,
        end_ns=start_ns + draw.randint(0, 5) * 1_000_000 if ended else None,
        parent_id=draw.choice([None, "p", "q"]),
        task_id=draw.choice([None, "k"]),
        type=draw.choice([None, "TRACER", "CUSTOM"]),
        status=draw.choice([None, "ERROR", "SUCCESS"]),
        group_id=draw.choice([None, "g"]),
        application_variant_id=draw.choice([None, "v"]),
        obs_trace_id=draw.choice([None, "0" * 32]),
        obs_span_id=draw.choice([None, "1" * 16]),
        input=payload(),
        output=payload(),
        metadata=json.dumps(metadata).encode() if draw.random() < 0.8 else None,
    )


def random_query(draw: random.Random, rows: list[SpanRow]) -> SearchQuery:
    ids = [row.id for row in rows]
    pairs = [(row.trace_id, row.id) for row in rows]
    filters: dict[str, Any] = {
        "from_ns": START_NS + draw.randint(0, 20) * 1_000_000,
        "to_ns": START_NS + draw.randint(0, 20) * 1_000_000,
        "trace_ids": some(draw, TRACES),
        "task_ids": ("k",),
        "span_ids": some(draw, ids, 40),
        "parent_ids": some(draw, ["p", "q"]),
        "spans": some(draw, pairs, 40),
        "excluded_span_ids": some(draw, ids, 40),
        "excluded_trace_ids": some(draw, TRACES),
        "excluded_spans": some(draw, pairs, 40),
        "parents_only": True,
        "names": some(draw, sorted({row.name for row in rows}), 4),
        "statuses": some(draw, ["ERROR", "SUCCESS"]),
        "types": some(draw, ["STANDALONE", "TRACER", "CUSTOM"]),
        "group_id": "g",
        "application_variant_ids": ("v", "w"),
        "obs_trace_ids": ("0" * 32,),
        "obs_span_ids": ("1" * 16,),
        "min_duration_ns": draw.randint(0, 5) * 1_000_000,
        "max_duration_ns": draw.randint(0, 5) * 1_000_000,
        "assessment_types": some(draw, ["comment", "rating"]),
        "metadata": draw.choice(
            [
                (("k", (1,)),),
                (("k", (True, "1")),),
                (("k", ({"a": {"b": 1}},)), ("__agent_name__", ("red", "blue"))),
            ]
        ),
    }
    chosen = dict(draw.sample(sorted(filters.items()), draw.choice([0, 1, 1, 2])))
    if draw.random() < 0.7:
        terms = list(some(draw, TERMS, 3))
        if draw.random() < 0.2:
            terms.append(TRACES[0])
        chosen["texts"] = parse_texts(terms)
    return SearchQuery(
        account="a",
        limit=draw.choice([1, 3, 10, 100, 1_000]),
        sort_by=draw.choice(SORTS),
        descending=draw.random() < 0.5,
        **chosen,
    )


async def read_pages(store: Store, query: SearchQuery, *, bare: bool) -> list[SpanRow]:
    """Read on until there is no more, as either kind of client does."""
    rows: list[SpanRow] = []
    while True:
        page = await store.search(query)
        assert page.stopped is None
        rows += page.rows
        if not page.has_more:
            return rows
        assert page.rows
        edge = page.rows[-1]
        place = Position(sort_value(edge, query.sort_by), edge.trace_id, edge.id)
        query = msgspec.structs.replace(query, after=edge.id if bare else place)


async def check(
    store: Store, draw: random.Random, rows: list[SpanRow], assessed: reference.Assessed
) -> None:
    """Compare one random query's answers, in pages forward, backward, and by traces."""
    query = random_query(draw, rows)
    expected = reference.search(rows, query, assessed)
    assert await read_pages(store, query, bare=draw.random() < 0.5) == expected, query
    if expected:
        edge = draw.choice(expected)
        place = Position(sort_value(edge, query.sort_by), edge.trace_id, edge.id)
        back = msgspec.structs.replace(query, before=place)
        page = await store.search(back)
        before = reference.search(rows, back, assessed)
        assert page.rows == before[len(before) - len(page.rows) :], back
        assert page.has_more == (len(page.rows) < len(before))
    traces = await store.search_traces(query)
    in_order = list(dict.fromkeys(row.trace_id for row in expected))
    assert traces.trace_ids == in_order[: query.limit], query
    if len(in_order) < query.limit:
        assert traces.through is None


@pytest.mark.parametrize(
    "bounds",
    [
        {},
        {"CANDIDATES_MAX": 3},
        {"CANDIDATES_MAX": 3, "WIDTH_MAX": 0, "MANY_MAX": 40},
        {"TEXT_BYTES_MAX": 40, "NAMES_MAX": 3, "NAMES_NARROW_MAX": 1},
        {"FRESH_MAX": 0, "BATCH": 7},
    ],
    ids=["as it is", "walking", "far apart", "capped", "late"],
)
async def test_searches_answer_as_a_look_at_every_row_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bounds: dict[str, int]
) -> None:
    """`sgp` §7, `sgp:K1`, K2, K3, K5, X1, X2."""
    for name, value in bounds.items():
        for module in (sqlite_text, sqlite_text_lookup):
            monkeypatch.setattr(module, name, value, raising=False)
    draw = random.Random(SEED + len(bounds))
    store = SqliteStore(tmp_path / "spans.db")
    stored: dict[tuple[str, str, str], SpanRow] = {}

    async def write(count: int) -> None:
        # Versions meet, too.
        for _ in range(0, count, 10):
            rows = [random_row(draw, n) for n in range(10)]
            for account in "ab":
                its = [row for row in rows if row.account == account]
                for row in await store.upsert(its, foreign_parents=True):
                    stored[row.account, row.trace_id, row.id] = row

    await write(ROWS)
    assessed: reference.Assessed = {}
    for key in draw.sample(sorted(stored), 60):
        account, trace_id, span_id = key
        kind = draw.choice(["comment", "rating"])
        content = Content(comment="c") if kind == "comment" else Content(rating=1)
        draft = Draft(type=kind, trace_id=trace_id, span_id=span_id, content=content)  # type: ignore[arg-type]
        await store.add_assessment(account, draft, Author("ann", may_all=False))
        assessed[key] = kind
    for _ in range(QUERIES):
        await check(store, draw, list(stored.values()), assessed)
    await until(lambda: is_indexed(tmp_path / "spans.db"))
    for _ in range(QUERIES):
        await check(store, draw, list(stored.values()), assessed)
    await write(20)
    for _ in range(QUERIES // 4):
        await check(store, draw, list(stored.values()), assessed)
    await store.close()
