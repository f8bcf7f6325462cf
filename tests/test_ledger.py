"""The books of one destination."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everyspan.ledger import Account, DestinationStats, FlushResult, Stats


@given(
    numbers=st.lists(st.integers(0, 1000), min_size=7, max_size=7),
    lost=st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), st.integers(1, 9)), max_size=9),
)
def test_the_residual_is_what_the_books_do_not_explain(
    numbers: list[int], lost: list[tuple[bool, str, int]]
) -> None:
    """B1: accepted + adopted - delivered - dropped - rejected - queued - in flight - spooled."""
    account = Account("a")
    account.accepted, account.adopted, account.delivered, *held, forgotten = numbers
    for is_dropped, reason, spans in lost:
        (account.drop if is_dropped else account.reject)(reason, spans)
    queued, in_flight, spooled = held
    account.accepted += forgotten
    stats = account.snapshot(queued=queued, in_flight=in_flight, spooled=spooled)
    explained = account.delivered + sum(n for *_, n in lost) + queued + in_flight + spooled
    assert stats.residual == account.accepted + account.adopted - explained
    assert stats.dropped_total == sum(n for is_dropped, _, n in lost if is_dropped)
    assert stats.rejected_total == sum(n for is_dropped, _, n in lost if not is_dropped)


def test_losses_are_kept_by_reason() -> None:
    """Every loss has a reason."""
    account = Account("a")
    account.drop("queue full")
    account.drop("queue full", 2)
    account.reject("http 422")
    stats = account.snapshot(queued=0, in_flight=0)
    assert dict(stats.dropped) == {"queue full": 3}
    assert dict(stats.rejected) == {"http 422": 1}


def test_a_snapshot_is_immutable_and_does_not_follow_the_account() -> None:
    """B3."""
    account = Account("a")
    account.drop("expired")
    stats: Any = account.snapshot(queued=0, in_flight=0)
    account.drop("expired")
    account.delivered += 1
    assert dict(stats.dropped) == {"expired": 1}
    assert stats.delivered == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.delivered = 5
    with pytest.raises(TypeError):
        stats.dropped["expired"] = 0
    whole: Any = Stats((stats,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        whole.open_spans = 1


def test_two_destinations_do_not_cancel_each_other_out() -> None:
    """A span too many here and one too few there are two defects."""
    over, under = Account("over"), Account("under")
    over.delivered = 1
    under.accepted = 1
    stats = Stats(tuple(a.snapshot(queued=0, in_flight=0) for a in (over, under)))
    assert [d.residual for d in stats.destinations] == [-1, 1]
    assert stats.residual == 2


def test_no_destination_has_no_residual() -> None:
    """Before `configure`."""
    assert Stats().residual == 0
    assert isinstance(Stats().destinations, tuple)
    assert DestinationStats.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_a_flush_result_is_true_if_all_was_delivered() -> None:
    """`ok` is its truth value."""
    assert FlushResult()
    assert not FlushResult(ok=False, safe=True, left={"sgp": {"timeout": 2}})
