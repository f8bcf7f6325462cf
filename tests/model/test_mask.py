"""What is taken out of a frozen span before it leaves the process (P9)."""

from __future__ import annotations

import asyncio
import json
import threading
import tracemalloc
from typing import Any

import msgspec
import pytest

from everyspan.errors import SettingsError
from everyspan.model.credentials import REDACTED
from everyspan.model.freeze import freeze
from everyspan.model.mask import REDACTED_FIELD, Masker
from everyspan.model.record import SpanRecord
from everyspan.model.span import SpanStatus
from tests.records import make_record

CANARY = "c4n4ry"


def fail(error: BaseException) -> None:
    """Where no mask may raise."""
    raise error


def masked(mask: Any, **fields: Any) -> SpanRecord:
    """A record with these payloads, after the mask."""
    raised: list[BaseException] = []
    record = make_record("a", **{k: v for k, v in fields.items() if k in ("name", "type")})
    for field in ("input", "output", "data"):
        setattr(record, field, freeze(fields[field]) if field in fields else None)
    record.error = fields.get("error")
    Masker(mask, failed=raised.append).apply([record])
    return record


def shown(value: Any) -> Any:
    """What the patterns of credentials make of a payload."""
    record = masked(True, input=value)
    assert record.input is not None
    return json.loads(record.input)


@pytest.mark.parametrize(
    "key",
    [
        *(
            "password",
            "PASSWORD",
            "db_password",
            "passwd",
            "secret",
            "api_key",
            "API-Key",
            "apikey",
        ),
        *("access_key", "secretKey", "access_token", "refresh-token", "authToken", "id_token"),
        *("private_key", "client_secret", "Authorization", "cookie", "Set-Cookie", "credential"),
        *("credentials", "connection_string", "x-api-key"),
    ],
)
@pytest.mark.parametrize("value", [CANARY, 1234, 12.5, {"a": CANARY}, [CANARY]])
def test_the_value_of_a_key_named_like_a_credential_goes(key: str, value: Any) -> None:
    """P9, `sgp` §6: any JSON type but null and bool."""
    assert shown({"kept": 1, "deep": [{key: value}]}) == {"kept": 1, "deep": [{key: REDACTED}]}


@pytest.mark.parametrize(
    "plain",
    [
        {
            "input_tokens": 5,
            "max_tokens": 3,
            "cached_tokens": 1,
            "token_type": "bearer",
            "token": 7,
        },
        {"password": None, "secret": True},
        {"text": "my secret is safe with the cookie monster: bearer of news"},
        {"url": "https://user@host/path", "other": "mailto:a@b.c", "sk": "sk-short"},
        {"usage": {"input_tokens": 1}, "big": 123456789012345678901234567890, "password": None},
        ["secrets", "passwords", 1, None, "\u202e", "\\u0000 is no escape"],
    ],
)
def test_what_only_looks_alike_survives(plain: Any) -> None:
    """P9, `sgp` §6: token counts above all."""
    assert shown(plain) == plain


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Authorization: Bearer abcdef.123456", f"Authorization: Bearer {REDACTED}"),
        ("BEARER abcdefgh12345678 and more", f"BEARER {REDACTED} and more"),
        ("jwt eyJhbGciOi.eyJzdWIiOi.c2ln-_ x", f"jwt {REDACTED} x"),
        ("sk-abcdefghijklmnopqrstuv", REDACTED),
        ("sk-proj-abcdefghijklmnopqrstuv", REDACTED),
        ("key=sk-ant-abc123", f"key={REDACTED}"),
        ("ghp_abc123 gho_1 github_pat_11AA_bb", f"{REDACTED} {REDACTED} {REDACTED}"),
        ("xoxb-123-abc", REDACTED),
        ("AKIAIOSFODNN7EXAMPLE", REDACTED),
        ("AIzaSyA-abc_123", REDACTED),
        ("hf_abcDEF", REDACTED),
        ("postgres://bob:hunter2@db:5432/x", f"postgres://bob:{REDACTED}@db:5432/x"),
        ("redis://:pa:ss@db", f"redis://:{REDACTED}@db"),
    ],
)
@pytest.mark.parametrize("field", ["name", "input", "output", "data", "type"])
def test_text_shaped_like_a_credential_goes_wherever_it_stands(
    field: str, text: str, left: str
) -> None:
    """P9, `sgp` §6: name, payloads, and an unknown type, which travels as text."""
    value = text if field in ("name", "type") else {"messages": [{"content": text}]}
    record = masked(True, **{field: value})
    seen = getattr(record, field)
    if field in ("name", "type"):
        assert seen == left
    else:
        assert json.loads(seen) == {"messages": [{"content": left}]}


