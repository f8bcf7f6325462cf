"""Typed decoding of JSON bodies, with the path of what is wrong (`sgp:E4`).

Error texts never repeat what was sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

from everyspan.server.problem import Detail, InvalidRequestError

Loc = tuple[str | int, ...]
_T = TypeVar("_T")


def decode_json(decode: Callable[[bytes], _T], body: bytes) -> _T:
    """Return what `decode` makes of the body.

    Raises:
        InvalidRequestError: 422, naming the field; 400 where it is no JSON.
    """
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(422, [to_detail(error, ("body",))]) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise malformed(error) from None


_PATH = re.compile(r" - at `\$(.*)`$")
_STEP = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(\w+)`")


def to_detail(error: msgspec.ValidationError, loc: Loc) -> Detail:
    """Turn msgspec's text into path and message."""
    text = str(error)
    path = _PATH.search(text)
    if path is not None:
        text = text[: path.start()]
        steps = _STEP.findall(path.group(1))
        loc = (*loc, *(name if name else int(index) for name, index in steps))
    missing = _MISSING.match(text)
    if missing is not None:
        return Detail((*loc, missing.group(1)), "is required", "missing")
    unknown = _UNKNOWN.match(text)
    if unknown is not None:
        return Detail((*loc, unknown.group(1)[:64]), "unknown field", "unknown")
    if text.startswith("Invalid enum value"):
        text = "not one of the allowed values"  # Its text repeats what was sent (C3).
    return Detail(loc, text.replace("`", ""), "type")


def malformed(error: Exception) -> InvalidRequestError:
    """Return the refusal of a body that is not JSON, or not such as can be read."""
    if isinstance(error, RecursionError):
        return InvalidRequestError(400, [Detail(("body",), "nests too deep", "too_deep")])
    return InvalidRequestError(
        400, [Detail(("body",), str(error), "json_invalid")], code="INVALID_JSON"
    )
