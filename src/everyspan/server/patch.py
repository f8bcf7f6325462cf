"""Changes to a stored span, and the row they make (`sgp` §3 SpanPatch, `agx` §3 Patch).

E1  Only what a patch names changes; null never clears.
E2  Whoever edits a span does not make its trace look as if it had a hole (P11): the completeness
    record stays, unless the patch brings one.
E3  A patch that brings a revision is a version of the span: one older than the row, which a late
    retry may deliver, fills only what is empty (P6).
"""

from __future__ import annotations

from typing import Any

import msgspec

from everyspan.errors import RequestError
from everyspan.server.merge import merge
from everyspan.server.row import (
    NO_REV,
    NOTHING,
    SpanRow,
    is_array,
    keep_completeness,
    members,
    read_rev,
    with_members,
)

METADATA_BYTES_MAX = 64 * 1024 * 1024
"""To what size patches may add up the metadata of one span: that of the largest body."""


class SpanPatch(msgspec.Struct, kw_only=True, frozen=True):
    """Fields to set on a stored span; None leaves a field alone.

    `trace_id` moves the span into that trace. With `merges_metadata`, metadata's members are added
    to those that are stored, one level deep, where both are objects.
    """

    trace_id: str | None = None
    parent_id: str | None = None
    task_id: str | None = None
    name: str | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    type: str | None = None
    status: str | None = None
    input: bytes | None = None
    output: bytes | None = None
    metadata: bytes | None = None
    merges_metadata: bool = False

    @property
    def payload_bytes(self) -> int:
        """Bytes of all payloads."""
        return sum(len(payload or b"") for payload in (self.input, self.output, self.metadata))


def apply_patch(old: SpanRow, patch: SpanPatch) -> SpanRow:
    """Return the row that `patch` makes of `old`, which stays as it is.

    Raises:
        RequestError: 422; the span would end before it starts, or its metadata grow too large.
    """
    changes = {
        field: value
        for field, value in msgspec.structs.asdict(patch).items()
        if value is not None and field != "merges_metadata"
    }
    rev = read_rev(patch.metadata)
    if rev != NO_REV:
        changes["rev"] = rev
        if rev < old.rev:
            return merge(old, _version(old, changes))
    if patch.metadata is not None:
        changes["metadata"] = _metadata(old.metadata, patch.metadata, merges=patch.merges_metadata)
    row = msgspec.structs.replace(old, **changes)
    if row.end_ns is not None and row.end_ns < row.start_ns:
        raise RequestError(
            422,
            "INVALID_BODY",
            "end_timestamp is before start_timestamp",
            loc=("end_timestamp",),
        )
    row.older = {
        field: key for field, key in (old.older or {}).items() if field not in changes
    } or None
    return row


def _version(old: SpanRow, changes: dict[str, Any]) -> SpanRow:
    """Return a patch as a version of its own, of the span as it is identified now."""
    named: dict[str, Any] = {
        "account": old.account,
        "id": old.id,
        "name": old.name,
        "start_ns": old.start_ns,
    }
    return SpanRow(**(named | changes | {"trace_id": old.trace_id}))


def _metadata(old: bytes | None, new: bytes, *, merges: bool) -> bytes:
    if not merges or old in NOTHING or is_array(old) or is_array(new):
        return keep_completeness(old, new)
    merged = with_members(old, members(new))
    if len(merged) > METADATA_BYTES_MAX:
        raise RequestError(
            422,
            "METADATA_TOO_LARGE",
            f"the span's metadata would be over {METADATA_BYTES_MAX} bytes",
            loc=("metadata",),
        )
    return merged
