"""What a backend's answer means."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everyspan.transport.reply import Reply, retry_after_s, server_time_s

NOW_S = 1_760_000_000.0


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


def test_a_date_is_meant_by_the_senders_clock() -> None:
    """A machine whose clock is minutes off waits as long as it was asked to."""
    reply = Reply(503, {"date": formatdate(NOW_S + 3600, usegmt=True)}, b"")
    asked = formatdate(NOW_S + 3610, usegmt=True)
    assert retry_after_s(asked, now_s=server_time_s(reply) or 0) == 10.0
    assert server_time_s(Reply(503, {}, b"")) is None
    assert server_time_s(Reply(503, {"date": "garbage"}, b"")) is None
