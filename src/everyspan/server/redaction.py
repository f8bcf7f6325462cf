"""Credentials are taken out before anything is stored (`sgp` §6, redaction), whoever sent it.

R1  Name, input, output, metadata and expected, by the patterns of `model.credentials`: those that
    our SDK masks by, since most senders mask nothing.
R2  Redacting what was redacted changes nothing; nor does anything else change: a payload without a
    credential is stored as it came, to the digit.
R3  Ids are left alone, since they tie spans together, and token counts, which only look alike.

The reply to a write shows the row as stored, so a sender sees what was taken out.
"""

from __future__ import annotations

from typing import Any

import msgspec

from everyspan.model.credentials import redact_json, redact_key
from everyspan.server.patch import SpanPatch
from everyspan.server.row import SpanRow

_PAYLOADS = ("input", "output", "metadata", "expected")


def redact_row(row: SpanRow) -> SpanRow:
    """Return the row without credentials; the same one where it holds none."""
    changes = _changes(row, _PAYLOADS)
    return msgspec.structs.replace(row, **changes) if changes else row


def redact_patch(patch: SpanPatch) -> SpanPatch:
    """Return the changes without credentials; the same ones where they hold none."""
    changes = _changes(patch, _PAYLOADS[:3])
    return msgspec.structs.replace(patch, **changes) if changes else patch


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
