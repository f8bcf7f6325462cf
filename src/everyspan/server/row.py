"""One span as the store holds it, and what is read out of its payloads.

Payloads are JSON text in bytes, already checked: valid UTF-8, no NUL, bounded depth. Each is an
object, or an array of objects, which only the AgentEx spans API knows: every surface shows a row in
its own words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, TypeGuard

import msgspec
from msgspec import Raw

from everyspan.model.span import (
    AGENT_NAME_KEY,
    COMPLETENESS_KEY,
    SOURCE_KEY,
    SPAN_ERROR_KEY,
    TASK_ID_KEY,
)
from everyspan.model.usage import COUNT_END

NO_REV = -1
TASK_ID_MAX = 4_096
"""As for trace ids: many agents take the one for the other."""
EMPTY_OBJECT = b"{}"
EMPTY_ARRAY = b"[]"
NOTHING = (None, EMPTY_OBJECT, EMPTY_ARRAY)
"""Values that erase nothing (`sgp:M3`)."""
DEFAULT_STATUS = "SUCCESS"
DEFAULT_TYPE = "STANDALONE"

VersionKey = tuple[bool, int, int]
"""Completed?, end in nanoseconds (0 while in progress), revision: the greater version is newer."""

UsageFrom = Literal[
    "metadata.usage", "output.usage", "metadata.aggregated_usage", "metadata.cost_usd"
]

NAME_MAX = 256
MESSAGE_MAX = 500
"""Characters of a name and a message among the facts; the payload has the rest."""
RECORD_BYTES_MAX = 16 * 1024
"""A longer completeness record is none: ours has a few hundred bytes."""

_INTEGER = re.compile(rb"\d{1,18}")
_REV_MAX = 2**62
_TASK_ID_MARK = TASK_ID_KEY.encode()


class SpanRow(msgspec.Struct, kw_only=True, gc=False):
    """A span: one version as it came, or the merge of several.

    None means "nobody said"; `b"{}"` means that a producer sent an empty object. `type` and
    `status` that nobody said read as STANDALONE and SUCCESS. `older` holds, for each field whose
    value is not from the newest version, the key of the version it is from (see `merge`). Nobody
    changes a row after it was handed over.
    """

    account: str
    trace_id: str
    id: str
    name: str
    start_ns: int
    end_ns: int | None = None
    parent_id: str | None = None
    task_id: str | None = None
    type: str | None = None
    status: str | None = None
    group_id: str | None = None
    application_interaction_id: str | None = None
    application_variant_id: str | None = None
    obs_trace_id: str | None = None
    obs_span_id: str | None = None
    input: bytes | None = None
    output: bytes | None = None
    metadata: bytes | None = None
    expected: bytes | None = None
    rev: int = NO_REV
    older: dict[str, VersionKey] | None = None

    @property
    def key(self) -> VersionKey:
        """The newest version's key."""
        return (self.end_ns is not None, self.end_ns or 0, self.rev)

    @property
    def facts(self) -> Facts:
        """What the payloads say of the span; read anew each time."""
        return read_facts(self.metadata, self.output)

    @property
    def payload_bytes(self) -> int:
        """Bytes of all payloads."""
        return sum(
            len(payload)
            for payload in (self.input, self.output, self.metadata, self.expected)
            if payload is not None
        )


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What is said of a span inside its payloads, each None where nothing is.

    `record` is the completeness record's JSON text. `usage_from` says where the token counts
    stand, or that a cost stands alone: a call's own are in its output (`model.usage.Kind`).
    """

    record: str | None = None
    model: str | None = None
    agent: str | None = None
    cost_usd: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    usage_from: UsageFrom | None = None
    error_type: str | None = None
    error_message: str | None = None


class _Marks(msgspec.Struct, gc=False):
    usage: Raw = Raw()
    aggregated_usage: Raw = Raw()
    model: Raw = Raw()
    cost_usd: Raw = Raw()
    error_type: Raw = Raw()
    error_message: Raw = Raw()
    agent: Raw = msgspec.field(default=Raw(), name=AGENT_NAME_KEY)
    error: Raw = msgspec.field(default=Raw(), name=SPAN_ERROR_KEY)
    source: Raw = msgspec.field(default=Raw(), name=SOURCE_KEY)
    task_id: Raw = msgspec.field(default=Raw(), name=TASK_ID_KEY)
    completeness: Raw = msgspec.field(default=Raw(), name=COMPLETENESS_KEY)


class _Completeness(msgspec.Struct):
    rev: int = NO_REV


class _Usage(msgspec.Struct, gc=False):
    input_tokens: Raw = Raw()
    prompt_tokens: Raw = Raw()
    output_tokens: Raw = Raw()
    completion_tokens: Raw = Raw()


class _Error(msgspec.Struct, gc=False):
    type: Raw = Raw()
    message: Raw = Raw()


_encode = msgspec.json.Encoder().encode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_marks = msgspec.json.Decoder(_Marks).decode
_decode_completeness = msgspec.json.Decoder(_Completeness).decode
_decode_usage = msgspec.json.Decoder(_Usage).decode
_decode_error = msgspec.json.Decoder(_Error).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_amount = msgspec.json.Decoder(float).decode
_NO_MARKS = _Marks()
_NO_FACTS = Facts()


def read_rev(metadata: bytes | None) -> int:
    """Return `metadata.__everyspan__.rev`, NO_REV where there is no such non-negative integer."""
    if metadata is None or b"__everyspan__" not in metadata:
        return NO_REV
    try:
        rev = _decode_completeness(_decode_marks(metadata).completeness).rev
    except msgspec.MsgspecError:
        return NO_REV
    return rev if 0 <= rev < _REV_MAX else NO_REV


def keep_completeness(old: bytes | None, new: bytes) -> bytes:
    """Return `new` metadata with the completeness record of `old`, unless it brings its own.

    Whoever edits a span's metadata must not make its trace look as if it had a hole (P11).
    """
    if old is None or is_array(old):
        return new
    record = bytes(_decode_marks(old).completeness)
    if not record:
        return new
    if is_array(new):
        new = as_object(new)
    elif bytes(_decode_marks(new).completeness):
        return new
    rest = new[1:].lstrip()
    return b'{"%b":%b%b%b' % (
        COMPLETENESS_KEY.encode(),
        record,
        b"" if rest.startswith(b"}") else b",",
        rest,
    )


def is_array(payload: bytes) -> bool:
    """Whether a payload is an array of objects."""
    return payload.startswith(b"[")


def as_object(payload: bytes) -> bytes:
    """Return a payload as the SGP spans API shows it, which knows objects only (`agx` §7)."""
    return b'{"items":%b}' % payload if is_array(payload) else payload


def members(payload: bytes) -> dict[str, Raw]:
    """Return what an object holds, each value as its JSON text."""
    return _decode_members(payload)


def with_members(payload: bytes | None, more: Mapping[str, Any]) -> bytes:
    """Return an object, `{}` where there is none, with more members or other values of them."""
    return _encode(_decode_members(payload or EMPTY_OBJECT) | dict(more))


def is_task_id(value: object) -> TypeGuard[str]:
    """Whether a value can be a task's id."""
    return isinstance(value, str) and 0 < len(value) <= TASK_ID_MAX


