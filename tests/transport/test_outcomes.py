"""What the ways a request can end mean; the whole path of each is in tests/test_failures.py."""

from __future__ import annotations

import pytest

from everyspan.errors import (
    BatchRefusedError,
    BatchTooLargeError,
    DestinationRefusedError,
    ExportError,
    PermanentExportError,
    RetryableExportError,
)
from everyspan.transport.outcomes import OUTCOMES, to_error
from everyspan.transport.reply import Reply


def error_of(status: int, body: bytes = b"{}", **headers: str) -> ExportError | None:
    """What a reply with this status means; underscores in header names are hyphens."""
    names = {name.replace("_", "-"): text for name, text in headers.items()}
    return to_error(Reply(status, names, body))


@pytest.mark.parametrize(
    ("statuses", "kind", "congested"),
    [
        ((408, 425, 429, 502, 503, 504), RetryableExportError, True),
        ((500, 507, 511, 599), RetryableExportError, False),
        ((413,), BatchTooLargeError, None),
        ((400, 409, 422), BatchRefusedError, None),
        ((301, 307, 401, 403, 404, 405, 407, 410, 415, 501, 505), DestinationRefusedError, None),
    ],
)
def test_the_status_decides(
    statuses: tuple[int, ...], kind: type[ExportError], congested: bool | None
) -> None:
    """`sgp:X1`, `X3` and the design's table."""
    for status in statuses:
        error = error_of(status)
        assert type(error) is kind, status
        assert (error.status, error.reason) == (status, f"http {status}")
        if isinstance(error, RetryableExportError):
            assert error.congested is congested
            assert error.retry_after_s is None


@pytest.mark.parametrize("status", range(100, 1000))
def test_every_status_means_something(status: int) -> None:
    """P1: none falls through to success."""
    assert (error_of(status) is None) == (200 <= status < 300)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_success_is_no_error(status: int) -> None:
    """Any 2xx."""
    assert error_of(status) is None
    assert error_of(status, b"") is None


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"<!doctype html><title>Log in</title>", {"content_type": "text/html; charset=utf-8"}),
        (b"", {"content_type": "text/html"}),
        (b"\n  <html>", {}),
    ],
)
def test_a_page_for_people_is_no_acknowledgement(body: bytes, headers: dict[str, str]) -> None:
    """P8, from our side: a proxy's 200 says nothing of our spans."""
    error = error_of(200, body, **headers)
    assert type(error) is DestinationRefusedError
    assert error.reason == "not the backend"


def test_the_server_may_say_whether_to_try_again() -> None:
    """`x-should-retry` overrides (`sgp:E1`); what is no retry keeps its own meaning."""
    assert type(error_of(503, x_should_retry="false")) is PermanentExportError
    assert type(error_of(429, x_should_retry="false")) is PermanentExportError
    assert type(error_of(409, x_should_retry="false")) is BatchRefusedError
    assert type(error_of(401, x_should_retry="false")) is DestinationRefusedError
    assert type(error_of(501, x_should_retry="true")) is RetryableExportError
    assert type(error_of(404, x_should_retry="true")) is RetryableExportError
    assert error_of(200, x_should_retry="true") is None


def test_the_wait_that_was_asked_for_is_carried() -> None:
    """Retry-After reaches the backoff."""
    error = error_of(503, retry_after="7")
    assert isinstance(error, RetryableExportError)
    assert error.retry_after_s == 7.0


def test_every_row_can_be_met() -> None:
    """The published table holds no row that an earlier one hides."""
    seen: set[int] = set()
    for row in OUTCOMES:
        assert not row.statuses or set(row.statuses) - seen, row.text
        assert row.text
        assert row.statuses or row.reason
        seen |= set(row.statuses)
