"""What waits for a destination, and which of it leaves when; time is a number here."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from everyspan.delivery.backlog import STARTED_MAX, Backlog, Batch
from everyspan.model.record import SpanRecord
from tests.records import end, ids, start


def make_backlog(**settings: Any) -> Backlog:
    """A backlog of batches of 3, lingering for 0.1 s."""
    return Backlog(
        **{"batch_size": 3, "batch_bytes": 1 << 20, "linger_s": 0.1, "max_age_s": 300.0, **settings}
    )


def take_all_due(backlog: Backlog, now_s: float, *, hurry: bool = False) -> list[Batch]:
    """Every batch that is due now, in order."""
    batches = []
    while (batch := backlog.take(now_s, hurry=hurry)) is not None:
        batches.append(batch)
    return batches


# -- linger and size


def test_a_lone_span_leaves_after_the_linger_and_not_before() -> None:
    """K1, `trace:Q24`: the linger starts when the first item comes."""
    backlog = make_backlog()
    backlog.add_end(end("a", 5.0))
    assert backlog.take(5.099) is None
    assert backlog.due_s(5.0) == 5.1
    batch = backlog.take(5.1)
    assert batch is not None
    assert ids(batch.ends) == ["a"]
    assert backlog.due_s(5.1) is None


def test_staggered_spans_leave_together_in_order() -> None:
    """`trace:Q12`: three spans 20 ms apart within a linger of 100 ms are one call, in order."""
    backlog = make_backlog(batch_size=200)
    for number in range(3):
        backlog.add_end(end(f"s{number}", number * 0.02))
        assert backlog.take(number * 0.02) is None
    assert [ids(batch.ends) for batch in take_all_due(backlog, 0.1)] == [["s0", "s1", "s2"]]


def test_without_linger_every_span_leaves_at_once() -> None:
    """`trace:Q13`: with linger 0, spans 50 ms apart are three calls of one."""
    backlog = make_backlog(linger_s=0.0)
    taken = []
    for number in range(3):
        backlog.add_end(end(f"s{number}", number * 0.05))
        taken += [ids(batch.ends) for batch in take_all_due(backlog, number * 0.05)]
    assert taken == [["s0"], ["s1"], ["s2"]]


def test_a_full_batch_leaves_at_once_and_the_rest_lingers() -> None:
    """`trace:Q14`, `Q24`: 450 of 200 leave as 200 + 200 at once and 50 after the linger."""
    backlog = make_backlog(batch_size=200)
    for number in range(450):
        backlog.add_end(end(f"s{number}"))
    assert [len(batch) for batch in take_all_due(backlog, 0.0)] == [200, 200]
    assert [len(batch) for batch in take_all_due(backlog, 0.1)] == [50]


def test_no_batch_exceeds_its_size() -> None:
    """`trace:Q14`: seven spans in batches of three all leave, STARTs and ENDs counted together."""
    backlog = make_backlog()
    for number in range(4):
        backlog.add_start(start(f"started{number}"))
    for number in range(3):
        backlog.add_end(end(f"ended{number}"))
    batches = take_all_due(backlog, 1.0)
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert backlog.is_empty


def test_hurry_ends_the_linger() -> None:
    """trace:D11: a flush or shutdown does not sit out the linger."""
    backlog = make_backlog(linger_s=60.0)
    backlog.add_end(end("a"))
    assert backlog.due_s(0.0, hurry=True) == 0.0
    assert [ids(batch.ends) for batch in take_all_due(backlog, 0.0, hurry=True)] == [["a"]]


def test_a_batch_is_cut_by_bytes_and_a_large_span_travels_alone() -> None:
    """K2: no more than `batch_bytes`, unless it is one span."""
    backlog = make_backlog(batch_size=10, batch_bytes=1000)
    for id, size in (("a", 400), ("b", 600), ("c", 1), ("big", 5000), ("d", 100)):
        backlog.add_end(end(id, size=size))
    assert backlog.is_full
    assert [ids(batch.ends) for batch in take_all_due(backlog, 1.0)] == [
        ["a", "b"],
        ["c"],
        ["big"],
        ["d"],
    ]


def test_bytes_that_wait_make_a_batch_full() -> None:
    """K1: full means by count or by bytes."""
    backlog = make_backlog(batch_size=100, batch_bytes=1000)
    backlog.add_end(end("a", size=999))
    assert backlog.take(0.0) is None
    backlog.add_end(end("b", size=1))
    batch = backlog.take(0.0)
    assert batch is not None
    assert ids(batch.ends) == ["a", "b"]
    assert not backlog.is_full


# -- START before END


def test_an_end_waits_for_its_start_and_for_no_other() -> None:
    """K3, `trace:Q4`, D29: the START of `a` in flight holds back `a` alone."""
    backlog = make_backlog(linger_s=0.0)
    backlog.add_start(start("a"))
    sent = backlog.take(0.0)
    assert sent is not None
    backlog.add_end(end("a"))
    backlog.add_end(end("b"))
    assert [ids(batch.ends) for batch in take_all_due(backlog, 1.0)] == [["b"]]
    assert backlog.queued == 1
    assert not backlog.is_empty
    backlog.settle(sent.starts)
    assert [ids(batch.ends) for batch in take_all_due(backlog, 1.0)] == [["a"]]


def test_an_end_waits_while_its_start_is_retried() -> None:
    """trace:D5: a START that is sent again is still before its END."""
    backlog = make_backlog(linger_s=0.0, wants_every_start=True)
    backlog.add_start(start("a"))
    sent = backlog.take(0.0)
    assert sent is not None
    backlog.add_end(end("a"))
    sent.due_s = 5.0
    backlog.park(sent)
    assert backlog.take(4.0) is None
    again = backlog.take(5.0)
    assert again is sent
    assert backlog.take(5.0) is None
    backlog.settle(again.starts)
    last = backlog.take(5.0)
    assert last is not None
    assert ids(last.ends) == ["a"]


def test_held_ends_leave_in_the_order_they_came() -> None:
    """`trace:Q10`: a batch holds its spans in enqueue order, those held for a START too."""
    backlog = make_backlog(batch_size=10, wants_every_start=True)
    for id in "abc":
        backlog.add_start(start(id))
    for id in "abxc":
        backlog.add_end(end(id))
    sent = backlog.take(0.1)
    assert sent is not None
    assert ids(sent.starts) == ["a", "b", "c"]
    assert ids(sent.ends) == ["x"]
    backlog.add_end(end("y", 0.2))
    backlog.settle(sent.starts)
    last = backlog.take(0.2)
    assert last is not None
    assert ids(last.ends) == ["a", "b", "c", "y"]


def test_an_end_that_was_held_is_due_by_its_own_age() -> None:
    """K1: the oldest span counts for the linger, whatever freed it."""
    backlog = make_backlog(batch_size=10, wants_every_start=True)
    backlog.add_start(start("a", 0.0))
    backlog.add_start(start("b", 0.0))
    sent = backlog.take(0.1)
    assert sent is not None
    backlog.add_end(end("a", 1.0))
    backlog.add_end(end("b", 1.05))
    backlog.settle(sent.starts)
    assert backlog.due_s(1.06) == 1.1
    assert backlog.take(1.1) is not None


def test_the_same_id_in_two_traces_is_two_spans() -> None:
    """`sgp` §6: identity is (trace, id)."""
    backlog = make_backlog(linger_s=0.0)
    backlog.add_start(start("a", trace_id="one"))
    assert backlog.take(0.0) is not None
    backlog.add_end(end("a", trace_id="two"))
    batch = backlog.take(0.0)
    assert batch is not None
    assert batch.ends[0].trace_id == "two"


# -- STARTs that may be left out


def test_a_start_is_written_only_if_its_span_is_still_open() -> None:
    """K4: one whose END comes within the delay is forgotten."""
    backlog = make_backlog(linger_s=0.0, start_delay_s=1.0)
    short, long = start("short"), start("long")
    backlog.add_start(short)
    backlog.add_start(long)
    assert backlog.is_empty
    assert backlog.take(0.9) is None
    assert backlog.due_s(0.0) == 1.0
    assert backlog.add_end(end("short", 0.5)) == [short]
    assert [ids(b.records) for b in take_all_due(backlog, 0.9)] == [["short"]]
    assert [ids(b.starts) for b in take_all_due(backlog, 1.0)] == [["long"]]


def test_a_delayed_start_that_comes_again_replaces_the_first() -> None:
    """K5: the first is given back, so that nobody counts it as held for ever."""
    backlog = make_backlog(linger_s=0.0, start_delay_s=1.0)
    first, second, other = start("a"), start("a", 0.5), start("b", 0.2)
    assert backlog.add_start(first) == []
    assert backlog.add_start(other) == []
    assert backlog.add_start(second) == [first]
    assert [ids(b.starts) for b in take_all_due(backlog, 1.2)] == [["b"]]
    assert [b.starts for b in take_all_due(backlog, 1.5)] == [[second]]


def test_a_parked_start_is_forgotten_when_its_end_comes() -> None:
    """K4: the END says all that the START would have."""
    backlog = make_backlog(linger_s=0.0)
    first, second = start("a"), start("b")
    backlog.add_start(first)
    backlog.add_start(second)
    sent = backlog.take(0.0)
    assert sent is not None
    backlog.add_end(end("a"))
    sent.due_s = 9.0
    assert backlog.park(sent) == [first]
    assert backlog.add_end(end("b")) == [second]
    assert [ids(b.records) for b in take_all_due(backlog, 1.0)] == [["a", "b"]]
    assert backlog.is_empty


def test_a_users_processor_gets_every_start() -> None:
    """K4's exception: neither delayed nor forgotten."""
    backlog = make_backlog(batch_size=10, start_delay_s=1.0, wants_every_start=True)
    backlog.add_start(start("a"))
    assert backlog.add_end(end("a")) == []
    batch = backlog.take(0.1)
    assert batch is not None
    assert ids(batch.starts) == ["a"]
    assert batch.ends == []


