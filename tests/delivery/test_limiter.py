"""How many requests may be in flight."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from everyspan.delivery.limiter import LIMIT_AT_START, Limiter


def test_it_starts_small_and_doubles_each_round_while_a_backlog_fills_it() -> None:
    """Slow start: one more for each success."""
    limiter = Limiter(64)
    assert limiter.limit == LIMIT_AT_START == 4
    for expected in (8, 16, 32, 64, 64):
        for _ in range(limiter.limit):
            limiter.succeeded(saturated=True)
        assert limiter.limit == expected


def test_a_ceiling_below_the_start_holds_from_the_start() -> None:
    """`trace:Q19`: never more than `concurrency`."""
    limiter = Limiter(1)
    limiter.succeeded(saturated=True)
    assert limiter.limit == 1


def test_it_does_not_grow_without_a_backlog() -> None:
    """Successes of a half-used limit say nothing about a larger one."""
    limiter = Limiter(16)
    for _ in range(100):
        limiter.succeeded(saturated=False)
    assert limiter.limit == 4


def test_after_the_first_congestion_it_grows_by_one_a_round() -> None:
    """Additive increase, multiplicative decrease."""
    limiter = Limiter(64)
    for _ in range(12):
        limiter.succeeded(saturated=True)
    assert limiter.limit == 16
    limiter.congested(sent_s=1.0, now_s=2.0)
    assert limiter.limit == 8
    for _ in range(7):
        limiter.succeeded(saturated=True)
    assert limiter.limit == 8
    limiter.succeeded(saturated=True)
    assert limiter.limit == 9


def test_one_congestion_counts_once() -> None:
    """A request sent before the last decrease says nothing new."""
    limiter = Limiter(16)
    limiter.congested(sent_s=1.0, now_s=2.0)
    limiter.congested(sent_s=1.5, now_s=2.1)
    assert limiter.limit == 2
    limiter.congested(sent_s=2.0, now_s=3.0)
    assert limiter.limit == 1
    limiter.congested(sent_s=4.0, now_s=5.0)
    assert limiter.limit == 1


@given(
    ceiling=st.integers(1, 64),
    events=st.lists(st.sampled_from(["saturated", "idle", "congested"]), max_size=300),
)
def test_it_stays_between_one_and_the_ceiling(ceiling: int, events: list[str]) -> None:
    """P4, and never stuck at none."""
    limiter = Limiter(ceiling)
    for now_s, event in enumerate(events):
        if event == "congested":
            limiter.congested(sent_s=now_s, now_s=now_s + 0.5)
        else:
            limiter.succeeded(saturated=event == "saturated")
        assert 1 <= limiter.limit <= ceiling
