"""Carries the spans of one destination from the backlog to an answer.

```
backlog --take--> in flight --export--> delivered
   ^                  |--> rejected, dropped (counted, with the reason)
   +------park--------+    retried, split, or taken back from a loop that ended
```

L1  Every span that enters is counted where it is: backlog, in flight, delivered, dropped or
    rejected (P1).
L2  One lane never waits for another (P5).
L3  A lane runs on one loop at a time. What a former loop still says of a batch is ignored: the
    batch was taken back and is sent again, which upserts make safe (P6).

All state is guarded by the queue's gate; only `_send` and the sleep of `_run` await.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sized
from functools import partial
from itertools import chain
from typing import Any

from everyspan.clock import Clock
from everyspan.config import Settings
from everyspan.delivery.backlog import Backlog, Batch
from everyspan.delivery.backoff import wait_s
from everyspan.delivery.circuit import Blame, Circuit
from everyspan.delivery.exporter import Exporter, Teller
from everyspan.delivery.gate import Gate
from everyspan.delivery.limiter import Limiter
from everyspan.delivery.losses import LostParts
from everyspan.delivery.verdict import judge
from everyspan.errors import (
    BatchRefusedError,
    DestinationRefusedError,
    ExportError,
    PermanentExportError,
    RetryableExportError,
)
from everyspan.home import Home
from everyspan.ledger import Account, DestinationStats
from everyspan.log import complain
from everyspan.metrics.recorder import processor_label, recorder
from everyspan.model.mask import Masker, masker_in_force
from everyspan.model.record import SpanRecord
from everyspan.untraced import untraced

LOSSES_LOGGED_MAX = 6
"""Lines a minute, for each destination and reason: up to the 100,000th span lost in one go."""

FAILURES_UNSAID = 2
"""In a row; a backend that restarts is no news. With the third the log is told."""

RESTART_S = 1.0
"""Pause before a lane that stumbled starts again; chosen, not measured."""

NEVER_S = float("inf")
AWAKE_S = float("-inf")

UNWIND_S = 0.1
"""How long a cancelled send may take to let go of its connection; chosen, not measured."""

FOREIGN_RETRYABLE_STATUSES = frozenset({429, 500, 502, 503, 504})
"""`trace:Q25`: what an exception of a user's processor must carry to be tried again."""


