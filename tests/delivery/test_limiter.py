"""How many requests may be in flight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everyspan.delivery.limiter import LIMIT_AT_START, PROBE_EVERY, PROBE_EVERY_S, Limiter
from tests.simulation.capacity import play, refused_share

LATER_S = 100.0


def store(limiter: Limiter, requests: int, *, now_s: float = 0.0) -> list[int]:
    """Have so many stored under a backlog; return the limit after each."""
    limits = []
    for _ in range(requests):
        limiter.succeeded(saturated=True, now_s=now_s)
        limits.append(limiter.limit)
    return limits


def refuse(limiter: Limiter, *, in_flight: int, sent_s: float, now_s: float) -> int:
    """Have one refused with so many others under way; return the limit."""
    limiter.congested(in_flight=in_flight, sent_s=sent_s, now_s=now_s)
    return limiter.limit


def test_it_starts_small_and_doubles_each_round_while_a_backlog_fills_it() -> None:
    """Slow start: one more for each success."""
    limiter = Limiter(64)
    assert limiter.limit == LIMIT_AT_START == 4
    assert [store(limiter, limiter.limit)[-1] for _ in range(5)] == [8, 16, 32, 64, 64]


def test_a_ceiling_below_the_start_holds_from_the_start() -> None:
    """`trace:Q19`: never more than `concurrency`."""
    assert store(Limiter(1), 1) == [1]


def test_it_does_not_grow_without_a_backlog() -> None:
    """Successes of a half-used limit say nothing about a larger one."""
    limiter = Limiter(16)
    for _ in range(1000):
        limiter.succeeded(saturated=False, now_s=LATER_S)
    assert limiter.limit == 4


def test_after_a_refusal_it_comes_back_to_the_level_that_held_and_stays() -> None:
    """By halves of the way, a round each."""
    limiter = Limiter(64)
    assert store(limiter, 28)[-1] == 32
    assert refuse(limiter, in_flight=31, sent_s=1.0, now_s=2.0) == 21
    climb = [store(limiter, limiter.limit, now_s=LATER_S)[-1] for _ in range(4)]
    assert climb == [26, 29, 30, 31]
    assert store(limiter, 1000, now_s=2.0 + PROBE_EVERY_S - 0.1)[-1] == 31


def test_it_tries_one_more_seldom() -> None:
    """One request in `PROBE_EVERY`, and not before `PROBE_EVERY_S`."""
    limiter = Limiter(64)
    assert refuse(limiter, in_flight=4, sent_s=1.0, now_s=2.0) == 2
    limits = store(limiter, PROBE_EVERY, now_s=2.0 + PROBE_EVERY_S)
    assert limits[-2:] == [4, 5]
    assert refuse(limiter, in_flight=4, sent_s=20.0, now_s=20.1) == 2


def test_where_one_more_holds_for_a_round_it_doubles_again() -> None:
    """The capacity has grown, nobody knows by how much."""
    limiter = Limiter(64)
    refuse(limiter, in_flight=4, sent_s=1.0, now_s=2.0)
    assert store(limiter, PROBE_EVERY, now_s=LATER_S)[-1] == 5
    assert store(limiter, 5, now_s=LATER_S) == [5, 5, 5, 5, 6]
    assert store(limiter, 6, now_s=LATER_S) == [7, 8, 9, 10, 11, 12]


def test_one_congestion_counts_once() -> None:
    """A request sent before the last fall says nothing new."""
    limiter = Limiter(16)
    assert refuse(limiter, in_flight=3, sent_s=1.0, now_s=2.0) == 2
    assert refuse(limiter, in_flight=2, sent_s=1.5, now_s=2.1) == 2
    assert refuse(limiter, in_flight=1, sent_s=2.0, now_s=3.0) == 1
    assert refuse(limiter, in_flight=0, sent_s=4.0, now_s=5.0) == 1


@pytest.mark.parametrize(
    ("capacities", "ceiling"), [((16, 4, 16), 64), ((16, 4, 16), 16), ((4, 1, 4), 16)]
)
@pytest.mark.parametrize("seed", range(2))
def test_a_step_of_the_capacity_is_met_within_30_s_and_for_1_percent_of_the_requests(
    capacities: tuple[int, ...], ceiling: int, seed: int
) -> None:
    """P4: to a quarter and back, a real lane against a backend that refuses beyond its places."""
    stretches = play(capacities, ceiling=ceiling, seed=seed)
    assert max(stretch.within_s for stretch in stretches) < 30.0
    assert refused_share(stretches) < 0.01
    assert stretches[1].refused > 0


def test_a_backend_that_lets_requests_queue_stays_busy() -> None:
    """Nothing is refused, so the ceiling holds."""
    for stretch in play((16, 4, 16), ceiling=64, queues=True):
        assert stretch.busy > 0.9
        assert stretch.refused == 0


@given(
    ceiling=st.integers(1, 64),
    events=st.lists(st.sampled_from(["saturated", "idle", "congested"]), max_size=300),
    in_flight=st.integers(0, 70),
)
def test_it_stays_between_one_and_the_ceiling(
    ceiling: int, events: list[str], in_flight: int
) -> None:
    """P4, and never stuck at none."""
    limiter = Limiter(ceiling)
    for now_s, event in enumerate(events):
        if event == "congested":
            limiter.congested(in_flight=in_flight, sent_s=now_s, now_s=now_s + 0.5)
        else:
            limiter.succeeded(saturated=event == "saturated", now_s=now_s)
        assert 1 <= limiter.limit <= ceiling
