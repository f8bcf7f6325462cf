"""Parts of a trace: what makes it complete (P11)."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from everyspan import Span
from everyspan.model.record import SpanRecord, freeze_span
from everyspan.queue import parts as module
from everyspan.queue.parts import OPEN_SPANS_MAX, Parts
from tests.records import make_span

TRACES = ("t1", "t2", "t3")


def end(parts: Parts, span: Span) -> SpanRecord:
    """End a span as the queue does, and return its record."""
    record = freeze_span(span, is_end=True, offered_s=0.0)
    record.span = span
    parts.end(record)
    return record


def place(record: SpanRecord) -> tuple[str, int, bool]:
    assert record.part is not None
    return record.part.id, record.ordinal, record.closes


class Interleavings(RuleBasedStateMachine):
    """Spans of several traces begin and end in any order, some end that never began here."""

    spans = Bundle("spans")

    def __init__(self) -> None:
        super().__init__()
        self.parts = Parts()
        self.open: dict[str, Span] = {}
        self.ends: dict[str, list[SpanRecord]] = defaultdict(list)

    @rule(target=spans, trace_id=st.sampled_from(TRACES))
    def begin(self, trace_id: str) -> Span:
        span = make_span(trace_id=trace_id)
        self.parts.begin(span, ())
        self.open[span.id] = span
        return span

    @rule(span=spans)
    def begin_again(self, span: Span) -> None:
        if span.id in self.open:
            self.parts.begin(span, ())

    @rule(span=consumes(spans))
    def end(self, span: Span) -> None:
        del self.open[span.id]
        self.note(end(self.parts, span), span)

    @rule(span=consumes(spans))
    def end_twice(self, span: Span) -> None:
        del self.open[span.id]
        first = end(self.parts, span)
        self.note(first, span)
        second = end(self.parts, span)
        assert place(second) == place(first)
        assert second.revision == first.revision + 1

    @rule(trace_id=st.sampled_from(TRACES))
    def end_what_began_elsewhere(self, trace_id: str) -> None:
        span = make_span(trace_id=trace_id)
        self.note(end(self.parts, span), span)

    def note(self, record: SpanRecord, span: Span) -> None:
        part, ordinal, closes = place(record)
        self.ends[part].append(record)
        # C1: without a hole, in the order of the ends.
        assert ordinal == len(self.ends[part])
        assert record.trace_id == span.trace_id
        # C2: closed if and only if nothing of the trace is open.
        is_open = any(other.trace_id == span.trace_id for other in self.open.values())
        assert closes is not is_open

    @invariant()
    def counts_are_right(self) -> None:
        assert self.parts.open_spans == len(self.open)
        assert {span.id for span, _, _ in self.parts.still_open()} == self.open.keys()
        for records in self.ends.values():
            *before, last = records
            assert not any(record.closes for record in before)
            assert last.part is not None
            assert last.part.total == (len(records) if last.closes else None)
            assert len({record.trace_id for record in records}) == 1

    def teardown(self) -> None:
        for span in [*self.open.values()]:
            del self.open[span.id]
            self.note(end(self.parts, span), span)
        # P4: nothing is remembered of what is over.
        assert self.parts._parts == {}
        assert self.parts._open == {}


def test_ordinals_have_no_hole_and_totals_are_right_in_any_interleaving() -> None:
    """C1, C2, C3, C4."""
    run_state_machine_as_test(
        Interleavings, settings=settings(max_examples=60, stateful_step_count=30)
    )


def test_a_part_reaches_from_the_first_open_span_until_none_is() -> None:
    """P11."""
    parts = Parts()
    root, child = make_span(), make_span()
    part = parts.begin(root, ())
    assert parts.begin(child, ()) is part
    first = end(parts, child)
    assert place(first) == (part.id, 1, False)
    assert part.total is None
    last = end(parts, root)
    assert place(last) == (part.id, 2, True)
    assert part.total == 2
    assert parts.begin(make_span(), ()) is not part


def test_an_end_that_began_elsewhere_is_a_part_of_its_own() -> None:
    """C3."""
    parts = Parts()
    first, second = end(parts, make_span()), end(parts, make_span())
    assert first.part is not second.part
    assert (first.ordinal, first.closes) == (second.ordinal, second.closes) == (1, True)


def test_parts_of_two_processes_differ() -> None:
    ids = {end(parts, make_span()).part.id for parts in (Parts(), Parts())}  # type: ignore[union-attr]
    assert len(ids) == 2


def test_a_span_that_changes_its_trace_leaves_no_part_behind() -> None:
    """P4."""
    parts = Parts()
    span = make_span(trace_id="t1")
    part = parts.begin(span, ())
    span.trace_id = "t2"
    assert place(end(parts, span)) == (part.id, 1, True)
    assert parts._parts == {}


def test_one_id_in_two_traces_is_two_spans() -> None:
    """P4: the first is forgotten, and counted."""
    parts = Parts()
    parts.begin(make_span("a", trace_id="t1"), ())
    second = make_span("a", trace_id="t2")
    part = parts.begin(second, ())
    assert parts.forgotten == 1
    assert place(end(parts, second)) == (part.id, 1, True)
    assert parts._parts == {}


@pytest.mark.parametrize("spoilt", [5, ["x"], {}, None, object()])
def test_a_spoilt_id_stops_nothing(spoilt: object) -> None:
    """P5: this runs where all spans pass."""
    parts = Parts()
    span = make_span()
    span.id = span.trace_id = spoilt  # type: ignore[assignment]
    parts.begin(span, ())
    assert end(parts, span).closes
    assert (parts.open_spans, parts.forgotten) == (0, 0)


def test_no_more_than_ten_thousand_spans_are_remembered_as_open() -> None:
    """C5: the oldest is forgotten and counted; its END is a part of its own or joins its trace."""
    parts = Parts()
    spans = [make_span(trace_id=f"t{number % 2}") for number in range(OPEN_SPANS_MAX + 3)]
    lone = make_span(trace_id="lone")
    lone_part = parts.begin(lone, ())
    for span in spans:
        parts.begin(span, ())
    assert OPEN_SPANS_MAX == 10_000
    assert parts.open_spans == OPEN_SPANS_MAX
    assert parts.forgotten == 4
    assert lone_part.total == 0
    # The lone span's part is over; its END must still be somebody's.
    lone_end = end(parts, lone)
    assert lone_end.part is not lone_part
    assert (lone_end.ordinal, lone_end.closes) == (1, True)
    records = [end(parts, span) for span in spans]
    for trace_id in ("t0", "t1"):
        mine = [record for record in records if record.trace_id == trace_id]
        assert [record.ordinal for record in mine] == list(range(1, len(mine) + 1))
        assert [record.closes for record in mine] == [False] * (len(mine) - 1) + [True]
        assert mine[-1].part is not None
        assert mine[-1].part.total == len(mine)
    assert parts._parts == {}


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 4))
def test_memory_is_bounded_whatever_begins_and_never_ends(ids: list[int], most: int) -> None:
    """P4."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "OPEN_SPANS_MAX", most)
        parts = Parts()
        for number in ids:
            parts.begin(make_span(str(number), trace_id=f"t{number % 3}"), ())
            assert parts.open_spans <= most
            assert len(parts._parts) <= most
        assert sum(part.open for part in parts._parts.values()) == parts.open_spans
