"""What waits for one destination, and which of it leaves when.

K1  A lone span leaves `linger_s` after it came; a full batch leaves at once (`trace:Q12`, `Q24`).
K2  No batch holds more than `batch_size` spans, nor more than `batch_bytes` unless it is one span.
K3  An END waits while a START of its span waits or is on its way (`trace:Q2`, `Q4`, D5); `in_turn`
    also while an earlier END of it is. Other spans never wait for it (D29).
K4  A START is written only if its span is still open `start_delay_s` later; one whose END has come
    is forgotten, unless the destination wants every START.
K5  Every record that comes in is in exactly one place until `take` hands it out; what was handed
    out comes back through `park` or is gone for good.
K6  A batch says which of its ENDs have their START stored, as far as is remembered.

Plain functions of their arguments and `now_s`: no clock, no lock, no awaiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable

from everyspan.delivery.circuit import Suspicion
from everyspan.model.record import SpanRecord

SpanKey = tuple[str, str]

STARTED_MAX = 10_000
"""Spans remembered as written while open; beyond, the oldest is forgotten. An END of one that was
forgotten goes out as if it were the first the destination hears of its span."""


def _key(record: SpanRecord) -> SpanKey:
    return (record.trace_id, record.id)


def _attempts(batch: Batch) -> int:
    return batch.attempts


def _oldest_s(batch: Batch) -> float:
    return batch.oldest_s


def _seq(record: SpanRecord) -> int:
    return record.seq


class Batch:
    """Spans that travel together.

    `attempts` counts requests made with them, `number` the lane's requests when the last of these
    was made, `suspicion` what speaks against them. `due_s` is when a parked batch may leave again
    and `reason` why it is parked. `started` are the ENDs whose START this destination has stored.
    """

    __slots__ = ("attempts", "due_s", "ends", "number", "reason", "started", "starts", "suspicion")

    def __init__(
        self,
        starts: list[SpanRecord],
        ends: list[SpanRecord],
        *,
        attempts: int = 0,
        due_s: float = 0.0,
        reason: str = "",
    ) -> None:
        self.starts = starts
        self.ends = ends
        self.attempts = attempts
        self.due_s = due_s
        self.reason = reason
        self.number = 0
        self.suspicion = Suspicion()
        self.started: Collection[SpanRecord] = ()

    @property
    def records(self) -> list[SpanRecord]:
        """STARTs, then ENDs; a fresh list."""
        return self.starts + self.ends

    @property
    def oldest_s(self) -> float:
        """When its first record was offered; each kind is in that order.

        But for what several threads ended at once, which is milliseconds.
        """
        return min(records[0].offered_s for records in (self.starts, self.ends) if records)

    def __len__(self) -> int:
        return len(self.starts) + len(self.ends)


class Backlog:
    """See the module text.

    Args:
        wants_every_start: For a user's own processor.
        in_turn: For a destination where whatever comes last wins, so that no version of a span may
            overtake another.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        batch_bytes: int,
        linger_s: float,
        max_age_s: float,
        start_delay_s: float | None = None,
        wants_every_start: bool = False,
        in_turn: bool = False,
    ) -> None:
        self.batch_size = batch_size
        self.batch_bytes = batch_bytes
        self.linger_s = linger_s
        self.max_age_s = max_age_s
        self.start_delay_s = start_delay_s
        self.wants_every_start = wants_every_start
        self.in_turn = in_turn
        self._starts: deque[SpanRecord] = deque()
        self._ends: deque[SpanRecord] = deque()
        # As they came: what was shed since is not worth a look at each, and a batch that is taken
        # for full leaves early at the most.
        self._bytes = 0
        # In order of their age, since the delay is the same for all.
        self._delayed: dict[SpanKey, SpanRecord] = {}
        # How many versions of a span that its next waits for are here or in flight: one, as a rule.
        self._unsettled: dict[SpanKey, int] = {}
        self._held: dict[SpanKey, list[SpanRecord]] = {}
        self._parked: list[Batch] = []
        self._takes_parked = False
        # Spans whose START is stored and whose END has no answer yet, oldest first.
        self._started: dict[SpanKey, None] = {}

    # -- coming in

    def add_start(self, record: SpanRecord) -> list[SpanRecord]:
        """Take a START, which waits for `start_delay_s` first; return the STARTs it replaces."""
        key = _key(record)
        if self.wants_every_start or not self.start_delay_s:
            self._admit(record)
            return []
        # Taken out first: a replaced entry would keep its place in the order of age.
        replaced = self._delayed.pop(key, None)
        self._delayed[key] = record
        return [] if replaced is None else [replaced]

    def add_abandoned(self, record: SpanRecord) -> list[SpanRecord]:
        """Take the START of a span that will not end here; return the STARTs it replaces."""
        needless = self._forget_start(_key(record))
        self._admit(record)
        return needless

    def add_end(self, record: SpanRecord) -> list[SpanRecord]:
        """Take an END; return the STARTs that it made needless."""
        needless: list[SpanRecord] = []
        if self._delayed or self._unsettled or self.in_turn:
            key = _key(record)
            needless = self._forget_start(key)
            if key in self._unsettled:
                self._held.setdefault(key, []).append(record)
                return needless
            if self.in_turn:
                self._unsettled[key] = 1
        self._ends.append(record)
        self._bytes += record.size_bytes
        return needless

    def park(self, batch: Batch) -> list[SpanRecord]:
        """Take back a batch that was handed out; return the STARTs that became needless."""
        needless = []
        if self._held and not self.wants_every_start:
            needless = [start for start in batch.starts if _key(start) in self._held]
            batch.starts = [start for start in batch.starts if _key(start) not in self._held]
        if len(batch):
            self._parked.append(batch)
        self.settle(needless)
        return needless

    def settle(self, records: Iterable[SpanRecord]) -> None:
        """Note that these are stored or given up: the ENDs that wait for them may leave (K3)."""
        freed: list[SpanRecord] = []
        for record in records:
            if record.is_end and not self.in_turn:
                continue
            key = _key(record)
            if not self._is_settled_with(key):
                continue
            ends = self._held.pop(key, [])
            if self.in_turn and ends:
                self._unsettled[key] = 1
                if len(ends) > 1:
                    self._held[key] = ends[1:]
                ends = ends[:1]
            freed += ends
        if not freed:
            return
        self._bytes += sum(end.size_bytes for end in freed)
        # To the place where they would be had nothing held them back (`trace:Q10`).
        newest = max(end.seq for end in freed)
        while self._ends and self._ends[0].seq < newest:
            freed.append(self._ends.popleft())
        self._ends.extendleft(sorted(freed, key=_seq, reverse=True))

    def note_stored(self, record: SpanRecord) -> None:
        """Note that a record is stored; who waits for it is told by `settle`."""
        if record.is_end:
            self.note_ended(record)
            return
        self._started[_key(record)] = None
        if len(self._started) > STARTED_MAX:
            del self._started[next(iter(self._started))]

    def note_ended(self, end: SpanRecord) -> None:
        """Note that an END is stored or given up."""
        if self._started:
            self._started.pop(_key(end), None)

    # -- going out

    def take(self, now_s: float, *, hurry: bool = False) -> Batch | None:
        """Hand out a batch that is due, None where none is; `hurry` ends lingering."""
        self._admit_due_starts(now_s)
        batch = self._take_parked(now_s)
        if batch is None and self._is_due(now_s, hurry=hurry):
            batch = self._cut()
        return batch and self._handed_out(batch)

    def take_one(self, now_s: float) -> Batch | None:
        """Hand out a single span whatever is due, another one each time; None if none may leave."""
        self._admit_due_starts(now_s)
        # In turns, since what is parked may be bad and what waits good.
        self._takes_parked = not self._takes_parked
        if self._parked and (self._takes_parked or not (self._starts or self._ends)):
            batch = min(self._parked, key=_attempts)
            self._parked.remove(batch)
            rest, one = batch, Batch([], [], attempts=batch.attempts, reason=batch.reason)
            one.suspicion = batch.suspicion.lessened()
            (one.ends if rest.ends else one.starts).append((rest.ends or rest.starts).pop())
            if len(rest):
                self._parked.append(rest)
        elif self._starts or self._ends:
            one = self._cut(spans_max=1)
        else:
            return None
        return self._handed_out(one)

    def take_expired(self, now_s: float) -> list[tuple[SpanRecord, str]]:
        """Remove and return the records older than `max_age_s`, each with why it was parked.

        To be settled by the caller.
        """
        age_s = self.max_age_s
        expired: list[tuple[SpanRecord, str]] = []
        for waiting in (self._starts, self._ends):
            while waiting and waiting[0].offered_s + age_s <= now_s:
                record = waiting.popleft()
                self._bytes -= record.size_bytes
                expired.append((record, ""))
        # Each batch by its oldest: this is done before every request, whatever is held.
        old = [batch for batch in self._parked if batch.oldest_s + age_s <= now_s]
        for batch in old:
            expired += [(r, batch.reason) for r in batch.records if r.offered_s + age_s <= now_s]
            batch.starts = [r for r in batch.starts if r.offered_s + age_s > now_s]
            batch.ends = [r for r in batch.ends if r.offered_s + age_s > now_s]
        if old:
            self._parked = [batch for batch in self._parked if len(batch)]
        return expired

    def take_oldest(self, *, waiting_only: bool) -> SpanRecord | None:
        """Remove and return what came first; None if nothing may go. To be settled by the caller.

        Args:
            waiting_only: Leave what has been tried.
        """
        if self._parked and not waiting_only:
            batch = min(self._parked, key=_oldest_s)
            record = (batch.starts or batch.ends).pop(0)
            if not len(batch):
                self._parked.remove(batch)
            return record
        groups = [waiting for waiting in (self._starts, self._ends) if waiting]
        if not groups:
            return None
        record = min(groups, key=lambda waiting: waiting[0].seq).popleft()
        self._bytes -= record.size_bytes
        return record

    def take_all(self) -> list[SpanRecord]:
        """Remove and return everything that waits."""
        records = [*self._delayed.values(), *self._starts, *self._ends]
        for ends in self._held.values():
            records += ends
        for batch in self._parked:
            records += batch.records
        self._delayed.clear()
        self._starts.clear()
        self._ends.clear()
        self._held.clear()
        self._parked.clear()
        self._bytes = 0
        self._unsettled.clear()
        self._started.clear()
        return records

    def due_s(self, now_s: float, *, hurry: bool = False) -> float | None:
        """Return until when nothing will be due, unless something comes in; None for ever.

        A moment, not a wait: to add a wait to a moment may fall a rounding short of what is due.
        """
        due_s = [batch.due_s for batch in self._parked]
        if self._delayed:
            assert self.start_delay_s is not None
            due_s.append(next(iter(self._delayed.values())).offered_s + self.start_delay_s)
        for waiting in (self._starts, self._ends):
            if waiting:
                if self._is_due(now_s, hurry=hurry):
                    return now_s
                due_s.append(waiting[0].offered_s + self.linger_s)
        if not due_s:
            return None
        expires_s = self.expires_s()
        if expires_s is not None:
            due_s.append(expires_s)
        return max(now_s, min(due_s))

    def expires_s(self) -> float | None:
        """Return when the oldest that may be sent will be too old; None if nothing may."""
        oldest_s = [waiting[0].offered_s for waiting in (self._starts, self._ends) if waiting]
        oldest_s += [batch.oldest_s for batch in self._parked]
        return min(oldest_s) + self.max_age_s if oldest_s else None

    # -- looking

    @property
    def oldest_seq(self) -> int:
        """`seq` of the record that came first of those that wait; 0 if none does."""
        return min((waiting[0].seq for waiting in (self._starts, self._ends) if waiting), default=0)

    @property
    def is_full(self) -> bool:
        """True if a whole batch waits."""
        return (
            len(self._ends) + len(self._starts) >= self.batch_size
            or self._bytes >= self.batch_bytes
        )

    @property
    def waiting(self) -> int:
        """STARTs and ENDs that wait for a first try."""
        return len(self._starts) + len(self._ends)

    @property
    def queued(self) -> int:
        """Ended spans that are held here, parked ones included."""
        return (
            len(self._ends)
            + sum(map(len, self._held.values()))
            + sum(len(batch.ends) for batch in self._parked)
        )

    @property
    def oldest_end_s(self) -> float | None:
        """When the oldest of the ended spans held here was offered; None if there are none.

        Each container is in that order, but for spans that several threads ended at once.
        """
        groups = [self._ends, *self._held.values(), *(batch.ends for batch in self._parked)]
        return min((ends[0].offered_s for ends in groups if ends), default=None)

    @property
    def is_empty(self) -> bool:
        """True if nothing is held but STARTs whose delay is not over."""
        return not (self._starts or self._ends or self._held or self._parked)

    def reasons(self, seq_max: int) -> dict[str, int]:
        """Return why ended spans up to `seq_max` are still here, and how many for each reason."""
        reasons: dict[str, int] = {}
        groups = [("not sent yet", self._ends), *(("not sent yet", e) for e in self._held.values())]
        groups += [(batch.reason, batch.ends) for batch in self._parked]
        for reason, ends in groups:
            count = sum(1 for record in ends if record.seq <= seq_max)
            if count:
                reasons[reason] = reasons.get(reason, 0) + count
        return reasons

    # -- within

    def _forget_start(self, key: SpanKey) -> list[SpanRecord]:
        if self.wants_every_start:
            return []
        delayed = self._delayed.pop(key, None)
        if delayed is not None:
            return [delayed]
        if key not in self._unsettled:
            return []
        for batch in self._parked:
            for start in batch.starts:
                if _key(start) == key:
                    batch.starts.remove(start)
                    if not len(batch):
                        self._parked.remove(batch)
                    self._is_settled_with(key)
                    return [start]
        return []

    def _admit_due_starts(self, now_s: float) -> None:
        while self._delayed:
            key, start = next(iter(self._delayed.items()))
            assert self.start_delay_s is not None
            if start.offered_s + self.start_delay_s > now_s:
                return
            del self._delayed[key]
            self._admit(start)

    def _admit(self, start: SpanRecord) -> None:
        key = _key(start)
        self._unsettled[key] = self._unsettled.get(key, 0) + 1
        self._starts.append(start)
        self._bytes += start.size_bytes

    def _is_settled_with(self, key: SpanKey) -> bool:
        """Count one START less; True if that was the last of its span."""
        left = self._unsettled.pop(key, 1) - 1
        if left:
            self._unsettled[key] = left
        return not left

    def _handed_out(self, batch: Batch) -> Batch:
        if self._started:
            batch.started = {end for end in batch.ends if _key(end) in self._started}
        return batch

    def _take_parked(self, now_s: float) -> Batch | None:
        for position, batch in enumerate(self._parked):
            if batch.due_s <= now_s:
                return self._parked.pop(position)
        return None

    def _is_due(self, now_s: float, *, hurry: bool) -> bool:
        if not self._starts and not self._ends:
            return False
        if hurry or self.is_full:
            return True
        oldest_s = min(waiting[0].offered_s for waiting in (self._starts, self._ends) if waiting)
        return now_s >= oldest_s + self.linger_s

    def _cut(self, *, spans_max: int | None = None) -> Batch:
        room = size_max = spans_max or self.batch_size
        bytes_left = self.batch_bytes
        parts: list[list[SpanRecord]] = []
        for waiting in (self._starts, self._ends):
            taken: list[SpanRecord] = []
            while waiting and room:
                size = waiting[0].held_bytes
                if size > bytes_left and room < size_max:
                    break
                bytes_left -= size
                room -= 1
                self._bytes -= waiting[0].size_bytes
                taken.append(waiting.popleft())
            parts.append(taken)
        return Batch(parts[0], parts[1])
