"""Keyset pages of `/api`: how many, and an opaque cursor for where to go on."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, TypeVar

import msgspec

from everyspan.errors import RequestError
from everyspan.server.api_operation import Param

LIMIT = 100
LIMIT_MAX = 500
CURSOR_MAX = 8_000
"""More than the place of a span with the longest ids."""

LIMIT_PARAM = Param(
    name="limit",
    kind="integer",
    minimum=1,
    maximum=LIMIT_MAX,
    default=LIMIT,
    help="How many at most.",
)
AFTER_PARAM = Param(
    name="after", kind="cursor", length_max=CURSOR_MAX, help="`next` of the page before this one."
)

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""Integers in cursors: a cursor can be forged, and no store holds greater ones."""

_T = TypeVar("_T")


def parse_cursor(text: str | None, kind: type[_T], *, name: str = "after") -> _T | None:
    """Return the place that a cursor names, None where it is empty or not given.

    Raises:
        RequestError: 400; it is no cursor of such a page.
    """
    if not text:
        return None
    try:
        return msgspec.json.decode(
            base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=kind
        )
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError):
        raise RequestError(
            400, "INVALID_CURSOR", "is no cursor of this list", loc=("query", name)
        ) from None


def to_cursor(place: Any) -> str:
    """Return a place as a cursor."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).rstrip(b"=").decode()
