"""The rules that fields of a span keep, whichever API they come over (decisions/013).

Everything that needs no store is checked before anything is written (`sgp:E5`). A field that breaks
a rule is noted, and reading goes on, so that a sender learns of all at once.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from everyspan.server import json_text
from everyspan.server.json_body import Loc
from everyspan.server.problem import Detail, InvalidRequestError
from everyspan.server.row import EMPTY_ARRAY, EMPTY_OBJECT
from everyspan.server.timestamps import parse_timestamp

ID_MAX = 256
TRACE_ID_MAX = 4_096
"""Chosen: "any text" must still fit an index."""
ERRORS_MAX = 100


class _Anything(msgspec.Struct, gc=False):
    pass


_decode_objects = msgspec.json.Decoder(list[_Anything]).decode


class Checks:
    """Reads fields, and gathers what is wrong with them.

    What a method returns for a field that breaks a rule is of the right shape and means nothing:
    `finish` raises.

    Args:
        marker: What stands for text that may not be kept, from `mark_unsafe`.
        has_long_number: Whether the body holds one; then each payload is looked through.
    """

    def __init__(self, marker: str | None, *, has_long_number: bool) -> None:
        self._marker = marker
        self._has_long_number = has_long_number
        self._errors: list[Detail] = []
        self._status = 0

    def finish(self) -> None:
        """Return if no rule was broken.

        Raises:
            InvalidRequestError: 422, or 400 where only encodings and bytes were wrong.
        """
        if self._errors:
            raise InvalidRequestError(self._status, self._errors[:ERRORS_MAX])

    def add(self, detail: Detail, *, status: int = 422) -> None:
        """Note that a rule is broken."""
        # 422 wins where an item breaks rules of both kinds.
        self._status = max(self._status, status)
        self._errors.append(detail)

    def say(self, loc: Loc, field: str, message: str, kind: str) -> None:
        """Note that a field breaks a rule."""
        self.add(Detail((*loc, field), message, kind))

    def timestamp(self, text: str | None, loc: Loc, field: str) -> int | None:
        """Return Unix nanoseconds."""
        if text is None:
            return None
        try:
            return parse_timestamp(text)
        except ValueError as error:
            self.say(loc, field, f"{field} is {error}", "timestamp")
            return None

    def payload(self, raw: Raw, loc: Loc, field: str, *, arrays: bool = False) -> bytes | None:
        """Return JSON text fit to be stored, None where it is absent or null.

        Args:
            arrays: An array of objects will do too.
        """
        text = bytes(raw)
        if not text or text == b"null":
            return None
        opening = text[:1]
        if opening != b"{" and not (arrays and opening == b"["):
            wanted = "an object or an array of objects" if arrays else "an object"
            self.say(loc, field, f"{field} is not {wanted}", "object_type")
            return None
        if len(text) < 64 and not text[1:-1].strip():
            return EMPTY_OBJECT if opening == b"{" else EMPTY_ARRAY
        if json_text.is_too_deep(text):
            self.say(loc, field, f"{field} nests deeper than {json_text.DEPTH_MAX}", "too_deep")
        elif self._has_long_number and json_text.has_long_number(text):
            self.say(
                loc,
                field,
                f"{field} has a number of over {json_text.DIGITS_MAX} digits",
                "too_long",
            )
        elif opening == b"[":
            try:
                _decode_objects(text)
            except msgspec.ValidationError:
                self.say(loc, field, f"{field} is not an array of objects", "object_type")
        return text if self._marker is None else json_text.replace_marker(text, self._marker)

    def text(self, text: str) -> str:
        """Return text fit to be stored."""
        return text if self._marker is None else text.replace(self._marker, json_text.REPLACEMENT)

    def optional(self, text: str | None) -> str | None:
        """Return text fit to be stored, None where there is none."""
        return None if text is None else self.text(text)

    def identity(self, text: str | None, loc: Loc, field: str, length_max: int) -> str | None:
        """Return text that names something: neither empty nor too long, and no byte replaced."""
        if text is None:
            return None
        if not text:
            self.say(loc, field, f"{field} is empty", "too_short")
        elif len(text) > length_max:
            self.say(loc, field, f"{field} has more than {length_max} characters", "too_long")
        elif not text.isascii() and len(text.encode()) > length_max:
            detail = Detail((*loc, field), f"{field} has more than {length_max} bytes", "too_long")
            self.add(detail, status=400)
        if self._marker is not None and self._marker in text:
            detail = Detail((*loc, field), f"{field} holds NUL or invalid UTF-8", "encoding")
            self.add(detail, status=400)
        return text

    def hex(self, text: str | None, loc: Loc, field: str, length: int) -> str | None:
        """Return that many lowercase hex digits."""
        if text is not None and not is_hex(text, length):
            self.say(loc, field, f"{field} is not {length} lowercase hex digits", "hex")
        return text


def is_hex(text: str, length: int) -> bool:
    """Whether `text` is that many lowercase hex digits."""
    return len(text) == length and not set(text) - set("0123456789abcdef")