def test_an_abandoned_span_is_written_at_once_and_only_once() -> None:
    """K5: it replaces the START that still waits for its delay."""
    backlog = make_backlog(start_delay_s=1.0)
    delayed = start("a")
    backlog.add_start(delayed)
    assert backlog.add_abandoned(start("a", 0.5)) == [delayed]
    assert [ids(b.starts) for b in take_all_due(backlog, 0.5, hurry=True)] == [["a"]]
    assert backlog.take(99.0) is None


# -- age, looking, ending


def test_spans_beyond_their_age_are_given_up_wherever_they_wait() -> None:
    """Design: one total deadline."""
    backlog = make_backlog(max_age_s=10.0)
    backlog.park(
        Batch([], [end("parked old", 1.0), end("parked new", 5.0)], due_s=99.0, reason="http 503")
    )
    backlog.add_start(start("a", 0.5))
    backlog.add_end(end("old", 1.0))
    backlog.add_end(end("a", 2.0))
    backlog.add_end(end("new", 5.0))
    expired = backlog.take_expired(11.0)
    told = sorted((record.id, why) for record, why in expired)
    assert told == [("a", ""), ("old", ""), ("parked old", "http 503")]
    backlog.settle(record for record, _ in expired)
    # Its START is gone: the END of `a` is free, and expires in its turn.
    assert [(record.id, why) for record, why in backlog.take_expired(12.0)] == [("a", "")]
    assert backlog.queued == 2
    assert sorted(ids(backlog.take_all())) == ["new", "parked new"]


