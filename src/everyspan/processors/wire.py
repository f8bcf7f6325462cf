"""What requests to a span API are joined from: JSON text out of frozen payloads.

W1  Frozen bytes are copied, not decoded, unless a member of theirs has to be replaced.
W2  Every text that comes out is valid UTF-8.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from everyspan.model.record import SpanRecord

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

encode = msgspec.json.Encoder().encode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def to_object(frozen: bytes | None, key: str) -> bytes:
    """Return a payload as an object: an array as its `items`, a scalar as its `key` (D18).

    None becomes `{}`.
    """
    if frozen is None:
        return b"{}"
    if frozen[:1] == b"{":
        return frozen
    if frozen[:1] == b"[":
        key = "items"
    return b'{"%b":%b}' % (key.encode(), frozen)


def with_members(frozen: bytes, members: Mapping[str, bytes]) -> bytes:
    """Return an object with these members, given as JSON, in place of its own of their names."""
    # A look for the name's bytes rules out most payloads without decoding them.
    names = [encode(name) for name in members]
    if any(name in frozen for name in names):
        frozen = _without(frozen, members)
    if not names:
        return frozen
    added = b",".join([b"%b:%b" % pair for pair in zip(names, members.values(), strict=True)])
    return frozen[:-1] + (b"," if len(frozen) > 2 else b"") + added + b"}"


def _without(frozen: bytes, names: Mapping[str, object]) -> bytes:
    try:
        own = _decode_members(frozen)
    except (msgspec.DecodeError, RecursionError):
        # Nested too deep to be read here; of two members of one name readers take the last.
        return frozen
    if own.keys().isdisjoint(names):
        return frozen
    return encode({name: value for name, value in own.items() if name not in names})


def to_text(value: Any) -> bytes:
    """Return a value as JSON text."""
    try:
        return encode(str(value))
    except (UnicodeEncodeError, TypeError):
        return encode(valid_text(value))


def valid_text(value: Any) -> str:
    """Return a value as text without lone surrogates."""
    return str(value).encode("utf-8", "replace").decode()


def timestamp(ns: int) -> str:
    """Return UTC with microseconds, `+00:00` at its end (`trace:S12`)."""
    seconds, microseconds = divmod(ns // 1000, 1_000_000)
    return f"{_second(seconds)}.{microseconds:06d}+00:00"


@functools.lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    # Spans of one batch share few seconds; formatting one costs as much as the rest of the item.
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:-6]


def completeness(record: SpanRecord, *, destination: str) -> bytes:
    """Return what a span says of its trace (P11); `record.part` must not be None."""
    part = record.part
    assert part is not None
    entry: dict[str, Any] = {"p": part.id, "rev": record.revision}
    if record.is_end:
        entry["n"] = record.ordinal
    if record.abandoned:
        entry["abandoned"] = True
    if record.shed_bytes:
        entry["shed"] = record.shed_bytes
    if record.closes:
        entry["total"] = part.total
        losses = (part.losses or {}).get(destination)
        if losses:
            # A copy: another thread may be adding to it.
            entry["dropped"] = dict(losses)
    return encode(entry)
