"""`everyspan.server.merge`: versions of one span make one row, in whatever order they come."""

from __future__ import annotations

from functools import reduce
from itertools import permutations
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from everyspan.server.merge import merge
from everyspan.server.row import Facts, SpanRow, keep_completeness, read_facts, read_rev
from tests.server.rows import END_NS, START_NS, make_row


def version(*, end: int | None, rev: int, **fields: Any) -> SpanRow:
    return make_row(id="s", end_ns=None if end is None else END_NS + end, rev=rev, **fields)


texts = st.one_of(st.none(), st.sampled_from(["a", "b", "c"]))
payloads = st.one_of(
    st.none(),
    st.just(b"{}"),
    st.sampled_from(
        [b'{"usage":{"input_tokens":1}}', b'{"usage":{"output_tokens":2}}', b'{"x":3}']
    ),
)


@st.composite
def versions(draw: st.DrawFn, keys: st.SearchStrategy[tuple[int | None, int]]) -> SpanRow:
    end, rev = draw(keys)
    fields = {
        "parent_id": draw(texts),
        "type": draw(texts),
        "status": draw(st.sampled_from([None, "SUCCESS", "ERROR", "CANCELED"])),
        "group_id": draw(texts),
        "input": draw(payloads),
        "output": draw(payloads),
        "metadata": draw(payloads),
    }
    return version(
        end=end,
        rev=rev,
        start_ns=START_NS - draw(st.integers(0, 3)),
        name=draw(st.sampled_from(["n", "m"])),
        **fields,
    )


def revised(ends: list[int | None], draw: st.DrawFn) -> list[SpanRow]:
    """Return versions of a producer that counts them: no two have the same key."""
    return [draw(versions(st.just((end, rev)))) for rev, end in enumerate(ends)]


@st.composite
def histories(draw: st.DrawFn) -> list[SpanRow]:
    """Return what a producer with revisions may send: STARTs, ENDs, in any mixture."""
    ends = draw(st.lists(st.one_of(st.none(), st.integers(0, 2)), min_size=1, max_size=4))
    return revised(ends, draw)


@given(histories(), st.data())
@settings(max_examples=150)
def test_every_order_with_any_repeats_gives_the_same_row(
    history: list[SpanRow], data: st.DataObject
) -> None:
    """P6, `sgp:M1`-`M4`, O4: all permutations of START, END, repeated and retried versions."""
    repeats = data.draw(st.lists(st.sampled_from(history), max_size=2))
    rows = [reduce(merge, order) for order in permutations(history + repeats)]
    assert all(row == rows[0] for row in rows)


@given(histories(), st.data())
def test_grouping_makes_no_difference(history: list[SpanRow], data: st.DataObject) -> None:
    """O4: batches merge in themselves before they meet the stored row."""
    order = data.draw(st.permutations(history))
    cut = data.draw(st.integers(0, len(order)))
    left, right = order[:cut], order[cut:]
    whole = reduce(merge, order)
    if left and right:
        assert merge(reduce(merge, left), reduce(merge, right)) == whole


@given(
    st.lists(
        versions(st.tuples(st.one_of(st.none(), st.integers(0, 2)), st.integers(-1, 2))),
        min_size=1,
        max_size=6,
    )
)
def test_each_field_is_from_the_newest_version_that_says_something(rows: list[SpanRow]) -> None:
    """O1-O3, also where keys repeat: then the later arrival wins."""
    merged = reduce(merge, rows)
    by_age = sorted(rows, key=lambda row: row.key)  # Stable: later arrivals of a key stay later.
    newest = by_age[-1]
    assert (merged.name, merged.start_ns, merged.end_ns, merged.rev) == (
        newest.name,
        newest.start_ns,
        newest.end_ns,
        newest.rev,
    )
    for field in ("parent_id", "type", "group_id", "input", "output", "metadata"):
        said = [getattr(row, field) for row in by_age if getattr(row, field) not in (None, b"{}")]
        empty = b"{}" if any(getattr(row, field) == b"{}" for row in rows) else None
        assert getattr(merged, field) == (said[-1] if said else empty), field
    statuses = [row.status for row in by_age if row.key[0] == newest.key[0] and row.status]
    assert merged.status == (statuses[-1] if statuses else None)


def test_a_late_start_fills_what_the_end_left_empty_and_nothing_else() -> None:
    """`sgp:M2`."""
    end = version(end=0, rev=1, output=b'{"o":1}', input=b"{}", status="ERROR", name="end")
    start = version(end=None, rev=0, output=b'{"o":0}', input=b'{"i":0}', status="SUCCESS")
    row = merge(end, start)
    assert (row.end_ns, row.status, row.name) == (END_NS, "ERROR", "end")
    assert (row.input, row.output) == (b'{"i":0}', b'{"o":1}')


def test_a_late_retry_of_an_older_end_never_wins() -> None:
    """`sgp:M3`: by end, then by revision."""
    newer = version(end=0, rev=2, output=b'{"o":2}')
    assert merge(newer, version(end=0, rev=1, output=b'{"o":1}')).output == b'{"o":2}'
    assert merge(newer, version(end=-5, rev=3, output=b'{"o":3}')).output == b'{"o":2}'


def test_foreign_versions_with_equal_keys_take_the_later_arrival() -> None:
    """`sgp:M3`: senders without revisions."""
    first = version(end=0, rev=-1, output=b'{"o":1}', input=b'{"i":1}')
    second = version(end=0, rev=-1, output=b'{"o":2}')
    row = merge(first, second)
    assert (row.output, row.input) == (b'{"o":2}', b'{"i":1}')


