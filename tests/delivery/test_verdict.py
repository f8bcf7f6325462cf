"""What becomes of a batch that was not stored."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everyspan.delivery.backlog import Batch
from everyspan.delivery.circuit import Blame
from everyspan.delivery.verdict import Verdict, judge
from everyspan.errors import (
    BatchRefusedError,
    BatchTooLargeError,
    DestinationRefusedError,
    ExportError,
    PermanentExportError,
    RetryableExportError,
)
from tests.records import end, ids, start

NOW_S = 100.0


def make_batch(starts: int, ends: int, *, attempts: int = 1) -> Batch:
    """A batch of that many STARTs and ENDs."""
    return Batch(
        [start(f"s{n}") for n in range(starts)],
        [end(f"e{n}") for n in range(ends)],
        attempts=attempts,
    )


def judged(
    batch: Batch,
    error: ExportError,
    *,
    attempts_max: int | None = None,
    refused_by_backend: bool = True,
    blame: Blame = Blame.SPANS,
    lane_waits: bool = False,
) -> Verdict:
    """The verdict, with the longest jitter."""
    return judge(
        batch,
        error,
        now_s=NOW_S,
        attempts_max=attempts_max,
        draw=lambda: 1.0,
        refused_by_backend=refused_by_backend,
        blame=blame,
        lane_waits=lane_waits,
    )


errors: st.SearchStrategy[ExportError] = st.one_of(
    st.builds(
        RetryableExportError,
        st.just("m"),
        reason=st.just("http 503"),
        retry_after_s=st.none() | st.floats(0, 1e6),
    ),
    st.builds(BatchTooLargeError, st.just("m"), reason=st.just("http 413")),
    st.builds(PermanentExportError, st.just("m"), reason=st.just("http 404")),
    st.builds(
        BatchRefusedError,
        st.just("m"),
        reason=st.just("http 422"),
        offenders=st.lists(st.integers(-3, 20), max_size=6),
    ),
)


@given(
    starts=st.integers(0, 6),
    ends=st.integers(0, 6),
    attempts=st.integers(1, 4),
    error=errors,
    attempts_max=st.none() | st.integers(1, 3),
    refused_by_backend=st.booleans(),
)
def test_every_record_is_in_exactly_one_place(
    starts: int,
    ends: int,
    attempts: int,
    error: ExportError,
    attempts_max: int | None,
    refused_by_backend: bool,
) -> None:
    """V1, whatever the error; what goes again is never empty and keeps STARTs apart from ENDs."""
    if starts + ends == 0:
        return
    batch = make_batch(starts, ends, attempts=attempts)
    before = sorted(map(id, batch.records))
    verdict = judged(batch, error, attempts_max=attempts_max, refused_by_backend=refused_by_backend)
    after = [record for again in verdict.again for record in again.records]
    after += [record for record, _ in (*verdict.rejected, *verdict.dropped)]
    assert sorted(map(id, after)) == before
    for again in verdict.again:
        assert len(again) >= 1
        assert not any(record.is_end for record in again.starts)
        assert all(record.is_end for record in again.ends)


def test_a_retry_waits_and_keeps_its_attempts() -> None:
    """trace:D4: backoff, or what the backend asked for."""
    batch = make_batch(1, 1, attempts=3)
    verdict = judged(batch, RetryableExportError("m", reason="http 500", status=500))
    assert verdict.again == [batch]
    assert batch.due_s == NOW_S + 2.0
    assert (batch.reason, batch.attempts) == ("http 500", 3)
    asked = RetryableExportError("m", reason="http 500", status=500, retry_after_s=50.0)
    judged(batch, asked)
    assert batch.due_s == pytest.approx(NOW_S + 55.0)


@pytest.mark.parametrize(
    "error",
    [
        RetryableExportError("m", reason="timeout"),
        RetryableExportError("m", reason="http 503", status=503, congested=True),
        RetryableExportError("m", reason="http 429", retry_after_s=50.0, congested=True),
    ],
)
def test_trouble_of_the_whole_destination_is_waited_out_once(error: ExportError) -> None:
    """DESIGN, backoff: the lane pauses; the batch does not wait on top of that."""
    batch = make_batch(1, 1, attempts=9)
    assert judged(batch, error, lane_waits=True).again == [batch]
    assert (batch.due_s, batch.reason) == (NOW_S, error.reason)
    assert judged(batch, error).again == [batch]
    assert batch.due_s > NOW_S


@pytest.mark.parametrize("kind", [BatchRefusedError, DestinationRefusedError])
def test_a_destination_that_takes_nothing_costs_no_span(
    kind: Callable[..., ExportError],
) -> None:
    """P5: all wait, the lone one too, unless the attempts are limited."""
    error = kind("m", reason="http 401", status=401)
    for size in (1, 4):
        batch = make_batch(0, size)
        verdict = judged(batch, error, blame=Blame.DESTINATION, lane_waits=True)
        assert verdict.again == [batch]
        assert (batch.due_s, batch.reason) == (NOW_S, "http 401")
    limited = judged(make_batch(0, 1), error, attempts_max=1, blame=Blame.DESTINATION)
    assert [reason for _, reason in limited.dropped] == ["http 401"]


def test_attempts_that_were_limited_end_in_a_drop() -> None:
    """`trace:Q17`: three attempts, one drop; without a limit, age alone decides."""
    error = RetryableExportError("m", reason="http 503")
    assert judged(make_batch(0, 1, attempts=2), error, attempts_max=3).again
    verdict = judged(make_batch(0, 1, attempts=3), error, attempts_max=3)
    assert [(r.id, reason) for r, reason in verdict.dropped] == [("e0", "http 503")]
    assert judged(make_batch(0, 1, attempts=1000), error).again


def test_a_named_offender_is_cut_out() -> None:
    """V2, `sgp:E4`: the others travel again, together."""
    error = BatchRefusedError("m", reason="http 422", status=422, offenders=[1, 3])
    verdict = judged(make_batch(2, 3), error)
    assert [r.id for r, _ in verdict.rejected] == ["s1", "e1"]
    assert [ids(again.records) for again in verdict.again] == [["s0", "e0", "e2"]]


def test_a_lone_span_that_is_refused_is_rejected_or_dropped_by_whose_fault_it_is() -> None:
    """The books tell a backend's refusal from a processor's failure."""
    error = BatchRefusedError("m", reason="http 422", status=422)
    assert judged(make_batch(0, 1), error).rejected
    assert judged(make_batch(0, 1), error, refused_by_backend=False).dropped


def test_names_out_of_range_do_not_stop_the_search() -> None:
    """A backend that names nonsense is bisected like one that names nothing."""
    verdict = judged(make_batch(0, 4), BatchRefusedError("m", reason="r", offenders=[-1, 77]))
    assert [len(again) for again in verdict.again] == [2, 2]


def deliver(poison: Sequence[int], spans: int, *, too_large: bool = False) -> tuple[int, list[str]]:
    """Send `spans` spans to a backend that refuses any batch with a poison one.

    Returns:
        Requests made, and ids rejected.
    """
    bad = {f"e{n}" for n in poison}
    waiting = [make_batch(0, spans)]
    requests, rejected, stored = 0, [], 0
    while waiting:
        batch = waiting.pop(0)
        requests += 1
        if not bad & set(ids(batch.records)):
            stored += len(batch)
            continue
        error: ExportError = BatchRefusedError("m", reason="http 422", status=422)
        if too_large:
            error = BatchTooLargeError("m", reason="http 413", status=413)
        verdict = judged(batch, error)
        waiting += verdict.again
        rejected += [record.id for record, _ in verdict.rejected]
    assert stored + len(rejected) == spans
    return requests, rejected


@given(spans=st.integers(1, 400), seed=st.integers())
def test_bisecting_finds_the_poison_span_within_its_bound(spans: int, seed: int) -> None:
    """V2: 4 * log2(n) + 8 requests, and only the poison span is rejected."""
    poison = random.Random(seed).randrange(spans)
    for too_large in (False, True):
        requests, rejected = deliver([poison], spans, too_large=too_large)
        assert rejected == [f"e{poison}"]
        assert requests <= 4 * math.log2(spans) + 8


@given(spans=st.integers(1, 60), data=st.data())
def test_bisecting_rejects_all_poison_spans_and_no_other(spans: int, data: st.DataObject) -> None:
    """V2, any number of them."""
    poison = data.draw(st.sets(st.integers(0, spans - 1)))
    _, rejected = deliver(sorted(poison), spans)
    assert rejected == [f"e{n}" for n in sorted(poison)] or set(rejected) == {
        f"e{n}" for n in poison
    }
