"""Counts what comes into a queue and hands it to the lanes, inside the gate.

I1  The inbox takes spans without the gate; whoever comes through the gate next takes the inbox in,
    in the order it came (`docs/decisions/003`).
I2  At most `max_size` spans wait for a destination and at most `byte_budget` bytes for all (P4),
    of which each destination has an equal share: one that hangs takes no room from the others (P5).
    Before a span is lost for want of bytes, payloads are shed (`Bodies`).
I3  Of lanes that nobody registered those with nothing to do are let go of beyond `LANES_MAX`: an
    agent may make a processor for each request (P4). Their books are kept in sum.
I4  A span that no lane has claimed shows as a residual (P1).

Knows nothing of loops and threads: a lane without a home is told to whoever finds homes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeGuard, cast

from everyspan.clock import Clock
from everyspan.config import DROP_OLDEST, Settings
from everyspan.delivery.exporter import Exporter
from everyspan.delivery.gate import Gate
from everyspan.delivery.lane import Lane
from everyspan.home import Home
from everyspan.ledger import Account, Stats
from everyspan.log import complain
from everyspan.metrics.recorder import recorder
from everyspan.model.mask import Masker
from everyspan.model.record import Part, SpanRecord, status_meant
from everyspan.model.shedding import shed
from everyspan.model.span import Span, SpanStatus
from everyspan.processors.base import Processor
from everyspan.processors.builtin import SyncFace
from everyspan.processors.foreign import ForeignExporter
from everyspan.queue.bodies import Bodies
from everyspan.queue.parts import Parts
from everyspan.queue.waiters import Waiters

QUEUE_FULL = "queue full"
OUT_OF_BYTES = "byte budget"
SHUTDOWN = "shutdown"
DEFECT = "defect of everyspan"

SHED_PART = 16
"""One so-manieth of a destination's share is freed beyond what is needed; chosen, not measured."""

LANES_MAX = 64
"""A lane may hold a thread, a loop and the user's processor; chosen, not measured."""

OTHERS = "others"
"""In the books: the processors that were let go of."""


class LeftOut:
    """Stands in the inbox for the end of a span that is not recorded, only counted."""


SAMPLED_OUT = LeftOut()
UNTRACED = LeftOut()


