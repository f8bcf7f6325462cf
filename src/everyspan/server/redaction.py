"""Credentials are taken out before anything is stored (`sgp` §6, redaction), whoever sent it.

R1  Name, input, output, metadata and expected, by the patterns of `model.credentials`: those that
    our SDK masks by, since most senders mask nothing.
R2  Redacting what was redacted changes nothing; nor does anything else change: a payload without a
    credential is stored as it came, to the digit.
R3  Ids are left alone, since they tie spans together, and token counts, which only look alike.

The reply to a write shows the row as stored, so a sender sees what was taken out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from everyspan.model.credentials import may_hold_credential, redact_json, redact_key
from everyspan.server.patch import SpanPatch
from everyspan.server.row import SpanRow

_PAYLOADS = ("input", "output", "metadata", "expected")
_LOOK_BYTES = 64 * 1024
"""Payloads looked at together: enough that their number costs nothing, few enough that one with
what may be a credential does not make many be looked at twice."""


def redact_rows(rows: Sequence[SpanRow]) -> list[SpanRow]:
    """Return the rows without credentials; the same ones where they hold none."""
    redacted: list[SpanRow] = []
    for some in _together(rows):
        texts = [
            payload
            for row in some
            for payload in (row.input, row.output, row.metadata, row.expected)
            if payload is not None
        ]
        # Each is JSON text: at a line's end nothing begins in one and ends in the next.
        if may_hold_credential(b"\n".join(texts)):
            redacted += map(redact_row, some)
        else:
            redacted += map(_redact_name, some)
    return redacted


def redact_row(row: SpanRow) -> SpanRow:
    """Return the row without credentials; the same one where it holds none."""
    changes = _changes(row, _PAYLOADS)
    return msgspec.structs.replace(row, **changes) if changes else row


def redact_patch(patch: SpanPatch) -> SpanPatch:
    """Return the changes without credentials; the same ones where they hold none."""
    changes = _changes(patch, _PAYLOADS[:3])
    return msgspec.structs.replace(patch, **changes) if changes else patch


def _redact_name(row: SpanRow) -> SpanRow:
    name = redact_key(row.name)
    return row if name == row.name else msgspec.structs.replace(row, name=name)


def _together(rows: Sequence[SpanRow]) -> Iterator[Sequence[SpanRow]]:
    begin = size = 0
    for end, row in enumerate(rows, 1):
        size += row.payload_bytes
        if size >= _LOOK_BYTES or end == len(rows):
            yield rows[begin:end]
            begin, size = end, 0


def _changes(of: SpanRow | SpanPatch, payloads: tuple[str, ...]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    name = of.name
    # By the function for keys, as names repeat like keys: it remembers short ones.
    if name is not None and (redacted := redact_key(name)) != name:
        changes["name"] = redacted
    for field in payloads:
        payload = getattr(of, field)
        if payload is not None:
            kept = redact_json(payload)
            if kept is not payload:
                changes[field] = kept
    return changes