class Lane:
    """See the module text.

    Args:
        inbox, take_in: What nobody has counted yet, and how to; called inside the gate.
        settled: Called inside the gate for every record that is stored, dropped or rejected.
        orphaned: Called when the home that ran the lane was ended by its owner.
        masker: Returns what takes secrets out of spans before they are sent, if anything does.
    """

    def __init__(
        self,
        exporter: Exporter,
        *,
        name: str,
        gate: Gate,
        settings: Settings,
        start_delay_s: float | None,
        clock: Clock,
        inbox: Sized,
        take_in: Callable[[], None],
        settled: Callable[[SpanRecord], None],
        orphaned: Callable[[Lane, Home], None],
        masker: Callable[[], Masker | None] = masker_in_force,
    ) -> None:
        self.exporter = exporter
        self.account = Account(name)
        self.wants_starts = exporter.wants_every_start or start_delay_s is not None
        self.home: Home | None = None
        self.stays = False
        self.is_let_go = False
        self.hurries = 0
        self.hurry_seq = 0
        self.heard_of: Mapping[str, int] = {}
        self.teller: Teller | None = None
        self.lost_parts = LostParts()
        self.wakes_at_s = NEVER_S
        self._gate = gate
        self._settings = settings
        self._clock = clock
        self._inbox = inbox
        self._take_in = take_in
        self._note_settled = settled
        self.bytes_held = 0
        self._orphaned = orphaned
        self._masker = masker
        self._linger_s = settings.linger_ms / 1000
        self._backlog = Backlog(
            batch_size=1 if exporter.one_by_one else settings.batch_size,
            batch_bytes=settings.batch_bytes,
            linger_s=self._linger_s,
            max_age_s=settings.max_age_s,
            start_delay_s=start_delay_s,
            wants_every_start=exporter.wants_every_start,
            in_turn=exporter.one_by_one,
        )
        # What blocks its thread gains nothing from company; its lines would mix.
        ceiling = 1 if exporter.blocks else settings.concurrency or exporter.concurrency
        self._limiter = Limiter(ceiling)
        self._in_flight: dict[int, Batch] = {}
        self._epoch = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake_up: asyncio.Event | None = None
        self._label = processor_label(
            exporter.name if exporter.is_foreign else type(exporter).__name__
        )
        self._circuit = Circuit()
        self._failures = 0
        self._failed_number = 0
        self._failing_since_s = 0.0
        self._is_said_down = False
        self._crowded_number = 0
        self._crowded_stores = -1
        self._paused_until_s = AWAKE_S
        self._said: dict[str, int] = {}

    # -- inside the gate

    def add_start(self, record: SpanRecord) -> None:
        """Take a START that this lane wants."""
        for needless in self._backlog.add_start(record):
            self._settled(needless)
        delay_s = self._backlog.start_delay_s or self._linger_s
        if self.exporter.wants_every_start:
            delay_s = self._linger_s
        self._expect(record.offered_s, delay_s)

    def add_end(self, record: SpanRecord) -> None:
        """Count an ended span as accepted and take it."""
        self.account.accepted += 1
        for needless in self._backlog.add_end(record):
            self._settled(needless)
        self._expect(record.offered_s, self._linger_s)

    def add_abandoned(self, record: SpanRecord) -> None:
        """Take the START of a span that is open while the process ends; it leaves at once."""
        for needless in self._backlog.add_abandoned(record):
            self._settled(needless)
        self._expect(record.offered_s, 0.0)

    def refuse_start(self, reason: str) -> None:
        """Count a START as lost; no span is, since its END brings all of it again."""
        self.account.lost_starts += 1
        recorder.dropped(reason)

    def refuse(self, record: SpanRecord, reason: str) -> None:
        """Count an ended span as accepted and dropped at once."""
        self.account.accepted += 1
        self._count_loss(record, reason, self.account.drop)

    def drop_oldest(self, reason: str, *, waiting_only: bool) -> bool:
        """Give up what came first, to make room; False if nothing may go."""
        record = self._backlog.take_oldest(waiting_only=waiting_only)
        if record is None:
            return False
        self._lose(record, reason, self.account.drop)
        return True

    @property
    def in_flight(self) -> Iterator[SpanRecord]:
        """What is in a request that has no answer yet."""
        return chain.from_iterable(batch.records for batch in self._in_flight.values())

    @property
    def waiting(self) -> int:
        """Records that wait for their first try."""
        return self._backlog.waiting

    @property
    def held(self) -> int:
        """Ended spans in this lane that have no answer yet."""
        return self._backlog.queued + self._flying

    @property
    def _flying(self) -> int:
        return sum(len(batch.ends) for batch in self._in_flight.values())

    @property
    def is_idle(self) -> bool:
        """True if nothing is held at all."""
        return not self._in_flight and self._backlog.due_s(self._clock.monotonic()) is None

    def is_at_work(self, now_s: float) -> bool:
        """Tell whether the loop has something to do before long; from any thread, at a glance."""
        return bool(self._in_flight) or self.wakes_at_s < now_s

    @property
    def is_empty(self) -> bool:
        """True if nothing waits to be sent or answered."""
        return self._backlog.is_empty and not self._in_flight

    def snapshot(self) -> DestinationStats:
        """Return the books of this destination as they stand."""
        return self.account.snapshot(
            queued=self._backlog.queued,
            in_flight=self._flying,
            connections=self.exporter.connections(),
            oldest_age_s=self._oldest_age_s(),
        )

    def _oldest_age_s(self) -> float | None:
        offered_s = [batch.ends[0].offered_s for batch in self._in_flight.values() if batch.ends]
        queued_s = self._backlog.oldest_end_s
        if queued_s is not None:
            offered_s.append(queued_s)
        return max(0.0, self._clock.monotonic() - min(offered_s)) if offered_s else None

    def reasons(self, seq_max: int) -> dict[str, int]:
        """Return why ended spans up to `seq_max` are still held, and how many for each reason."""
        reasons = self._backlog.reasons(seq_max)
        flying = sum(
            1 for batch in self._in_flight.values() for end in batch.ends if end.seq <= seq_max
        )
        if flying:
            reasons["no answer yet"] = flying
        return reasons

    def detach(self) -> None:
        """Leave the present home; what is in flight there waits again."""
        self._epoch += 1
        if self.home is not None and self._wake_up is not None:
            # The runner of the former home sees its epoch over, and ends.
            self._gate.after.append(partial(self.home.call, self._wake_up.set))
        self.home = None
        self.wakes_at_s = NEVER_S
        now_s = self._clock.monotonic()
        for batch in [*self._in_flight.values()]:
            self._take_back(batch, now_s)
        for task in [*self._tasks]:
            # On a loop that stopped for good they are collected unfinished. That is expected,
            # and asyncio would print it into the agent's log.
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            work = task.get_coro()
            is_unbegun = (
                inspect.iscoroutine(work)
                and inspect.getcoroutinestate(work) == inspect.CORO_CREATED
            )
            if is_unbegun and task.get_loop().is_closed():
                # It will never begin, which Python would warn of as well.
                work.close()

    def let_go(self) -> Account:
        """Leave the present home with nothing held, and give the books away; may come back.

        A user's processor is not shut down: it is perhaps not done with.
        """
        if self.home is not None:
            closes = not self.exporter.is_foreign
            stop = partial(self.home.call, self._stop_here, self.home.loop, closes)
            self._gate.after.append(stop)
        self.detach()
        self.is_let_go = True
        account, self.account = self.account, Account(self.account.name)
        self.heard_of = {}
        return account

    def attach(self, home: Home) -> int:
        """Make `home` the place where this lane runs; returns what `start` needs."""
        self._epoch += 1
        self.home = home
        self._wake_up = None
        return self._epoch

    def give_up(self, reason: str) -> None:
        """Drop all that is held, counted by `reason`."""
        self._epoch += 1
        records = self._backlog.take_all()
        for batch in self._in_flight.values():
            records += batch.records
        self._in_flight.clear()
        for record in records:
            self._lose(record, reason, self.account.drop)

    def _expect(self, offered_s: float, delay_s: float) -> None:
        """See to it that the loop looks here when the record that came is due."""
        if self._backlog.is_full:
            delay_s = 0.0
        wakes_at_s = self.wakes_at_s
        # A promise that was not kept: the loop is blocked, or gone.
        is_overdue = AWAKE_S < wakes_at_s < offered_s
        if offered_s + delay_s < wakes_at_s or is_overdue:
            self.wakes_at_s = AWAKE_S
            self._gate.after.append(self.wake)

    def new_losses(self, heard_of: Mapping[str, int]) -> dict[str, int]:
        """Return the spans lost beyond `heard_of`, by reason; now these are heard of too."""
        losses = dict(self.account.dropped)
        for reason, spans in self.account.rejected.items():
            losses[reason] = losses.get(reason, 0) + spans
        self.heard_of = losses
        return {
            reason: spans - heard_of.get(reason, 0)
            for reason, spans in losses.items()
            if spans > heard_of.get(reason, 0)
        }

    def _settled(self, record: SpanRecord) -> None:
        """Note that a record is held no more."""
        self.bytes_held -= record.held_bytes
        record.held_by = tuple([lane for lane in record.held_by if lane is not self])
        self._note_settled(record)

    def _lose(self, record: SpanRecord, reason: str, count: Callable[[str], None]) -> None:
        if record.is_end:
            self._backlog.note_ended(record)
            self._count_loss(record, reason, count)
        else:
            self.refuse_start(reason)
        self._backlog.settle([record])
        self._settled(record)

    def _count_loss(self, record: SpanRecord, reason: str, count: Callable[[str], None]) -> None:
        count(reason)
        recorder.dropped(reason)
        part = record.part
        if part is not None:
            if part.losses is None:
                part.losses = {}
            losses = part.losses.setdefault(self.account.name, {})
            losses[reason] = losses.get(reason, 0) + 1
            if self.teller is not None:
                self.lost_parts.add(part)
        # The 1st, the 10th, the 100th (`trace:Q27`, P4).
        if str(self._lost(reason)).rstrip("0") == "1":
            self._gate.after.append(partial(self._warn_of_loss, reason))

    def _lost(self, reason: str) -> int:
        return self.account.dropped.get(reason, 0) + self.account.rejected.get(reason, 0)

    def _take_back(self, batch: Batch, now_s: float) -> None:
        if self._in_flight.pop(id(batch), None) is None:
            return
        # Another object: what the former loop still says of this one must find nothing (L3).
        again = Batch(
            batch.starts,
            batch.ends,
            attempts=batch.attempts,
            due_s=now_s,
            reason="its event loop ended",
        )
        for needless in self._backlog.park(again):
            self._settled(needless)

    def _step(self) -> tuple[Batch | None, float | None]:
        """Return the batch to send now, or until when to sleep (None: until woken)."""
        while True:
            self._take_in()
            now_s = self._clock.monotonic()
            batch, until_s, wakes_at_s = self._decide(now_s)
            self.wakes_at_s = wakes_at_s
            # In this order: whoever added after `_take_in` and before the line above relied on
            # our being awake, and wakes nobody.
            if batch is not None or not self._inbox:
                return batch, until_s

    def _decide(self, now_s: float) -> tuple[Batch | None, float | None, float]:
        """Return the batch to send now, or until when to sleep; and until when nobody looks."""
        # An expired START frees an END that is as old.
        while expired := self._backlog.take_expired(now_s):
            for record, why in expired:
                why = why or self._circuit.open_for or ""
                self._lose(record, f"expired after {why}" if why else "expired", self.account.drop)
        is_open = self._circuit.open_for is not None
        # After a failure one request finds out whether it is over.
        if len(self._in_flight) >= (1 if is_open or self._failures else self._limiter.limit):
            # An answer will wake us, if one comes before what waits is too old.
            return None, self._expires_s(now_s), AWAKE_S
        if now_s < self._paused_until_s:
            return None, min(self._paused_until_s, self._expires_s(now_s)), AWAKE_S
        # Only those that somebody waits for: others linger as ever.
        hurry = self.hurries > 0 and self._backlog.oldest_seq <= self.hurry_seq
        waiting = self._backlog
        batch = waiting.take_one(now_s) if is_open else waiting.take(now_s, hurry=hurry)
        if batch is None:
            due_s = self._backlog.due_s(now_s, hurry=hurry)
            return None, due_s, NEVER_S if due_s is None else due_s
        batch.attempts += 1
        self.account.requests += 1
        batch.number = self.account.requests
        self._circuit.sent(batch.suspicion)
        self._in_flight[id(batch)] = batch
        return batch, None, AWAKE_S

    def _expires_s(self, now_s: float) -> float:
        """Return until when nothing will be too old, not even what comes meanwhile."""
        expires_s = self._backlog.expires_s()
        return now_s + self._settings.max_age_s if expires_s is None else expires_s

    def _settle(
        self, batch: Batch, failed: dict[int, ExportError], error: ExportError | None, sent_s: float
    ) -> None:
        saturated = len(self._in_flight) >= self._limiter.limit
        if self._in_flight.pop(id(batch), None) is None:
            return
        now_s = self._clock.monotonic()
        if error is not None:
            self._failed(batch, error, sent_s, now_s)
            return
        records = batch.records
        if len(failed) < len(records):
            self._failures = 0
            # Both are news that is over.
            if self._circuit.stored() or self._is_said_down:
                self._is_said_down = False
                self._gate.after.append(self._say_accepted)
            saturated = saturated and self._backlog.is_full
            self._limiter.succeeded(saturated=saturated, now_s=now_s)
        for position, record in enumerate(records):
            if position in failed:
                continue
            if record.is_end:
                self.account.delivered += 1
            else:
                self.account.start_writes += 1
            self._backlog.note_stored(record)
            self._settled(record)
        self._backlog.settle(
            record for position, record in enumerate(records) if position not in failed
        )
        for failure, alike in _alike(failed):
            part = Batch(
                [records[position] for position in alike if not records[position].is_end],
                [records[position] for position in alike if records[position].is_end],
                attempts=batch.attempts,
            )
            part.number = batch.number
            part.suspicion = batch.suspicion if len(records) == 1 else batch.suspicion.lessened()
            self._failed(part, failure, sent_s, now_s)

    def _failed(self, batch: Batch, error: ExportError, sent_s: float, now_s: float) -> None:
        blame = self._blame(batch, error)
        lane_waits = blame is Blame.DESTINATION
        if isinstance(error, RetryableExportError) and not self.exporter.is_foreign:
            if error.congested:
                self._limiter.congested(in_flight=len(self._in_flight), sent_s=sent_s, now_s=now_s)
            if error.is_trouble and not self._is_mere_crowding(batch, error):
                self._pause(batch, error, sent_s, now_s)
                lane_waits = error.is_general
        elif lane_waits:
            self._pause(batch, error, sent_s, now_s)
        verdict = judge(
            batch,
            error,
            now_s=now_s,
            attempts_max=self._settings.max_retries,
            draw=random.random,
            refused_by_backend=not self.exporter.is_foreign,
            blame=blame,
            lane_waits=lane_waits,
        )
        for again in verdict.again:
            for needless in self._backlog.park(again):
                self._settled(needless)
        for record, reason in verdict.rejected:
            self._lose(record, reason, self.account.reject)
        for record, reason in verdict.dropped:
            self._lose(record, reason, self.account.drop)

    def _blame(self, batch: Batch, error: ExportError) -> Blame:
        """Return who is at fault, and open the circuit if the destination is."""
        if isinstance(error, BatchRefusedError) and not error.offenders:
            blame = self._circuit.refused(batch.suspicion, len(batch))
        elif isinstance(error, DestinationRefusedError):
            blame = self._circuit.turned_away(batch.suspicion)
        else:
            return Blame.SPANS
        if blame is Blame.DESTINATION and self._circuit.broke(error.reason):
            self._gate.after.append(partial(self._say_refused, error.reason))
        return blame

    def _is_mere_crowding(self, batch: Batch, error: RetryableExportError) -> bool:
        """Tell whether a smaller limit is all that a refusal asks for.

        It is where others are under way and the destination stores: a second refusal without
        anything stored since the first is more than that.
        """
        if not error.is_crowding or self._failures or not self._in_flight:
            return False
        if batch.number <= self._crowded_number:
            return True
        stores = self._crowded_stores
        self._crowded_number, self._crowded_stores = self.account.requests, self._circuit.stores
        return self._circuit.stores > stores

    def _pause(self, batch: Batch, error: ExportError, sent_s: float, now_s: float) -> None:
        """Let nothing leave for a while."""
        asked_s = error.retry_after_s if isinstance(error, RetryableExportError) else None
        # What was under way together fails together: that is one failure.
        is_news = batch.number > self._failed_number
        if is_news:
            if not self._failures:
                self._failing_since_s = sent_s
            self._failures += 1
            self._failed_number = self.account.requests
            if self._failures > FAILURES_UNSAID and self._circuit.open_for is None:
                self._is_said_down = True
                self._gate.after.append(partial(self._say_down, error.reason))
        if is_news or asked_s is not None:
            pause_s = wait_s(self._failures, retry_after_s=asked_s, draw=random.random)
            self._paused_until_s = max(self._paused_until_s, now_s + pause_s)

    # -- on any thread, outside the gate

    def _say_refused(self, reason: str) -> None:
        complain(
            "%s takes no spans: %s; they are kept for %g s and one is tried now and then",
            self.account.name,
            reason,
            self._settings.max_age_s,
            cause=f"{self.account.name} {reason}",
            level=logging.WARNING,
        )

    def _say_down(self, reason: str) -> None:
        complain(
            "%s fails for %.0f s: %s, %d times in a row; %d spans wait, each for %g s at most",
            self.account.name,
            self._clock.monotonic() - self._failing_since_s,
            reason,
            self._failures,
            self._backlog.queued,
            self._settings.max_age_s,
            cause=f"{self.account.name} fails",
            level=logging.WARNING,
        )

    def _say_accepted(self) -> None:
        complain("%s takes spans again", self.account.name, level=logging.INFO)

    def say_shed(self) -> None:
        """Tell that payloads are left out."""
        complain(
            "%s gets spans without their payloads, %d so far: those that wait fill its share of "
            "byte_budget; spans with an error or usage keep theirs",
            self.account.name,
            self.account.shed,
            cause=f"shed {self.account.name}",
            level=logging.WARNING,
        )

    def _warn_of_loss(self, reason: str) -> None:
        lost = self._lost(reason)
        if lost == self._said.get(reason):
            # Many were lost at once, and the line before this one counts them all.
            return
        self._said[reason] = lost
        complain(
            "spans lost on the way to %s: %s, %d so far (all counted in everyspan.stats())",
            self.account.name,
            reason,
            lost,
            # A queue for each request, say: their lanes lose spans for the same reason.
            cause=f"lost {self.account.name} {reason}",
            level=logging.WARNING,
            lines=LOSSES_LOGGED_MAX,
        )

    def nudge(self) -> None:
        """Wake a lane that sleeps longer than a span may wait."""
        self.wakes_at_s = AWAKE_S
        try:
            self.wake()
        except BaseException:
            # Ctrl-C, or no stack left: the next span tries again.
            self.wakes_at_s = NEVER_S
            raise

    def wake(self) -> None:
        """Have the loop look at the backlog; if the loop is gone, ask for another."""
        home = self.home
        if home is not None and not home.call(self._wake_here):
            self._orphaned(self, home)

    def stop(self, *, closes: bool = True) -> None:
        """Have the home cancel the lane's tasks and, if `closes`, let go of the destination."""
        home = self.home
        if home is not None:
            home.call(self._stop_here, home.loop, closes)

    # -- on the home's thread

    def start(self, epoch: int) -> None:
        """Begin to run; called by the home's loop."""
        # A callback, since a task that is cancelled before its first step runs nothing of its own.
        self._spawn(self._run(epoch)).add_done_callback(partial(self._run_ended, epoch))

    def _run_ended(self, epoch: int, task: asyncio.Task[None]) -> None:
        home = self.home
        if epoch != self._epoch or home is None:
            return
        if task.cancelled():
            # The loop's owner ends it (`asyncio.run` does so): another loop has to go on.
            self._orphaned(self, home)
        elif (error := task.exception()) is not None:
            # A defect of ours, or no memory: the spans that wait must not wait for ever.
            complain("the exporter stumbled and starts again", error=error)
            home.loop.call_later(RESTART_S, self._restart, epoch)

    def _restart(self, epoch: int) -> None:
        if epoch == self._epoch:
            self.start(epoch)

    def _wake_here(self) -> None:
        if self._wake_up is not None:
            self._wake_up.set()

    def _stop_here(self, loop: asyncio.AbstractEventLoop, closes: bool) -> None:
        tasks = self.tasks_on(loop)
        for task in tasks:
            task.cancel()
        if closes or self.teller is not None:
            self._spawn(self._close_after(tasks, closes))

    async def _close_after(self, tasks: list[asyncio.Task[None]], closes: bool) -> None:
        if tasks:
            # A send that is still unwinding may hold a connection that nobody would close then.
            await asyncio.wait(tasks, timeout=UNWIND_S)
        if self.teller is not None:
            await self.teller.tell_last()
        if closes:
            await self.exporter.close()

    def tasks_on(self, loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[None]]:
        """Return the lane's unfinished tasks on a loop."""
        return [task for task in [*self._tasks] if task.get_loop() is loop]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self, epoch: int) -> None:
        wake_up = asyncio.Event()
        loop = asyncio.get_running_loop()
        with self._gate:
            if epoch != self._epoch:
                # The lane moved before this loop got here: its wake-ups are another runner's.
                return
            self._wake_up = wake_up
        while epoch == self._epoch:
            wake_up.clear()
            with self._gate:
                if epoch != self._epoch:
                    return
                batch, until_s = self._step()
                events, depth, lag_s = self._measured(batch)
            if batch is not None:
                recorder.handed_out(events, depth=depth, lag_s=lag_s)
                self._spawn(self._send(batch, wake_up))
                continue
            timer = None
            if until_s is not None:
                timer = self._clock.call_at(loop, until_s, wake_up.set)
            try:
                await wake_up.wait()
            finally:
                if timer is not None:
                    timer.cancel()

    def _measured(self, batch: Batch | None) -> tuple[int, int, float]:
        """Return the events of a batch, those that waited with it, and the age of the oldest."""
        if batch is None:
            return 0, 0, 0.0
        oldest_s = min(records[0].offered_s for records in (batch.starts, batch.ends) if records)
        depth = self._backlog.waiting + len(batch)
        return len(batch), depth, self._clock.monotonic() - oldest_s

    async def _send(self, batch: Batch, wake_up: asyncio.Event) -> None:
        sent_s = self._clock.monotonic()
        failed: dict[int, ExportError] = {}
        error: ExportError | None = None
        try:
            with untraced(requests_too=not self.exporter.is_foreign):
                masker = self._masker()
                if masker is not None:
                    masker.apply(batch.records)
                failed = dict(await self.exporter.export(batch))
        except ExportError as caught:
            error = caught
        except BaseException as caught:
            if is_from_outside(caught):
                self._hand_back(batch)
                raise
            # A processor may raise anything; the span is counted and the lane lives on (P5).
            error = self._what_it_means(caught)
        # Before those are told who wait for the spans.
        recorder.answered(
            starts=batch.starts,
            ends=batch.ends,
            failed=failed,
            error=error,
            processor=self._label,
            duration_s=self._clock.monotonic() - sent_s,
        )
        try:
            with self._gate:
                self._settle(batch, failed, error, sent_s)
        finally:
            # That of this loop: the lane may have moved on to another.
            wake_up.set()
        if self.teller is not None:
            self.teller.answered()

    def _what_it_means(self, error: BaseException) -> ExportError:
        if self.exporter.is_foreign:
            return classify(error)
        # A defect of ours that some span brought to light: the others of its batch shall not pay.
        meaning = classify(error)
        return BatchRefusedError(str(meaning), reason=meaning.reason)

    def _hand_back(self, batch: Batch) -> None:
        now_s = self._clock.monotonic()
        if not self._gate.enter():
            # The collector closes the coroutine of a loop that is gone, wherever it happens to run.
            self._gate.deferred.put((self._take_back, (batch, now_s)))
            return
        try:
            self._take_back(batch, now_s)
        finally:
            self._gate.leave()


