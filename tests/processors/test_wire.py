"""JSON text joined from frozen payloads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everyspan.model.freeze import freeze
from everyspan.processors.wire import to_object, to_text, with_members

NAMES = st.sampled_from(["a", "b", "__everyspan__", 'q"', "\\", ""]) | st.text(max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names come once."""
    assert len({name for name, _ in pairs}) == len(pairs), pairs
    return dict(pairs)


@given(payload=st.dictionaries(NAMES, JSON), members=st.dictionaries(NAMES, JSON, max_size=3))
def test_members_take_the_place_of_those_of_their_name(
    payload: dict[str, Any], members: dict[str, Any]
) -> None:
    """W1, W2: all others stay as they were, and no name comes twice."""
    added = {name: json.dumps(value).encode() for name, value in members.items()}
    joined = with_members(freeze(payload), added)
    assert json.loads(joined, object_pairs_hook=once) == {**payload, **members}


def test_a_payload_that_need_not_be_read_is_copied() -> None:
    """W1: byte by byte, whatever it holds."""
    frozen = b'{"a": not json }'
    assert with_members(frozen, {"b": b"1"}) == b'{"a": not json ,"b":1}'
    assert with_members(frozen, {}) is frozen


def test_a_payload_too_deep_to_be_read_keeps_its_member_and_gets_ours_last() -> None:
    """P5: readers take the last of two."""
    deep = b'{"x":1,"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert with_members(deep, {"x": b"2"}) == deep[:-1] + b',"x":2}'


@pytest.mark.parametrize(
    ("frozen", "expected"),
    [
        (None, {}),
        (b"{}", {}),
        (b'{"a":1}', {"a": 1}),
        (b"[1]", {"items": [1]}),
        (b'"x"', {"key": "x"}),
        (b"null", {"key": None}),
        (b' {"a":1}', {"key": {"a": 1}}),
    ],
)
def test_a_payload_becomes_an_object(frozen: bytes | None, expected: dict[str, Any]) -> None:
    """D18."""
    assert json.loads(to_object(frozen, "key")) == expected


@given(st.text() | st.text(st.characters(categories=["Cs"]), min_size=1) | st.integers())
def test_any_text_is_valid_json(value: Any) -> None:
    """W2."""
    assert isinstance(json.loads(to_text(value).decode("utf-8")), str)
