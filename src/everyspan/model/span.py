"""One timed operation of an agent, as its author sees it.

A span is a plain mutable object: the agent sets `output`, `data` or `status` while it runs.
What everyspan sends is the frozen copy made when it ends (`trace:Q21`).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Literal, Self

import msgspec

from everyspan.errors import SettingsError
from everyspan.model.freeze import freeze
from everyspan.model.ids import new_id

SPAN_ERROR_KEY = "__error__"
SPAN_TYPE_KEY = "__span_type__"
COMPLETENESS_KEY = "__everyspan__"
TASK_ID_KEY = "__task_id__"
AGENT_NAME_KEY = "__agent_name__"
SOURCE_KEY = "__source__"

DUMPED = (
    "id",
    "trace_id",
    "parent_id",
    "name",
    "start_time",
    "end_time",
    "input",
    "output",
    "data",
    "task_id",
)
"""The fields of the original's span, in the order of `model_dump`."""

_REQUIRED = ("name", "trace_id", "start_time")
_OWN = ("group_id", "type", "status")
_NO_TEXT = ("input", "output", "data")
_TIMES = ("start_time", "end_time")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SpanStatus(StrEnum):
    """How a span ended (`sgp` §3)."""

    SUCCESS = "SUCCESS"
    ERROR = "ERROR"
    CANCELED = "CANCELED"


class SpanEventType(StrEnum):
    """What happened to a span (`trace` §3)."""

    START = "start"
    END = "end"


class SpanType(StrEnum):
    """What kind of work a span timed: the closed list of the SGP spans API (`sgp` §3.1)."""

    TEXT_INPUT = "TEXT_INPUT"
    TEXT_OUTPUT = "TEXT_OUTPUT"
    COMPLETION_INPUT = "COMPLETION_INPUT"
    COMPLETION = "COMPLETION"
    KB_RETRIEVAL = "KB_RETRIEVAL"
    KB_INPUT = "KB_INPUT"
    RERANKING = "RERANKING"
    EXTERNAL_ENDPOINT = "EXTERNAL_ENDPOINT"
    PROMPT_ENGINEERING = "PROMPT_ENGINEERING"
    DOCUMENT_INPUT = "DOCUMENT_INPUT"
    MAP_REDUCE = "MAP_REDUCE"
    DOCUMENT_SEARCH = "DOCUMENT_SEARCH"
    DOCUMENT_PROMPT = "DOCUMENT_PROMPT"
    CUSTOM = "CUSTOM"
    CODE_EXECUTION = "CODE_EXECUTION"
    DATA_MANIPULATION = "DATA_MANIPULATION"
    EVALUATION = "EVALUATION"
    FILE_RETRIEVAL = "FILE_RETRIEVAL"
    KB_ADD_CHUNK = "KB_ADD_CHUNK"
    KB_MANAGEMENT = "KB_MANAGEMENT"
    GUARDRAIL = "GUARDRAIL"
    OUTPUT_GUARDRAIL = "OUTPUT_GUARDRAIL"
    TRACER = "TRACER"
    AGENT_TRACER = "AGENT_TRACER"
    AGENT_WORKFLOW = "AGENT_WORKFLOW"
    STANDALONE = "STANDALONE"


