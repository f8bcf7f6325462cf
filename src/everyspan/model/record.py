"""The frozen form of a span: what is queued, measured and sent.

R1  Payloads are JSON text frozen when the record was made; nothing the agent does later shows.
R2  A record is written once; only the queue that holds it touches the fields from `part` on, and
    sheds payloads (`shedding`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from everyspan.model.freeze import PAYLOAD_BYTES_MAX, freeze
from everyspan.model.span import SPAN_ERROR_KEY, SPAN_TYPE_KEY, Span, SpanStatus
from everyspan.model.w3c import RemoteParent

RECORD_BYTES_FIXED = 600
"""What a record is charged beside its payloads. Measured: 626 bytes in traces of five spans, ids
shared; 897 where every span is a trace of its own."""

NAME_LENGTH_MAX = 4_096
"""Characters kept of a name or an error text; chosen, not measured."""

NS_MAX = 253_402_300_799_999_999_999
"""The end of the year 9999, the last that wire formats can write."""

_decode = msgspec.json.Decoder().decode


class Limits(msgspec.Struct, frozen=True):
    """Most bytes of each payload once it is frozen; what is longer is cut, visibly."""

    input: int = PAYLOAD_BYTES_MAX
    output: int = PAYLOAD_BYTES_MAX
    data: int = PAYLOAD_BYTES_MAX


class Part:
    """One stretch of a trace in one process: from its first open span until none is open.

    `trace_id` is the one it began under, whatever became of its spans since.

    `ended` spans have ended in it, `open` ones not; `total` is set when it closes.
    `losses` maps a destination to reason to spans lost, for destinations that lost any.
    """

    __slots__ = ("ended", "id", "losses", "open", "total", "trace_id")

    def __init__(self, id: str, trace_id: str) -> None:
        self.id = id
        self.trace_id = trace_id
        self.open = 0
        self.ended = 0
        self.total: int | None = None
        self.losses: dict[str, dict[str, int]] | None = None


class SpanRecord(msgspec.Struct, eq=False, gc=False):
    """One version of a span: a START (in progress, `end_ns` None) or an END.

    `input`, `output` and `data` are JSON text, None where the span had none. `error` is
    (type, message, category) of a failed span. `ordinal` counts the ends of its part from 1;
    `closes` marks the END that closed the part. `revision` grows with every version of a span.
    `is_lost` marks one without payloads, only to be counted; `is_masked` one that holds no secret
    any more. `obs` are the ids of the observability span that was active around it; `remote` is the
    parent in another process that its trace hangs from here. `span` is what it is a version of, and
    `lanes` who is to carry it, until the queue took it in; `held_by` are those who do. `shed_bytes`
    are those of `size_bytes` that are held no more.
    """

    is_end: bool
    id: str
    trace_id: str
    parent_id: str | None
    name: str
    start_ns: int
    end_ns: int | None
    input: bytes | None
    output: bytes | None
    data: bytes | None
    status: str
    type: str | None
    task_id: str | None
    group_id: str | None
    error: tuple[str, str, str] | None
    size_bytes: int
    offered_s: float
    revision: int = 0
    abandoned: bool = False
    part: Part | None = None
    ordinal: int = 0
    closes: bool = False
    span: Span | None = None
    lanes: Any = ()
    is_lost: bool = False
    is_masked: bool = False
    obs: tuple[str, str] | None = None
    remote: RemoteParent | None = None
    seq: int = 0
    held_by: tuple[Any, ...] = ()
    shed_bytes: int = 0

    @property
    def held_bytes(self) -> int:
        """What it is charged now."""
        return self.size_bytes - self.shed_bytes

    def tidy(self) -> None:
        """Make of every field what its type says, whatever the agent put there."""
        if not (
            type(self.id) is type(self.trace_id) is type(self.name) is str
            and (self.parent_id is None or type(self.parent_id) is str)
            and (self.type is None or type(self.type) is str)
            and (self.task_id is None or type(self.task_id) is str)
            and self.group_id is None
            and self.error is None
            and type(self.status) is SpanStatus
            and len(self.name) <= NAME_LENGTH_MAX
            and type(self.start_ns) is int
            and 0 <= self.start_ns <= NS_MAX
            and (self.end_ns is None or (type(self.end_ns) is int and 0 <= self.end_ns <= NS_MAX))
        ):
            self._mend()

    def _mend(self) -> None:
        if not type(self.id) is type(self.trace_id) is type(self.name) is str:
            self.id, self.trace_id, self.name = map(_short, (self.id, self.trace_id, self.name))
        elif len(self.name) > NAME_LENGTH_MAX:
            self.name = _short(self.name)
        for field in ("parent_id", "task_id", "group_id", "type"):
            value = getattr(self, field)
            if value is not None and type(value) is not str:
                setattr(
                    self, field, str.__str__(value) if isinstance(value, str) else _short(value)
                )
        if type(self.status) is not SpanStatus:
            # Any other text costs the span (`sgp` §3).
            self.status = status_meant(self.status) or SpanStatus.SUCCESS
        if self.error is not None and self.status == SpanStatus.SUCCESS:
            self.status = SpanStatus.ERROR
        start_ns, end_ns = self.start_ns, self.end_ns
        if type(start_ns) is not int or not 0 <= start_ns <= NS_MAX:
            self.start_ns = _valid_ns(start_ns, end_ns)
        if end_ns is not None and (type(end_ns) is not int or not 0 <= end_ns <= NS_MAX):
            self.end_ns = _valid_ns(end_ns, self.start_ns)

    def to_span(self) -> Span:
        """Return a span whose payloads are plain values decoded from the frozen text."""
        return Span(
            name=self.name,
            trace_id=self.trace_id,
            id=self.id,
            parent_id=self.parent_id,
            start_ns=self.start_ns,
            end_ns=self.end_ns,
            input=_thaw(self.input),
            output=_thaw(self.output),
            data=_thaw(self.data),
            task_id=self.task_id,
            group_id=self.group_id,
            type=self.type,
            status=self.status,
        )


def _thaw(text: bytes | None) -> Any:
    return None if text is None else _decode(text)


def freeze_span(
    span: Span,
    *,
    is_end: bool,
    offered_s: float,
    abandoned: bool = False,
    limits: Limits | None = None,
) -> SpanRecord:
    """Return the frozen form of a span as it is now, tidied; never raises.

    Args:
        is_end: Make an END; else a START, which has no end and no output.
        offered_s: Monotonic time, from which the age of the record counts.
        abandoned: The process ends while the span is open.
        limits: None for those that hold where nobody says otherwise.
    """
    record = snapshot_span(span, is_end=is_end, offered_s=offered_s, limits=limits)
    record.abandoned = abandoned
    record.tidy()
    return record


def snapshot_span(
    span: Span, *, is_end: bool, offered_s: float, limits: Limits | None = None
) -> SpanRecord:
    """As `freeze_span`, but for the agent's thread: whoever takes the record in tidies it."""
    size = RECORD_BYTES_FIXED
    input_ = span.input
    if input_ is not None:
        frozen = span._frozen_input
        # Frozen at start already, unless the agent put another one there (`trace` §10).
        if frozen is not None and frozen[0] is input_:
            input_ = frozen[1]
        else:
            input_ = freeze(input_) if limits is None else freeze(input_, bytes_max=limits.input)
        size += len(input_)
    output = span.output if is_end else None
    if output is not None:
        output = freeze(output) if limits is None else freeze(output, bytes_max=limits.output)
        size += len(output)
    data = span.data
    type_ = span.type
    error = None
    if data is not None:
        if isinstance(data, dict):
            # The class's own methods: a subclass may do anything in its.
            if type_ is None:
                type_ = dict.get(data, SPAN_TYPE_KEY)
            error = _error(dict.get(data, SPAN_ERROR_KEY))
        data = freeze(data) if limits is None else freeze(data, bytes_max=limits.data)
        size += len(data)
    record = SpanRecord(
        is_end,
        span.id,
        span.trace_id,
        span.parent_id,
        span.name,
        span.start_ns,
        span.end_ns if is_end else None,
        input_,
        output,
        data,
        span.status,
        type_,
        span.task_id,
        span.group_id,
        error,
        size,
        offered_s,
        1 if is_end else 0,
    )
    if span._obs is not None:
        record.obs = span._obs
    if span._remote is not None:
        record.remote = span._remote
    return record


