"""Plays a scenario against the real queue and looks after every event whether all promises hold.

Real are the queue, intake, lanes, backlog, circuit, limiter, gate and the table of outcomes. Played
are time, loops and threads (`world`) and what is behind a destination (`backend`).

After every event: each span in exactly one place, the books without a residual (P1); bytes, counts
and requests within their bounds (P4). Before time goes on: no lane sleeps while it could send, nor
holds what is too old, whatever other lanes are up to (P4, P5). At every send: order, size, age,
attempts, and what the backend asked for. At every loss: its reason is true. At every answer of a
`flush`: true and in time. At the end, with backends that are well again: nothing is left, and what
counts as delivered is stored, in its latest version (P6).
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

from everyspan.config import DROP_OLDEST, Settings, load_settings
from everyspan.delivery.backlog import Batch
from everyspan.delivery.gate import Gate
from everyspan.delivery.lane import Lane
from everyspan.ledger import FlushResult
from everyspan.model.record import RECORD_BYTES_FIXED, SpanRecord
from everyspan.model.shedding import may_be_shed
from everyspan.model.span import Span
from everyspan.queue.intake import OUT_OF_BYTES, QUEUE_FULL, SHUTDOWN
from everyspan.queue.span_queue import CLOSE_S, AsyncSpanQueue
from tests.simulation.backend import (
    ForeignProcessor,
    Link,
    SimulatedDestination,
    Version,
    version_of,
)
from tests.simulation.scenario import FOREIGN, SINGLES, Act, Scenario, SpanPlan
from tests.simulation.world import SimulatedHome, SimulatedLoop, Violation, World

DELIVERED = "delivered"
LOOP_ENDED = "its event loop ended"
EPSILON_S = 1e-6
GRACE_S = 5.0

_RECORD_BYTES_MAX = RECORD_BYTES_FIXED + 2_200
"""Of the spans that scenarios draw."""

WELL_AGAIN_S = 900.0
"""Longer than any backoff, `Retry-After` and age together."""

DEFAULTS = load_settings({})


class Observed(Lane):
    """A lane that tells a simulation what becomes of every span."""

    simulation: Simulation

    def __init__(self, exporter: Any, **options: Any) -> None:
        settled = options["settled"]
        self.fates: dict[Version, str] = {}
        self.settled: set[Version] = set()
        self.shed = 0
        options["settled"] = partial(self._observe, settled)
        super().__init__(exporter, **options)
        self.link = self.simulation.joined(self)
        self.moves = 0

    def detach(self) -> None:
        """Leave a home."""
        self.moves += 1
        super().detach()

    def waiting_groups(self) -> Iterator[Iterable[SpanRecord]]:
        """Return what is held and in no request."""
        backlog = self._backlog
        yield from (backlog._starts, backlog._ends, backlog._delayed.values())
        yield from backlog._held.values()
        for batch in backlog._parked:
            yield from (batch.starts, batch.ends)

    def _observe(self, settled: Callable[[SpanRecord], None], record: SpanRecord) -> None:
        settled(record)
        if not record.is_end:
            return
        version = version_of(record)
        if version in self.settled:
            self.simulation.found(f"P1: {version} had its answer twice")
        self.settled.add(version)
        self.shed += record.shed_bytes > 0
        if version not in self.fates:
            self.fates[version] = DELIVERED
            if version not in self.link.backend.versions:
                self.simulation.found(f"{version} counts as delivered and is not stored")

    def _count_loss(self, record: SpanRecord, reason: str, count: Callable[[str], None]) -> None:
        version = version_of(record)
        if version in self.fates:
            self.simulation.found(f"P1: {version} is {self.fates[version]} and lost: {reason}")
        self.fates[version] = reason
        self.simulation.check_loss(self, record, reason)
        super()._count_loss(record, reason, count)


class SimulatedQueue(AsyncSpanQueue):
    """The queue, with loops of a world for threads of its own."""

    world: World

    def _own_home(self, lane: Lane) -> Any:
        apart = lane.exporter.is_foreign or lane.exporter.blocks
        key: Any = lane if apart else None
        home: Any = self._homes.get(key)
        if home is None or home.loop.is_closed():
            home = SimulatedHome(self.world.new_loop("own"))
            self._homes[key] = home
        return home

    def _run_homeless_here(self, *_: Any) -> None:
        """Nothing: here every thread can be started."""


class CountingGate(Gate):
    """Tells whether anything may have changed."""

    __slots__ = ("passages",)

    def __init__(self) -> None:
        super().__init__()
        self.passages = 0

    def leave(self) -> None:
        """Let go."""
        self.passages += 1
        super().leave()


class Simulation:
    """One run; `run` raises a `Violation`, or whatever else came up."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.world = World(scenario.seed, shuffles=scenario.shuffles)
        self.began_s = self.world.now_s
        self.queue: SimulatedQueue
        self.links: list[Link] = []
        self.lanes: list[Observed] = []
        self.offered: list[tuple[int, Version]] = []
        self.stopped = False
        self._processors: list[Any] = []
        self._spans: dict[int, Span] = {}
        self._versions: dict[int, int] = {}
        self._bad: set[str] = set()
        self._loop: SimulatedLoop | None = None
        self._todo: dict[int, Callable[[], object]] = {}
        self._waiting = 0
        self._passages = -1

    # -- running

    def run(self) -> None:
        """Play the scenario."""
        with self._installed():
            self._prepare()
            self.world.run(until_s=self.began_s + self.scenario.ends_s + 1.0)
            self._end()

    @contextmanager
    def _installed(self) -> Iterator[None]:
        """Put what is simulated into the places of what is real."""
        world = self.world
        lane = type("SimulatedLane", (Observed,), {"simulation": self})
        latch = type("SimulatedLatch", (_Latch,), {"world": world})
        logger = logging.getLogger("everyspan")
        was_disabled, logger.disabled = logger.disabled, True
        running = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        gc_was_on = gc.isenabled()
        # What it finds, and when, is the machine's business (W3).
        gc.disable()
        try:
            with ExitStack() as stack:
                for name, value in {
                    "everyspan.queue.intake.Lane": lane,
                    "everyspan.queue.intake.Gate": CountingGate,
                    "everyspan.queue.span_queue.Home": SimulatedHome,
                    "everyspan.queue.span_queue.Latch": latch,
                    "everyspan.queue.span_queue.monotonic": world.monotonic,
                    "everyspan.delivery.lane.random": world.random,
                    "everyspan.delivery.lane.complain": self._complain,
                    "everyspan.delivery.gate.complain": self._complain,
                }.items():
                    stack.enter_context(mock.patch(name, value))
                yield
        finally:
            logger.disabled = was_disabled
            asyncio._set_running_loop(running)
            if gc_was_on:
                gc.enable()

    def _complain(self, text: str, *args: object, error: Any = None, **options: Any) -> None:
        if error is not None:
            self.world.found(error)

    def _prepare(self) -> None:
        scenario, world = self.scenario, self.world
        self.queue = SimulatedQueue(settings=_settings(scenario), clock=world)
        self.queue.world = world
        self._intake = self.queue._intake
        for number, plan in enumerate(scenario.destinations):
            faults = [fault for fault in scenario.faults if fault.destination == number]
            link = Link(self, plan, faults)
            self.links.append(link)
            self._processors.append(
                ForeignProcessor(link) if plan.kind == FOREIGN else SimulatedDestination(link)
            )
        if scenario.on_loop:
            self._loop = world.new_loop("agent")
        for position, span in enumerate(scenario.spans):
            self._plan(position, span)
        for act in scenario.acts:
            world.at(self.began_s + act.at_s, self._act, act)
        world.after_event = self._check
        world.before_time_passes = self._check_liveness

    def _plan(self, position: int, plan: SpanPlan) -> None:
        at, began_s = self.world.at, self.began_s
        at(began_s + plan.begins_s, self._on_agent, partial(self._begin, position, plan))
        if plan.ends_s is not None:
            at(began_s + plan.ends_s, self._on_agent, partial(self._finish, position, plan))
            if plan.again_s is not None:
                at(began_s + plan.again_s, self._on_agent, partial(self._finish, position, plan))

    def _end(self) -> None:
        """Let everything be well, and see that nothing is left."""
        world = self.world
        for link in self.links:
            link.backend.heal()
        delivered = {lane: lane.account.delivered for lane in self.lanes}
        # A loop that does not run delivers nothing; whoever waits from elsewhere moves its lanes.
        self._wait_sync(0.0, stop=False)
        world.run(
            until_s=world.now_s + WELL_AGAIN_S,
            until=lambda: all(lane.is_empty for lane in self.lanes) and not self._intake.inbox,
        )
        self._wait_sync(60.0, stop=False)
        held = {lane.account.name: lane.reasons(1 << 60) for lane in self.lanes if lane.held}
        if held:
            raise Violation(f"P1: still held {WELL_AGAIN_S:g} s after all was well: {held}")
        for lane, before in delivered.items():
            is_open = lane._circuit.open_for is not None
            if is_open and lane.account.delivered > before and lane.link.backend.is_trusted:
                raise Violation(f"{lane.account.name} delivers, and its circuit is open")
        result = self._wait_sync(60.0, stop=True)
        if any(reasons.get("not sent yet") for reasons in result.left.values()):
            raise Violation(f"shutdown left {dict(result.left)}")
        world.run(until_s=world.now_s + 40.0)
        self._check_books()
        self._check_rows()
        for loop in world.loops:
            left = [task for task in loop.unfinished() if loop.runs]
            if left:
                raise Violation(f"tasks left on loop {loop.name}: {left}")

    # -- what the agent does

    def _on_agent(self, call: Callable[[], object]) -> None:
        """Have something done by the agent: on its loop if it has one."""
        loop = self._loop
        if loop is None or not loop.runs:
            call()
            return
        number = next(self.world.numbers)
        self._todo[number] = call
        loop.call_soon(self._do, number)

    def _do(self, number: int) -> None:
        call = self._todo.pop(number, None)
        if call is not None:
            call()

    def _begin(self, position: int, plan: SpanPlan) -> None:
        if position in self._spans:
            return
        span = Span(
            name="step",
            id=f"s{position}",
            trace_id=f"t{plan.trace}",
            start_ns=self.world.time_ns(),
            input="x" * plan.size,
            data={"usage": {"input_tokens": 1}} if plan.has_usage else None,
        )
        self._spans[position] = span
        if plan.is_bad:
            self._bad.add(span.id)
        self.queue.enqueue("start", span, [self._processors[n] for n in self._wanted(plan)])

    def _finish(self, position: int, plan: SpanPlan) -> None:
        # On a loop that shuffles, or that ended, what the agent does may change places.
        self._begin(position, plan)
        version = self._versions[position] = self._versions.get(position, 0) + 1
        span = self._spans[position]
        span.end_ns = self.world.time_ns()
        span.output = {"v": version}
        wanted = self._wanted(plan)
        for number in wanted:
            self.offered.append((number, (span.id, version)))
        self.queue.enqueue("end", span, [self._processors[n] for n in wanted])

    def _wanted(self, plan: SpanPlan) -> list[int]:
        known = len(self._processors)
        return [number for number in plan.destinations if number < known]

    def is_bad(self, span_id: str) -> bool:
        """Tell whether backends refuse a span, whatever comes with it."""
        return span_id in self._bad

    def _act(self, act: Act) -> None:
        world = self.world
        loop = self._loop
        if act.kind == "jump":
            world.wall_jump_ns += int(act.value * 1e9)
        elif act.kind == "stats":
            if self.queue.stats().residual:
                raise Violation(f"P1: {self.queue.stats()}")
        elif act.kind in ("flush", "shutdown"):
            self._wait_async(act.value, stop=act.kind == "shutdown")
        elif act.kind in ("flush_sync", "shutdown_sync"):
            stop = act.kind == "shutdown_sync"
            self._on_agent(partial(self._wait_sync, act.value, stop=stop))
        elif act.kind == "leave":
            # The end of the process; whatever of the agent still runs drains with each offer.
            self.queue.leave()
        elif act.kind == "block_loop":
            if loop is not None and loop.runs:
                loop.call_soon(world.block, lambda: False, act.value)
        elif act.kind == "cancel_lanes":
            self._cancel_lanes()
        elif loop is not None and loop.runs and not loop.is_blocked:
            self._end_loop(loop, act.kind)

    def _end_loop(self, loop: SimulatedLoop, how: str) -> None:
        world = self.world
        # A loop a request: the agent's next spans end on another, or on none.
        self._loop = world.new_loop("agent") if world.random.random() < 0.5 else None
        if how == "end_loop":
            for task in loop.unfinished():
                task.cancel()
            world.block(lambda: not loop.unfinished(), 1.0)
        loop.stop()
        if how != "stop_loop":
            loop.close()
        todo, self._todo = self._todo, {}
        for call in todo.values():
            self._on_agent(call)
        if how != "end_loop":
            world.at(world.now_s + world.random.random() * 5.0, self._collect, loop)

    def _collect(self, loop: SimulatedLoop) -> None:
        """Have the garbage collector find the coroutines of a loop that is gone."""
        loop.runs = False
        for task in loop.unfinished():
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine: Any = task.get_coro()
            coroutine.close()

    def _cancel_lanes(self) -> None:
        """Cancel all that runs on the loop of the agent, as some frameworks do between requests."""
        loop = self._loop
        if loop is not None and loop.runs:
            for task in loop.unfinished():
                loop.call_soon(task.cancel)

    # -- waiting

    def _wait_async(self, timeout_s: float, *, stop: bool) -> None:
        loop = self._loop
        if loop is None or not loop.runs:
            loop = self.world.new_loop("waiting")
        loop.create_task(self._await(timeout_s, stop=stop))

    async def _await(self, timeout_s: float, *, stop: bool) -> None:
        wait = self.queue.shutdown if stop else self.queue.flush
        try:
            with self._waiting_for(timeout_s, stop=stop, is_sync=False) as answered:
                answered(await wait(timeout_s))
        except Exception as error:
            self.world.found(error)

    def _wait_sync(self, timeout_s: float, *, stop: bool) -> FlushResult:
        wait = self.queue.shutdown_sync if stop else self.queue.flush_sync
        with self._waiting_for(timeout_s, stop=stop, is_sync=True) as answered:
            result = wait(timeout_s)
            answered(result)
        return result

    @contextmanager
    def _waiting_for(
        self, timeout_s: float, *, stop: bool, is_sync: bool
    ) -> Iterator[Callable[[FlushResult], None]]:
        world = self.world
        began_s, blocks = world.now_s, world.blocks
        before = [*self.offered]
        self._waiting += 1
        self.stopped = self.stopped or stop

        def answered(result: FlushResult) -> None:
            lasted_s = world.now_s - began_s
            # Whoever was blocked meanwhile, by others or below others, returns later.
            is_undisturbed = world.blocks == blocks + is_sync and not world.is_nested
            if is_undisturbed and lasted_s > timeout_s + (CLOSE_S if stop else 0.0) + EPSILON_S:
                raise Violation(f"P4: a wait of {timeout_s:g} s lasted {lasted_s:g} s")
            left = [(n, version) for n, version in before if not self._has_answer(n, version)]
            if left and result.ok:
                raise Violation(f"a flush says ok, without an answer: {left}")
            for number, spans in Counter(number for number, _ in left).items():
                lane = self.links[number].lane
                said = result.left.get(lane.account.name, {}) if lane is not None else {}
                if sum(said.values()) < spans:
                    raise Violation(f"a flush names {dict(said)} of {spans} without an answer")
            if left and lasted_s < timeout_s - EPSILON_S and not self._is_waiting_for_itself():
                raise Violation(f"a flush answered after {lasted_s:g} s, without: {left}")
            if stop and left and self._waiting == 1:
                raise Violation(f"P1: not given up by a shutdown: {left}")

        try:
            yield answered
        finally:
            self._waiting -= 1

    def _is_waiting_for_itself(self) -> bool:
        """A wait that would block the loop that does the sending returns at once."""
        here = self.world.here
        return any(lane.home is not None and lane.home.loop is here for lane in self.lanes)

    def _has_answer(self, number: int, version: Version) -> bool:
        lane = self.links[number].lane
        return isinstance(lane, Observed) and version in lane.fates

    # -- checks

    def joined(self, lane: Observed) -> Link:
        """Note a new lane; return its link."""
        self.lanes.append(lane)
        exporter: Any = lane.exporter
        link: Link = (getattr(exporter, "_processor", None) or exporter).link
        link.lane = lane
        return link

    def is_in_flight(self, link: Link, batch: Batch) -> bool:
        """Tell whether a lane still waits for the answer to a batch."""
        return link.lane is not None and id(batch) in link.lane._in_flight

    def check_send(self, link: Link, batch: Batch) -> None:
        """Look at a batch that is being sent (K2, K3, and what limits a lane)."""
        try:
            self._check_send(link, batch)
        except Violation as violation:
            # Raised from here, it would be one more failure of the destination.
            self.world.found(violation)

    def _check_send(self, link: Link, batch: Batch) -> None:
        scenario, now_s = self.scenario, self.world.now_s
        lane = link.lane
        if not isinstance(lane, Observed) or id(batch) not in lane._in_flight:
            # Taken back between its start and its first step; nothing of it counts any more.
            return
        records = batch.records
        is_single = link.plan.kind == SINGLES
        if not records:
            raise Violation("an empty batch is sent")
        if len(records) > (1 if is_single else scenario.batch_size):
            raise Violation(f"K2: {len(records)} spans in a batch")
        size = sum(record.held_bytes for record in records)
        if len(records) > 1 and size > scenario.batch_bytes:
            raise Violation(f"K2: {size} bytes in a batch")
        # A batch that a loop took along in its end goes out again in any case (P3).
        allowed = (scenario.max_retries or 1 << 30) + lane.moves
        if batch.attempts > allowed:
            raise Violation(f"P4: attempt {batch.attempts}")
        if now_s < link.not_before_s - EPSILON_S:
            raise Violation(f"a request {link.not_before_s - now_s:g} s before Retry-After ends")
        oldest_s = min((record.offered_s for record in batch.ends), default=now_s)
        if oldest_s + scenario.max_age_s <= now_s:
            raise Violation(f"P4: a span is sent {now_s - oldest_s:g} s after it was offered")
        others = [
            (record.id, record.is_end)
            for other in lane._in_flight.values()
            if other is not batch
            for record in other.records
        ]
        for record in records:
            if record.is_end:
                if (record.id, False) in others or (is_single and (record.id, True) in others):
                    raise Violation(f"K3: {record.id} overtakes its earlier version")
            elif (record.id, True) in others or any(
                id_ == record.id and fate == DELIVERED for (id_, _), fate in lane.fates.items()
            ):
                raise Violation(f"K3: the START of {record.id} is sent after its END")
        backend = link.backend
        failing_s = now_s - backend.failing_since_s
        requests_max = 80 + 4 * lane.moves + failing_s / 2 + 2 * len(scenario.spans)
        if backend.requests_since_store > requests_max:
            raise Violation(
                f"P4: {backend.requests_since_store} requests in {failing_s:g} s, none was stored"
            )

    def check_loss(self, lane: Observed, record: SpanRecord, reason: str) -> None:
        """Look whether a span is lost for a reason that is true."""
        scenario, version, link = self.scenario, version_of(record), lane.link
        now_s = self.world.now_s
        told, told_alone = (
            counts.get(version, Counter()) for counts in (link.told, link.told_alone)
        )
        if reason == QUEUE_FULL:
            # One that gives way to another has left already.
            is_true = 0 < scenario.max_size <= lane.waiting + self._has_left(lane, record)
        elif reason == OUT_OF_BYTES:
            is_true = self._is_out_of_bytes(lane, record)
        elif reason == SHUTDOWN:
            is_true = self.stopped
        elif reason.startswith("expired"):
            why = reason.removeprefix("expired").removeprefix(" after ")
            was_told = why in ("", LOOP_ENDED) or any(why in told for told in link.told.values())
            is_true = (
                was_told
                and record.offered_s + scenario.max_age_s <= now_s + EPSILON_S
                and (
                    link.backend.was_in_trouble(record.offered_s - 120.0)
                    or bool(lane.moves or scenario.acts)
                    or link.plan.capacity > 0
                    or scenario.max_age_s < 5.0
                )
            )
        elif link.plan.kind == FOREIGN:
            is_true = told[reason] > 0
            if reason.startswith("http"):
                is_true = is_true and scenario.max_retries is not None
        elif reason in ("http 400", "http 422", "http 413", "RuntimeError"):
            # With a bound of attempts, also while the destination refuses everything.
            is_true = (told_alone if scenario.max_retries is None else told)[reason] > 0
        elif reason in ("http 401", "http 403", "http 404", "http 501", "not the backend"):
            # A span that is refused although others are stored, again and again.
            is_true = told[reason] > 1 or scenario.max_retries is not None
        else:
            is_true = scenario.max_retries is not None and told[reason] > 0
        if not is_true:
            self.found(f"P5: {version} is lost and should not: {reason}, {told}")

    def _has_left(self, lane: Lane, record: SpanRecord) -> bool:
        return self.scenario.when_full == DROP_OLDEST and lane in record.held_by

    def _is_out_of_bytes(self, lane: Observed, record: SpanRecord) -> bool:
        """Tell whether there is too little room though all that may be shed is."""
        scenario = self.scenario
        share = scenario.byte_budget // len(self.lanes)
        if self._has_left(lane, record):
            # For another, of which all that is known is what it may have at most.
            return lane.bytes_held + _RECORD_BYTES_MAX > share
        of_all = self._intake.bytes_held + record.held_bytes > scenario.byte_budget
        of_lane = lane.bytes_held + record.held_bytes > share
        flying = {id(sent) for other in self.lanes for sent in other.in_flight}
        could = [
            body
            for group in lane.waiting_groups()
            for body in group
            if id(body) not in flying and not body.shed_bytes and may_be_shed(body)
        ]
        return (of_all or of_lane) and all(b'"usage"' in (body.data or b"") for body in could)

    def found(self, text: str) -> None:
        """End the run; to be called within the queue, which would go on after an exception."""
        self.world.found(Violation(text))

    def _check(self) -> None:
        """Look at the books and the containers."""
        gate: Any = self._intake.gate
        if gate.passages == self._passages:
            return
        self._passages = gate.passages
        sizes: dict[int, int] = {}
        accepted = 0
        for lane in self.lanes:
            flying = lane._in_flight
            groups: list[Any] = [*lane.waiting_groups()]
            for batch in flying.values():
                groups += (batch.starts, batch.ends)
            places = 0
            held: dict[int, int] = {}
            ends = 0
            for group in groups:
                for record in group:
                    places += 1
                    held[id(record)] = record.held_bytes
                    if record.is_end:
                        ends += 1
            account = lane.account
            accepted += account.accepted
            if places != len(held):
                raise Violation(f"P1: a record is in two places of {account.name}")
            lost = sum(account.dropped.values()) + sum(account.rejected.values())
            if account.accepted != account.delivered + lost + ends or lane.snapshot().residual:
                raise Violation(f"P1: {lane.snapshot()}, and {ends} are held")
            if len(flying) > lane.exporter.concurrency:
                raise Violation(f"P4: {len(flying)} requests of {account.name} in flight")
            if lane.bytes_held != sum(held.values()):
                raise Violation(f"P4: {lane.bytes_held} bytes counted, {sum(held.values())} held")
            sizes.update(held)
        if self._intake._handed_over != accepted:
            raise Violation(f"P1: {self._intake._handed_over} handed over, {accepted} accepted")
        if self._intake.bytes_held != sum(sizes.values()):
            raise Violation(f"P4: {self._intake.bytes_held} bytes counted, {sum(sizes.values())}")
        if self._intake.bytes_held > self.scenario.byte_budget:
            raise Violation(f"P4: {self._intake.bytes_held} bytes held")

    def _check_liveness(self) -> None:
        """Look whether somebody sleeps who should not, before time goes on."""
        now_s = self.world.now_s
        scenario = self.scenario
        for lane in self.lanes:
            home: Any = lane.home
            if home is None:
                if not lane.is_empty and not self.queue.is_over:
                    raise Violation(f"P3: {lane.account.name} holds spans and runs nowhere")
                continue
            if self.queue.is_over or not home.loop.runs or home.loop.is_blocked:
                continue
            backlog = lane._backlog
            expires_s = backlog.expires_s()
            if expires_s is not None and expires_s <= now_s:
                raise Violation(f"P4: {lane.account.name} holds what is too old")
            is_careful = lane._circuit.open_for is not None or lane._failures
            limit = 1 if is_careful else lane._limiter.limit
            if len(lane._in_flight) >= limit or now_s < lane._paused_until_s:
                continue
            for record in self._intake.inbox:
                if isinstance(record, SpanRecord) and lane in record.lanes:
                    if record.offered_s + scenario.linger_s < now_s - EPSILON_S and record.is_end:
                        raise Violation(f"Q1: {record.id} lies in the inbox, nobody looks")
                    break
            # A START that has just become due leaves a linger later, even if somebody waits.
            ends = backlog._ends
            hurry = lane.hurries > 0 and bool(ends) and ends[0].seq <= lane.hurry_seq
            due_s = backlog.due_s(now_s, hurry=hurry)
            if due_s is not None and due_s <= now_s:
                raise Violation(f"P5: {lane.account.name} sleeps although something is due")

    def _check_books(self) -> None:
        stats = self.queue.stats()
        if stats.residual:
            raise Violation(f"P1: {stats}")
        for number, link in enumerate(self.links):
            lane = link.lane
            offered = [version for n, version in self.offered if n == number]
            if not isinstance(lane, Observed):
                if offered:
                    raise Violation(f"P1: nobody took {offered}")
                continue
            if sorted(offered) != sorted(lane.fates):
                raise Violation(f"P1: {offered} were offered, of {lane.fates} is known")
            account = lane.account
            fates = Counter(lane.fates.values())
            if account.shed != lane.shed:
                raise Violation(f"{lane.shed} spans were shed, {account.shed} are counted")
            if account.delivered != fates.pop(DELIVERED, 0):
                raise Violation(f"P1: {account.delivered} delivered, {lane.fates}")
            if Counter(account.dropped) + Counter(account.rejected) != fates:
                raise Violation(f"P1: {account.dropped}, {account.rejected} for {fates}")
        if self._intake.bytes_held:
            raise Violation(f"P4: {self._intake.bytes_held} bytes held for nothing")

    def _check_rows(self) -> None:
        for link in self.links:
            if not isinstance(link.lane, Observed):
                continue
            latest: dict[str, int] = {}
            for (span_id, version), fate in link.lane.fates.items():
                if fate == DELIVERED:
                    latest[span_id] = max(version, latest.get(span_id, 0))
            rows = dict(link.backend.rows.values())
            for span_id, version in latest.items():
                if rows[span_id] < version and link.plan.kind != FOREIGN:
                    raise Violation(
                        f"P6: {span_id} is stored as {rows[span_id]}, delivered as {version}"
                    )


class _Latch:
    """Blocks the thread that waits, while others go on."""

    world: World

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        """Let the one who waits go on."""
        self.is_set = True

    def wait(self, timeout_s: float) -> None:
        """Wait."""
        self.world.block(lambda: self.is_set, timeout_s)


def _settings(scenario: Scenario) -> Settings:
    return replace(
        DEFAULTS,
        batch_size=scenario.batch_size,
        batch_bytes=scenario.batch_bytes,
        linger_ms=scenario.linger_s * 1000,
        max_size=scenario.max_size,
        byte_budget=scenario.byte_budget,
        max_retries=scenario.max_retries,
        max_age_s=scenario.max_age_s,
        when_full=scenario.when_full,
        grace_s=GRACE_S,
    )