@given(offered_s=st.floats(0, 1e6), age_s=st.floats(0.001, 1e3), share=st.floats(0, 1))
def test_at_the_moment_named_something_is_too_old(
    offered_s: float, age_s: float, share: float
) -> None:
    """P4: were it a rounding later, a lane would look again and again at one moment."""
    backlog = make_backlog(max_age_s=age_s)
    backlog.park(Batch([], [end("a", offered_s)], due_s=float("inf")))
    due_s = backlog.due_s(offered_s + age_s * share)
    assert due_s is not None
    assert ids(record for record, _ in backlog.take_expired(due_s)) == ["a"]


def test_the_next_due_moment_counts_age_too() -> None:
    """P4: a batch parked for an hour does not outlive `max_age_s` unseen."""
    backlog = make_backlog(max_age_s=10.0)
    backlog.park(Batch([], [end("a", 3.0)], due_s=3600.0))
    assert backlog.due_s(5.0) == 13.0


def test_reasons_tell_why_spans_are_still_here() -> None:
    """FlushResult.left: by reason, only spans up to the flush."""
    backlog = make_backlog(wants_every_start=True)
    backlog.add_start(start("a"))
    held, waiting, parked = end("a"), end("b"), end("c")
    backlog.add_end(held)
    backlog.add_end(waiting)
    backlog.park(Batch([start("d")], [parked], due_s=9.0, reason="http 503"))
    late = end("later")
    backlog.add_end(late)
    assert backlog.reasons(parked.seq) == {"not sent yet": 2, "http 503": 1}
    assert backlog.reasons(late.seq) == {"not sent yet": 3, "http 503": 1}


