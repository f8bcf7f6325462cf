"""How long to wait before the next try."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from everyspan.delivery.backoff import FIRST_CEILING_S, LAST_CEILING_S, wait_s

draws = st.floats(0, 1, exclude_max=True)


@given(failures=st.integers(1, 10_000), draw=draws)
def test_the_wait_is_a_draw_below_a_growing_and_bounded_ceiling(failures: int, draw: float) -> None:
    """Full jitter: anything from 0 to the ceiling, which never exceeds half a minute."""
    pause_s = wait_s(failures, retry_after_s=None, draw=lambda: draw)
    assert 0 <= pause_s <= LAST_CEILING_S
    assert pause_s == draw * min(LAST_CEILING_S, FIRST_CEILING_S * 2.0 ** min(failures - 1, 60))


def test_the_ceiling_doubles_from_the_first_failure_on() -> None:
    """trace:D4: five attempts are not made within 0.4 ms."""
    ceilings = [wait_s(n, retry_after_s=None, draw=lambda: 1.0) for n in range(1, 9)]
    assert ceilings == [0.5, 1, 2, 4, 8, 16, 30, 30]


@given(asked_s=st.floats(FIRST_CEILING_S, 10**9), draw=draws, failures=st.integers(1, 100))
def test_what_the_backend_asked_for_is_obeyed(asked_s: float, draw: float, failures: int) -> None:
    """Retry-After: never less, at most a tenth more, however many failures there were."""
    pause_s = wait_s(failures, retry_after_s=asked_s, draw=lambda: draw)
    assert asked_s <= pause_s <= asked_s * 1.1
