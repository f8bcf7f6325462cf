"""The frozen form of a span: what is queued, measured and sent.

R1  Payloads are JSON text frozen when the record was made; nothing the agent does later shows.
R2  A record is written once; only the queue that holds it touches the fields from `part` on.
"""

from __future__ import annotations

from typing import Any

import msgspec

from everyspan.model.freeze import freeze
from everyspan.model.span import SPAN_ERROR_KEY, SPAN_TYPE_KEY, Span, SpanStatus

RECORD_BYTES_FIXED = 600
"""Memory of a record beside its payloads (measured: 430 to 560 bytes with typical ids)."""

NAME_LENGTH_MAX = 4_096
"""Characters kept of a name or an error text; chosen, not measured."""

NS_MAX = 253_402_300_799_999_999_999
"""The end of the year 9999, the last that wire formats can write."""

_decode = msgspec.json.Decoder().decode


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
    `span` is what it is a version of, and `lanes` who is to carry it, until the queue took it in.
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
    seq: int = 0
    holders: int = 0

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
    span: Span, *, is_end: bool, offered_s: float, abandoned: bool = False
) -> SpanRecord:
    """Return the frozen form of a span as it is now; never raises.

    Args:
        is_end: Make an END; else a START, which has no end and no output.
        offered_s: Monotonic time, from which the age of the record counts.
        abandoned: The process ends while the span is open.
    """
    data = span.data
    error = None
    type_ = span.type
    status = span.status
    if data is not None and isinstance(data, dict):
        # The class's own methods: a subclass may do anything in its.
        if type_ is None:
            type_ = dict.get(data, SPAN_TYPE_KEY)
        error = _error(dict.get(data, SPAN_ERROR_KEY))
    if type(status) is not SpanStatus:
        status = _status(status)
    if error is not None and status == SpanStatus.SUCCESS:
        status = SpanStatus.ERROR
    if type_ is not None and not isinstance(type_, str):
        type_ = _short(type_)
    parent_id, task_id, group_id = span.parent_id, span.task_id, span.group_id
    if parent_id is not None and type(parent_id) is not str:
        parent_id = _short(parent_id)
    if task_id is not None and type(task_id) is not str:
        task_id = _short(task_id)
    if group_id is not None and type(group_id) is not str:
        group_id = _short(group_id)
    input_ = None if span.input is None else freeze(span.input)
    output = None if span.output is None or not is_end else freeze(span.output)
    data_ = None if data is None else freeze(data)
    size = RECORD_BYTES_FIXED
    if input_ is not None:
        size += len(input_)
    if output is not None:
        size += len(output)
    if data_ is not None:
        size += len(data_)
    name = span.name
    if type(name) is not str or len(name) > NAME_LENGTH_MAX:
        name = _short(name)
    id_, trace_id = text_ids(span)
    start_ns = span.start_ns
    end_ns = span.end_ns if is_end else None
    if type(start_ns) is not int or not 0 <= start_ns <= NS_MAX:
        start_ns = _valid_ns(start_ns, end_ns)
    if end_ns is not None and (type(end_ns) is not int or not 0 <= end_ns <= NS_MAX):
        end_ns = _valid_ns(end_ns, start_ns)
    return SpanRecord(
        is_end,
        id_,
        trace_id,
        parent_id,
        name,
        start_ns,
        end_ns,
        input_,
        output,
        data_,
        status,
        type_,
        task_id,
        group_id,
        error,
        size,
        offered_s,
        1 if is_end else 0,
        abandoned,
    )


def text_ids(span: Span) -> tuple[str, str]:
    """Return id and trace id of a span, as text even where its author put something else."""
    id_, trace_id = span.id, span.trace_id
    if type(id_) is type(trace_id) is str:
        return id_, trace_id
    return _short(id_), _short(trace_id)


def _status(value: Any) -> SpanStatus:
    """Return the status meant, SUCCESS where none is: any other text costs the span (`sgp` §3)."""
    try:
        return SpanStatus(_short(value).upper())
    except ValueError:
        return SpanStatus.SUCCESS


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