def test_json_within_text_is_masked_by_its_keys() -> None:
    """The arguments of a tool call travel as text."""
    arguments = json.dumps({"user": "bob", "api_key": 'a"b\\c', "n": 1})
    assert shown({"arguments": arguments}) == {
        "arguments": f'{{"user": "bob", "api_key": "{REDACTED}", "n": 1}}'
    }


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("value", [CANARY, f'{CANARY}"\\', 4711, 4711.5, "", "it's \\"])
def test_json_within_json_within_text_is_masked_by_its_keys(levels: int, value: Any) -> None:
    """P9: a body within the arguments of a tool call, escaped once more at each level."""
    text: Any = {"user": "bob", "api_key": value, "n": 1}
    expected: Any = text | {"api_key": REDACTED}
    for _ in range(levels):
        text, expected = {"x": json.dumps(text)}, {"x": json.dumps(expected)}
    assert shown(text) == expected
    assert shown(expected) == expected


def test_a_literal_of_python_within_text_is_masked_by_its_keys() -> None:
    """P9: what `str` makes of an agent's own settings."""
    text = str({"user": "bob's", "api_key": f'{CANARY}"', "password": f"{CANARY}'", "n": 1})
    assert shown(text) == (
        f"""{{'user': "bob's", 'api_key': '{REDACTED}', 'password': '{REDACTED}', 'n': 1}}"""
    )


def test_a_text_that_was_cut_within_a_credential_tells_nothing_of_it() -> None:
    """P9: the limit of a payload cuts before the mask looks, and takes the closing quote away."""
    arguments = json.dumps({"user": "bob", "api_key": CANARY * 200})
    record = make_record("a")
    record.input = freeze({"arguments": arguments}, bytes_max=512)
    assert b"characters cut" in record.input
    Masker(True, failed=fail).apply([record])
    assert CANARY not in str(record.input)
    assert json.loads(record.input)["arguments"].startswith('{"user": "bob", "api_key": "[RED')