class Span(msgspec.Struct, kw_only=True, weakref=True, eq=False):
    """One timed operation; times are integer Unix nanoseconds.

    `input`, `output` and `data` may be anything; what cannot be shown as JSON is marked in place
    when the span ends. `end_ns` is None while the span runs. `start_time` and `end_time` are the
    same times as UTC datetimes, cut to microseconds; a new span takes either form, also as text.

    Raises:
        SettingsError: Neither `start_ns` nor `start_time` was given, or a time is none.
    """

    name: str
    trace_id: str
    id: str = msgspec.field(default_factory=new_id)
    parent_id: str | None = None
    start_ns: int = None  # type: ignore[assignment]  # Taken from `start_time`, then.
    end_ns: int | None = None
    input: Any = None
    output: Any = None
    data: Any = None
    task_id: str | None = None
    group_id: str | None = None
    type: str | None = None
    status: str = SpanStatus.SUCCESS
    # Set while it is recorded: its place in the trace once it has ended, who is to carry it (None:
    # nobody, since an export opened it), its input frozen at start beside what was frozen, the
    # parent in another process above it, whose flags and `tracestate` travel on, whether its trace
    # is recorded (None: nobody asked), and the ids of the observability span around it.
    _ended: Any = None
    _lanes: Any = ()
    _frozen_input: Any = None
    _remote: Any = None
    _is_sampled: bool | None = None
    _obs: Any = None

    # The original's names of the times, for the constructor; afterwards they are computed.
    start_time: datetime = None  # type: ignore[assignment]
    end_time: datetime | None = None
    _given_end_time: ClassVar[Any]

    def __post_init__(self) -> None:
        # What the recorder makes comes through here as well: two looks, no call.
        if self.start_ns is None or self._given_end_time is not None:
            _take_times(self)

    def model_dump(
        self,
        *,
        mode: Literal["python", "json"] = "python",
        include: Collection[str] | None = None,
        exclude: Collection[str] | None = None,
        exclude_unset: bool = False,
        exclude_defaults: bool = False,
        exclude_none: bool = False,
    ) -> dict[str, Any]:
        """Return the original's ten fields, by name.

        Args:
            mode: `json` gives payloads as plain values and times as text; `python` the payloads
                themselves, not copied, and datetimes.
            include, exclude: Names of fields.
            exclude_unset, exclude_defaults, exclude_none: Leave out what is None.
        """
        if mode not in ("python", "json"):
            raise SettingsError(f"mode must be python or json, got {mode!r}")
        names = [n for n in DUMPED if include is None or n in include]
        dump = {n: getattr(self, n) for n in names if exclude is None or n not in exclude}
        if exclude_unset or exclude_defaults or exclude_none:
            dump = {name: value for name, value in dump.items() if value is not None}
        if mode == "json":
            dump = {name: msgspec.json.decode(freeze(value)) for name, value in dump.items()}
        return dump

    def model_dump_json(self, *, indent: int | None = None, **options: Any) -> str:
        """Return `model_dump(mode="json", **options)` as JSON text."""
        text = msgspec.json.encode(self.model_dump(mode="json", **options))
        return (text if indent is None else msgspec.json.format(text, indent=indent)).decode()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, its payloads copied too if `deep`.

        Raises:
            SettingsError: `update` names no field.
        """
        twin = copy.copy(self)
        if deep:
            twin.input, twin.output, twin.data = copy.deepcopy((twin.input, twin.output, twin.data))
        for name, value in (update or {}).items():
            _check_field(name)
            setattr(twin, name, value)
        return twin

    @classmethod
    def model_validate(cls, obj: Any) -> Self:
        """Return the span that a dump describes; a span is returned as it is.

        Keys that name no field are ignored. A span with an error in its data has failed, unless
        `status` says otherwise.

        Raises:
            SettingsError: `obj` is neither, or a field is missing or of the wrong type.
        """
        if isinstance(obj, cls):
            return obj
        if not isinstance(obj, Mapping):
            raise SettingsError(f"a span is made from a mapping, got {obj!r}")
        for name in _REQUIRED:
            if obj.get(name) is None:
                raise SettingsError(f"{name} is missing: a span needs {', '.join(_REQUIRED)}")
        span = cls(name=obj["name"], trace_id=obj["trace_id"], start_ns=0)
        for name in (*DUMPED, *_OWN):
            value = obj.get(name)
            if value is None:
                continue
            if name not in (*_NO_TEXT, *_TIMES) and not isinstance(value, str):
                raise SettingsError(f"{name} must be text, got {value!r}")
            setattr(span, name, value)
        if "status" not in obj and isinstance(span.data, dict):
            error = span.data.get(SPAN_ERROR_KEY)
            if isinstance(error, dict):
                cancelled = error.get("type") == "CancelledError"
                span.status = SpanStatus.CANCELED if cancelled else SpanStatus.ERROR
        return span

    def __repr__(self) -> str:
        # Without payloads: spans end up in logs.
        return f"Span({self.name!r}, id={self.id!r}, trace_id={self.trace_id!r})"


_start_slot, _end_slot = Span.__dict__["start_time"], Span.__dict__["end_time"]


def _take_times(span: Span) -> None:
    """Turn the times that the constructor was given into nanoseconds."""
    start_time, end_time = _start_slot.__get__(span), _end_slot.__get__(span)
    _start_slot.__set__(span, None)
    _end_slot.__set__(span, None)
    if span.start_ns is None:
        if start_time is None:
            raise SettingsError("start_time is missing: a span needs name, trace_id, start_time")
        span.start_ns = _to_ns(start_time, "start_time")
    if end_time is not None:
        span.end_ns = _to_ns(end_time, "end_time")


def _get_start_time(span: Span) -> datetime:
    return _to_datetime(span.start_ns)


def _set_start_time(span: Span, value: datetime) -> None:
    span.start_ns = _to_ns(value, "start_time")


def _get_end_time(span: Span) -> datetime | None:
    return None if span.end_ns is None else _to_datetime(span.end_ns)


def _set_end_time(span: Span, value: datetime | None) -> None:
    span.end_ns = None if value is None else _to_ns(value, "end_time")


# A property in the class's body would be taken for the field's default.
Span._given_end_time = _end_slot
Span.start_time = property(_get_start_time, _set_start_time)  # type: ignore[assignment]
Span.end_time = property(_get_end_time, _set_end_time)  # type: ignore[assignment]


def _to_datetime(ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=ns // 1000)


def _to_ns(value: datetime | str, name: str) -> int:
    if isinstance(value, str):
        value = _parse_time(value, name)
    if not isinstance(value, datetime):
        raise SettingsError(f"{name} must be a datetime, got {value!r}")
    if value.tzinfo is None:
        # As the original's backend reads a time without a zone.
        value = value.replace(tzinfo=UTC)
    return (value - _EPOCH) // timedelta(microseconds=1) * 1000


def _parse_time(text: str, name: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"{name} must be a time in ISO form, got {text!r}") from None


def _check_field(name: str) -> None:
    if name not in Span.__struct_fields__:
        raise SettingsError(f"a span has no field {name!r}; known: {', '.join(DUMPED + _OWN)}")