def lost_span(span: Span, *, offered_s: float) -> SpanRecord:
    """Return the END of a span that could not be frozen, to be counted as dropped."""
    record = SpanRecord(
        *(True, span.id, span.trace_id, None, "", 0, 0, None, None, None, SpanStatus.SUCCESS),
        *(None, None, None, None, RECORD_BYTES_FIXED, offered_s),
    )
    record.is_lost = True
    return record


def text_ids(span: Span) -> tuple[str, str]:
    """Return id and trace id of a span, as text even where its author put something else."""
    id_, trace_id = span.id, span.trace_id
    if type(id_) is type(trace_id) is str:
        return id_, trace_id
    return _short(id_), _short(trace_id)


def status_meant(value: Any) -> SpanStatus | None:
    """Return the status that the agent's value names, in any case; None if none."""
    try:
        return SpanStatus(_short(value).upper())
    except ValueError:
        return None


def _valid_ns(value: Any, other: Any) -> int:
    """Return the nearest time that can be written; that of `other` for what is no number."""
    for ns in (value, other):
        if isinstance(ns, int | float) and ns == ns:
            return int(min(max(ns, 0), NS_MAX))
    return 0


def _error(value: Any) -> tuple[str, str, str] | None:
    if type(value) is not dict:
        return None
    return (
        _short(value.get("type", "")),
        _short(value.get("message", "")),
        _short(value.get("category", "unknown")),
    )


def _short(value: Any) -> str:
    try:
        text = str(value)
    except Exception:
        # The agent's own type; its name must not cost the span.
        text = f"<{type(value).__name__}>"
    return text if len(text) <= NAME_LENGTH_MAX else text[: NAME_LENGTH_MAX - 1] + "…"