@pytest.mark.parametrize("end", ["", '@"'])
@pytest.mark.parametrize(
    "piece",
    [
        *("a", "://", '"', "-sk-", "sk-", "bearer ", "eyJ", "eyJa.", "xoxb-", "gh_", "://:"),
        *("\\", "'", '"a":"', "'a':\"", '\\"a\\":\\"', '"password":\\', '"a":1', '"a":"\\'),
    ],
)
def test_hostile_text_costs_time_by_its_length_alone(piece: str, end: str) -> None:
    """P5: by the square of its length it would take minutes."""
    masked(True, input=":@_-AKIA" + piece * ((1 << 19) // len(piece)) + end)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, MemoryError]
)
def test_whatever_a_mask_raises_on_a_thread_of_ours_redacts(error: type[BaseException]) -> None:
    """M2: nobody presses Ctrl-C there."""
    raised: list[BaseException] = []
    record = make_record("a", input=CANARY)

    def mask(path: Any, value: Any) -> Any:
        raise error

    thread = threading.Thread(target=Masker(mask, failed=raised.append).apply, args=[[record]])
    thread.start()
    thread.join()
    assert record.is_masked
    assert record.input == json.dumps(REDACTED_FIELD).encode()
    assert {type(caught) for caught in raised} == {error}


@pytest.mark.parametrize("key", ["x" * 300 + "_api_key", "-".join("connectionstring")])
def test_a_long_key_is_looked_at_from_its_end(key: str) -> None:
    """P9: whatever stands before."""
    assert shown({key: CANARY}) == {key: REDACTED}


def test_long_keys_are_not_kept() -> None:
    """P4: a mapping from documents to their scores, again and again."""
    size = 1 << 16
    tracemalloc.start()
    try:
        for number in range(200):
            masked(True, input={"x" * size + str(number): 1})
        assert tracemalloc.get_traced_memory()[0] < 20 * size
    finally:
        tracemalloc.stop()


def test_a_key_that_is_a_credential_goes_too() -> None:
    """P9: a mapping from keys to their owners."""
    assert shown({"sk-abcdefghijklmnopqrstuv": "bob", "x": 1}) == {REDACTED: "bob", "x": 1}


def test_escaped_text_is_seen_through() -> None:
    r"""P9: raw JSON from the agent may say `\u0073k-` and `:\/\/`."""
    raw = msgspec.Raw(
        rb'{"a":"\u0073k-abcdefghijklmnopqrstuv","b":"x:\/\/u:pw@h","p\u0061ssword":1}'
    )
    assert shown(raw) == {"a": REDACTED, "b": f"x://u:{REDACTED}@h", "password": REDACTED}


def test_masking_again_changes_nothing() -> None:
    """P9, `sgp` §6: idempotent on what was masked, ours or the server's."""
    once = shown({"password": "x", "t": "Bearer abcdefgh sk-abcdefghijklmnopqrstuv a://u:p@h"})
    assert shown(once) == once


def test_text_without_a_credential_is_not_rewritten() -> None:
    """M3: the frozen bytes themselves stay."""
    text = freeze({"messages": [{"role": "user", "content": "Rome?"}]})
    record = make_record("a")
    record.input = text
    Masker(True, failed=fail).apply([record])
    assert record.input is text


def test_the_error_is_masked_even_where_data_was_cut() -> None:
    """M1: the wire carries the message apart from `data`."""
    record = masked(True, error=("ValueError", f"bad key sk-{CANARY * 5}", "unknown"))
    assert record.error == ("ValueError", f"bad key {REDACTED}", "unknown")


def test_a_function_is_asked_outermost_first_with_the_place() -> None:
    """M1: what comes back itself is gone through; any other answer is final."""
    seen: list[tuple[Any, Any]] = []

    def mask(path: tuple[str | int, ...], value: Any) -> Any:
        seen.append((path, value))
        return {"replaced": CANARY} if path[-1] == "user" else value

    record = masked(mask, name="n", input={"user": {"mail": "x"}, "list": [1, None]})
    assert json.loads(record.input or b"") == {"user": {"replaced": CANARY}, "list": [1, None]}
    assert [path for path, _ in seen] == [
        ("name",),
        ("input",),
        ("input", "user"),
        ("input", "list"),
        ("input", "list", 0),
        ("input", "list", 1),
    ]


@pytest.mark.parametrize(
    "error", [ValueError(CANARY), SystemExit(CANARY), RecursionError(), GeneratorExit()]
)
def test_what_a_mask_raises_redacts_that_field_alone(error: BaseException) -> None:
    """M2."""
    told: list[BaseException] = []

    def mask(path: tuple[str | int, ...], value: Any) -> Any:
        if path[0] in ("output", "name"):
            raise error
        return value

    record = make_record("a", name=CANARY)
    record.input, record.output = freeze({"a": 1}), freeze({"b": CANARY})
    Masker(mask, failed=told.append).apply([record])
    assert (record.name, json.loads(record.output)) == (REDACTED_FIELD, REDACTED_FIELD)
    assert json.loads(record.input) == {"a": 1}
    assert told == [error, error]


def test_a_field_too_deep_to_be_read_is_redacted() -> None:
    """M2: unreadable is not unseen."""
    deep = b"[" * 100_000 + f'"sk-{CANARY * 5}"'.encode() + b"]" * 100_000
    told: list[BaseException] = []
    record = make_record("a")
    record.input = deep
    Masker(True, failed=told.append).apply([record])
    assert json.loads(record.input) == REDACTED_FIELD
    assert [type(error) for error in told] == [RecursionError]


@pytest.mark.parametrize(
    "answer", [object(), {1: 2}, float("nan"), "\ud800", b"bytes", ValueError(CANARY)]
)
def test_any_answer_of_a_mask_becomes_valid_json(answer: Any) -> None:
    """M2."""
    record = masked(lambda path, value: answer, input={"a": CANARY})
    json.loads(record.input or b"")
    assert type(record.name) is str


def test_a_record_is_masked_once() -> None:
    """M1: destinations share it, and a retry comes again."""
    calls: list[Any] = []

    def mask(path: tuple[str | int, ...], value: Any) -> Any:
        calls.append(path)
        return value

    masker = Masker(mask, failed=fail)
    record = make_record("a")
    masker.apply([record])
    asked = len(calls)
    masker.apply([record, record])
    assert (len(calls), asked > 0) == (asked, True)


@pytest.mark.parametrize(
    "mask", [1, "yes", [], {}, lambda value: value, lambda path, value, more: value, str.upper]
)
def test_a_mask_that_is_none_is_named(mask: Any) -> None:
    """Bad input names the field and the fix."""
    with pytest.raises(SettingsError, match="mask must be True or a function"):
        Masker(mask, failed=fail)


def test_ids_and_times_stay() -> None:
    """M1: they tie spans together."""
    record = make_record("sk-abcdefghijklmnopqrstuv")
    before = (record.id, record.trace_id, record.parent_id, record.start_ns, record.end_ns)
    Masker(lambda path, value: "x", failed=fail).apply([record])
    assert (record.id, record.trace_id, record.parent_id, record.start_ns, record.end_ns) == before
    assert record.status == SpanStatus.SUCCESS
