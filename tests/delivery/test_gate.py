"""A lock that what interrupts its holder cannot deadlock."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable

import pytest

from everyspan.delivery.gate import Gate
from tests.waiting import wait_until


def test_the_holder_is_turned_away_and_its_work_is_done_before_the_gate_opens() -> None:
    """G1: deferred work runs inside, in order, before another thread can enter."""
    gate = Gate()
    done: list[str] = []
    assert gate.enter()
    assert not gate.enter()
    gate.deferred.put((done.append, ("first",)))
    gate.deferred.put((done.append, ("second",)))
    assert done == []
    gate.leave()
    assert done == ["first", "second"]
    assert gate.enter()
    gate.leave()


def test_deferred_work_may_defer_more() -> None:
    """G1: nothing is left behind."""
    gate = Gate()
    done: list[int] = []

    def work(left: int) -> None:
        assert not gate.enter()
        done.append(left)
        if left:
            gate.deferred.put((work, (left - 1,)))

    with gate:
        gate.deferred.put((work, (3,)))
    assert done == [3, 2, 1, 0]
    assert gate.deferred.empty()


def test_calls_come_after_the_gate_is_free() -> None:
    """G2: what is called back may enter by itself, on any thread."""
    gate = Gate()
    entered: list[bool] = []

    def enter_from_another_thread() -> None:
        def enter() -> None:
            with gate:
                entered.append(True)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join(5)

    with gate:
        gate.after.append(enter_from_another_thread)
        assert entered == []
    assert entered == [True]


def test_calls_may_ask_for_more_calls() -> None:
    """G2: a call that enters and leaves an entry behind has it called too."""
    gate = Gate()
    called: list[str] = []

    def again() -> None:
        called.append("first")
        with gate:
            gate.after.append(lambda: called.append("second"))

    with gate:
        gate.after.append(again)
    assert called == ["first", "second"]
    assert gate.after == []


def test_with_is_for_code_that_nothing_of_ours_interrupted() -> None:
    """Its holder coming back is our own mistake, and said so."""
    gate = Gate()
    with gate, pytest.raises(AssertionError, match="came back"), gate:
        pass
    assert gate.enter()
    gate.leave()


class Noisy:
    """An object whose finalizer takes the gate, and which is garbage at once."""

    def __init__(self, enter: Callable[[], None]) -> None:
        self.enter = enter
        self.cycle = self

    def __del__(self) -> None:
        self.enter()


def test_finalizers_and_threads_lose_nothing() -> None:
    """G1: two threads and their garbage collector count together, exactly."""
    gate = Gate()
    count = 0
    inside = 0

    def add() -> None:
        nonlocal count, inside
        assert inside == 0
        inside += 1
        # Allocations: the collector may run here.
        count += len([[] for _ in range(1)])
        inside -= 1

    def offer() -> None:
        if not gate.enter():
            gate.deferred.put((add, ()))
            return
        try:
            add()
        finally:
            gate.leave()

    def work() -> None:
        for _ in range(2_000):
            Noisy(offer)
            offer()

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: not any(thread.is_alive() for thread in threads))
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    # What was deferred in the instant between looking and letting go waits for the next holder.
    with gate:
        pass
    assert count == 2 * 2 * 2_000
