"""What a backend's answer means."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everyspan.errors import (
    BatchRefusedError,
    BatchTooLargeError,
    ExportError,
    PermanentExportError,
    RetryableExportError,
)
from everyspan.transport.reply import Reply, retry_after_s, to_error

NOW_S = 1_760_000_000.0


def error_of(status: int, **headers: str) -> ExportError | None:
    """What a reply with this status means; underscores in header names are hyphens."""
    return to_error(
        Reply(status, {name.replace("_", "-"): text for name, text in headers.items()}, b"")
    )


@pytest.mark.parametrize(
    ("statuses", "kind", "congested"),
    [
        ((408, 429, 502, 503, 504), RetryableExportError, True),
        ((401, 403, 500, 507, 511, 599), RetryableExportError, False),
        ((413,), BatchTooLargeError, None),
        ((400, 409, 422), BatchRefusedError, None),
        ((301, 307, 404, 405, 410, 415, 501, 505), PermanentExportError, None),
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


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_success_is_no_error(status: int) -> None:
    """Any 2xx."""
    assert error_of(status) is None


def test_the_server_may_say_whether_to_try_again() -> None:
    """`x-should-retry` overrides (`sgp:E1`); a 4xx it calls final keeps its own meaning."""
    assert type(error_of(503, x_should_retry="false")) is PermanentExportError
    assert type(error_of(429, x_should_retry="false")) is PermanentExportError
    assert type(error_of(409, x_should_retry="false")) is BatchRefusedError
    assert type(error_of(501, x_should_retry="true")) is RetryableExportError
    assert type(error_of(404, x_should_retry="true")) is RetryableExportError
    assert error_of(200, x_should_retry="true") is None


def test_the_wait_that_was_asked_for_is_carried() -> None:
    """Retry-After reaches the backoff."""
    error = error_of(503, retry_after="7")
    assert isinstance(error, RetryableExportError)
    assert error.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("12", 12.0),
        ("1.5", 1.5),
        (" 3 ", 3.0),
        ("-5", 0.0),
        ("86400", 86400.0),
        ("", None),
        ("soon", None),
        ("inf", None),
        ("-inf", 0.0),
        ("nan", None),
        ("1e308", None),
        ("9" * 400, None),
        ("12, 12", None),
        (formatdate(NOW_S + 90, usegmt=True), 90.0),
        (formatdate(NOW_S - 90, usegmt=True), 0.0),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", None),
        ("Mon, 99 Foo 2026 99:99:99 GMT", None),
        ("\ud800", None),
    ],
)
def test_what_retry_after_asks_for(text: str | None, seconds: float | None) -> None:
    """Seconds or a date; past means now, nonsense means nothing."""
    assert retry_after_s(text, now_s=NOW_S) == pytest.approx(seconds)


@given(text=st.text(max_size=40) | st.integers().map(str) | st.floats().map(str))
def test_no_retry_after_does_harm(text: str) -> None:
    """P4: whatever a backend sends is a finite wait or none."""
    seconds = retry_after_s(text, now_s=NOW_S)
    assert seconds is None or 0 <= seconds < 10**9
