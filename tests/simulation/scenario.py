"""What happens in one simulation: drawn from a seed, or written down by hand after shrinking.

A scenario is plain data whose `repr` is a call that makes it again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

from everyspan.config import DROP_NEWEST, DROP_OLDEST

BATCHES = "batches"
SINGLES = "singles"
FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Destination:
    """A destination and the backend behind it.

    `kind` is BATCHES (rows by revision), SINGLES (one span a request, the last one wins) or
    FOREIGN (a user's own processor). `capacity` requests are served at once, more are answered
    429, 0 for any number; `bytes_max` is what a body may hold, 0 for anything.
    """

    kind: str = BATCHES
    start_delay_s: float | None = None
    latency_s: float = 0.05
    capacity: int = 0
    bytes_max: int = 0
    concurrency: int = 4
    blocks: bool = False


@dataclass(frozen=True, slots=True)
class SpanPlan:
    """A span of the agent; `destinations` are positions. `is_bad` ones are refused by backends.

    `again_s` is when a later version of it is written, None for never; `ends_s` None for a span
    that never ends. `has_usage` ones keep their payloads.
    """

    begins_s: float
    ends_s: float | None
    trace: int = 0
    destinations: tuple[int, ...] = (0,)
    size: int = 0
    is_bad: bool = False
    again_s: float | None = None
    has_usage: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with a backend for a while; `share` of the requests meet it.

    See `backend` for the kinds, and for what `value` means to each.
    """

    kind: str
    begins_s: float
    lasts_s: float
    destination: int = 0
    share: float = 1.0
    value: float = 0.0


@dataclass(frozen=True, slots=True)
class Act:
    """Something that the agent, its loop or its machine does; `value` is a number of seconds."""

    kind: str
    at_s: float
    value: float = 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """See the module text; `seed` draws what is not written down: order, jitter, latencies.

    `on_loop` is whether the agent runs on a loop of its own, which the queue adopts.
    """

    seed: int
    destinations: tuple[Destination, ...] = (Destination(),)
    spans: tuple[SpanPlan, ...] = ()
    faults: tuple[Fault, ...] = ()
    acts: tuple[Act, ...] = ()
    on_loop: bool = False
    shuffles: bool = False
    batch_size: int = 200
    batch_bytes: int = 1 << 20
    linger_s: float = 0.1
    max_size: int = 0
    byte_budget: int = 128 << 20
    max_retries: int | None = None
    max_age_s: float = 300.0
    when_full: str = DROP_NEWEST

    @property
    def ends_s(self) -> float:
        """Return when the last thing that is written down has happened."""
        times = [0.0]
        times += [span.ends_s or span.begins_s for span in self.spans]
        times += [span.again_s for span in self.spans if span.again_s is not None]
        times += [fault.begins_s + fault.lasts_s for fault in self.faults]
        times += [act.at_s + act.value for act in self.acts]
        return max(times)


FAULTS: dict[str, tuple[float, ...]] = {
    "status": (400, 401, 403, 404, 422, 429, 500, 501, 502, 503),
    "throttle": (0.2, 1.0, 5.0, 40.0),
    "unavailable": (1.0, 20.0),
    "down": (0.0,),
    "crash": (0.0,),
    "lost request": (0.0,),
    "lost reply": (0.0,),
    "late reply": (1.0, 9.0, 15.0),
    "duplicate": (0.0, 3.0, 30.0),
    "partial": (0.0,),
    "page": (0.0,),
    "defect": (0.0,),
    "capacity": (1, 2),
    "too large": (700, 1500),
}
"""The kinds of faults, each with the values it comes with."""

ACTS: dict[str, tuple[float, ...]] = {
    "flush": (0.0, 0.3, 5.0, 60.0),
    "flush_sync": (0.0, 0.3, 5.0, 60.0),
    "shutdown": (0.0, 0.5, 20.0),
    "shutdown_sync": (0.0, 0.5, 20.0),
    "leave": (0.0,),
    "end_loop": (0.0,),
    "close_loop": (0.0,),
    "stop_loop": (0.0,),
    "cancel_lanes": (0.0,),
    "block_loop": (0.1, 3.0, 30.0),
    "jump": (-3600.0, 0.5, 3600.0),
    "stats": (0.0,),
}
"""What may happen beside spans, each with the values it comes with."""

RARE_ACTS = frozenset({"shutdown", "shutdown_sync", "leave"})


def draw_scenario(seed: int) -> Scenario:
    """Return the scenario of a seed."""
    random = Random(seed)
    pick = random.choice
    lasts_s = pick((0.3, 2.0, 10.0, 60.0))
    destinations = tuple(_destination(random) for _ in range(pick((1, 1, 2, 3))))
    everywhere = tuple(range(len(destinations)))
    bad_share = pick((0.0, 0.0, 0.05, 0.3))
    again_share = pick((0.0, 0.0, 0.2))
    open_share = pick((0.0, 0.0, 0.1))
    spans = []
    for _ in range(random.randint(1, pick((6, 15, 40)))):
        begins_s = random.random() * lasts_s
        ends_s: float | None = begins_s + random.random() * pick((0.0, 0.05, 1.0, 5.0))
        if random.random() < open_share:
            ends_s = None
        again_s = None
        if ends_s is not None and random.random() < again_share:
            again_s = ends_s + random.random() * pick((0.0, 0.2, 3.0))
        spans.append(
            SpanPlan(
                _brief(begins_s),
                _brief(ends_s),
                trace=random.randrange(3),
                destinations=everywhere
                if random.random() < 0.8
                else (random.randrange(len(destinations)),),
                size=pick((0, 0, 10, 300, 2000)),
                is_bad=random.random() < bad_share,
                again_s=_brief(again_s),
            )
        )
    faults = []
    for _ in range(pick((0, 1, 1, 2, 3, 5))):
        kind = pick((*FAULTS, "status", "status"))
        faults.append(
            Fault(
                kind,
                _brief(random.random() * lasts_s),
                _brief(random.random() * pick((0.5, 5.0, 60.0, 200.0))),
                destination=random.randrange(len(destinations)),
                share=pick((1.0, 1.0, 0.5, 0.2)),
                value=pick(FAULTS[kind]),
            )
        )
    acts = []
    for _ in range(pick((0, 0, 1, 2, 4))):
        kind = pick((*ACTS,))
        if kind in RARE_ACTS and random.random() < 0.6:
            kind = "stats"
        at_s = _brief(random.random() * lasts_s * 1.5)
        acts.append(Act(kind, at_s, pick(ACTS[kind])))
    scenario = Scenario(
        seed,
        destinations,
        tuple(spans),
        tuple(faults),
        tuple(acts),
        on_loop=random.random() < 0.6,
        shuffles=random.random() < 0.3,
        batch_size=pick((1, 3, 8, 200)),
        batch_bytes=pick((1 << 20, 1 << 20, 3000)),
        linger_s=pick((0.0, 0.01, 0.1, 1.0)),
        max_size=pick((0, 0, 0, 5)),
        byte_budget=pick((128 << 20, 128 << 20, 128 << 20, 9000)),
        max_retries=pick((None, None, None, 1, 3)),
        max_age_s=pick((300.0, 300.0, 20.0, 3.0)),
    )
    usage_share = pick((0.0, 0.3, 1.0))
    return replace(
        scenario,
        spans=tuple(replace(span, has_usage=random.random() < usage_share) for span in spans),
        when_full=pick((DROP_NEWEST, DROP_OLDEST)),
    )


def _destination(random: Random) -> Destination:
    pick = random.choice
    return Destination(
        kind=pick((BATCHES, BATCHES, SINGLES, FOREIGN)),
        start_delay_s=pick((None, None, 0.0, 0.05, 1.0)),
        latency_s=pick((0.001, 0.05, 0.3)),
        capacity=pick((0, 0, 0, 3)),
        bytes_max=pick((0, 0, 0, 2000)),
        concurrency=pick((1, 2, 4, 16)),
        blocks=random.random() < 0.1,
    )


def _brief(seconds: Any) -> Any:
    return None if seconds is None else round(seconds, 3)
