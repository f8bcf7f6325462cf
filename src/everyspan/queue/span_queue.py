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
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from types import MappingProxyType
from typing import TypeGuard, cast

from everyspan.clock import SYSTEM_CLOCK, Clock
from everyspan.config import load_settings
from everyspan.delivery.exporter import Exporter
from everyspan.delivery.gate import Gate
from everyspan.delivery.lane import AWAKE_S, NEVER_S, Lane
from everyspan.home import Home, OwnLoop, ThreadHome, run_here
from everyspan.ledger import FlushResult, Stats
from everyspan.model.record import SpanRecord, freeze_span
from everyspan.model.span import Span, SpanEventType
from everyspan.processors.base import Processor
from everyspan.processors.foreign import ForeignExporter
from everyspan.queue import exits
from everyspan.queue.parts import Parts

logger = logging.getLogger("everyspan")

QUEUE_FULL = "queue full"
OUT_OF_BYTES = "byte budget"
SHUTDOWN = "shutdown"
DEFECT = "defect of everyspan"

INBOX_RECORDS_MAX = 2048
INBOX_RECORD_BYTES_MAX = 8 << 10
"""Together they bound what is held without being counted against the budget: 16 MiB."""

CLOSE_S = 0.2
"""How long destinations may take to let go of what they hold."""

UNREACHABLE_PATIENCE_S = 0.5
UNREACHABLE = frozenset({"cannot connect", "not an everyspan server", "not sent yet"})

Lanes = tuple[Lane, ...]


class _Waiter:
    """Somebody to call once the spans up to `seq_max` have their answer.

    `remaining` counts those spans; None waits until nothing at all is held.
    """

    __slots__ = ("call", "remaining", "seq_max")

    def __init__(self, seq_max: int, remaining: int | None, call: Callable[[], object]) -> None:
        self.seq_max = seq_max
        self.remaining = remaining
        self.call = call