# -- what a destination has


def test_an_end_knows_whether_its_start_is_stored() -> None:
    """K6: also when it comes back to be tried again, and not once it is answered."""
    backlog = make_backlog(start_delay_s=0.0)
    backlog.add_start(start("begun"))
    (batch,) = take_all_due(backlog, 1.0)
    backlog.note_stored(batch.starts[0])
    backlog.settle(batch.starts)
    first, other = end("begun"), end("other")
    backlog.add_end(first)
    backlog.add_end(other)
    for _ in range(2):
        (batch,) = take_all_due(backlog, 1.0)
        assert [*batch.started] == [first]
        backlog.park(Batch(batch.starts, batch.ends))
    backlog.note_stored(first)
    (batch,) = take_all_due(backlog, 1.0)
    assert not batch.started


def test_versions_of_a_span_leave_in_turn_where_the_last_one_wins() -> None:
    """K3, P6: a retry of the older one never overwrites the newer one."""
    backlog = make_backlog(in_turn=True, linger_s=0.0)
    versions = [end("a") for _ in range(3)]
    for version in versions:
        backlog.add_end(version)
    backlog.add_end(end("b"))
    (batch,) = take_all_due(backlog, 1.0)
    assert ids(batch.ends) == ["a", "b"]
    backlog.park(batch)
    for version in versions:
        (batch,) = take_all_due(backlog, 1.0)
        assert batch.ends[0] is version
        assert backlog.queued == len(versions) - 1 - versions.index(version)
        backlog.settle(batch.ends)
    assert backlog.is_empty


def test_spans_that_never_end_are_not_remembered_for_ever() -> None:
    """P4, K6: the oldest is forgotten; its END goes out as if it were the first."""
    backlog = make_backlog(batch_size=STARTED_MAX + 2)
    for number in range(STARTED_MAX + 1):
        backlog.note_stored(start(f"s{number}"))
    for number in (0, 1, STARTED_MAX):
        backlog.add_end(end(f"s{number}"))
    (batch,) = take_all_due(backlog, 1.0)
    assert sorted(ids(batch.started)) == ["s1", f"s{STARTED_MAX}"]


# -- a model


