"""`everyspan.server.timestamps`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everyspan.server.timestamps import format_timestamp, parse_timestamp


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-01-02T03:04:05.123456+00:00", 1_767_323_045_123_456_000),
        ("2026-01-02T03:04:05.123456", 1_767_323_045_123_456_000),
        ("2026-01-02 03:04:05.1z", 1_767_323_045_100_000_000),
        ("2026-01-02T03:04:05.123456789Z", 1_767_323_045_123_456_789),
        ("2026-01-02T05:04:05+02:00", 1_767_323_045_000_000_000),
        ("2026-01-02T05:04:05+0200", 1_767_323_045_000_000_000),
        ("2026-01-02T01:04:05-02", 1_767_323_045_000_000_000),
        ("2026-01-02T03:04Z", 1_767_323_040_000_000_000),
        ("2262-04-11T23:47:16.854775807Z", 2**63 - 1),
    ],
)
def test_reads_iso_8601(text: str, ns: int) -> None:
    """`sgp` §3: Z, offsets, 0-9 fraction digits; naive means UTC."""
    assert parse_timestamp(text) == ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-01-02",
        "2026-13-02T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-01-02T24:00:00Z",
        "2026-01-02T00:60:00Z",
        "2026-01-02T00:00:60Z",
        "2026-01-02T00:00:00.1234567890Z",
        "2026-01-02T00:00:00.Z",
        "2026-01-02T00:00:00+24:00",
        "2026-01-02T00:00:00Z\n",
        " 2026-01-02T00:00:00Z",
        "２026-01-02T00:00:00Z",
        "1767323045",
        "1969-12-31T23:59:59Z",
        "2262-04-11T23:47:16.854775808Z",
        "9999-12-31T23:59:59Z",
        "0000-01-01T00:00:00Z",
    ],
)
def test_refuses_everything_else_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"^\w+ ") as error:
        parse_timestamp(text)
    assert not text or text not in str(error.value)


@given(st.integers(0, 2**63 - 1))
def test_what_it_writes_it_reads(ns: int) -> None:
    assert parse_timestamp(format_timestamp(ns)) == ns


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2262, 1, 1)),
    st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
def test_agrees_with_the_standard_library(moment: datetime, zone: timezone) -> None:
    aware = moment.replace(tzinfo=zone)
    micros = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert parse_timestamp(aware.isoformat()) == micros * 1000
