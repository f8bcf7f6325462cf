"""Say of a stored trace whether all of it is there, from what its producers wrote into the spans.

C1  Order, repeats and versions of the spans change nothing.
C2  `complete` only when every part has closed, every ordinal is stored and every parent is known:
    taking away a span that has company in its part, or a child, never leaves `complete`.
C3  `lost` only where a producer reported drops, with a span or in a report of its own; a gap that
    nobody explained is `late` while young, then `unaccounted`.
C4  A hostile or broken record is no record; nothing here raises on any JSON.

What cannot be seen: a part whose only span is missing and has no stored child; a trace with no
span stored. Knows nothing of HTTP, stores or screens; time is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import chain
from typing import Any

import msgspec

from everyspan.model.span import COMPLETENESS_KEY
from everyspan.model.w3c import by_span_hex, span_hex

LATE_S_MAX = 60.0
"""Age up to which a gap may still fill by itself (chosen, not measured)."""

REPORT_S_MAX = 600.0
"""Silence up to which a producer may still be at work (chosen, not measured)."""

NAMES_MAX = 20
"""Parents and parts that one verdict names; all of them are counted."""

HOLES_MAX = 100
"""Holes listed by ordinal in one verdict; all of them are counted."""

ORDINAL_MAX = 2**53
"""Ordinals above are no ordinals: no reader of JSON could tell them apart."""


class State(StrEnum):
    """What is known of a trace, worst first."""

    LOST = "lost"
    UNACCOUNTED = "unaccounted"
    LATE = "late"
    RUNNING = "running"
    NOT_REPORTED = "not reported"
    COMPLETE = "complete"


SIGNS: Mapping[State, str] = {
    State.LOST: "✕",
    State.UNACCOUNTED: "?",
    State.LATE: "◔",
    State.RUNNING: "◐",
    State.NOT_REPORTED: "–",
    State.COMPLETE: "✓",
}


@dataclass(frozen=True, slots=True)
class Hole:
    """Ordinals `first` to `last` of one part that are not stored, both included."""

    part: str
    first: int
    last: int

    @property
    def spans(self) -> int:
        """How many spans are missing here; at least 1."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trace holds against what it should hold.

    `stored` counts distinct spans; `counted` the ordinals among them, out of `expected`.
    `missing` = `dropped` (reported, by reason) + `late` + `unaccounted`. `open` spans have no
    end; their producer ended with `abandoned` of them open, and said so. `uncounted` spans carry
    no ordinal. `parents_missing` spans are named as a parent and not stored. `reports_due` parts
    have not closed, of which `reports_missing` have been silent for over `REPORT_S_MAX` with no
    open span to show for it. `silent_s` is the time since the newest span began or ended, never
    negative. `holes` lists at most `HOLES_MAX`, by part and ordinal; `missing_parents` and
    `open_parts`, which have not closed, at most `NAMES_MAX` by name. From `recheck_s` on (Unix
    time) the passing of time may have changed the verdict; None: it cannot.
    """

    state: State
    stored: int
    counted: int
    expected: int
    dropped: Mapping[str, int]
    late: int
    unaccounted: int
    open: int
    abandoned: int
    uncounted: int
    parents_missing: int
    reports_due: int
    reports_missing: int
    silent_s: float
    holes: tuple[Hole, ...]
    missing_parents: tuple[str, ...]
    open_parts: tuple[str, ...]
    recheck_s: float | None

    @property
    def missing(self) -> int:
        """Spans that were ended and are not stored."""
        return self.expected - self.counted

    @property
    def stalled(self) -> bool:
        """Running by the books, though its producer has ended, or is silent for too long."""
        return self.state is State.RUNNING and (self.abandoned > 0 or self.silent_s > REPORT_S_MAX)

    @property
    def sign(self) -> str:
        """One character for the state."""
        return SIGNS[self.state]

    @property
    def words(self) -> str:
        """The figures of the state, for people: `12 of 14, 2 dropped: queue full`.

        Reasons of drops are shown as the producer wrote them: escape before printing.
        """
        of = f"{self.counted:,} of {self.expected:,}"
        match self.state:
            case State.COMPLETE:
                return of
            case State.RUNNING:
                reported = f", {self.abandoned:,} abandoned" if self.abandoned else ""
                guessed = ", abandoned?" if self.stalled else ""
                return f"{self.stored:,} so far" + (reported or guessed)
            case State.NOT_REPORTED:
                return self._words_not_reported(of)
            case State.UNACCOUNTED if self.missing == self.unaccounted:
                return ", ".join(self._words_unaccounted())
            case _:
                reasons = [f"{n:,} dropped: {reason}" for reason, n in self.dropped.items()]
                late = [f"{self.late:,} on the way"] if self.late else []
                return ", ".join([of, *reasons, *late, *self._words_unaccounted()])

    def _words_unaccounted(self) -> Iterator[str]:
        if self.unaccounted:
            yield f"{self.unaccounted:,} missing, nobody reported why"
        if self.reports_missing:
            yield "closing report missing"

    def _words_not_reported(self, of: str) -> str:
        if not self.expected:
            return f"{self.stored:,} stored, sender keeps no count"
        notes = []
        if self.uncounted:
            notes.append(f"{self.uncounted:,} more whose sender keeps no count")
        if self.parents_missing:
            notes.append(f"{self.parents_missing:,} named as parent, never stored")
        return ", ".join([of, *notes])

    def __str__(self) -> str:
        return f"{self.sign} {self.words}"


def assess(spans: Iterable[Mapping[str, Any]], *, now_s: float) -> Verdict:
    """Return the verdict on one trace.

    Args:
        spans: All that is stored of the trace, as SGP span objects; any order, repeats and
            several versions of a span allowed (C1). None at all is `not reported`.
        now_s: Unix time.
    """
    tally = Tally()
    for span in spans:
        tally.add(span)
    return tally.verdict(now_s=now_s)


class Tally:
    """What has been seen of one trace so far; holds ids and ordinals, never payloads."""

    def __init__(self) -> None:
        self._ended: set[str] = set()
        self._open: dict[str, _Open] = {}
        self._counted: set[str] = set()
        self._parents: set[str] = set()
        self._parts: dict[str, _Part] = {}
        self._newest_s: float | None = None

    def add(self, span: Mapping[str, Any]) -> None:
        """Take one version of one span object; what has no text `id` is ignored."""
        span_id, parent_id = span.get("id"), span.get("parent_id")
        if isinstance(span_id, str):
            ended = span.get("end_timestamp")
            self.take(
                span_id,
                parent_id if isinstance(parent_id, str) else None,
                start_s=timestamp_s(span.get("start_timestamp")),
                end_s=timestamp_s(ended),
                is_end=ended is not None,
                record=_record_in(span),
            )

    def take(
        self,
        span_id: str,
        parent_id: str | None,
        *,
        start_s: float | None,
        end_s: float | None,
        is_end: bool,
        record: Record | None,
    ) -> None:
        """Take one version of one span, as the values a store has of it."""
        if parent_id:
            self._parents.add(parent_id)
        seen_s = start_s if end_s is None or (start_s is not None and start_s > end_s) else end_s
        self._newest_s = _latest(self._newest_s, seen_s)
        part = None
        if record is not None:
            part = self._parts.get(record.part)
            if part is None:
                part = self._parts[record.part] = _Part()
            part.newest_s = _latest(part.newest_s, seen_s)
        if not is_end:
            if span_id not in self._ended:
                self._open[span_id] = self._open.get(span_id, _Open()).with_version(record)
            return
        self._ended.add(span_id)
        self._open.pop(span_id, None)
        if record is not None and part is not None and record.ordinal is not None:
            self._counted.add(span_id)
            part.take(record, seen_s)

    def take_report(
        self, part_id: str, lost: Mapping[str, int], *, total: int | None, told_s: float
    ) -> None:
        """Take what a producer reported of a part beside its spans: losses found later (P11).

        Args:
            lost: Spans of the part that will not come, by reason, its closing record's included.
            total: How many spans ended in it; None while it was open.
            told_s: Unix time of the report.
        """
        part = self._parts.get(part_id)
        if part is None:
            part = self._parts[part_id] = _Part()
        part.newest_s = _latest(part.newest_s, told_s)
        if total is not None:
            part.total = max(total, part.total or 0)
            part.closed_s = _latest(part.closed_s, told_s)
        for reason, spans in lost.items():
            part.dropped[reason] = max(spans, part.dropped.get(reason, 0))
        part.reported = max(part.reported, sum(lost.values()))

    def verdict(self, *, now_s: float) -> Verdict:
        """Return what is known at `now_s` (Unix time) of the spans taken so far."""
        silent_s = 0.0 if self._newest_s is None else max(0.0, now_s - self._newest_s)
        dropped: dict[str, int] = {}
        late = unaccounted = counted = expected = due = overdue = 0
        holes: list[Hole] = []
        recheck: list[float] = []
        open_parts = {span.part for span in self._open.values()}
        for part_id in sorted(self._parts):
            part = self._parts[part_id]
            counted += len(part.ordinals)
            expected += part.expected
            if part.total is None:
                due += 1
                if part_id not in open_parts:
                    if part.silent_s(now_s) > REPORT_S_MAX:
                        overdue += 1
                    elif part.newest_s is not None:
                        recheck.append(part.newest_s + REPORT_S_MAX)
            young = old = 0
            for first, last, known_s in part.gaps():
                if known_s is not None and now_s - known_s < LATE_S_MAX:
                    young += last - first + 1
                    recheck.append(known_s + LATE_S_MAX)
                else:
                    old += last - first + 1
                if len(holes) < HOLES_MAX:
                    holes.append(Hole(part_id, first, last))
            # Reported drops explain the oldest gaps first. A drop whose span is stored after
            # all (the backend committed and its answer was lost) explains nothing, rightly.
            explained = 0
            for reason in sorted(part.dropped):
                spans = min(part.dropped[reason], young + old - explained)
                if spans:
                    dropped[reason] = dropped.get(reason, 0) + spans
                    explained += spans
            still_late = min(young, young + old - explained)
            late += still_late
            unaccounted += young + old - explained - still_late
        # A part that has closed has nothing open: what looks so is a span whose end is a hole.
        running = [
            span
            for span in self._open.values()
            if span.part is None or self._parts[span.part].total is None
        ]
        uncounted = len(self._ended - self._counted)
        uncounted += sum(span.part is None for span in self._open.values())
        missing_parents = self._missing_parents()
        parents_missing = len(missing_parents)
        state = _state(
            dropped=bool(dropped),
            unaccounted=bool(unaccounted or overdue),
            late=bool(late),
            running=bool(running or due),
            uncounted=bool(uncounted or parents_missing or not expected),
        )
        if state is State.RUNNING and self._newest_s is not None and silent_s <= REPORT_S_MAX:
            recheck.append(self._newest_s + REPORT_S_MAX)
        return Verdict(
            state=state,
            stored=len(self._ended) + len(self._open),
            counted=counted,
            expected=expected,
            dropped=dropped,
            late=late,
            unaccounted=unaccounted,
            open=len(running),
            abandoned=sum(span.abandoned for span in running),
            uncounted=uncounted,
            parents_missing=parents_missing,
            reports_due=due,
            reports_missing=overdue,
            silent_s=silent_s,
            holes=tuple(holes),
            missing_parents=tuple(sorted(missing_parents)[:NAMES_MAX]),
            open_parts=tuple(
                sorted(part_id for part_id, part in self._parts.items() if part.total is None)
            )[:NAMES_MAX],
            # A bound that still holds at its very second is passed a little later.
            recheck_s=min(recheck) + 0.001 if recheck else None,
        )

    def _missing_parents(self) -> set[str]:
        missing = self._parents - self._ended - self._open.keys()
        if missing:
            # A parent may be named by what OpenTelemetry calls it (`otlp:F2`).
            known = by_span_hex(chain(self._ended, self._open))
            missing = {parent_id for parent_id in missing if span_hex(parent_id) not in known}
        return missing


def is_abandoned(span: Mapping[str, Any]) -> bool:
    """Tell whether a span without end was left open when its producer ended."""
    record = _record_in(span)
    return record is not None and record.abandoned


def timestamp_s(text: object) -> float | None:
    """Return an ISO-8601 timestamp as Unix seconds; None where it is none. Naive means UTC."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


