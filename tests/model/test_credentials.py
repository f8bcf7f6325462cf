"""Credentials in JSON text: the look that decides first, and what is left as it was written."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import example, given

from everyspan.model import credentials
from everyspan.model.credentials import (
    NOTHING_FOUND,
    REDACTED,
    may_hold_credential,
    redact,
    redact_json,
)

SECRETS = [
    *("Bearer abcdefgh12345678", "sk-abcdefghijklmnopqrstuv", "sk-ant-x", "xoxb-1", "ghp_a1"),
    *("\x01sk-ant-x", "\nsk-ant-x", "\x1bsk-ant-x", "\u2014sk-ant-x", '"sk-ant-x'),
    *("github_pat_1", "hf_x", "AKIAX", "AIzax", "eyJa.b.c", "a://u:p@h", '"password": "x"'),
    *("{'api_key': 'x'}", '\\"secret\\": \\"x\\"', '"p-w_passwd" :1', "'cookie'\u2028: 'x'"),
    *('"id_token"\n\t:"x"', '\\\\\\"secret\\\\\\":1', '"authorization"\x1f: "Basic x"'),
]
KEYS = [
    *("password", "PASS-WORD_", "api_key", "Set-Cookie", "pa\u017f\u017fword", "pa\xdfword"),
    *("api\u212aey", "credential\u017f", "tokens", "token", "max_tokens", "function", "n"),
    *("description", "tool_calls", "task-1", "x_connection-string", "secre\\t", "secret\n"),
]
pieces = st.sampled_from([*SECRETS, *KEYS, *"\"'\\:@-_ {}[],\n", "://", "bear", "er ", "eyJ", "é"])
texts = st.lists(st.one_of(pieces, st.text(max_size=3)), max_size=6).map("".join)
values = st.recursive(
    st.one_of(texts, st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), texts), inner, max_size=4),
    ),
    max_leaves=12,
)


def writings(value: Any) -> list[bytes]:
    """The same JSON as several senders write it."""
    plain = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    return [
        plain,
        json.dumps(value).encode().replace(rb"\ud", rb"\u0"),  # No lone surrogates.
        json.dumps(value, ensure_ascii=False, indent=1, separators=(" , ", "\t: ")).encode(
            "utf-8", "replace"
        ),
        plain.replace(b"s", rb"\u0073").replace(b"/", rb"\/").replace(b"E", rb"\u0045"),
    ]


def is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return True


@given(values)
@example({"password": "x"})
@example({"a": {"b": ["Bearer abcdefgh12345678"]}})
@example({"a": "AKIAXsk-abcdefghijklmnopqrstuv"})
@example([{"x": json.dumps({"y": json.dumps({"api_key": "z"})})}])
def test_nothing_that_the_patterns_find_is_passed_by(value: Any) -> None:
    """P9, `sgp` §6: however it is escaped and spaced, text comes out as decoded values do."""
    for text in filter(is_json, writings(value)):
        expected = redact(msgspec.json.decode(text))
        redacted = redact_json(text)
        if expected is NOTHING_FOUND:
            assert redacted is text or redacted == text
        else:
            assert may_hold_credential(text)
            assert msgspec.json.decode(redacted) == expected
        assert redact_json(redacted) == redacted


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("levels", range(4))
def test_every_kind_is_found_in_text_within_text(secret: str, levels: int) -> None:
    """P9: the samples above are credentials, so the property holds of something."""
    value: Any = {"t": secret}
    for _ in range(levels):
        value = {"x": json.dumps(value)}
    for text in writings(value):
        assert redact(msgspec.json.decode(text)) is not NOTHING_FOUND or levels
        assert (redact_json(text) == text) == (redact(msgspec.json.decode(text)) is NOTHING_FOUND)


def test_what_is_no_credential_is_left_as_it_is_written() -> None:
    """Numbers that Python cannot hold, repeated keys and spaces stay, beside what goes."""
    kept = (
        rb'{ "big": 1152921504606846977, "exp":1e400, "zero" : -0, "n":0.10000000000000000000055,'
        rb' "\u0065\/": "\u00e9\/", "twice":1, "twice":2, "secret": null, "password":true, "p": %b}'
    )
    before = (
        kept % rb'[{"api_key" : -1.5e3 , "cookie":{"a":["]"]}}, "sk-ant-x", {"p\u0061sswd":"x\""}]'
    )
    after = kept % (
        rb'[{"api_key" : "[REDACTED:credential]" , "cookie":"[REDACTED:credential]"},'
        rb' "[REDACTED:credential]", {"p\u0061sswd":"[REDACTED:credential]"}]'
    )
    assert redact_json(before) == after
    assert redact_json(after) == after
    assert redact_json(kept % b"1") == kept % b"1"


def test_a_key_that_is_a_credential_goes_and_its_value_stays() -> None:
    """P9."""
    text = b'{"sk-abcdefghijklmnopqrstuv":{"owner":"bob"}, "ghp_a password":1}'
    assert redact_json(text) == (
        b'{"%b":{"owner":"bob"}, "%b password":"%b"}' % ((REDACTED.encode(),) * 3)
    )


@pytest.mark.parametrize(
    "text",
    [
        b'{"task":"ask-user task-1 risk-free flask-app"}',
        b'{"usage":{"input_tokens":3,"max_tokens":1,"token":"x"},"token_type":"b"}',
        b'{"arguments":"{\\"description\\": \\"x\\", \\"function\\": 1, \\"key\\": \\"k\\"}"}',
        '{"straße":"größer als 12:30","naïve_tokens":1}'.encode(),
        b'{"url":"https://host/path","mail":"a@b.c"}'.replace(b"@", b" at "),
        b'{"__everyspan__":{"p":"0b1f7a1e-7c2f-4f51-9d3a-000000000000","n":7,"rev":1}}',
    ],
)
def test_usual_payloads_pass_at_the_first_look(text: bytes) -> None:
    """The look is only worth its time where it mostly says no."""
    assert not may_hold_credential(text)


@pytest.mark.parametrize(
    "piece", ["-", "_", ":", "@:", '"', "J", "K", '\\":', '"a":', "bearer ", "eyJ"]
)
def test_hostile_text_costs_time_by_its_length_alone(piece: str) -> None:
    """P5: by the square of its length it would take minutes."""
    text = json.dumps({"a": piece * ((1 << 18) // len(piece)), "password": "x"}).encode()
    assert redact_json(text).endswith(b'"password": "%b"}' % REDACTED.encode())


def test_the_characters_that_fold_into_ascii_are_all_known() -> None:
    """A key may be written with them; only texts that have one are folded."""
    folding = {
        char.encode()
        for char in map(chr, (*range(0x80, 0xD800), *range(0xE000, 0x110000)))
        if any(part.isascii() for part in char.casefold())
    }
    assert folding == {char for chars in credentials._FOLDING.values() for char in chars}
    assert redact_json('{"paſſword":"x","ẞ":1}'.encode()) == (
        '{"paſſword":"[REDACTED:credential]","ẞ":1}'.encode()
    )
