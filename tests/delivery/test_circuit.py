"""Whether a destination takes spans at all."""

from __future__ import annotations

import math

import pytest

from everyspan.delivery.circuit import REFUSALS_MAX, Blame, Circuit, Suspicion


def test_a_lone_span_is_blamed_once_others_were_stored_since() -> None:
    """C1: until then it may be the destination that takes nothing."""
    circuit, suspicion = Circuit(), Suspicion()
    circuit.stored()
    circuit.sent(suspicion)
    assert circuit.refused(suspicion, 1) is Blame.UNKNOWN
    assert circuit.refused(suspicion, 1) is Blame.UNKNOWN
    circuit.stored()
    assert circuit.refused(suspicion, 1) is Blame.SPANS


def test_what_was_stored_during_the_search_tells_too() -> None:
    """C1: the good half of a batch is stored before its bad span stands alone."""
    circuit, whole = Circuit(), Suspicion()
    circuit.sent(whole)
    assert circuit.refused(whole, 2) is Blame.SPANS
    circuit.stored()
    assert circuit.refused(whole.lessened(), 1) is Blame.SPANS


def test_what_was_stored_while_it_was_under_way_tells_as_well() -> None:
    """C1: the answers of others that were sent with it came first."""
    circuit, suspicion = Circuit(), Suspicion()
    circuit.sent(suspicion)
    circuit.stored()
    circuit.sent(suspicion)
    assert circuit.refused(suspicion, 1) is Blame.SPANS


def test_refusals_in_a_row_of_lone_spans_are_no_spans_fault() -> None:
    """C2."""
    circuit = Circuit()
    circuit.stored()
    blames = [circuit.refused(Suspicion(), 1) for _ in range(REFUSALS_MAX + 2)]
    assert blames == [Blame.UNKNOWN] * REFUSALS_MAX + [Blame.DESTINATION] * 2


@pytest.mark.parametrize("spans", [2, 3, 200, 1000])
def test_the_search_in_a_batch_is_bounded(spans: int) -> None:
    """C2: 4·log2(n) + 8."""
    circuit = Circuit()
    refusals = 1
    while circuit.refused(Suspicion(), spans if refusals == 1 else 2) is Blame.SPANS:
        refusals += 1
    assert refusals - 1 == math.floor(4 * math.log2(spans) + 8)


def test_a_stored_span_ends_the_row() -> None:
    """C2: the search for one bad span among good ones never comes near the bound."""
    circuit = Circuit()
    for _ in range(100):
        assert circuit.refused(Suspicion(), 100) is Blame.SPANS
        circuit.stored()


def test_while_it_is_open_nobody_is_blamed_until_something_is_stored() -> None:
    """C1."""
    circuit, suspicion = Circuit(), Suspicion()
    circuit.sent(suspicion)
    assert circuit.broke("http 401")
    assert not circuit.broke("http 401")
    assert circuit.broke("http 403")
    assert circuit.refused(suspicion, 1) is Blame.DESTINATION
    assert circuit.open_for == "http 403"
    assert circuit.stored()
    assert circuit.open_for is None
    assert not circuit.stored()
    assert circuit.refused(suspicion, 1) is Blame.SPANS


def test_a_batch_that_is_turned_away_while_others_are_stored_is_to_blame() -> None:
    """C3: the second time after that; nobody else's refusal counts."""
    circuit, suspicion = Circuit(), Suspicion()
    for _ in range(10):
        assert circuit.turned_away(suspicion) is Blame.DESTINATION
    circuit.stored()
    assert circuit.turned_away(suspicion) is Blame.DESTINATION
    assert circuit.turned_away(suspicion) is Blame.DESTINATION
    circuit.stored()
    assert circuit.turned_away(suspicion) is Blame.SPANS
    half = suspicion.lessened()
    assert circuit.turned_away(half) is Blame.DESTINATION
    circuit.stored()
    assert circuit.turned_away(half) is Blame.SPANS
