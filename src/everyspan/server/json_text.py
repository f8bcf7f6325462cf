"""Makes JSON text of strangers safe to keep and to hand out again.

What is stored is spliced unparsed into later replies, so one bad value would spoil every page it
is on. Hence:

J1  Text is valid UTF-8. What was not, lone surrogates and NUL stand marked after `mark_unsafe`,
    so that identities holding them can be refused and others get U+FFFD (`sgp` §6, bytes).
J2  Nesting is at most DEPTH_MAX: common parsers give up near 1,000.
J3  No number has more than DIGITS_MAX digits in a row: Python's parser refuses those.
"""

from __future__ import annotations

import re
from itertools import accumulate

DEPTH_MAX = 256
DIGITS_MAX = 4_000
REPLACEMENT = "\ufffd"

_ESCAPE = re.compile(
    rb"\\(?:[uU](?:[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|[0-9a-fA-F]{4})|.)",
    re.DOTALL,
)
_UNSAFE_ESCAPE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2})")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_DIGITS = re.compile(rb"[0-9]*")
_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % (DIGITS_MAX + 1))
_NOT_STRUCTURE = bytes(byte for byte in range(256) if byte not in b'{}[]"\\')
_STEPS = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")
"""Brackets as signed bytes: one level in, one level out."""
_MARKERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


def mark_unsafe(body: bytes) -> tuple[bytes, str | None]:
    """Return the body as valid UTF-8 without NUL or lone surrogates (J1).

    Returns:
        The body, and the character that now stands for each that may not be kept: one that the
        body does not hold otherwise. None where nothing had to be replaced.
    """
    try:
        if not body.isascii():
            body.decode()
        if _UNSAFE_ESCAPE.search(body) is None:
            return body, None
    except UnicodeDecodeError:
        # Invalid bytes become escapes of lone surrogates, which are dealt with below.
        body = body.decode("utf-8", "surrogateescape").encode("utf-8", "backslashreplace")

    marker = _unused_marker(body)
    escaped = b"\\u%04x" % ord(marker)
    replaced = False

    def replace(match: re.Match[bytes]) -> bytes:
        nonlocal replaced
        escape = match.group()
        if len(escape) == 6 and _UNSAFE_ESCAPE.fullmatch(escape):
            replaced = True
            return escaped
        return escape

    body = _ESCAPE.sub(replace, body)
    return body, marker if replaced else None


def replace_marker(text: bytes, marker: str) -> bytes:
    """Return JSON text with U+FFFD in every place that `mark_unsafe` marked."""
    return text.replace(b"\\u%04x" % ord(marker), REPLACEMENT.encode())


def is_too_deep(text: bytes, depth_max: int = DEPTH_MAX) -> bool:
    """Whether valid JSON text nests deeper than that (J2)."""
    if text.count(b"{") + text.count(b"[") <= depth_max:
        return False
    structure = _STRING.sub(b"", text.translate(None, _NOT_STRUCTURE)).translate(_STEPS)
    return max(accumulate(memoryview(structure).cast("b"))) > depth_max


def has_long_number(text: bytes) -> bool:
    """Whether valid JSON text holds a number too long to parse (J3)."""
    # So long a run of digits covers a multiple of DIGITS_MAX, so only those places are looked at.
    for place in range(0, len(text), DIGITS_MAX):
        if not 48 <= text[place] <= 57:
            continue
        match = _DIGITS.match(text, place)
        assert match is not None
        before = text[max(0, place - DIGITS_MAX) : place]
        run = match.end() - place + len(before) - len(before.rstrip(b"0123456789"))
        if run > DIGITS_MAX:
            # Perhaps inside a string, where it is harmless.
            return _LONG_NUMBER.search(_STRING.sub(b"", text)) is not None
    return False


def _unused_marker(body: bytes) -> str:
    lowered = body.lower()
    for marker in _MARKERS:
        if marker.encode() not in body and b"u%04x" % ord(marker) not in lowered:
            return marker
    # Thirty-two characters that Unicode sets aside for private use inside programs, all in one
    # body: made to confuse us. The last one then also stands for itself.
    return _MARKERS[-1]
