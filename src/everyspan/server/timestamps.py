"""ISO-8601 text to integer Unix nanoseconds and back (`sgp` §3).

Naive text means UTC; 0 to 9 fraction digits; what a 64-bit count of nanoseconds since 1970 cannot
hold is refused, so that durations and sort keys never leave 64 bits either.
"""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache

NS = 1_000_000_000
_DAY_S = 86_400
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_NS_MAX = 2**63 - 1
_PATTERN = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?"
    r"(?:[Zz]|([+-])(\d\d)(?::?(\d\d))?)?",
    re.ASCII,
)


def parse_timestamp(text: str) -> int:
    """Return Unix nanoseconds, 0 to 2**63 - 1.

    Raises:
        ValueError: Not such a timestamp; the text says what is wrong and never repeats the input.
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError("not an ISO-8601 timestamp")
    day, hour, minute, second, fraction, sign, offset_hour, offset_minute = match.groups()
    h, m, s = int(hour), int(minute), int(second or 0)
    if h > 23 or m > 59 or s > 59:
        raise ValueError("not a time of day")
    seconds = _day_s(day) + h * 3600 + m * 60 + s
    if sign is not None:
        oh, om = int(offset_hour), int(offset_minute or 0)
        if oh > 23 or om > 59:
            raise ValueError("not an offset from UTC")
        offset = oh * 3600 + om * 60
        seconds += offset if sign == "-" else -offset
    ns = seconds * NS + (int(fraction.ljust(9, "0")) if fraction else 0)
    if not 0 <= ns <= _NS_MAX:
        raise ValueError("outside 1970-01-01 to 2262-04-11")
    return ns


def format_timestamp(ns: int) -> str:
    """Return UTC text ending in `Z`, with as many fraction digits as `ns` needs: 0, 6 or 9."""
    seconds, rest = divmod(ns, NS)
    days, second = divmod(seconds, _DAY_S)
    minute, second = divmod(second, 60)
    hour, minute = divmod(minute, 60)
    if rest == 0:
        return f"{_day_text(days)}T{hour:02}:{minute:02}:{second:02}Z"
    micros, nanos = divmod(rest, 1000)
    fraction = f"{rest:09}" if nanos else f"{micros:06}"
    return f"{_day_text(days)}T{hour:02}:{minute:02}:{second:02}.{fraction}Z"


@lru_cache(maxsize=256)
def _day_s(text: str) -> int:
    return (date.fromisoformat(text).toordinal() - _EPOCH_ORDINAL) * _DAY_S


@lru_cache(maxsize=256)
def _day_text(days: int) -> str:
    return date.fromordinal(_EPOCH_ORDINAL + days).isoformat()