class Record(msgspec.Struct, frozen=True):
    """What a producer wrote into a span about its part of the trace; checked.

    An END has an `ordinal`; that which closes the part its `total` and what was `dropped`.
    """

    part: str
    ordinal: int | None
    total: int | None
    dropped: Mapping[str, int]
    abandoned: bool


@dataclass(frozen=True, slots=True)
class _Open:
    part: str | None = None
    abandoned: bool = False

    def with_version(self, record: Record | None) -> _Open:
        """Return what both say: versions may differ, and their order must not matter (C1)."""
        if record is None:
            return self
        return _Open(max(record.part, self.part or ""), record.abandoned or self.abandoned)


@dataclass(slots=True)
class _Part:
    ordinals: dict[int, float | None] = field(default_factory=dict)
    total: int | None = None
    closed_s: float | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    newest_s: float | None = None
    reported: int = 0

    def take(self, record: Record, seen_s: float | None) -> None:
        """Take the record of an END; repeats change nothing (C1)."""
        assert record.ordinal is not None
        self.ordinals[record.ordinal] = _latest(self.ordinals.get(record.ordinal), seen_s)
        if record.total is not None:
            self.total = max(record.total, self.total or 0)
            self.closed_s = _latest(self.closed_s, seen_s)
        for reason, spans in record.dropped.items():
            self.dropped[reason] = max(spans, self.dropped.get(reason, 0))

    @property
    def expected(self) -> int:
        return max(self.total or 0, max(self.ordinals, default=0), self.reported)

    def silent_s(self, now_s: float) -> float:
        return math.inf if self.newest_s is None else now_s - self.newest_s

    def gaps(self) -> Iterator[tuple[int, int, float | None]]:
        """Yield (first, last, time since which the gap is known), in order.

        A gap is known from the end of the next span that is there: ordinals follow ends.
        """
        previous = 0
        end = [(self.expected + 1, self.closed_s)]
        for ordinal, seen_s in chain(sorted(self.ordinals.items(), key=_ordinal), end):
            if ordinal > previous + 1:
                yield previous + 1, ordinal - 1, seen_s
            previous = ordinal


