"""Whether a destination takes spans at all."""

from __future__ import annotations

import math

import pytest

from everyspan.delivery.circuit import Circuit


def test_a_lone_span_is_blamed_only_by_a_destination_that_has_stored_others() -> None:
    """C1: the first span of a process may be bad, or the address, or the key."""
    circuit = Circuit()
    assert circuit.refused(1)
    circuit.stored()
    assert not circuit.refused(1)


def test_refusals_in_a_row_of_lone_spans_are_no_spans_fault() -> None:
    """C1: eight spans at most are rejected by a destination that began to refuse everything."""
    circuit = Circuit()
    circuit.stored()
    assert [circuit.refused(1) for _ in range(10)] == [False] * 8 + [True] * 2


@pytest.mark.parametrize("spans", [2, 3, 200, 1000])
def test_the_search_in_a_batch_is_bounded(spans: int) -> None:
    """C3: 4·log2(n) + 8."""
    circuit = Circuit()
    refusals = 1
    while not circuit.refused(spans if refusals == 1 else 2):
        refusals += 1
    assert refusals - 1 == math.floor(4 * math.log2(spans) + 8)


def test_a_stored_span_ends_the_row() -> None:
    """C3: the search for one bad span among good ones never comes near the bound."""
    circuit = Circuit()
    for _ in range(100):
        assert not circuit.refused(100)
        circuit.stored()


def test_while_it_is_open_nobody_is_blamed_until_something_is_stored() -> None:
    """C1."""
    circuit = Circuit()
    circuit.stored()
    assert circuit.broke("http 401")
    assert not circuit.broke("http 401")
    assert circuit.broke("http 403")
    assert circuit.refused(1)
    assert circuit.open_for == "http 403"
    assert circuit.stored()
    assert circuit.open_for is None
    assert not circuit.stored()
    assert not circuit.refused(1)
