"""One timed operation of an agent, as its author sees it.

A span is a plain mutable object: the agent sets `output`, `data` or `status` while it runs.
What everyspan sends is the frozen copy made when it ends (`trace:Q21`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec

from everyspan.model.ids import new_id

SPAN_ERROR_KEY = "__error__"
SPAN_TYPE_KEY = "__span_type__"
COMPLETENESS_KEY = "__everyspan__"

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
    when the span ends. `end_ns` is None while the span runs.
    """

    name: str
    trace_id: str
    id: str = msgspec.field(default_factory=new_id)
    parent_id: str | None = None
    start_ns: int
    end_ns: int | None = None
    input: Any = None
    output: Any = None
    data: Any = None
    task_id: str | None = None
    group_id: str | None = None
    type: str | None = None
    status: str = SpanStatus.SUCCESS
    _ended: Any = None

    @property
    def start_time(self) -> datetime:
        """`start_ns` as a UTC datetime, cut to microseconds."""
        return _to_datetime(self.start_ns)

    @property
    def end_time(self) -> datetime | None:
        """`end_ns` as a UTC datetime, cut to microseconds; None while the span runs."""
        return None if self.end_ns is None else _to_datetime(self.end_ns)

    @end_time.setter
    def end_time(self, value: datetime | None) -> None:
        self.end_ns = None if value is None else _to_ns(value)

    def __repr__(self) -> str:
        # Without payloads: spans end up in logs.
        return f"Span({self.name!r}, id={self.id!r}, trace_id={self.trace_id!r})"


def _to_datetime(ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=ns // 1000)


def _to_ns(value: datetime) -> int:
    return (value - _EPOCH) // timedelta(microseconds=1) * 1000