class Intake:
    """See the module text.

    Args:
        homeless: Called after the gate for a lane that holds something and runs nowhere.
        orphaned: Called for a lane whose home is gone.
        let_go: Called after the gate for a lane that was let go of.
        masker: See `Lane`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock,
        homeless: Callable[[Lane], object],
        orphaned: Callable[[Lane, Home], None],
        let_go: Callable[[Lane], object],
        masker: Callable[[], Masker | None],
    ) -> None:
        self.gate = Gate()
        self.inbox: deque[SpanRecord | Span | LeftOut] = deque()
        self.lanes: dict[int, Lane] = {}
        self.waiters = Waiters(self.gate, is_empty=self._is_empty)
        self.seq = 0
        self.bytes_held = 0
        self.is_stopped = False
        self._settings = settings
        self._evicts = settings.when_full == DROP_OLDEST
        self._clock = clock
        self._homeless = homeless
        self._orphaned = orphaned
        self._let_go = let_go
        self._masker = masker
        self._bodies = Bodies()
        self._left_out = {SAMPLED_OUT: 0, UNTRACED: 0}
        self._parts = Parts()
        self.others = Account(OTHERS)
        self._sweep_at = LANES_MAX
        # Ended spans, once for each lane that was to take them.
        self._handed_over = 0
        self._snapshot = Stats()

    @property
    def producer(self) -> str:
        """What the names of this queue's parts begin with."""
        return self._parts.producer

    def lane(self, processor: Processor | Exporter) -> Lane:
        """Return the lane of a processor, made at the first call for it."""
        key = id(processor)
        lane = self.lanes.get(key)
        if lane is not None:
            return lane
        if isinstance(processor, SyncFace):
            # As a user's own it would only hand over again, perhaps to a queue that has ended.
            return self.lane(processor.destination)
        # Where this thread is inside already, no other is.
        entered = self.gate.enter()
        try:
            lane = self.lanes.get(key)
            if lane is None:
                if entered and len(self.lanes) >= self._sweep_at:
                    self._let_go_of_idle()
                # It keeps the processor, whose address so stays its own.
                lane = self._new_lane(processor)
                # A new dict: whoever is inside may be going through the old one.
                self.lanes = {**self.lanes, key: lane}
            return lane
        finally:
            if entered:
                self.gate.leave()

    def stats(self) -> Stats:
        """Return the books of this instant; from within everyspan, the last ones published."""
        if not self.gate.enter():
            return self._snapshot
        try:
            self.take_in()
            books = [lane.snapshot() for lane in self.lanes.values()]
            if self.others.accepted:
                books.append(self.others.snapshot(queued=0, in_flight=0))
            self._snapshot = Stats(
                destinations=tuple(books),
                open_spans=self._parts.open_spans,
                forgotten_spans=self._parts.forgotten,
                sampled_out_spans=self._left_out[SAMPLED_OUT],
                untraced_spans=self._left_out[UNTRACED],
                bytes_held=self.bytes_held,
                unclaimed_spans=self._handed_over - sum(book.accepted for book in books),
            )
            return self._snapshot
        finally:
            self.gate.leave()

    def take_in_here(self) -> None:
        """Take in on the agent's thread: the lanes' loops are too slow to keep the inbox short."""
        gate = self.gate
        if not gate.enter():
            gate.deferred.put((self.take_in, ()))
            return
        try:
            self.take_in()
        finally:
            gate.leave()

    # -- inside the gate

    def take_in(self) -> None:
        """Count and hand to the lanes what the inbox holds, in the order it came."""
        inbox = self.inbox
        parts = self._parts
        starts = ends = 0
        # No more than is there now: other threads go on adding.
        for _ in range(len(inbox)):
            item = inbox.popleft()
            if isinstance(item, LeftOut):
                self._left_out[item] += 1
                continue
            if isinstance(item, Span):
                parts.begin(item, item._lanes)
                starts += 1
                continue
            if item.is_end:
                self._handed_over += len(item.lanes)
            try:
                if type(item.status) is not SpanStatus:
                    self._note_status(item.status)
                item.tidy()
                if item.is_end:
                    parts.end(item)
                elif item.span is not None:
                    span, item.span = item.span, None
                    parts.begin(span, item.lanes)
            except Exception:
                # A defect of ours, or no memory: it costs this span alone, which is counted.
                item.is_lost = True
            if item.is_end:
                self._take_end(item)
                ends += 1 if item.held_by else 0
            else:
                starts += 1
                if not item.is_lost:
                    self._take_start(item)
        if not self.is_stopped:
            recorder.enqueued(starts=starts, ends=ends)

    def _note_status(self, status: object) -> None:
        if status_meant(status) is None:
            # Not what it is: any object of the agent's.
            known = ", ".join(SpanStatus)
            text = f"a span's status is none of {known}: it is recorded as SUCCESS"
            self.gate.after.append(partial(complain, "%s", text, level=logging.WARNING))

    def still_open(self) -> list[tuple[Span, Part, tuple[Lane, ...]]]:
        """Return the spans that have not ended, oldest first, with their part and lanes."""
        self.take_in()
        return self._parts.still_open()

    def take_abandoned(self, record: SpanRecord, lanes: tuple[Lane, ...]) -> None:
        """Hand over the START of a span that is open while the queue ends."""
        self.take_in()
        if self._parts.part_of(record.id) is None:
            # It ended while it was frozen: its END brings all of it.
            return
        for lane in lanes:
            if lane.exporter.wants_every_start or lane.exporter.only_ends:
                continue
            if self._has_room(lane, record):
                self._hand_to(lane, record, lane.add_abandoned)
            else:
                lane.refuse_start(OUT_OF_BYTES)

    def _let_go_of_idle(self) -> None:
        self.take_in()
        # Whoever got the START of a span gets its END on the same loop.
        busy = {lane for _, _, lanes in self._parts.still_open() for lane in lanes}
        kept = {}
        for key, lane in self.lanes.items():
            # Without a home its first span has not come yet.
            is_needed = lane.stays or lane.hurries or lane.home is None or lane in busy
            if is_needed or not lane.is_idle:
                kept[key] = lane
            else:
                self.others.absorb(lane.let_go())
                self.gate.after.append(partial(self._let_go, lane))
        self.lanes = kept
        self._sweep_at = max(LANES_MAX, 2 * len(kept))

    def _take_back(self, lane: Lane) -> None:
        """Have a lane again that was let go of while somebody was about to hand it a span."""
        lane.is_let_go = False
        # Its processor may have another by now.
        self.lanes = {**self.lanes, id(lane): lane}

    def _take_start(self, record: SpanRecord) -> None:
        record.part = self._parts.part_of(record.id)
        self.seq += 1
        record.seq = self.seq
        settings = self._settings
        for lane in record.lanes:
            if not lane.wants_starts:
                continue
            if lane.is_let_go:
                self._take_back(lane)
            if self.is_stopped:
                lane.refuse_start(SHUTDOWN)
            elif settings.max_size and lane.waiting >= settings.max_size:
                lane.refuse_start(QUEUE_FULL)
            elif not self._has_room(lane, record):
                lane.refuse_start(OUT_OF_BYTES)
            else:
                self._hand_to(lane, record, lane.add_start)

    def _take_end(self, record: SpanRecord) -> None:
        self.seq += 1
        record.seq = self.seq
        refusal = None
        if record.is_lost:
            refusal = DEFECT
        elif self.is_stopped:
            refusal = SHUTDOWN
        for lane in record.lanes:
            if lane.is_let_go:
                self._take_back(lane)
            if refusal is not None:
                lane.refuse(record, refusal)
            elif not self._has_place(lane):
                lane.refuse(record, QUEUE_FULL)
            elif not self._has_room(lane, record, evicts=self._evicts):
                lane.refuse(record, OUT_OF_BYTES)
            else:
                self._hand_to(lane, record, lane.add_end)

    def _has_place(self, lane: Lane) -> bool:
        """Tell whether one more may wait by count (I2), once others have gone if that is wished."""
        most = self._settings.max_size
        while most and lane.waiting >= most:
            if not self._evicts or not lane.drop_oldest(QUEUE_FULL, waiting_only=True):
                return False
        return True

    def _has_room(self, lane: Lane, record: SpanRecord, *, evicts: bool = False) -> bool:
        """Tell whether a lane may hold a record (I2), once payloads or, by `evicts`, others went.

        A record larger than the share is let into a lane that holds nothing.
        """
        if self._lacks(lane, record) <= 0:
            return True
        self._shed(lane, record)
        # Nobody makes room for what would find none in the end.
        stays = record.held_bytes + sum(sent.held_bytes for sent in lane.in_flight)
        if evicts and stays <= self._share:
            while self._lacks_share(lane, record) > 0:
                if not lane.drop_oldest(OUT_OF_BYTES, waiting_only=False):
                    break
        return self._lacks(lane, record) <= 0

    def _lacks(self, lane: Lane, record: SpanRecord) -> int:
        """Return the bytes that there are too few for a lane to hold a record."""
        new = 0 if record.held_by else record.held_bytes
        of_all = self.bytes_held + new - self._settings.byte_budget
        return max(of_all, self._lacks_share(lane, record))

    def _lacks_share(self, lane: Lane, record: SpanRecord) -> int:
        return lane.bytes_held + record.held_bytes - self._share if lane.bytes_held else 0

    @property
    def _share(self) -> int:
        return self._settings.byte_budget // len(self.lanes)

    def _shed(self, lane: Lane, record: SpanRecord) -> None:
        # Some more than is needed now, since each look costs time.
        wanted = self._lacks(lane, record) + self._share // SHED_PART
        of_lane = lane if self._lacks_share(lane, record) > 0 else None
        flying = {id(sent) for other in self.lanes.values() for sent in other.in_flight}
        lost: set[Lane] = set()
        for body, freed in self._bodies.shed(wanted, of_lane, flying):
            self.bytes_held -= freed
            for holder in body.held_by:
                holder.bytes_held -= freed
                if body.is_end:
                    holder.account.shed += 1
                    lost.add(holder)
        if self._lacks(lane, record) > 0 and not record.held_by:
            shed(record)
        for holder in lost:
            self.gate.after.append(holder.say_shed)

    def _hand_to(self, lane: Lane, record: SpanRecord, add: Callable[[SpanRecord], None]) -> None:
        if not record.held_by:
            self.bytes_held += record.held_bytes
            self._bodies.add(record)
        record.held_by += (lane,)
        lane.bytes_held += record.held_bytes
        if record.shed_bytes and record.is_end:
            lane.account.shed += 1
            self.gate.after.append(lane.say_shed)
        add(record)
        if lane.home is None:
            self.gate.after.append(partial(self._homeless, lane))

    def _settled(self, record: SpanRecord) -> None:
        """Note that a lane holds a record no more."""
        if not record.held_by:
            self.bytes_held -= record.held_bytes
            self._bodies.forget(record)
        self.waiters.settled(record)

    def _is_empty(self) -> bool:
        return all(lane.is_empty for lane in self.lanes.values())

    def _new_lane(self, processor: Processor | Exporter) -> Lane:
        exporter: Exporter
        if _is_ours(processor):
            exporter = processor
        else:
            # Not asked for its class: whatever has the methods will do, as in the original.
            exporter = ForeignExporter(cast("Processor", processor))
        names = {lane.account.name for lane in self.lanes.values()}
        name, number = exporter.name, 1
        while name in names:
            number += 1
            name = f"{exporter.name}-{number}"
        exporter.name = name
        delay_ms = self._settings.start_delay_ms
        delay_s = exporter.start_delay_s if delay_ms is None else delay_ms / 1000
        if exporter.only_ends:
            delay_s = None
        return Lane(
            exporter,
            name=name,
            gate=self.gate,
            settings=self._settings,
            start_delay_s=delay_s,
            clock=self._clock,
            take_in=self.take_in,
            inbox=self.inbox,
            settled=self._settled,
            orphaned=self._orphaned,
            masker=self._masker,
        )


def _is_ours(processor: Processor | Exporter) -> TypeGuard[Exporter]:
    # Of the class: a mock has whatever it is asked for.
    kind = type(processor)
    return hasattr(kind, "export") and hasattr(kind, "wants_every_start")