class BacklogMachine(RuleBasedStateMachine):
    """K2, K3, K5, K6 under any sequence of calls: every record is in exactly one place."""

    wants_every_start = False
    start_delay_s: float | None = None
    in_turn = False

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.backlog = make_backlog(
            batch_bytes=2500,
            max_age_s=3.0,
            start_delay_s=self.start_delay_s,
            wants_every_start=self.wants_every_start,
            in_turn=self.in_turn,
        )
        self.inside: Counter[int] = Counter()
        self.records: dict[int, SpanRecord] = {}
        self.flying: list[Batch] = []
        self.opened: list[str] = []
        self.started: set[str] = set()
        # ENDs without an answer, by span, in the order in which they came.
        self.unanswered: defaultdict[str, list[SpanRecord]] = defaultdict(list)
        self.number = 0

    def enter(self, record: SpanRecord) -> SpanRecord:
        self.inside[id(record)] += 1
        self.records[id(record)] = record
        if record.is_end:
            self.unanswered[record.id].append(record)
        return record

    def leave(self, records: list[SpanRecord]) -> None:
        for record in records:
            self.inside[id(record)] -= 1
            if record.is_end:
                self.unanswered[record.id].remove(record)
            assert self.inside[id(record)] == 0, f"{record.id} left twice"

    @rule()
    def begin(self) -> None:
        self.number += 1
        self.opened.append(f"s{self.number}")
        self.leave(self.backlog.add_start(self.enter(start(self.opened[-1], self.now_s))))

    @precondition(lambda self: self.opened)
    @rule(data=st.data(), size=st.sampled_from([600, 900, 4000]))
    def finish(self, data: st.DataObject, size: int) -> None:
        name = data.draw(st.sampled_from(self.opened))
        self.opened.remove(name)
        self.leave(self.backlog.add_end(self.enter(end(name, self.now_s, size=size))))

    @rule(size=st.sampled_from([600, 900, 4000]))
    def finish_without_start(self, size: int) -> None:
        self.number += 1
        self.backlog.add_end(self.enter(end(f"s{self.number}", self.now_s, size=size)))

    @precondition(lambda self: self.number)
    @rule(data=st.data())
    def finish_again(self, data: st.DataObject) -> None:
        name = f"s{data.draw(st.integers(1, self.number))}"
        if name not in self.opened:
            self.leave(self.backlog.add_end(self.enter(end(name, self.now_s))))

    @precondition(lambda self: self.opened)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.opened))
        if not self.wants_every_start:
            self.leave(self.backlog.add_abandoned(self.enter(start(name, self.now_s))))

    @rule(step_s=st.sampled_from([0.05, 0.1, 0.5, 2.0]))
    def pass_time(self, step_s: float) -> None:
        self.now_s += step_s

    @rule(hurry=st.booleans())
    def take(self, hurry: bool) -> None:
        due_s = self.backlog.due_s(self.now_s, hurry=hurry)
        batch = self.backlog.take(self.now_s, hurry=hurry)
        if batch is None:
            # Never "now" with nothing to take: the lane would spin. (Age is `take_expired`'s.)
            aged = [r for r in self.records.values() if r.offered_s + 3.0 <= self.now_s]
            assert due_s is None or due_s > self.now_s or aged
            return
        assert due_s == self.now_s
        assert 1 <= len(batch) <= 3
        assert len(batch) == 1 or sum(r.size_bytes for r in batch.records) <= 2500
        keys = {(r.trace_id, r.id) for r in batch.starts}
        for other in [*self.flying, batch]:
            open_keys = {(r.trace_id, r.id) for r in other.starts} | (
                keys if other is batch else set()
            )
            assert not open_keys & {(r.trace_id, r.id) for r in batch.ends}, "END beside its START"
        assert {r.id for r in batch.started} == {r.id for r in batch.ends} & self.started
        if self.in_turn:
            assert all(r is self.unanswered[r.id][0] for r in batch.ends), "out of turn"
        batch.attempts += 1
        self.flying.append(batch)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        batch = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        self.leave(batch.records)
        for record in batch.records:
            self.backlog.note_stored(record)
        self.started |= {r.id for r in batch.starts}
        self.started -= {r.id for r in batch.ends}
        self.backlog.settle(batch.records)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), wait_s=st.sampled_from([0.0, 0.3, 5.0]))
    def fail(self, data: st.DataObject, wait_s: float) -> None:
        batch = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        batch.due_s, batch.reason = self.now_s + wait_s, "http 503"
        self.leave(self.backlog.park(batch))

    @rule()
    def expire(self) -> None:
        expired = [record for record, _ in self.backlog.take_expired(self.now_s)]
        assert all(record.offered_s + 3.0 <= self.now_s for record in expired)
        self.leave(expired)
        for record in expired:
            if record.is_end:
                self.backlog.note_ended(record)
                self.started.discard(record.id)
        self.backlog.settle(expired)

    @invariant()
    def ended_spans_are_counted_where_they_are(self) -> None:
        flying = sum(len(batch.ends) for batch in self.flying)
        ends = sum(n for key, n in self.inside.items() if self.records[key].is_end)
        assert self.backlog.queued + flying == ends

    def teardown(self) -> None:
        for batch in self.flying:
            self.leave(batch.records)
        self.leave(self.backlog.take_all())
        assert not +self.inside, "records were forgotten"
        assert self.backlog.is_empty
        assert self.backlog.due_s(self.now_s) is None


class DelayedStartsMachine(BacklogMachine):
    """The same where STARTs wait a second."""

    start_delay_s = 1.0


class EveryStartMachine(BacklogMachine):
    """The same for a user's own processor."""

    wants_every_start = True


class InTurnMachine(BacklogMachine):
    """The same where no version of a span may overtake another."""

    in_turn = True


_FEW = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestBacklog = BacklogMachine.TestCase
TestBacklog.settings = _FEW
TestDelayedStarts = DelayedStartsMachine.TestCase
TestDelayedStarts.settings = _FEW
TestEveryStart = EveryStartMachine.TestCase
TestEveryStart.settings = _FEW
TestInTurn = InTurnMachine.TestCase
TestInTurn.settings = _FEW