def read_task_id(metadata: bytes | None) -> str | None:
    """Return `metadata.__task_id__`; None where there is no such text, or too long a one."""
    if metadata is None or _TASK_ID_MARK not in metadata:
        return None
    try:
        task_id = msgspec.json.decode(_decode_marks(metadata).task_id)
    except msgspec.MsgspecError:
        return None
    return task_id if is_task_id(task_id) else None


def read_facts(metadata: bytes | None, output: bytes | None) -> Facts:
    """Return what the payloads of a span say of it (`sgp` §6 usage, `otlp` F7, F8, F13).

    Tokens in and out are each from the first place that counts them: `metadata.usage`,
    `output.usage`, `metadata.aggregated_usage`. What is of another shape says nothing.
    """
    said = _NO_MARKS if metadata in NOTHING or is_array(metadata) else _decode_marks(metadata)
    answered = _NO_MARKS
    # Outputs are long: most are not read for this.
    if output is not None and b'"usage"' in output and not is_array(output):
        answered = _decode_marks(output)
    if said is _NO_MARKS and answered is _NO_MARKS:
        return _NO_FACTS

    tokens_in = tokens_out = usage_from = None
    places: tuple[tuple[UsageFrom, Raw], ...] = (
        ("metadata.usage", said.usage),
        ("output.usage", answered.usage),
        ("metadata.aggregated_usage", said.aggregated_usage),
    )
    for place, raw in places:
        if not raw:
            continue
        counts = _read_usage(raw)
        if counts != (None, None):
            usage_from = usage_from or place
            tokens_in = counts[0] if tokens_in is None else tokens_in
            tokens_out = counts[1] if tokens_out is None else tokens_out

    cost_usd = _read_amount(said.cost_usd)
    if usage_from is None and cost_usd is not None and bytes(said.source) != b'"otel"':
        usage_from = "metadata.cost_usd"
    error_type, error_message = said.error_type, said.error_message
    if said.error:
        with suppress(msgspec.MsgspecError):
            error = _decode_error(said.error)
            error_type, error_message = error.type or error_type, error.message or error_message
    record = bytes(said.completeness)
    return Facts(
        record=record.decode() if record and len(record) <= RECORD_BYTES_MAX else None,
        model=_read_text(said.model or answered.model, NAME_MAX),
        agent=_read_text(said.agent, NAME_MAX),
        cost_usd=cost_usd,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        usage_from=usage_from,
        error_type=_read_text(error_type, NAME_MAX),
        error_message=_read_text(error_message, MESSAGE_MAX),
    )


def _read_usage(raw: Raw) -> tuple[int | None, int | None]:
    try:
        usage = _decode_usage(raw)
    except msgspec.MsgspecError:
        return None, None
    return (
        _first_integer(usage.input_tokens, usage.prompt_tokens),
        _first_integer(usage.output_tokens, usage.completion_tokens),
    )


def _read_text(raw: Raw, length_max: int) -> str | None:
    try:
        return _decode_text(raw)[:length_max] or None if raw else None
    except msgspec.MsgspecError:
        return None


def _read_amount(raw: Raw) -> float | None:
    try:
        amount = _decode_amount(raw) if raw else None
    except msgspec.MsgspecError:
        return None
    return amount if amount is not None and 0 <= amount < COUNT_END else None


def _first_integer(*candidates: Raw) -> int | None:
    for candidate in candidates:
        text = bytes(candidate)
        if _INTEGER.fullmatch(text):
            return int(text)
    return None
