"""Keyset pages of `/api`: how many, and an opaque cursor for where to go on."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from everyspan.errors import RequestError

LIMIT = 100
LIMIT_MAX = 500

_T = TypeVar("_T")


def read_limit(params: Mapping[str, str]) -> int:
    """Return `limit`, LIMIT where it is not given.

    Raises:
        RequestError: 422; it is no number from 1 to LIMIT_MAX.
    """
    text = params.get("limit", str(LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= LIMIT_MAX):
        raise RequestError(
            422, "INVALID_LIMIT", f"must be a number from 1 to {LIMIT_MAX}", loc=("query", "limit")
        )
    return int(text)


def read_cursor(params: Mapping[str, str], kind: type[_T]) -> _T | None:
    """Return the place that `after` names, None where it is not given.

    Raises:
        RequestError: 400; it is no cursor of such a page.
    """
    text = params.get("after")
    if not text:
        return None
    try:
        return msgspec.json.decode(
            base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=kind
        )
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError):
        raise RequestError(
            400, "INVALID_CURSOR", "is no cursor of this list", loc=("query", "after")
        ) from None


def to_cursor(place: object) -> str:
    """Return a place as a cursor."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).rstrip(b"=").decode()
