"""A real lane with an endless backlog against a backend of so many places, on a fake clock.

The backend either refuses what finds no place (429, or 503), or lets it queue. Its capacity steps
to a quarter and back. `python -m tests.simulation.capacity` prints what each method of limiting
makes of it (`docs/decisions/055`).
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import log
from typing import Any
from unittest import mock

from everyspan.config import load_settings
from everyspan.delivery.backlog import Batch
from everyspan.delivery.gate import Gate
from everyspan.delivery.lane import Lane
from everyspan.delivery.limiter import Limiter
from everyspan.errors import ExportError, RetryableExportError
from everyspan.model.record import SpanRecord, freeze_span
from everyspan.model.span import Span
from everyspan.transport.outcomes import TIMED_OUT, to_error
from everyspan.transport.reply import Reply
from tests.simulation.world import SimulatedHome, SimulatedLoop, World

SERVICE_MEDIAN_S = 0.15
SERVICE_SPREAD = 0.48
"""Of a lognormal: 150 ms at the median, 330 ms at the 95th of 100, as measured of a backend."""

NETWORK_S = 0.005
TIMEOUT_S = 10.0
STEP_S = 30.0
"""How long is looked at what follows a step; the next comes up to `LATER_S` after that."""

LATER_S = 10.0

WAITING = 32


class Backend:
    """So many requests are served at once; `busy_s` adds up how long each place was busy."""

    def __init__(self, world: World, *, capacity: int, queues: bool) -> None:
        self.capacity = capacity
        self.queues = queues
        self.busy_s = 0.0
        self.stored = 0
        self.refused = 0
        self.latencies_s: list[float] = []
        self._world = world
        self._serving = 0
        self._looked_s = world.now_s
        self._queue: deque[Callable[[], None]] = deque()

    def look(self) -> None:
        """Add up to now."""
        now_s = self._world.now_s
        self.busy_s += min(self._serving, self.capacity) * (now_s - self._looked_s)
        self._looked_s = now_s

    def arrive(self, answer: Callable[[int], object]) -> None:
        """Serve a request, let it wait, or refuse it."""

        def begin() -> None:
            self.look()
            self._serving += 1
            draw = self._world.random.lognormvariate(log(SERVICE_MEDIAN_S), SERVICE_SPREAD)
            self._world.at(self._world.now_s + draw, finish)

        def finish() -> None:
            self.look()
            self._serving -= 1
            self.stored += 1
            answer(200)
            self.serve()

        if self._serving < self.capacity:
            begin()
        elif self.queues:
            self._queue.append(begin)
        else:
            self.refused += 1
            answer(429)

    def serve(self) -> None:
        """Let those who wait have the places that are free."""
        while self._queue and self._serving < self.capacity:
            self._queue.popleft()()


class Destination:
    """An `Exporter` of that backend."""

    name = "backend"
    wants_every_start = False
    is_foreign = False
    only_ends = False
    blocks = False
    start_delay_s = None
    hint = None
    one_by_one = False

    def __init__(self, backend: Backend, world: World, *, ceiling: int) -> None:
        self.concurrency = ceiling
        self._backend = backend
        self._world = world

    async def export(self, batch: Batch) -> Mapping[int, ExportError]:
        """Send, and wait for the answer."""
        world = self._world
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        sent_s = world.now_s

        def answer(status: int) -> None:
            world.at(world.now_s + NETWORK_S, arrived, status)

        def arrived(status: int) -> None:
            if not future.done():
                future.set_result(status)

        world.at(world.now_s + NETWORK_S, self._backend.arrive, answer)
        timer = loop.call_later(TIMEOUT_S, arrived, 0)
        status = await future
        timer.cancel()
        if status == 0:
            raise RetryableExportError(TIMED_OUT.text, reason=TIMED_OUT.reason, congested=True)
        error = to_error(Reply(status, {}, b""))
        if error is not None:
            raise error
        self._backend.latencies_s.append(world.now_s - sent_s)
        return {}

    def connections(self) -> int:
        """Return none."""
        return 0

    async def close(self) -> None:
        """Nothing to let go of."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """What happened while the backend had one capacity.

    Attributes:
        busy: Mean share of its places that were busy: 1 is the best that can be had.
        within_s: When the share over 5 s was at least 0.8 first, counted from the step.
        stored, refused: Requests.
        latency_s: At the median.
    """

    capacity: int
    busy: float
    within_s: float
    stored: int
    refused: int
    latency_s: float


def play(
    capacities: Sequence[int], *, queues: bool = False, ceiling: int = 64, seed: int = 0
) -> list[Stretch]:
    """Return what came of each capacity, `STEP_S` long."""
    world = World(seed, events_max=1 << 30)
    backend = Backend(world, capacity=capacities[0], queues=queues)
    settings = replace(load_settings({}), batch_size=1)
    with _installed(world):
        lane = _lane(world, Destination(backend, world, ceiling=ceiling), settings)
        stretches = []
        for capacity in capacities:
            backend.look()
            backend.capacity = capacity
            backend.serve()
            stretches.append(_stretch(world, backend))
            # A step hits the lane at any point of what it does.
            world.run(until_s=world.now_s + LATER_S * world.random.random())
        lane.detach()
    return stretches


def refused_share(stretches: Sequence[Stretch]) -> float:
    """Return the share of the requests of all of them that were refused."""
    refused = sum(stretch.refused for stretch in stretches)
    return refused / (refused + sum(stretch.stored for stretch in stretches))


def _stretch(world: World, backend: Backend) -> Stretch:
    stored, refused, latencies = backend.stored, backend.refused, len(backend.latencies_s)
    began_s, capacity = world.now_s, backend.capacity
    busy = [backend.busy_s]
    for second in range(1, int(STEP_S) + 1):
        world.run(until_s=began_s + second)
        backend.look()
        busy.append(backend.busy_s)
    shares = [(busy[s] - busy[s - 5]) / (5 * capacity) for s in range(5, len(busy))]
    within_s = next((s + 5 for s, share in enumerate(shares) if share >= 0.8), STEP_S)
    stored, refused = backend.stored - stored, backend.refused - refused
    waits = sorted(backend.latencies_s[latencies:])
    return Stretch(
        capacity,
        busy=(busy[-1] - busy[0]) / (STEP_S * capacity),
        within_s=within_s,
        stored=stored,
        refused=refused,
        latency_s=waits[len(waits) // 2] if waits else 0.0,
    )


@contextmanager
def _installed(world: World) -> Iterator[None]:
    running = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        with (
            mock.patch("everyspan.delivery.lane.random", world.random),
            mock.patch("everyspan.delivery.lane.complain"),
        ):
            yield
    finally:
        asyncio._set_running_loop(running)


def _lane(world: World, destination: Any, settings: Any) -> Lane:
    gate = Gate()
    span = Span(name="step", id="s", trace_id="t", start_ns=1, end_ns=2)

    def top_up() -> None:
        while lane.waiting < WAITING:
            lane.add_end(freeze_span(span, is_end=True, offered_s=world.now_s))

    def settled(record: SpanRecord) -> None:
        pass

    lane = Lane(
        destination,
        name="backend",
        gate=gate,
        settings=settings,
        start_delay_s=None,
        clock=world,
        inbox=(),
        take_in=top_up,
        settled=settled,
        orphaned=lambda *_: None,
        masker=lambda: None,
    )
    loop: SimulatedLoop = world.new_loop("exporter")
    with gate:
        epoch = lane.attach(SimulatedHome(loop))
    loop.call_soon(lane.start, epoch)
    return lane


class Reno(Limiter):
    """What everyspan had before, to be measured against: half at a refusal, then one a round."""

    def __init__(self, ceiling: int) -> None:
        super().__init__(ceiling)
        self.limit = min(4, ceiling)
        self._most = ceiling
        self._credit = 0
        self._doubles = True
        self._halved_s = float("-inf")

    def succeeded(self, *, saturated: bool, **_: Any) -> None:
        """Grow, if that was the limit."""
        if not saturated or self.limit >= self._most:
            self._credit = 0
            return
        self._credit += 1
        if self._doubles or self._credit >= self.limit:
            self.limit += 1
            self._credit = 0

    def congested(self, *, sent_s: float, now_s: float, **_: Any) -> None:
        """Halve, unless the request is older than the last time."""
        self._doubles = False
        if sent_s >= self._halved_s:
            self.limit = max(1, self.limit // 2)
            self._credit = 0
            self._halved_s = now_s


CASES: tuple[tuple[Sequence[int], int, bool], ...] = (
    ((16, 4, 16), 64, False),
    ((16, 4, 16), 16, False),
    ((4, 1, 4), 16, False),
    ((64, 16, 64), 64, False),
    ((16, 4, 16), 64, True),
)
"""Capacities, ceiling, whether the backend queues."""


def main() -> int:
    """Print a table, of five runs the worst."""
    print("| backend | ceiling | method | capacity | busy | 80 % within | refused | of all |")
    print("|---|--:|---|--:|--:|--:|--:|--:|")
    for capacities, ceiling, queues in CASES:
        for method in (Reno, Limiter):
            with mock.patch("everyspan.delivery.lane.Limiter", method):
                runs = [
                    play(capacities, queues=queues, ceiling=ceiling, seed=seed) for seed in range(5)
                ]
            of_all = f"{max(map(refused_share, runs)):.2%}"
            for stretches in zip(*runs, strict=True):
                row = [
                    "queues" if queues else "refuses",
                    str(ceiling),
                    method.__name__,
                    str(stretches[0].capacity),
                    f"{min(s.busy for s in stretches):.0%}",
                    f"{max(s.within_s for s in stretches):.0f} s",
                    f"{max(refused_share([s]) for s in stretches):.2%}",
                    of_all,
                ]
                print(f"| {' | '.join(row)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
