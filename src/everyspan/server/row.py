"""One span as the store holds it, and what is read out of its payloads.

Payloads are JSON text in bytes, already checked: valid UTF-8, no NUL, bounded depth. Each is an
object, or an array of objects, which only the AgentEx spans API knows: every surface shows a row in
its own words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

import msgspec
from msgspec import Raw

from everyspan.model.span import COMPLETENESS_KEY, TASK_ID_KEY

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
    input_tokens: int | None = None
    output_tokens: int | None = None
    rev: int = NO_REV
    older: dict[str, VersionKey] | None = None

    @property
    def key(self) -> VersionKey:
        """The newest version's key."""
        return (self.end_ns is not None, self.end_ns or 0, self.rev)

    @property
    def payload_bytes(self) -> int:
        """Bytes of all payloads."""
        return sum(
            len(payload)
            for payload in (self.input, self.output, self.metadata, self.expected)
            if payload is not None
        )


class _Marks(msgspec.Struct):
    usage: Raw = Raw()
    task_id: Raw = msgspec.field(default=Raw(), name=TASK_ID_KEY)
    completeness: Raw = msgspec.field(default=Raw(), name=COMPLETENESS_KEY)


class _Completeness(msgspec.Struct):
    rev: int = NO_REV


class _Usage(msgspec.Struct):
    input_tokens: Raw = Raw()
    prompt_tokens: Raw = Raw()
    output_tokens: Raw = Raw()
    completion_tokens: Raw = Raw()


_encode = msgspec.json.Encoder().encode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_marks = msgspec.json.Decoder(_Marks).decode
_decode_completeness = msgspec.json.Decoder(_Completeness).decode
_decode_usage = msgspec.json.Decoder(_Usage).decode


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


def read_usage(metadata: bytes | None, output: bytes | None) -> tuple[int | None, int | None]:
    """Return input and output tokens as reported, None where nothing was (`sgp` §6, usage)."""
    tokens_in: int | None = None
    tokens_out: int | None = None
    for payload in (metadata, output):
        if payload is None or b'"usage"' not in payload:
            continue
        try:
            usage = _decode_usage(_decode_marks(payload).usage)
        except msgspec.MsgspecError:
            continue
        if tokens_in is None:
            tokens_in = _first_integer(usage.input_tokens, usage.prompt_tokens)
        if tokens_out is None:
            tokens_out = _first_integer(usage.output_tokens, usage.completion_tokens)
    return tokens_in, tokens_out


def _first_integer(*candidates: Raw) -> int | None:
    for candidate in candidates:
        text = bytes(candidate)
        if _INTEGER.fullmatch(text):
            return int(text)
    return None
