"""`everyspan.server.json_text`."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everyspan.server.json_text import (
    DEPTH_MAX,
    DIGITS_MAX,
    has_long_number,
    is_too_deep,
    mark_unsafe,
    replace_marker,
)


def cleaned(body: bytes) -> Any:
    text, marker = mark_unsafe(body)
    return json.loads(text if marker is None else replace_marker(text, marker))


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (rb'"a\u0000b"', "a\ufffdb"),
        (rb'"\ud800"', "\ufffd"),
        (rb'"\udc00\ud800"', "\ufffd\ufffd"),
        (rb'"\ud83d\ude00"', "😀"),
        (rb'"\uD83D\uDE00\uD83D"', "😀\ufffd"),
        (rb'"\\u0000"', r"\u0000"),
        (rb'"\\\u0000"', "\\\ufffd"),
        (b'"\xff"', "\ufffd"),
        (b'"\xed\xa0\x80"', "\ufffd\ufffd\ufffd"),
        ('"\ufdd0 \\ufdd1 \\u0000"'.encode(), "\ufdd0 \ufdd1 \ufffd"),
        ('"é"'.encode(), "é"),
    ],
)
def test_what_may_not_be_kept_becomes_the_replacement_character(body: bytes, value: str) -> None:
    """J1, `sgp` §6 bytes."""
    assert cleaned(body) == value


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_what_may_be_kept_is_untouched(text: str) -> None:
    """J1."""
    for body in (json.dumps(text).encode(), json.dumps(text, ensure_ascii=False).encode()):
        assert mark_unsafe(body) == (body, None)


@given(st.text(st.characters(categories=["Cs", "L", "Cc"])))
def test_whatever_comes_ends_as_text_that_can_be_encoded(text: str) -> None:
    """J1: surrogates and control characters in any mixture."""
    safe, marker = mark_unsafe(json.dumps(text).encode())
    decoded = msgspec.json.decode(safe, type=str)
    assert "\0" not in decoded
    decoded.encode()
    paired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if marker is None:
        assert decoded == paired


@given(st.binary())
def test_any_bytes_come_back_as_utf_8(body: bytes) -> None:
    """J1."""
    mark_unsafe(b'"' + body + b'"')[0].decode()


@pytest.mark.parametrize("pair", [("[", "]"), ('{"a":', "}"), ('[{"]":', "}]")])
def test_nesting_is_measured_exactly(pair: tuple[str, str]) -> None:
    """J2; brackets inside strings do not count."""
    levels = pair[0].count("[") + pair[0].count("{")
    noise = '"[[{\\"[{"'

    def nested(depth: int) -> bytes:
        n = depth // levels
        return f"[{noise},{pair[0] * n}{noise}{pair[1] * n},[],{{}}]".encode()

    assert not is_too_deep(nested(DEPTH_MAX - 2))
    assert is_too_deep(nested(DEPTH_MAX + 2))
    assert not is_too_deep(b"[" + b"[],{}," * 1_000 + b"1]")


@given(st.integers(0, 2 * DIGITS_MAX), st.integers(1, DIGITS_MAX + 200))
def test_a_long_number_is_seen_wherever_it_lies(before: int, digits: int) -> None:
    """J3."""
    body = b'{"' + b"x" * before + b'":[' + b"7" * digits + b"]}"
    assert has_long_number(body) == (digits > DIGITS_MAX)


def test_long_digits_in_text_are_harmless() -> None:
    assert not has_long_number(b'{"pi":"' + b"3" * 3 * DIGITS_MAX + b'","a\\"":1}')
