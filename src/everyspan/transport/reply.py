"""What a backend answered, and which error of ours that is.

Only the status and `Retry-After` decide here; what a particular backend says in its body is its
processor's to read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from everyspan.errors import (
    BatchRefusedError,
    BatchTooLargeError,
    ExportError,
    PermanentExportError,
    RetryableExportError,
)

_CONGESTED = frozenset({408, 429, 502, 503, 504})
_NEVER_AGAIN = frozenset({501, 505})


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer; `body` is its first 64 KiB, header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def to_error(reply: Reply) -> ExportError | None:
    """Return what went wrong, None for a 2xx (DESIGN: backoff lives in one layer; `sgp:X3`)."""
    status = reply.status
    if 200 <= status < 300:
        return None
    reason = f"http {status}"
    message = f"the backend answered {status}"
    again = reply.headers.get("x-should-retry")
    if again == "false" and (status >= 500 or status in _CONGESTED):
        return PermanentExportError(message, reason=reason, status=status)
    if (
        again == "true"
        or status in (401, 403, 408, 429)
        or (status >= 500 and status not in _NEVER_AGAIN)
    ):
        return RetryableExportError(
            message,
            reason=reason,
            status=status,
            retry_after_s=retry_after_s(reply.headers.get("retry-after"), now_s=time.time()),
            congested=status in _CONGESTED,
        )
    if status == 413:
        return BatchTooLargeError(message, reason=reason, status=status)
    if status in (400, 409, 422):
        return BatchRefusedError(message, reason=reason, status=status)
    return PermanentExportError(message, reason=reason, status=status)


def retry_after_s(text: str | None, *, now_s: float) -> float | None:
    """Return the seconds that a `Retry-After` value asks for, None if it says nothing usable.

    Args:
        now_s: Unix time; a date in the past means 0.
    """
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now_s
        except (ValueError, OverflowError, TypeError):
            return None
    # NaN and infinity compare false here.
    return max(0.0, seconds) if seconds < 10**9 else None