def test_rows_from_one_version_remember_nothing_extra() -> None:
    start = version(end=None, rev=0, input=b'{"i":0}')
    end = version(end=0, rev=1, input=b'{"i":0}', output=b'{"o":1}')
    assert merge(start, end).older is None


def test_reads_the_revision_or_none() -> None:
    cases: dict[bytes, int] = {
        b'{"__everyspan__":{"p":"x","rev":3}}': 3,
        b'{"__everyspan__":{"rev":0}}': 0,
        b'{"__everyspan__":{"rev":-4}}': -1,
        b'{"__everyspan__":{"rev":true}}': -1,
        b'{"__everyspan__":{"rev":1.5}}': -1,
        b'{"__everyspan__":{"rev":99999999999999999999999}}': -1,
        b'{"__everyspan__":[1]}': -1,
        b'{"__everyspan__":null}': -1,
        b'{"a":"__everyspan__"}': -1,
    }
    assert {metadata: read_rev(metadata) for metadata in cases} == cases
    assert read_rev(None) == -1


def test_reads_usage_first_hit_wins() -> None:
    """`sgp` §6: metadata before output, non-negative integers only, absent is not 0."""
    cases: list[tuple[Any, Any, tuple[int | None, int | None]]] = [
        ({"usage": {"input_tokens": 1, "output_tokens": 2}}, None, (1, 2)),
        ({"usage": {"prompt_tokens": 1, "completion_tokens": 2}}, None, (1, 2)),
        ({"usage": {"prompt_tokens": 1, "input_tokens": 3}}, None, (3, None)),
        (None, {"usage": {"input_tokens": 0}}, (0, None)),
        (
            {"usage": {"input_tokens": 1}},
            {"usage": {"input_tokens": 9, "output_tokens": 2}},
            (1, 2),
        ),
        ({"usage": {"input_tokens": -1, "output_tokens": 1.0}}, None, (None, None)),
        ({"usage": {"input_tokens": "7"}}, None, (None, None)),
        ({"usage": {"input_tokens": 10**30}}, None, (None, None)),
        ({"usage": [1]}, {"usage": None}, (None, None)),
        ({"deeper": {"usage": {"input_tokens": 1}}}, {}, (None, None)),
        (None, None, (None, None)),
    ]
    for metadata, output, tokens in cases:
        encoded = [None if x is None else msgspec.json.encode(x) for x in (metadata, output)]
        facts = read_facts(*encoded)
        assert (facts.input_tokens, facts.output_tokens) == tokens, (metadata, output)


def test_reads_what_summaries_need() -> None:
    """`otlp` F7, F8, F13; `trace:U1`: facts of SGP, AgentEx and OTLP spans alike."""
    cases: list[tuple[Any, Any, dict[str, Any]]] = [
        (None, None, {}),
        ([{"model": "m"}], [{"usage": {"input_tokens": 1}}], {}),
        ({"model": 1, "cost_usd": "2", "__agent_name__": "", "__error__": []}, None, {}),
        ({"cost_usd": -1}, None, {}),
        ({"cost_usd": 1}, None, {"cost_usd": 1.0, "usage_from": "metadata.cost_usd"}),
        ({"cost_usd": 1, "__source__": "otel"}, None, {"cost_usd": 1.0}),
        (
            {"model": "m", "__agent_name__": "a", "__everyspan__": {"p": "x"}},
            None,
            {"model": "m", "agent": "a", "record": '{"p":"x"}'},
        ),
        ({"__everyspan__": {"p": "x" * 20_000}}, None, {}),
        (
            {"__error__": {"type": "E", "message": "é" * 600}},
            None,
            {"error_type": "E", "error_message": "é" * 500},
        ),
        (
            {"error": True, "error_type": "E", "error_message": "m"},
            None,
            {"error_type": "E", "error_message": "m"},
        ),
        (
            {"aggregated_usage": {"input_tokens": 1}},
            None,
            {"input_tokens": 1, "usage_from": "metadata.aggregated_usage"},
        ),
        (
            {"usage": {"input_tokens": 1}, "aggregated_usage": {"input_tokens": 2}},
            None,
            {"input_tokens": 1, "usage_from": "metadata.usage"},
        ),
        (
            {"model": ""},
            {"model": "m", "usage": {"completion_tokens": 2}},
            {"output_tokens": 2, "usage_from": "output.usage"},
        ),
        (None, {"model": "a car, since no call's answer"}, {}),
        (
            None,
            {"model": "m", "usage": {"prompt_tokens": 1}},
            {"model": "m", "input_tokens": 1, "usage_from": "output.usage"},
        ),
    ]
    for metadata, output, facts in cases:
        encoded = [None if x is None else msgspec.json.encode(x) for x in (metadata, output)]
        assert read_facts(*encoded) == Facts(**facts), (metadata, output)


def test_an_edit_of_metadata_keeps_the_completeness_record() -> None:
    """P11."""
    old = b'{"k":1,"__everyspan__":{"p":"x","n":3}}'
    kept = msgspec.json.decode(keep_completeness(old, b'{"k":2}'))
    assert kept == {"k": 2, "__everyspan__": {"p": "x", "n": 3}}
    assert msgspec.json.decode(keep_completeness(old, b"{ }")) == {
        "__everyspan__": {"p": "x", "n": 3}
    }
    own = b'{"__everyspan__":{"p":"y"}}'
    assert keep_completeness(old, own) == own
    assert keep_completeness(None, b'{"k":2}') == keep_completeness(b"{}", b'{"k":2}') == b'{"k":2}'
