"""One span as OTLP has it, whichever encoding brought it.

Attribute values are plain: text, bool, int, finite float, None, lists and objects of them
(`otlp:F9`). What a span may hold is bounded here, for both encodings.
"""

from __future__ import annotations

import base64
import math
from typing import Any

import msgspec

from everyspan.errors import RequestError

VALUES_MAX = 250_000
"""Attributes, events, links and values within values that one span may have: above what a batch of
embedding vectors has, below what would hold up the server for long."""
GROUPS_MAX = 100_000
"""Resources and scopes in one request; each costs time, and an empty one only two bytes."""
VALUE_DEPTH_MAX = 40
"""Lists and objects within one another. The protobuf runtime gives up at about 48."""

STATUS_ERROR = 2
KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
KIND_CLIENT = 3

Attributes = dict[str, Any]


class OtlpOrigin(msgspec.Struct, frozen=True, eq=False):
    """What spans sent together have in common: resource and instrumentation scope."""

    resource: Attributes
    scope_name: str = ""
    scope_version: str = ""


class OtlpEvent(msgspec.Struct, gc=False):
    """Something that happened during a span."""

    time_ns: int
    name: str
    attributes: Attributes


class OtlpLink(msgspec.Struct, gc=False):
    """A span that this one has to do with; lowercase hex ids."""

    trace_id: str
    span_id: str
    attributes: Attributes


class OtlpSpan(msgspec.Struct, kw_only=True, gc=False):
    """One span; ids are lowercase hex, times Unix nanoseconds as sent, 0 where none was.

    `dropped` counts the attributes, events and links that its sender left out.
    """

    origin: OtlpOrigin
    trace_id: str
    id: str
    parent_id: str | None
    name: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: Attributes
    events: list[OtlpEvent]
    links: list[OtlpLink]
    status: int
    message: str
    dropped: tuple[int, int, int]


class SpanRefusal(Exception):
    """A span cannot be stored, and the others can; the text never repeats what was sent."""


def too_many_groups() -> RequestError:
    """Return the refusal of a request of too many resources and scopes."""
    message = f"the request has more than {GROUPS_MAX} resources and scopes"
    return RequestError(413, "TOO_MANY_GROUPS", message)


NO_SPAN_ID = "0" * 16
_NO_TRACE_ID = "0" * 32
TRACE_ID_REFUSED = "a trace id is not 16 bytes, or all zero"
SPAN_ID_REFUSED = "a span id is not 8 bytes, or all zero"
VALUES_REFUSED = f"a span holds more than {VALUES_MAX} values"


def check_ids(trace_id: str, span_id: str) -> None:
    """Return if these are ids, in lowercase hex (`otlp:H6`).

    Raises:
        SpanRefusal: They are not.
    """
    if len(trace_id) != 32 or trace_id == _NO_TRACE_ID:
        raise SpanRefusal(TRACE_ID_REFUSED)
    if len(span_id) != 16 or span_id == NO_SPAN_ID:
        raise SpanRefusal(SPAN_ID_REFUSED)


def parent_or_none(parent_id: str) -> str | None:
    """Return a parent's id; None where it is none, which costs the span nothing (`otlp:H6`)."""
    return parent_id if len(parent_id) == 16 and parent_id != NO_SPAN_ID else None


def plain_float(value: float) -> float | str:
    """Return a number that JSON has, else its name (`otlp:F9`)."""
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def plain_bytes(value: bytes) -> str:
    """Return base64 text (`otlp:F9`)."""
    return base64.b64encode(value).decode()
