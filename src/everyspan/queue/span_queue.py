"""Takes spans from any thread and has one lane for each destination carry them.

Q1  `enqueue` and `offer` never wait, await or raise, from any thread, loop, finalizer or signal
    handler (P2). They append to the inbox, which is all that the agent's thread does as a rule;
    whoever comes through the gate next takes it in: a lane that looks for work, a reader of the
    books, or an offer that finds the inbox long.
Q2  A span that is taken is delivered or counted lost with its reason, whatever happens to the
    loop it was taken on (P1, P3).
Q3  At most `max_size` spans wait for a destination and at most `byte_budget` bytes for all (P4).
Q4  Lanes share nothing but the gate: a slow destination delays no other (P5).

Home: the queue that a user constructs runs on the loop that runs at its first `enqueue`, since its
processors may hold things bound to it; else, and once that loop is gone, on the exporter thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from types import MappingProxyType

from everyspan.clock import SYSTEM_CLOCK, Clock
from everyspan.config import Settings, load_settings
from everyspan.delivery.exporter import Exporter
from everyspan.delivery.lane import AWAKE_S, Lane
from everyspan.errors import SettingsError
from everyspan.home import Home, OwnLoop, ThreadHome, run_here, runs_a_loop
from everyspan.ledger import FlushResult, Stats
from everyspan.log import complain
from everyspan.metrics.recorder import recorder
from everyspan.model.mask import Masker, masker_in_force
from everyspan.model.record import Limits, Part, SpanRecord, freeze_span
from everyspan.model.span import Span, SpanEventType
from everyspan.processors.base import Processor
from everyspan.queue import exits
from everyspan.queue.exporter_home import exporter_home
from everyspan.queue.intake import SHUTDOWN, Intake, LeftOut
from everyspan.queue.waiters import Latch, Waiter
from everyspan.queue.watch import LOOK_EVERY_S, look_after

INBOX_RECORDS_MAX = 2048
INBOX_RECORD_BYTES_MAX = 8 << 10
"""Together they bound what is held without being counted against the budget: 16 MiB."""

CLOSE_S = 0.2
"""How long destinations may take to let go of what they hold."""

UNREACHABLE_PATIENCE_S = 0.5
UNREACHABLE = frozenset({"cannot connect", "not an everyspan server", "not sent yet"})

Lanes = tuple[Lane, ...]


class AsyncSpanQueue:
    """See the module text.

    Args:
        batch_size, linger_ms, max_size, max_retries, concurrency: The settings of these names.
        settings: All of them, instead of the five.
        own_homes: Run on threads of everyspan only: the exporter thread, and one more for each
            user's processor, so that one that blocks costs only itself.
        masker: Returns what takes secrets out of spans before they are sent, if anything does.
    """

    def __init__(
        self,
        batch_size: int | None = None,
        linger_ms: float | None = None,
        max_size: int | None = None,
        max_retries: int | None = None,
        concurrency: int | None = None,
        *,
        settings: Settings | None = None,
        own_homes: bool = False,
        masker: Callable[[], Masker | None] = masker_in_force,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        # Read now, since a gate is no place to log what the environment says wrongly.
        _ = recorder.is_on
        self._settings = settings or load_settings(
            batch_size=batch_size,
            linger_ms=linger_ms,
            max_size=max_size,
            max_retries=max_retries,
            concurrency=concurrency,
        )
        self.limits = _limits(self._settings)
        self._masker = masker
        self._own_homes = own_homes
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        intake = self._intake = Intake(
            self._settings,
            clock=self._clock,
            homeless=self._settle_home,
            orphaned=self._move,
            let_go=self._end_home,
            masker=self._masker,
        )
        self._gate = intake.gate
        self._inbox = intake.inbox
        self._linger_s = self._settings.linger_ms / 1000
        self._look_at_s = AWAKE_S
        self._homes: dict[Lane, ThreadHome] = {}
        self._homes_lock = threading.RLock()
        self._in_making: set[Lane] = set()
        self._user_home: Home | None = None
        self._is_over = False
        self._is_leaving = False
        self._leave_until_s = float("inf")

    # -- taking spans

    def enqueue(
        self, event_type: SpanEventType | str, span: Span, processors: Sequence[Processor]
    ) -> None:
        """Take a START or END of a span for these processors; never raises, never waits (Q1).

        Raises:
            SettingsError: `span` is none.
        """
        if not isinstance(span, Span):
            raise SettingsError(f"span must be a Span, got {span!r}")
        is_end = event_type == SpanEventType.END
        record = freeze_span(
            span, is_end=is_end, offered_s=self._clock.monotonic(), limits=self.limits
        )
        if self._user_home is None and not self._own_homes and not self._intake.lanes:
            self._adopt_running_loop()
        lanes = tuple([self._intake.lane(processor) for processor in processors])
        if is_end:
            self.offer(record, lanes, span)
        else:
            self.begin(span, lanes, record)

    def begin(self, span: Span, lanes: Lanes, record: SpanRecord | None = None) -> None:
        """Note that a span started; `record` is its START for the lanes that want it."""
        if record is not None:
            self.offer(record, lanes, span)
            return
        # The span itself: one object less for the garbage collector to look at.
        span._lanes = lanes
        inbox = self._inbox
        inbox.append(span)
        if len(inbox) >= INBOX_RECORDS_MAX:
            self._intake.take_in_here()

    def offer(self, record: SpanRecord, lanes: Lanes, span: Span | None = None) -> None:
        """Take a START or END for these lanes; never raises, never waits (Q1).

        Args:
            span: What the record is of. A START notes that it began, an END where its later
                versions belong.
        """
        inbox = self._inbox
        record.span = span
        record.lanes = lanes
        inbox.append(record)
        now_s = record.offered_s
        if now_s > self._look_at_s:
            self._look_after()
        for lane in lanes:
            wakes_at_s = lane.wakes_at_s
            if wakes_at_s > AWAKE_S and (
                # It has not promised to look in time, or has not kept its promise.
                wakes_at_s > now_s + self._linger_s
                or wakes_at_s < now_s
                or len(inbox) >= self._settings.batch_size
            ):
                self._settle_home(lane) if lane.home is None else lane.nudge()
        if len(inbox) >= INBOX_RECORDS_MAX or record.size_bytes > INBOX_RECORD_BYTES_MAX:
            self._intake.take_in_here()
        if self._user_home is not None and self._user_home.loop.is_closed():
            self._leave_user_home(self._user_home)
        if self._is_leaving:
            self._drain_late()

    def leave_out(self, why: LeftOut) -> None:
        """Count the end of a span that is not recorded; never raises, never waits (Q1)."""
        self._inbox.append(why)
        if len(self._inbox) >= INBOX_RECORDS_MAX:
            self._intake.take_in_here()

    def lane(self, processor: Processor | Exporter) -> Lane:
        """Return the lane of a processor, made at the first call for it, for as long as we last."""
        lane = self._intake.lane(processor)
        lane.stays = True
        return lane

    # -- looking

    @property
    def dropped_spans(self) -> int:
        """Span events given up or refused, as the original counts them (`trace:Q28`)."""
        lost = sum(d.dropped_total + d.rejected_total for d in self.stats().destinations)
        accounts = [self._intake.others, *(lane.account for lane in [*self._intake.lanes.values()])]
        return lost + sum(account.lost_starts for account in accounts)

    @property
    def depth(self) -> int:
        """Span events that wait for their first try, at the fullest destination."""
        self.stats()
        return max((lane.waiting for lane in [*self._intake.lanes.values()]), default=0)

    @property
    def max_size(self) -> int:
        """Span events that may wait for one destination; 0 for no bound by count."""
        return self._settings.max_size

    def stats(self) -> Stats:
        """Return the books of this instant; from within everyspan, the last ones published."""
        self._look_after()
        return self._intake.stats()

    @property
    def producer(self) -> str:
        """What the names of this queue's parts of traces begin with."""
        return self._intake.producer

    def take_lost_parts(self, lane: Lane, parts_max: int) -> list[Part]:
        """Return parts of traces that a lane lost spans of; it remembers them no more."""
        with self._gate:
            return lane.lost_parts.take(parts_max)

    def put_back_lost_parts(self, lane: Lane, parts: list[Part]) -> None:
        """Have a lane remember parts again that nobody could be told of."""
        with self._gate:
            lane.lost_parts.put_back(parts)

    def _look_after(self) -> None:
        now_s = self._clock.monotonic()
        if now_s > self._look_at_s:
            self._look_at_s = now_s + LOOK_EVERY_S
            look_after(self._intake.lanes.values(), now_s)

    # -- ending

    async def flush(self, timeout: float = 30.0) -> FlushResult:
        """Wait until every span taken so far has its answer, at most `timeout` seconds."""
        return await self._wait_async(timeout, stop=False)

    async def shutdown(self, timeout: float = 30.0) -> FlushResult:
        """Take no more spans, deliver what is held, give up the rest after `timeout` seconds."""
        return await self._wait_async(timeout, stop=True)

    def flush_sync(self, timeout: float) -> FlushResult:
        """As `flush`, from code that cannot await."""
        return self._wait_sync(timeout, stop=False)

    def shutdown_sync(self, timeout: float) -> FlushResult:
        """As `shutdown`, from code that cannot await."""
        return self._wait_sync(timeout, stop=True)

    def close_soon(self, keep: Callable[[], Collection[object]] = tuple) -> None:
        """Take no more spans, and end once those that are held have their answer.

        Args:
            keep: Returns the processors that another queue uses then: they are not shut down.
        """
        close = partial(self._close, keep)
        if self._begin_wait(stop=True, sync=False, call=close) is None:
            self._gate.after.append(partial(self.close_soon, keep))

    @property
    def is_stopped(self) -> bool:
        """True once the queue takes no more spans."""
        return self._intake.is_stopped

    @property
    def is_over(self) -> bool:
        """True once the queue has been shut down and holds nothing any more."""
        return self._is_over

    def leave_soon(self) -> None:
        """Let the grace of the process's end begin; from now on offers drain themselves."""
        if not self._is_leaving:
            self._leave_until_s = self._clock.monotonic() + self._settings.grace_s
            self._is_leaving = True

    @property
    def grace_left_s(self) -> float:
        """What is left of the grace of the process's end, which this begins."""
        self.leave_soon()
        return max(0.0, self._leave_until_s - self._clock.monotonic())

    def leave(self) -> None:
        """Drain because the process ends (see `exits`), within its grace."""
        self.leave_soon()
        self._drain_late()

    def forget(self) -> None:
        """Begin anew in a forked child: what was held is the parent's to deliver."""
        exits.pin(self.__dict__.copy())
        self._reset()

    # -- homes

    def _adopt_running_loop(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._user_home = Home(loop)

    def _settle_home(self, lane: Lane) -> None:
        """Give a lane a place to run, unless it has one or all is over."""
        if lane.home is not None:
            return
        if self._is_over:
            # Nobody will look again: what comes now is refused at once.
            if self._inbox:
                self._intake.take_in_here()
            return
        exits.register(self)
        home = None if lane.exporter.blocks else self._user_home
        if home is None or home.loop.is_closed():
            if lane in self._in_making:
                # By another thread, whose lane will look for this span too; or by this one, since
                # what asyncio logs of a new loop is a span again, by a handler of the agent's.
                return
            self._in_making.add(lane)
            try:
                home = self._own_home(lane)
                is_started = home.start()
            except OSError:
                # No descriptors left; the next span tries again.
                return
            finally:
                self._in_making.discard(lane)
            if not is_started:
                # No thread can be started. At the end of the process, whoever drains does the
                # work himself; before, the next span tries again.
                if exits.is_exiting():
                    self.leave_soon()
                return
        self._attach(lane, home)
        if exits.is_exiting():
            self.leave_soon()

    def _attach(self, lane: Lane, home: Home) -> None:
        gate = self._gate
        if not gate.enter():
            # A finalizer or signal handler that interrupted us.
            gate.deferred.put((gate.after.append, (partial(self._settle_home, lane),)))
            return
        try:
            if lane.home is not None:
                return
            is_over = self._is_over
            epoch = 0 if is_over else lane.attach(home)
        finally:
            gate.leave()
        if is_over:
            # Meanwhile: the home that was made for the lane is not needed.
            self._let_go()
            return
        try:
            is_started = home.call(lane.start, epoch)
        except BaseException:
            # Ctrl-C, or no stack left: the next span tries again.
            lane.home = None
            raise
        if not is_started:
            self._move(lane, home)

    def _own_home(self, lane: Lane) -> ThreadHome:
        if not (lane.exporter.is_foreign or lane.exporter.blocks):
            return exporter_home()
        with self._homes_lock:
            home = self._homes.get(lane)
            if home is None or home.loop.is_closed():
                home = self._homes[lane] = ThreadHome(f"everyspan-{lane.account.name}")
            return home

    def _move(self, lane: Lane, home: Home) -> None:
        """Take a lane from a home that is gone to a thread of ours, for good."""
        if not self._gate.enter():
            self._gate.deferred.put((self._gate.after.append, (partial(self._move, lane, home),)))
            return
        try:
            if lane.home is not home:
                # Another thread has found out and was faster.
                return
            if home is self._user_home:
                self._user_home = None
            lane.detach()
            is_needed = bool(self._inbox) or not lane.is_idle
        finally:
            self._gate.leave()
        if is_needed:
            self._settle_home(lane)

    def _leave_user_home(self, home: Home) -> None:
        # Closed by hand, with tasks on it that nobody cancelled: no promise to look will be kept.
        for lane in [*self._intake.lanes.values()]:
            if lane.home is home:
                self._move(lane, home)
        if self._user_home is home:
            self._user_home = None

    # -- waiting

    def _begin_wait(self, *, stop: bool, sync: bool, call: Callable[[], object]) -> Waiter | None:
        """Hurry all lanes and register a waiter; None if called from within everyspan."""
        if stop and not self._intake.is_stopped:
            self._write_open_spans()
        if not self._gate.enter():
            return None
        try:
            self._intake.take_in()
            lanes = [*self._intake.lanes.values()]
            self._intake.is_stopped = self._intake.is_stopped or stop
            remaining = None if stop else sum(lane.held for lane in lanes)
            waiter = Waiter(self._intake.seq, remaining, call)
            self._intake.waiters.add(waiter)
            for lane in lanes:
                waiter.hurried[lane] = lane.heard_of
                lane.hurries += 1
                lane.hurry_seq = self._intake.seq
                home = lane.home
                if home is not None and (
                    not home.is_running or (sync and home.is_here and home is self._user_home)
                ):
                    # Nobody would run it: the loop has stopped, or waits here for us.
                    self._gate.after.append(partial(self._move, lane, home))
                else:
                    self._gate.after.append(lane.wake)
            return waiter
        finally:
            self._gate.leave()

    def _end_wait(self, waiter: Waiter, *, stop: bool) -> FlushResult:
        left: dict[str, MappingProxyType[str, int]] = {}
        given_up = 0
        with self._gate:
            self._intake.waiters.remove(waiter)
            for lane in [*self._intake.lanes.values()]:
                if lane in waiter.hurried:
                    lane.hurries -= 1
                reasons = lane.reasons(waiter.seq_max)
                if stop:
                    if reasons:
                        given_up += sum(reasons.values())
                        self._intake.waiters.gave_up(lane, sum(reasons.values()))
                    lane.give_up(SHUTDOWN)
                    self._gate.after.append(lane.stop)
                losses = lane.new_losses(waiter.hurried.get(lane, {}))
                if stop:
                    # Ours have their reasons above; others came too late, after this call.
                    losses.pop(SHUTDOWN, None)
                    if lane in waiter.given_up:
                        losses[SHUTDOWN] = waiter.given_up[lane]
                for reason, spans in losses.items():
                    reasons[reason] = reasons.get(reason, 0) + spans
                if reasons:
                    left[lane.account.name] = MappingProxyType(reasons)
        if stop:
            self._let_go()
            if given_up:
                recorder.gave_up(given_up)
        return FlushResult(ok=not left, safe=not left, left=MappingProxyType(left))

    def _close(self, keep: Callable[[], Collection[object]]) -> None:
        kept = {id(processor) for processor in keep()}
        with self._gate:
            for key, lane in self._intake.lanes.items():
                # Nothing is held but STARTs that wait; the lane's runner learns that it is over.
                lane.give_up(SHUTDOWN)
                self._gate.after.append(partial(lane.stop, closes=key not in kept))
        self._let_go()

    def _let_go(self) -> None:
        with self._gate:
            self._is_over = True
        exits.unregister(self)
        for lane in [*self._homes]:
            self._end_home(lane)

    def _end_home(self, lane: Lane) -> None:
        with self._homes_lock:
            home = self._homes.pop(lane, None)
        if home is not None:
            home.call(home.loop.call_later, CLOSE_S, home.loop.stop)

    def _wait_sync(self, timeout: float, *, stop: bool) -> FlushResult:
        done = Latch()
        until_s = self._clock.monotonic() + timeout
        waiter = self._begin_wait(stop=stop, sync=True, call=done.set)
        if waiter is None:
            return _CALLED_FROM_WITHIN
        if any(lane.home is not None and lane.home.is_here for lane in self._intake.lanes.values()):
            # This thread does the sending: waiting here would wait for ourselves.
            until_s = self._clock.monotonic()
        try:
            self._run_homeless_here(waiter, done, until_s)
            self._wait_looking(done, max(0.0, until_s - self._clock.monotonic()))
        finally:
            # Ctrl-C ends the waiting, not what it began.
            result = self._end_wait(waiter, stop=stop)
        return result

    def _wait_looking(self, done: Latch, timeout: float) -> None:
        until_s = monotonic() + timeout
        while not done.is_set and (left_s := until_s - monotonic()) > 0:
            done.wait(min(left_s, LOOK_EVERY_S))
            self._look_after()

    async def _wait_async(self, timeout: float, *, stop: bool) -> FlushResult:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        waiter = self._begin_wait(stop=stop, sync=False, call=partial(Home(loop).call, done.set))
        if waiter is None:
            return _CALLED_FROM_WITHIN
        try:
            async with asyncio.timeout(timeout):
                while not done.is_set():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_EVERY_S):
                            await done.wait()
                    self._look_after()
        except TimeoutError:
            pass
        finally:
            result = self._end_wait(waiter, stop=stop)
        if stop:
            await self._closed_here(loop)
        return result

    async def _closed_here(self, loop: asyncio.AbstractEventLoop) -> None:
        # `await queue.shutdown()` may be the last thing this loop does, and would cut them off.
        await asyncio.sleep(0)
        tasks = {task for lane in [*self._intake.lanes.values()] for task in lane.tasks_on(loop)}
        tasks.discard(asyncio.current_task())
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)

    # -- the end of the process

    def _drain_late(self) -> None:
        timeout = max(0.0, self._leave_until_s - self._clock.monotonic())
        hints = [lane.exporter.hint for lane in self._intake.lanes.values() if lane.exporter.hint]
        if hints and timeout > UNREACHABLE_PATIENCE_S:
            result = self._wait_sync(UNREACHABLE_PATIENCE_S, stop=False)
            timeout -= UNREACHABLE_PATIENCE_S
            if result.ok or self._only_unreachable(result, hints):
                return
        for name, reasons in self._wait_sync(timeout, stop=False).left.items():
            complain(
                "the process ends, %s did not get %s",
                name,
                dict(reasons),
                # From now on every span that ends drains, and would say so.
                cause=f"end of process {name}",
                level=logging.WARNING,
            )

    def _only_unreachable(self, result: FlushResult, hints: list[str]) -> bool:
        """Say how to start the local server, if its absence is all that keeps spans here."""
        reasons = {reason for left in result.left.values() for reason in left}
        if not reasons <= UNREACHABLE:
            return False
        for hint in hints:
            # The one line that everyspan prints by itself: nobody set a destination, so nobody
            # looks for a log of it.
            _tell(hint)
        self._leave_until_s = self._clock.monotonic()
        return True

    def _run_homeless_here(self, waiter: Waiter, done: Latch, until_s: float) -> None:
        """Run lanes on this thread that no thread could be started for."""
        lanes = [
            lane for lane in self._intake.lanes.values() if lane.home is None and not lane.is_empty
        ]
        if not lanes or not self._is_leaving or runs_a_loop():
            return
        loop = OwnLoop()
        home = Home(loop)

        async def drain() -> None:
            finished = asyncio.Event()

            def finish() -> None:
                done.set()
                home.call(finished.set)

            waiter.call = finish
            for lane in lanes:
                self._attach(lane, home)
            try:
                async with asyncio.timeout(until_s - self._clock.monotonic()):
                    if not done.is_set:
                        await finished.wait()
            except TimeoutError:
                pass
            for lane in lanes:
                with self._gate:
                    lane.detach()
                await lane.exporter.close()

        run_here(drain, loop)

    def _write_open_spans(self) -> None:
        """Write spans that nobody ended as they stand, marked abandoned."""
        if not self._gate.enter():
            return
        still_open = self._intake.still_open()
        self._gate.leave()
        now_s = self._clock.monotonic()
        for span, part, lanes in still_open:
            record = freeze_span(
                span, is_end=False, offered_s=now_s, abandoned=True, limits=self.limits
            )
            record.part = part
            with self._gate:
                self._intake.take_abandoned(record, lanes)


def _tell(hint: str) -> None:
    # A daemon may have none, and what prints to None prints to stdout.
    if sys.stderr is not None:
        with contextlib.suppress(Exception):
            # Closed, or the agent's own: other queues have spans to deliver as well.
            print(hint, file=sys.stderr)


def _limits(settings: Settings) -> Limits | None:
    limits = Limits(settings.input_bytes_max, settings.output_bytes_max, settings.data_bytes_max)
    # None is the quicker way to say what holds anyway.
    return None if limits == Limits() else limits


_CALLED_FROM_WITHIN = FlushResult(
    ok=False, safe=False, left=MappingProxyType({"everyspan": {"called from within": 1}})
)
