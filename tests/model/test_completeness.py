"""Completeness of a trace: P11 and the table of completeness words."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everyspan.model.completeness import (
    HOLES_MAX,
    LATE_S_MAX,
    REPORT_S_MAX,
    Hole,
    State,
    Tally,
    Verdict,
    assess,
    parse_record,
    timestamp_s,
)

T0_S = 1_760_000_000.0
LONG_AFTER_S = T0_S + 10_000

Row = dict[str, Any]


def stamp(offset_s: float) -> str:
    return datetime.fromtimestamp(T0_S + offset_s, UTC).isoformat()


def ended(n: int | None, *, part: str = "a", parent: str | None = None, **record: Any) -> Row:
    """A span of a part that ended second `n`, with ordinal `n`."""
    metadata = {} if n is None else {"__everyspan__": {"p": part, "n": n, "rev": 1, **record}}
    at = stamp(n or 0)
    return {
        "id": f"{part}{n}",
        "trace_id": "t",
        "parent_id": parent,
        "start_timestamp": stamp(0),
        "end_timestamp": at,
        "metadata": metadata,
    }


def opened(id: str, *, part: str | None = "a", **record: Any) -> Row:
    metadata = {} if part is None else {"__everyspan__": {"p": part, "rev": 0, **record}}
    return {"id": id, "trace_id": "t", "start_timestamp": stamp(0), "metadata": metadata}


def part_of(total: int, *, part: str = "a", dropped: dict[str, int] | None = None) -> list[Row]:
    """All spans of a closed part, the last one its root."""
    closing: dict[str, Any] = {"total": total} | ({"dropped": dropped} if dropped else {})
    root = f"{part}{total}"
    children = [ended(n, part=part, parent=root) for n in range(1, total)]
    return [*children, ended(total, part=part, **closing)]


@pytest.mark.parametrize(
    ("rows", "now_s", "state", "text"),
    [
        (part_of(14), LONG_AFTER_S, State.COMPLETE, "✓ 14 of 14"),
        (part_of(14)[:9], T0_S + 20, State.RUNNING, "◐ 9 so far"),
        ([opened("x")], T0_S + 20, State.RUNNING, "◐ 1 so far"),
        ([opened("x", part=None)], T0_S + 20, State.RUNNING, "◐ 1 so far"),
        ([opened("x")], LONG_AFTER_S, State.RUNNING, "◐ 1 so far, abandoned?"),
        (
            [*part_of(14)[:9], opened("x", abandoned=True)],
            T0_S + 20,
            State.RUNNING,
            "◐ 10 so far, 1 abandoned",
        ),
        (
            part_of(14)[:5] + part_of(14)[7:],
            T0_S + 20,
            State.LATE,
            "◔ 12 of 14, 2 on the way",
        ),
        (
            part_of(14, dropped={"queue full": 2})[2:],
            T0_S + 20,
            State.LOST,
            "✕ 12 of 14, 2 dropped: queue full",
        ),
        (
            part_of(14)[2:],
            LONG_AFTER_S,
            State.UNACCOUNTED,
            "? 2 missing, nobody reported why",
        ),
        (
            part_of(14, dropped={"queue full": 2})[3:],
            LONG_AFTER_S,
            State.LOST,
            "✕ 11 of 14, 2 dropped: queue full, 1 missing, nobody reported why",
        ),
        (part_of(14)[:-1], LONG_AFTER_S, State.UNACCOUNTED, "? closing report missing"),
        ([ended(None)], T0_S, State.NOT_REPORTED, "– 1 stored, sender keeps no count"),
        (
            [*part_of(4), ended(None, part="foreign")],
            LONG_AFTER_S,
            State.NOT_REPORTED,
            "– 4 of 4, 1 more whose sender keeps no count",
        ),
        (
            [ended(1, parent="elsewhere", total=1)],
            LONG_AFTER_S,
            State.NOT_REPORTED,
            "– 1 of 1, 1 named as parent, never stored",
        ),
        ([], LONG_AFTER_S, State.NOT_REPORTED, "– 0 stored, sender keeps no count"),
    ],
)
def test_each_state_has_its_words(rows: list[Row], now_s: float, state: State, text: str) -> None:
    """P11: the table of states, one case each and the mixed ones."""
    verdict = assess(rows, now_s=now_s)
    assert (verdict.state, str(verdict)) == (state, text)


def test_a_gap_is_late_until_it_is_a_minute_old() -> None:
    """C3: the age of a gap counts from the end of the span that showed it."""
    rows = [ended(1), ended(3, total=3)]
    assert assess(rows, now_s=T0_S + 3 + LATE_S_MAX - 1).state is State.LATE
    assert assess(rows, now_s=T0_S + 3 + LATE_S_MAX).state is State.UNACCOUNTED


def test_an_old_gap_is_no_younger_because_the_trace_goes_on() -> None:
    """C3: spans that came long after the gap do not make it late again."""
    rows = [ended(1), ended(3), *(ended(n) for n in range(4, 500))]
    assert assess(rows, now_s=T0_S + 500).state is State.UNACCOUNTED


def test_a_report_is_due_for_ten_minutes() -> None:
    """C2: a trace whose closing span is missing is running, then unaccounted, never complete."""
    rows = part_of(5)[:4]
    assert assess(rows, now_s=T0_S + 4 + REPORT_S_MAX).state is State.RUNNING
    assert assess(rows, now_s=T0_S + 5 + REPORT_S_MAX).state is State.UNACCOUNTED


def judged(
    rows: list[Row], lost: dict[str, int], *, total: int | None, now_s: float = LONG_AFTER_S
) -> Verdict:
    """The verdict where the producer reported of part `a` at second 20."""
    tally = Tally()
    tally.take_report("a", lost, total=total, told_s=T0_S + 20)
    for row in rows:
        tally.add(row)
    return tally.verdict(now_s=now_s)


def test_a_loss_that_was_found_later_explains_a_hole() -> None:
    """P11: the closing record had left when the span expired."""
    holed = part_of(14)[:5] + part_of(14)[7:]
    assert str(assess(holed, now_s=LONG_AFTER_S)) == "? 2 missing, nobody reported why"
    verdict = judged(holed, {"expired": 2}, total=14)
    assert str(verdict) == "✕ 12 of 14, 2 dropped: expired"
    assert str(judged(holed, {"expired": 1}, total=14)) == (
        "✕ 12 of 14, 1 dropped: expired, 1 missing, nobody reported why"
    )


def test_a_report_stands_in_for_a_closing_record_that_was_lost() -> None:
    """P11: neither its total nor its reasons are lost with it."""
    verdict = judged(part_of(14)[:13], {"http 422": 1}, total=14)
    assert (verdict.reports_due, verdict.reports_missing) == (0, 0)
    assert str(verdict) == "✕ 13 of 14, 1 dropped: http 422"


def test_a_part_of_which_nothing_is_stored_is_told_by_its_report() -> None:
    """P11: a part whose only span is missing shows."""
    other = part_of(3, part="b")
    assert assess(other, now_s=LONG_AFTER_S).state is State.COMPLETE
    assert str(judged(other, {"http 422": 1}, total=1)) == "✕ 3 of 4, 1 dropped: http 422"
    still_open = judged(other, {"queue full": 2}, total=None, now_s=T0_S + 21)
    assert (still_open.expected, dict(still_open.dropped)) == (5, {"queue full": 2})


def test_losses_that_both_told_count_once() -> None:
    """P11: the report counts what the closing record told, and perhaps more."""
    rows = part_of(14, dropped={"queue full": 2})
    verdict = judged(rows[:2] + rows[5:], {"queue full": 3}, total=14)
    assert str(verdict) == "✕ 11 of 14, 3 dropped: queue full"
    assert judged(rows, {"queue full": 3}, total=14).state is State.COMPLETE


def test_a_drop_that_arrived_after_all_is_no_loss() -> None:
    """C3: every ordinal is stored, whatever the producer feared."""
    verdict = assess(part_of(3, dropped={"timeout": 2}), now_s=LONG_AFTER_S)
    assert verdict.state is State.COMPLETE
    assert verdict.dropped == {}


def test_an_open_row_of_a_closed_part_is_its_hole_not_running() -> None:
    """C3: the end of that span is what is missing."""
    rows = [opened("a1"), *part_of(3)[1:]]
    verdict = assess(rows, now_s=LONG_AFTER_S)
    assert (verdict.state, verdict.open, verdict.missing) == (State.UNACCOUNTED, 0, 1)


def test_holes_are_named_by_part_and_ordinal() -> None:
    """P11: which spans are missing can be told."""
    rows = [row for row in part_of(9) if row["id"] not in {"a1", "a4", "a5"}]
    verdict = assess(rows, now_s=LONG_AFTER_S)
    assert verdict.holes == (Hole("a", 1, 1), Hole("a", 4, 5))


def test_holes_listed_are_bounded_and_counted_all() -> None:
    """C4: one forged ordinal costs neither memory nor time."""
    rows = [ended(2 * n) for n in range(1, 1_000)]
    forged = ended(1) | {"metadata": {"__everyspan__": {"p": "b", "n": 2**50}}}
    verdict = assess([*rows, forged], now_s=LONG_AFTER_S)
    assert len(verdict.holes) == HOLES_MAX
    assert verdict.missing == verdict.unaccounted == 999 + 2**50 - 1


# Properties ------------------------------------------------------------------------------------


@st.composite
def whole_traces(draw: st.DrawFn) -> list[Row]:
    """Every version of every span of a trace whose parts all closed; parts hold 2 to 6 spans."""
    rows: list[Row] = []
    for part in ("a", "b", "c")[: draw(st.integers(1, 3))]:
        for row in part_of(draw(st.integers(2, 6)), part=part):
            if draw(st.booleans()):
                rows.append(opened(row["id"], part=part))
            rows.extend([row] * draw(st.integers(1, 3)))
    return draw(st.permutations(rows))


@given(whole_traces())
def test_a_whole_trace_is_complete_in_any_order(rows: list[Row]) -> None:
    """C1: order, repeats and earlier versions change nothing."""
    assert assess(rows, now_s=LONG_AFTER_S).state is State.COMPLETE


@given(whole_traces(), st.data(), st.sampled_from([T0_S, T0_S + 30, T0_S + 90, LONG_AFTER_S]))
def test_no_missing_span_is_ever_complete(
    rows: list[Row], data: st.DataObject, now_s: float
) -> None:
    """C2: whichever spans are gone, at any time, and gone with all their versions or to a START."""
    ids = sorted({row["id"] for row in rows})
    gone = data.draw(st.sets(st.sampled_from(ids), min_size=1))
    keep_starts = data.draw(st.booleans())
    left = [
        row for row in rows if row["id"] not in gone or (keep_starts and "end_timestamp" not in row)
    ]
    # A part of which nothing at all is left has left no trace of itself.
    parts = {row["id"][0] for row in left}
    for part in {row["id"][0] for row in rows} - parts:
        gone -= {span_id for span_id in gone if span_id.startswith(part)}
    if gone:
        assert assess(left, now_s=now_s).state is not State.COMPLETE


def figures(verdict: Verdict) -> tuple[object, ...]:
    return (verdict, verdict.words)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
records = st.fixed_dictionaries(
    {},
    optional={
        "p": st.sampled_from(["a", "b"]) | json_values,
        "n": st.integers(-2, 9) | json_values,
        "total": st.integers(-2, 12) | json_values,
        "rev": st.integers(0, 2) | json_values,
        "abandoned": st.booleans() | json_values,
        "dropped": st.dictionaries(st.sampled_from(["x", "y"]), st.integers(-1, 5)) | json_values,
    },
)
times = st.none() | st.sampled_from([stamp(0), stamp(50), "no time", ""])
any_rows = st.lists(
    st.fixed_dictionaries(
        {"id": st.sampled_from(["1", "2", "3", "4"]) | json_values},
        optional={
            "parent_id": st.sampled_from(["1", "2"]) | json_values,
            "start_timestamp": times | json_values,
            "end_timestamp": times | json_values,
            "metadata": st.fixed_dictionaries({"__everyspan__": records}) | json_values,
        },
    ),
    max_size=8,
)


@given(any_rows, st.randoms(), st.floats(0, 2e9))
def test_any_json_is_judged_the_same_in_any_order(
    rows: list[Row], random: Any, now_s: float
) -> None:
    """C1, C4: never raises, and the figures add up."""
    verdict = assess(rows, now_s=now_s)
    shuffled = rows + rows[:3]
    random.shuffle(shuffled)
    assert figures(assess(shuffled, now_s=now_s)) == figures(verdict)
    assert verdict.missing == sum(verdict.dropped.values()) + verdict.late + verdict.unaccounted
    assert 0 <= verdict.counted <= verdict.expected
    assert verdict.silent_s >= 0
    json.dumps(verdict.words)


def take(tally: Tally, row: Row) -> None:
    """Give a tally the values a store keeps of a row."""
    metadata, parent = row.get("metadata"), row.get("parent_id")
    record = metadata.get("__everyspan__") if isinstance(metadata, dict) else None
    tally.take(
        row["id"],
        parent if isinstance(parent, str) else None,
        start_s=timestamp_s(row.get("start_timestamp")),
        end_s=timestamp_s(row.get("end_timestamp")),
        is_end=row.get("end_timestamp") is not None,
        record=parse_record(json.dumps(record)),
    )


@given(any_rows, st.floats(0, 2e9))
def test_values_and_objects_are_judged_alike(rows: list[Row], now_s: float) -> None:
    """P11: whoever reads spans from a store and whoever reads them over HTTP see one verdict."""
    tally = Tally()
    rows = [row for row in rows if isinstance(row["id"], str)]
    for row in rows:
        take(tally, row)
    assert figures(tally.verdict(now_s=now_s)) == figures(assess(rows, now_s=now_s))


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '"p"', "[" * 100_000, '{"p":NaN}'])
def test_what_is_no_record_is_none(text: str) -> None:
    """C4."""
    assert parse_record(text) is None


@given(any_rows, st.floats(T0_S - 100, T0_S + 2_000), st.floats(0, 1))
def test_nothing_changes_before_the_recheck(rows: list[Row], now_s: float, share: float) -> None:
    """C3: a verdict may be kept until then; without a recheck, for ever."""
    verdict = assess(rows, now_s=now_s)
    assert verdict.recheck_s is None or verdict.recheck_s > now_s
    end_s = T0_S + 1e6 if verdict.recheck_s is None else verdict.recheck_s - 0.002
    later = assess(rows, now_s=now_s + share * max(0, end_s - now_s))
    assert later.words == verdict.words
    assert replace(later, silent_s=0) == replace(verdict, silent_s=0)


def test_a_parent_is_known_by_its_opentelemetry_id() -> None:
    """`otlp:F2`: a child over OTLP names the last eight bytes of a UUID."""
    parent = ended(1, total=1) | {"id": "7f0b6a52-8f0e-4f83-9c6d-9a6e4b1f2c3d"}
    child = ended(1, part="b", total=1, parent="9c6d9a6e4b1f2c3d")
    assert assess([child, parent], now_s=LONG_AFTER_S).state is State.COMPLETE
    assert assess([child], now_s=LONG_AFTER_S).parents_missing == 1


@given(any_rows)
def test_a_tally_can_be_asked_at_any_time(rows: list[Row]) -> None:
    """C1: a verdict on the way does not change the one at the end."""
    asked, unasked = Tally(), Tally()
    for row in rows:
        asked.add(row)
        asked.verdict(now_s=T0_S)
        unasked.add(row)
    assert asked.verdict(now_s=T0_S) == unasked.verdict(now_s=T0_S)


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [
        ("2026-01-02T03:04:05Z", 1767323045.0),
        ("2026-01-02T03:04:05.123456789Z", 1767323045.123456),
        ("2026-01-02T05:04:05+02:00", 1767323045.0),
        ("2026-01-02T03:04:05", 1767323045.0),
        ("yesterday", None),
        ("10000-01-01T00:00:00Z", None),
        (12, None),
        (None, None),
    ],
)
def test_timestamps_are_read_as_the_api_writes_them(text: object, expected_s: float | None) -> None:
    """`sgp` §3: Z, offsets, 0 to 9 fraction digits; naive means UTC."""
    assert timestamp_s(text) == expected_s
