"""What a backend answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer; `body` is as much of it as is kept, header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def server_time_s(reply: Reply) -> float | None:
    """Return the Unix time of the answer by its sender's clock, None where it does not say.

    A `Retry-After` that is a date is meant by that clock; ours may be minutes off.
    """
    return _unix_time_s(reply.headers.get("date", ""))


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
        until_s = _unix_time_s(text)
        if until_s is None:
            return None
        seconds = until_s - now_s
    # NaN and infinity compare false here.
    return max(0.0, seconds) if seconds < 10**9 else None


def _unix_time_s(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None