def _alike(failed: Mapping[int, ExportError]) -> Iterable[tuple[ExportError, list[int]]]:
    """Return what failed for the same reason together, if it is to be tried again; else each alone.

    A destination that is down fails each span by itself, perhaps; parked one by one, they would be
    as many as the memory holds, and each look at them long.
    """
    groups: dict[object, tuple[ExportError, list[int]]] = {}
    for position, error in failed.items():
        key: object = position
        if isinstance(error, RetryableExportError):
            key = (error.reason, error.retry_after_s)
        groups.setdefault(key, (error, []))[1].append(position)
    return groups.values()


def is_from_outside(error: BaseException) -> bool:
    """Tell whether an exception that came out of a processor is none of its own making.

    Those are: the cancellation of our task, the end of its loop, Ctrl-C. On other threads than the
    main one nobody presses Ctrl-C.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    if isinstance(error, KeyboardInterrupt):
        return threading.current_thread() is threading.main_thread()
    return isinstance(error, GeneratorExit)


def classify(error: BaseException) -> ExportError:
    """Return what an exception that is not ours means (`trace:Q25`)."""
    kind = type(error).__name__
    try:
        status, text = getattr(error, "status_code", None), repr(error)
    except Exception:
        # Foreign code to the last: its errors may not even be readable.
        status, text = None, kind
    meaning: ExportError
    if isinstance(status, int) and status in FOREIGN_RETRYABLE_STATUSES:
        meaning = RetryableExportError(text, reason=f"http {int(status)}", status=int(status))
    else:
        meaning = PermanentExportError(text, reason=kind)
    meaning.kind = kind
    return meaning