def _ordinal(item: tuple[int, float | None]) -> int:
    return item[0]


def _state(
    *, dropped: bool, unaccounted: bool, late: bool, running: bool, uncounted: bool
) -> State:
    if dropped:
        return State.LOST
    if unaccounted:
        return State.UNACCOUNTED
    if late:
        return State.LATE
    if running:
        return State.RUNNING
    return State.NOT_REPORTED if uncounted else State.COMPLETE


class _RecordJson(msgspec.Struct, gc=False):
    p: Any = None
    n: Any = None
    total: Any = None
    dropped: Any = None
    abandoned: Any = None


_decode_record = msgspec.json.Decoder(_RecordJson).decode


def parse_record(text: str | bytes) -> Record | None:
    """Return the record behind its JSON text; None where that is none (C4)."""
    try:
        record = _decode_record(text)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return _record(record.p, record.n, record.total, record.dropped, record.abandoned)


def _record_in(span: Mapping[str, Any]) -> Record | None:
    metadata = span.get("metadata")
    record = metadata.get(COMPLETENESS_KEY) if isinstance(metadata, Mapping) else None
    if not isinstance(record, Mapping):
        return None
    get = record.get
    return _record(get("p"), get("n"), get("total"), get("dropped"), get("abandoned"))


def _record(
    part: object, ordinal: object, total: object, dropped: object, abandoned: object
) -> Record | None:
    if not isinstance(part, str) or not part:
        return None
    return Record(
        part=part,
        ordinal=_count(ordinal),
        total=_count(total),
        dropped={
            reason: spans
            for reason, value in dropped.items()
            if isinstance(reason, str) and (spans := _count(value)) is not None
        }
        if isinstance(dropped, Mapping)
        else {},
        abandoned=abandoned is True,
    )


def _count(value: object) -> int | None:
    """Return a whole number from 1 to ORDINAL_MAX, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 1 <= value <= ORDINAL_MAX else None


def _latest(a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return b if a is None else a
    return max(a, b)