class AsyncSpanQueue:
    """See the module text.

    Args:
        batch_size, linger_ms, max_size, max_retries, concurrency: As in `everyspan.config`.
        own_homes: Run on threads of everyspan only: the exporter thread, and one more for each
            user's processor, so that one that blocks costs only itself.
        start_delay_ms: When to write a span that is still open, for destinations of everyspan.
    """

    def __init__(
        self,
        batch_size: int | None = None,
        linger_ms: float | None = None,
        max_size: int | None = None,
        max_retries: int | None = None,
        concurrency: int | None = None,
        *,
        start_delay_ms: float | None = None,
        grace_s: float | None = None,
        byte_budget: int | None = None,
        own_homes: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._settings = load_settings(
            batch_size=batch_size,
            linger_ms=linger_ms,
            max_size=max_size,
            max_retries=max_retries,
            concurrency=concurrency,
            start_delay_ms=start_delay_ms,
            grace_s=grace_s,
            byte_budget=byte_budget,
        )
        self._own_homes = own_homes
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        self._gate = Gate()
        self._parts = Parts()
        self._lanes: dict[int, Lane] = {}
        self._processors: dict[int, object] = {}
        self._homes: dict[Lane, ThreadHome] = {}
        self._user_home: Home | None = None
        self._inbox: deque[SpanRecord | Span] = deque()
        self._linger_s = self._settings.linger_ms / 1000
        self._looks_at_s = NEVER_S
        self._seq = 0
        # Ended spans, once for each lane that was to take them.
        self._handed_over = 0
        self._bytes = 0
        self._is_stopped = False
        self._is_over = False
        self._is_leaving = False
        self._is_checking = False
        self._leave_until_s = float("inf")
        self._waiters: list[_Waiter] = []
        self._snapshot = Stats()

    # -- taking spans

    def enqueue(
        self, event_type: SpanEventType | str, span: Span, processors: Sequence[Processor]
    ) -> None:
        """Take a START or END of a span for these processors; never raises, never waits (Q1)."""
        is_end = event_type == SpanEventType.END
        record = freeze_span(span, is_end=is_end, offered_s=self._clock.monotonic())
        if self._user_home is None and not self._own_homes and not self._lanes:
            self._adopt_running_loop()
        lanes = tuple([self.lane(processor) for processor in processors])
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
            self._take_in_here()

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
        looks_at_s = self._looks_at_s
        if looks_at_s > AWAKE_S:
            now_s = record.offered_s
            if (
                # Nobody has promised to look in time, or the promise was not kept.
                looks_at_s > now_s + self._linger_s
                or looks_at_s < now_s
                or len(inbox) >= self._settings.batch_size
            ):
                self._looks_at_s = AWAKE_S
                for lane in lanes:
                    self._settle_home(lane) if lane.home is None else lane.wake()
        if len(inbox) >= INBOX_RECORDS_MAX or record.size_bytes > INBOX_RECORD_BYTES_MAX:
            self._take_in_here()
        if self._user_home is not None and self._user_home.loop.is_closed():
            self._leave_user_home(self._user_home)
        if self._is_leaving:
            self._drain_late()

    def _take_in_here(self) -> None:
        """Take in on the agent's thread: the lanes' loops are too slow to keep the inbox short."""
        gate = self._gate
        if not gate.enter():
            gate.deferred.put((self._take_in, ()))
            return
        try:
            self._take_in()
        finally:
            gate.leave()

    def lane(self, processor: Processor | Exporter) -> Lane:
        """Return the lane of a processor, made at the first call for it."""
        key = id(processor)
        lane = self._lanes.get(key)
        if lane is not None:
            return lane
        # Where this thread is inside already, no other is.
        entered = self._gate.enter()
        try:
            lane = self._lanes.get(key)
            if lane is None:
                lane = self._new_lane(processor)
                # `processor` is kept too, so that its address stays its own.
                self._processors[key] = processor
                # A new dict: whoever is inside may be going through the old one.
                self._lanes = {**self._lanes, key: lane}
            return lane
        finally:
            if entered:
                self._gate.leave()

    # -- looking

    @property
    def dropped_spans(self) -> int:
        """Span events given up or refused, as the original counts them (`trace:Q28`)."""
        lost = sum(d.dropped_total + d.rejected_total for d in self.stats().destinations)
        return lost + sum(lane.account.lost_starts for lane in [*self._lanes.values()])

    @property
    def depth(self) -> int:
        """Span events that wait for their first try, at the fullest destination."""
        self.stats()
        return max((lane.waiting for lane in [*self._lanes.values()]), default=0)

    @property
    def max_size(self) -> int:
        """Span events that may wait for one destination; 0 for no bound by count."""
        return self._settings.max_size

    def stats(self) -> Stats:
        """Return the books of this instant; from within everyspan, the last ones published."""
        if not self._gate.enter():
            return self._snapshot
        try:
            self._take_in()
            self._snapshot = Stats(
                destinations=tuple(lane.snapshot() for lane in self._lanes.values()),
                open_spans=self._parts.open_spans,
                forgotten_spans=self._parts.forgotten,
                unclaimed_spans=self._handed_over
                - sum(lane.account.accepted for lane in self._lanes.values()),
            )
            return self._snapshot
        finally:
            self._gate.leave()

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

    def close_soon(self) -> None:
        """Take no more spans, and end once those that are held have their answer."""
        waiter = self._begin_wait(stop=True, sync=False, call=self._close)
        if waiter is None:
            self._gate.after.append(self.close_soon)

    def leave(self) -> None:
        """Drain because the process ends (see `exits`); later offers drain before they return."""
        self._leave_until_s = self._clock.monotonic() + self._settings.grace_s
        self._is_leaving = True
        self._drain_late()

    def forget(self) -> None:
        """Begin anew in a forked child: what was held is the parent's to deliver."""
        exits.pin(self.__dict__.copy())
        self._reset()

    # -- inside the gate

    def _take_in(self) -> None:
        """Count and hand to the lanes what the inbox holds, in the order it came."""
        inbox = self._inbox
        parts = self._parts
        # No more than is there now: other threads go on adding.
        for _ in range(len(inbox)):
            item = inbox.popleft()
            if isinstance(item, Span):
                parts.begin(item, item._lanes)
                continue
            item.tidy()
            if item.is_end:
                self._handed_over += len(item.lanes)
                parts.end(item)
                self._take_end(item)
            else:
                span, item.span = item.span, None
                if span is not None:
                    parts.begin(span, item.lanes)
                self._take_start(item)

    def _take_start(self, record: SpanRecord) -> None:
        record.part = self._parts.part_of(record.id)
        self._seq += 1
        record.seq = self._seq
        settings = self._settings
        refused = self._is_stopped or self._bytes + record.size_bytes > settings.byte_budget
        for lane in record.lanes:
            if not lane.wants_starts:
                continue
            if refused or (settings.max_size and lane.waiting >= settings.max_size):
                # No loss of a span: its END brings all of it again.
                lane.account.lost_starts += 1
            else:
                self._hand_to(lane, record, lane.add_start)

    def _take_end(self, record: SpanRecord) -> None:
        self._seq += 1
        record.seq = self._seq
        settings = self._settings
        refusal = None
        if record.is_lost:
            refusal = DEFECT
        elif self._is_stopped:
            refusal = SHUTDOWN
        elif self._bytes + record.size_bytes > settings.byte_budget:
            refusal = OUT_OF_BYTES
        for lane in record.lanes:
            if refusal is not None:
                lane.refuse(record, refusal)
            elif settings.max_size and lane.waiting >= settings.max_size:
                lane.refuse(record, QUEUE_FULL)
            else:
                self._hand_to(lane, record, lane.add_end)

    def _looked(self) -> None:
        """Note when all lanes will have looked for work again."""
        self._looks_at_s = max([lane.wakes_at_s for lane in self._lanes.values()])

    def _hand_to(self, lane: Lane, record: SpanRecord, add: Callable[[SpanRecord], None]) -> None:
        if not record.holders:
            self._bytes += record.size_bytes
        record.holders += 1
        add(record)
        if lane.home is None:
            self._gate.after.append(partial(self._settle_home, lane))

    def _settled(self, record: SpanRecord) -> None:
        """Note that a lane holds a record no more."""
        record.holders -= 1
        if not record.holders:
            self._bytes -= record.size_bytes
        if not self._waiters:
            return
        if record.is_end:
            for waiter in self._waiters:
                if waiter.remaining is not None and record.seq <= waiter.seq_max:
                    waiter.remaining -= 1
        if not self._is_checking:
            # Later: the lane is in the middle of a batch.
            self._is_checking = True
            self._gate.after.append(self._check_waiters)

    def _new_lane(self, processor: Processor | Exporter) -> Lane:
        exporter: Exporter
        if _is_ours(processor):
            exporter = processor
        else:
            # Not asked for its class: whatever has the methods will do, as in the original.
            exporter = ForeignExporter(cast("Processor", processor))
        names = {lane.account.name for lane in self._lanes.values()}
        name, number = exporter.name, 1
        while name in names:
            number += 1
            name = f"{exporter.name}-{number}"
        exporter.name = name
        delay_ms = self._settings.start_delay_ms
        delay_s = exporter.start_delay_s if delay_ms is None else delay_ms / 1000
        return Lane(
            exporter,
            name=name,
            gate=self._gate,
            settings=self._settings,
            start_delay_s=delay_s,
            clock=self._clock,
            take_in=self._take_in,
            looked=self._looked,
            inbox=self._inbox,
            settled=self._settled,
            orphaned=self._move,
        )

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
                self._take_in_here()
            return
        exits.register(self)
        home = self._user_home
        if home is None or home.loop.is_closed():
            own = self._own_home(lane)
            if not own.start():
                # The interpreter is ending; whoever drains does the work himself.
                self._leave_at_once()
                return
            home = own
        self._attach(lane, home)
        if exits.is_exiting():
            self._leave_at_once()

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
        elif not home.call(lane.start, epoch):
            self._move(lane, home)

    def _own_home(self, lane: Lane) -> ThreadHome:
        if not lane.exporter.is_foreign:
            return exporter_home()
        with _exporter_lock:
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
        finally:
            self._gate.leave()
        self._settle_home(lane)

    def _leave_user_home(self, home: Home) -> None:
        # Closed by hand, with tasks on it that nobody cancelled: no promise to look will be kept.
        for lane in [*self._lanes.values()]:
            if lane.home is home:
                self._move(lane, home)
        if self._user_home is home:
            self._user_home = None

    # -- waiting

    def _begin_wait(self, *, stop: bool, sync: bool, call: Callable[[], object]) -> _Waiter | None:
        """Hurry all lanes and register a waiter; None if called from within everyspan."""
        if stop and not self._is_stopped:
            self._write_open_spans()
        if not self._gate.enter():
            return None
        try:
            self._take_in()
            lanes = [*self._lanes.values()]
            self._is_stopped = self._is_stopped or stop
            remaining = None if stop else sum(lane.held for lane in lanes)
            waiter = _Waiter(self._seq, remaining, call)
            self._waiters.append(waiter)
            self._gate.after.append(self._check_waiters)
            for lane in lanes:
                lane.hurries += 1
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

    def _check_waiters(self) -> None:
        with self._gate:
            self._is_checking = False
            for waiter in [*self._waiters]:
                if self._is_done(waiter):
                    self._waiters.remove(waiter)
                    self._gate.after.append(waiter.call)

    def _is_done(self, waiter: _Waiter) -> bool:
        if waiter.remaining is None:
            return all(lane.is_empty for lane in self._lanes.values())
        return waiter.remaining <= 0

    def _end_wait(self, waiter: _Waiter, *, stop: bool) -> FlushResult:
        left: dict[str, MappingProxyType[str, int]] = {}
        with self._gate:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            for lane in [*self._lanes.values()]:
                lane.hurries -= 1
                reasons = lane.reasons(waiter.seq_max)
                if stop:
                    lane.give_up(SHUTDOWN)
                    self._gate.after.append(lane.stop)
                for reason, spans in lane.new_losses().items():
                    if not (stop and reason == SHUTDOWN):
                        reasons[reason] = reasons.get(reason, 0) + spans
                if reasons:
                    left[lane.account.name] = MappingProxyType(reasons)
        if stop:
            self._let_go()
        return FlushResult(ok=not left, safe=not left, left=MappingProxyType(left))

    def _close(self) -> None:
        with self._gate:
            for lane in self._lanes.values():
                # Nothing is held but STARTs that wait; the lane's runner learns that it is over.
                lane.give_up(SHUTDOWN)
                self._gate.after.append(lane.stop)
        self._let_go()

    def _let_go(self) -> None:
        with self._gate:
            self._is_over = True
        exits.unregister(self)
        for home in [*self._homes.values()]:
            home.call(home.loop.call_later, CLOSE_S, home.loop.stop)

    def _wait_sync(self, timeout: float, *, stop: bool) -> FlushResult:
        done = threading.Event()
        until_s = self._clock.monotonic() + timeout
        waiter = self._begin_wait(stop=stop, sync=True, call=done.set)
        if waiter is None:
            return _CALLED_FROM_WITHIN
        if any(lane.home is not None and lane.home.is_here for lane in self._lanes.values()):
            # This thread does the sending: waiting here would wait for ourselves.
            until_s = self._clock.monotonic()
        self._run_homeless_here(waiter, done, until_s)
        done.wait(max(0.0, until_s - self._clock.monotonic()))
        return self._end_wait(waiter, stop=stop)

    async def _wait_async(self, timeout: float, *, stop: bool) -> FlushResult:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        waiter = self._begin_wait(stop=stop, sync=False, call=partial(Home(loop).call, done.set))
        if waiter is None:
            return _CALLED_FROM_WITHIN
        try:
            async with asyncio.timeout(timeout):
                await done.wait()
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
        tasks = {task for lane in [*self._lanes.values()] for task in lane.tasks_on(loop)}
        tasks.discard(asyncio.current_task())
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)

    # -- the end of the process

    def _leave_at_once(self) -> None:
        if not self._is_leaving:
            self._leave_until_s = self._clock.monotonic() + self._settings.grace_s
            self._is_leaving = True

    def _drain_late(self) -> None:
        timeout = max(0.0, self._leave_until_s - self._clock.monotonic())
        hints = [lane.exporter.hint for lane in self._lanes.values() if lane.exporter.hint]
        if hints and timeout > UNREACHABLE_PATIENCE_S:
            result = self._wait_sync(UNREACHABLE_PATIENCE_S, stop=False)
            timeout -= UNREACHABLE_PATIENCE_S
            if result.ok or self._only_unreachable(result, hints):
                return
        for name, reasons in self._wait_sync(timeout, stop=False).left.items():
            logger.warning("the process ends, %s did not get %s", name, dict(reasons))

    def _only_unreachable(self, result: FlushResult, hints: list[str]) -> bool:
        """Say how to start the local server, if its absence is all that keeps spans here."""
        reasons = {reason for left in result.left.values() for reason in left}
        if not reasons <= UNREACHABLE:
            return False
        for hint in hints:
            # The one line that everyspan prints by itself: nobody set a destination, so nobody
            # looks for a log of it.
            print(hint, file=sys.stderr)
        self._leave_until_s = self._clock.monotonic()
        return True

    def _run_homeless_here(self, waiter: _Waiter, done: threading.Event, until_s: float) -> None:
        """Run lanes on this thread that no thread could be started for."""
        lanes = [lane for lane in self._lanes.values() if lane.home is None and not lane.is_empty]
        if not lanes or not self._is_leaving:
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
                    if not done.is_set():
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
        self._take_in()
        still_open = self._parts.still_open()
        self._gate.leave()
        now_s = self._clock.monotonic()
        for span, part, lanes in still_open:
            record = freeze_span(span, is_end=False, offered_s=now_s, abandoned=True)
            record.part = part
            with self._gate:
                for lane in lanes:
                    if not lane.exporter.wants_every_start:
                        self._hand_to(lane, record, lane.add_abandoned)


_CALLED_FROM_WITHIN = FlushResult(
    ok=False, safe=False, left=MappingProxyType({"everyspan": {"called from within": 1}})
)

_exporter_home: ThreadHome | None = None
_exporter_lock = threading.RLock()


def exporter_home() -> ThreadHome:
    """Return the process's exporter thread, not necessarily started."""
    global _exporter_home
    with _exporter_lock:
        if _exporter_home is None or _exporter_home.loop.is_closed():
            _exporter_home = ThreadHome("everyspan-exporter")
        return _exporter_home


def _is_ours(processor: Processor | Exporter) -> TypeGuard[Exporter]:
    # Of the class: a mock has whatever it is asked for.
    kind = type(processor)
    return hasattr(kind, "export") and hasattr(kind, "wants_every_start")


def _forget_exporter() -> None:
    global _exporter_home, _exporter_lock
    exits.pin(_exporter_home)
    _exporter_home = None
    _exporter_lock = threading.RLock()


exits.after_fork(_forget_exporter)
