"""P1, P3 to P6 in thousands of drawn scenarios; `simulation` says what is looked at, and when."""

from __future__ import annotations

from typing import Any

import pytest

from everyspan.delivery.backlog import Backlog, Batch
from tests.simulation.mutants import MUTANTS
from tests.simulation.scenario import Act, Scenario, SpanPlan, draw_scenario
from tests.simulation.shrink import as_call, failure_of, first_failure, report, shrunk
from tests.simulation.simulation import Simulation

SEEDS = 3_000
"""`make soak` runs as many as one likes."""

SLICES = 12


@pytest.mark.parametrize("number", range(SLICES))
def test_all_promises_hold_whatever_happens(number: int) -> None:
    """P1, P3-P6: after every event of every scenario."""
    seeds = range(number * SEEDS // SLICES, (number + 1) * SEEDS // SLICES)
    failed = first_failure(seeds)
    assert failed is None, f"seed {failed}: {report(failed)}"


FOUND_AT = {
    "a retry forgets a span": 19,
    "an END overtakes its START": 0,
    "Retry-After is ignored": 20,
    "a moved lane forgets what is in flight": 10,
    "a late answer counts again": 154,
    "what expired is not settled": 3,
    "bytes are not given back": 0,
    "shed bytes are not given back": 26,
    "what is in a request is shed": 46,
    "a flush names too few": 29,
    "an expiry has a false cause": 3,
    "the circuit never closes": 29,
    "the limit passes its ceiling": 2,
    "halves lack the middle": 20,
    "a flush answers early": 2,
    "a late runner takes the wake-ups": 1697,
}
"""The first seed, from 0 on, that finds a mutant; other scenarios will have others."""

NEAR = 3
"""Seeds that are tried before the one that is known."""


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_defect_is_found(mutant: str) -> None:
    """Within 10,000 seeds; the search begins shortly before the seed that is known."""
    found_at = FOUND_AT[mutant]
    with MUTANTS[mutant]():
        assert found_at < 10_000
        assert first_failure(range(max(0, found_at - NEAR), found_at + 1)) is not None


@pytest.mark.parametrize("seed", range(40))
def test_a_seed_is_the_same_run_every_time(seed: int) -> None:
    """A failure that does not come back is of no use."""
    runs = [Simulation(draw_scenario(seed)) for _ in range(2)]
    for run in runs:
        run.run()
    first, second = ((run.world.events, run.world.now_s, run.world.random.random()) for run in runs)
    assert first == second


def test_the_scenarios_reach_what_they_are_for() -> None:
    """Spans are lost for every reason there is, and most are not."""
    fates: dict[str, int] = {}
    for seed in range(400):
        run = Simulation(draw_scenario(seed))
        run.run()
        for lane in run.lanes:
            for fate in lane.fates.values():
                fates[fate] = fates.get(fate, 0) + 1
    assert fates["delivered"] > sum(fates.values()) / 2
    for reason in ("queue full", "byte budget", "shutdown", "expired", "http 413", "http 422"):
        assert fates.get(reason), reason
    assert any(reason.startswith("expired after http") for reason in fates)


def test_a_failing_scenario_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed fails in the same manner, and nothing of it could be left out."""
    spans = tuple(SpanPlan(number / 10, number / 10 + 0.05, trace=1) for number in range(20))
    scenario = Scenario(7, spans=spans, acts=(Act("stats", 0.5), Act("jump", 0.7, 3600.0)))
    assert failure_of(scenario) is None
    cut = Backlog._cut

    def forgetful(self: Backlog, **options: Any) -> Batch:
        batch = cut(self, **options)
        batch.ends.pop()
        return batch

    monkeypatch.setattr(Backlog, "_cut", forgetful)
    assert failure_of(scenario) is not None
    small = shrunk(scenario)
    assert (len(small.spans), small.acts) == (1, ())
    assert as_call(small).startswith("Simulation(Scenario(seed=7, spans=(SpanPlan(")
    assert as_call(small).endswith(")).run()")
