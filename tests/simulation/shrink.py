"""Makes a failing scenario small, and says how to run it again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, fields, replace
from typing import Any

from tests.simulation.scenario import Scenario, draw_scenario
from tests.simulation.simulation import Simulation

TRIES_MAX = 500
"""Simulations that one shrinking may cost: some seconds."""


def failure_of(scenario: Scenario) -> str | None:
    """Run a scenario; return what went wrong, None if nothing did."""
    try:
        Simulation(scenario).run()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def shrunk(scenario: Scenario) -> Scenario:
    """Return the smallest scenario found that fails in the same manner as a failing one."""
    failure = failure_of(scenario)
    assert failure is not None, "it does not fail"
    manner = _manner(failure)
    tries = 0
    progress = True
    while progress:
        progress = False
        for smaller in _smaller(scenario):
            tries += 1
            if tries > TRIES_MAX:
                return scenario
            failure = failure_of(smaller)
            if failure is not None and _manner(failure) == manner:
                scenario = smaller
                progress = True
                break
    return scenario


def first_failure(seeds: Iterable[int]) -> int | None:
    """Return the first of some seeds whose scenario fails, None if none does."""
    for seed in seeds:
        if failure_of(draw_scenario(seed)) is not None:
            return seed
    return None


def report(seed: int) -> str:
    """Return what went wrong with a seed, and the smallest scenario in which it does."""
    scenario = draw_scenario(seed)
    small = shrunk(scenario)
    return (
        f"{failure_of(scenario)}\nsmaller: {failure_of(small)}\n{as_call(small)}\n"
        "(from tests.simulation.scenario import *; "
        "from tests.simulation.simulation import Simulation)"
    )


def as_call(scenario: Scenario) -> str:
    """Return the Python that runs a scenario; what is as by default is left out."""
    return f"Simulation({_shown(scenario)}).run()"


def _manner(failure: str) -> str:
    # "Violation: P1: ...": the text behind names spans, which shrinking changes.
    return ":".join(failure.split(":")[:2])[:40] if "Violation" in failure else failure[:20]


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    for name in ("spans", "acts", "faults"):
        things: tuple[Any, ...] = getattr(scenario, name)
        size = len(things)
        while size:
            for first in range(0, len(things), size):
                fewer: Any = things[:first] + things[first + size :]
                yield replace(scenario, **{name: fewer})
            size //= 2
    if len(scenario.destinations) > 1:
        for gone in range(len(scenario.destinations)):
            yield _without_destination(scenario, gone)
    for field in fields(scenario):
        yield from _simpler(scenario, field)
    for name in ("destinations", "spans", "faults", "acts"):
        things = getattr(scenario, name)
        for position, thing in enumerate(things):
            for field in fields(thing):
                for simpler in _simpler(thing, field):
                    changed: Any = (*things[:position], simpler, *things[position + 1 :])
                    yield replace(scenario, **{name: changed})


def _without_destination(scenario: Scenario, gone: int) -> Scenario:
    def moved(number: int) -> int:
        return number - (number > gone)

    kept = [plan for number, plan in enumerate(scenario.destinations) if number != gone]
    return replace(
        scenario,
        destinations=tuple(kept),
        spans=tuple(
            replace(
                span, destinations=tuple(moved(n) for n in span.destinations if n != gone) or (0,)
            )
            for span in scenario.spans
        ),
        faults=tuple(
            replace(fault, destination=moved(fault.destination))
            for fault in scenario.faults
            if fault.destination != gone
        ),
    )


def _simpler(thing: Any, field: Field[Any]) -> Iterator[Any]:
    """Yield a thing with one field as by default, or rounder."""
    value = getattr(thing, field.name)
    if field.default is not MISSING and value != field.default:
        if not isinstance(value, tuple) or field.name == "destinations":
            yield replace(thing, **{field.name: field.default})
    elif type(value) is float and field.name.endswith("_s") and value != round(value, 1):
        yield replace(thing, **{field.name: round(value, 1)})


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        inner = ", ".join(map(_shown, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if not hasattr(value, "__dataclass_fields__"):
        return repr(value)
    said = [
        f"{field.name}={_shown(getattr(value, field.name))}"
        for field in fields(value)
        if field.default is MISSING or getattr(value, field.name) != field.default
    ]
    return f"{type(value).__name__}({', '.join(said)})"
