"""Every way a request can end, and which error of ours that is; the error's class decides the rest.

One table, published as docs/failures.md, and what OTLP has otherwise (`otlp:B4`). What a particular
backend says in a body is its processor's to read, beyond one thing: a page for people is no
acknowledgement.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from everyspan.errors import (
    BatchRefusedError,
    BatchTooLargeError,
    DestinationRefusedError,
    ExportError,
    PermanentExportError,
    RetryableExportError,
)
from everyspan.transport.reply import Reply, retry_after_s, server_time_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row.

    Attributes:
        text: What happened, for people.
        error: None where the batch is stored.
        statuses: Of an answer; empty where none came.
        reason: In the books; an answer's is its status, `http 503`.
        congested: Whether it tells that too much was sent at once.
    """

    text: str
    error: type[ExportError] | None
    statuses: tuple[int, ...] = ()
    reason: str = ""
    congested: bool = False


STORED = Outcome("stored", None, tuple(range(200, 300)))
FOREIGN_PAGE = Outcome(
    "a page of HTML instead of the API's answer, a proxy's for example",
    DestinationRefusedError,
    reason="not the backend",
)
UNRESOLVED = Outcome("the host's name is not known", RetryableExportError, reason="cannot resolve")
UNCONNECTED = Outcome("no connection", RetryableExportError, reason="cannot connect")
UNTRUSTED = Outcome("TLS failed: a certificate, a version", RetryableExportError, reason="tls")
TIMED_OUT = Outcome(
    "no whole answer in time: none, or a trickle",
    RetryableExportError,
    reason="timeout",
    congested=True,
)
BROKEN = Outcome(
    "the connection broke, the answer was cut short, or it was no HTTP",
    RetryableExportError,
    reason="connection broke",
)
UNACKNOWLEDGED = Outcome(
    "2xx whose body names some spans and not this one",
    RetryableExportError,
    reason="not acknowledged",
)

PARTLY_REFUSED = Outcome(
    "200 that tells of refused spans: so many of the batch, the last ones, are counted, since "
    "nobody says which",
    PermanentExportError,
    reason="refused: what the endpoint says",
)
"""Of OTLP (`partial_success`)."""

_FAILED = Outcome("the backend failed", RetryableExportError, tuple(range(500, 600)))

OUTCOMES: tuple[Outcome, ...] = (
    STORED,
    UNACKNOWLEDGED,
    FOREIGN_PAGE,
    Outcome("a redirect", DestinationRefusedError, tuple(range(300, 400))),
    Outcome("some span is refused", BatchRefusedError, (400, 409, 422)),
    Outcome("the key is refused", DestinationRefusedError, (401, 403, 407)),
    Outcome("too much at once", RetryableExportError, (408, 425, 429), congested=True),
    Outcome("the body is too large", BatchTooLargeError, (413,)),
    Outcome(
        "no such path or method, and the like", DestinationRefusedError, tuple(range(400, 500))
    ),
    Outcome("overloaded, or restarting", RetryableExportError, (502, 503, 504), congested=True),
    Outcome("the backend cannot do this", DestinationRefusedError, (501, 505)),
    _FAILED,
    UNRESOLVED,
    UNCONNECTED,
    UNTRUSTED,
    TIMED_OUT,
    BROKEN,
)
"""In order: of several rows with a status the first holds."""

_OTLP_INSTEAD = {
    UNACKNOWLEDGED: PARTLY_REFUSED,
    _FAILED: Outcome("the endpoint failed", PermanentExportError, _FAILED.statuses),
}

OTLP_OUTCOMES = tuple([_OTLP_INSTEAD.get(row, row) for row in OUTCOMES])
"""The same for OTLP endpoints, where all but a few failures are final."""


def _by_status(rows: tuple[Outcome, ...]) -> dict[int, Outcome]:
    return {status: row for row in reversed(rows) for status in row.statuses}


_BY_STATUS = _by_status(OUTCOMES)
_OTLP_BY_STATUS = _by_status(OTLP_OUTCOMES)


def to_error(reply: Reply, *, is_otlp: bool = False) -> ExportError | None:
    """Return what went wrong, None where the answer says that all is stored.

    `x-should-retry` overrides the table for what it says of a failure (`sgp:E1`, `X3`).
    """
    row = (_OTLP_BY_STATUS if is_otlp else _BY_STATUS).get(reply.status, BROKEN)
    if row is STORED and _is_page(reply):
        row = FOREIGN_PAGE
    if row.error is None:
        return None
    status = reply.status
    reason = row.reason or f"http {status}"
    message = f"the backend answered {status}" if row is not FOREIGN_PAGE else row.text
    again = reply.headers.get("x-should-retry")
    kind = row.error
    if again == "true":
        kind = RetryableExportError
    elif again == "false" and kind is RetryableExportError:
        kind = PermanentExportError
    if kind is RetryableExportError:
        return RetryableExportError(
            message,
            reason=reason,
            status=status,
            retry_after_s=retry_after_s(
                reply.headers.get("retry-after"), now_s=server_time_s(reply) or time.time()
            ),
            congested=row.congested,
        )
    return kind(message, reason=reason, status=status)


def _is_page(reply: Reply) -> bool:
    kind = reply.headers.get("content-type", "")
    if kind.startswith("application/x-protobuf"):
        # Whose first bytes may read as a line break and the beginning of a tag.
        return False
    return kind.startswith("text/html") or reply.body[:64].lstrip()[:1] == b"<"
