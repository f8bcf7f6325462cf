"""Reading any server of the SGP spans API: `sgp` §7, and every way in which it can go wrong."""

from __future__ import annotations

import gzip
import socket
from typing import Any

import pytest

from everyspan.cli.reader import ReaderError, SpanReader
from tests.cli.fakes import Asked, Reply, scripted_server


def read(url: str, *, key: str | None = None, account: str | None = None) -> list[dict[str, Any]]:
    with SpanReader(url, api_key=key, account_id=account) as reader:
        return list(reader.search({"trace_ids": ["t"]}))


def failure(url: str) -> str:
    with pytest.raises(ReaderError) as caught:
        read(url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def item(n: int) -> dict[str, Any]:
    return {"id": f"s{n}", "trace_id": "t"}


def test_pages_are_followed_by_the_id_of_the_last_item() -> None:
    """R1: as the original client does, the same body every time."""

    def answer(asked: Asked) -> Reply:
        after = int(asked.query.get("starting_after", "s0")[1:])
        items = [item(n) for n in range(after + 1, min(after + 3, 8))]
        return Reply({"items": items, "has_more": after + 3 <= 7})

    with scripted_server(answer) as server:
        assert [span["id"] for span in read(server.url)] == [f"s{n}" for n in range(1, 8)]
    assert [a.query.get("starting_after") for a in server.asked] == [None, "s2", "s4", "s6"]
    assert {a.path for a in server.asked} == {"/v5/spans/search"}
    assert all(a.body == {"trace_ids": ["t"]} for a in server.asked)


def test_without_has_more_an_empty_page_ends_it() -> None:
    """`sgp` §7 cursors: as the original client."""

    def answer(asked: Asked) -> Reply:
        return Reply({"items": [] if "starting_after" in asked.query else [item(1)]})

    with scripted_server(answer) as server:
        assert read(server.url) == [item(1)]


def test_a_page_too_large_is_asked_for_again_smaller() -> None:
    """`sgp` §7, byte budget: nothing is left out and nothing repeated."""

    def answer(asked: Asked) -> Reply:
        if int(asked.query["limit"]) > 100:
            return Reply({"code": "SEARCH_RESULT_TOO_LARGE"}, 400)
        return Reply({"items": [item(1)], "has_more": False})

    with scripted_server(answer) as server:
        assert read(server.url) == [item(1)]


def test_a_path_prefix_key_and_account_are_sent() -> None:
    """`sgp` §1: the prefix is kept; an unset key is not sent."""
    with scripted_server(lambda _: Reply({"items": [], "has_more": False})) as server:
        read(server.url + "/public/", key="k", account="acme")
        read(server.url)
    with_key, without = server.asked
    assert with_key.path == "/public/v5/spans/search"
    assert with_key.headers["x-api-key"] == "k"
    assert with_key.headers["x-selected-account-id"] == "acme"
    assert not {"x-api-key", "x-selected-account-id"} & without.headers.keys()


def test_a_server_that_repeats_its_page_is_left() -> None:
    """R2: a server that ignores cursors would be read for ever."""
    with scripted_server(lambda _: Reply({"items": [item(1)], "has_more": True})) as server:
        assert "same page again" in failure(server.url)
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(b"<html>hello</html>"), "something else than spans"),
        (Reply(b""), "something else than spans"),
        (Reply(b"[]"), "something else than spans"),
        (Reply(b"[" * 100_000), "something else than spans"),
        (Reply({"items": None}), "something else than spans"),
        (Reply({"items": [1]}), "something else than spans"),
        (Reply({"items": [{"id": 7}]}), "something else than spans"),
        (Reply(b"\xff\xfe"), "something else than spans"),
        (Reply(b"not gzip", headers={"content-encoding": "gzip"}), "broke off"),
        (Reply({"items": [], "has_more": False, "search_status": "partial"}), "only a part"),
        (Reply({"message": "who?\nyou"}, 401), r"refuses the key or account (401 who?\nyou)"),
        (Reply({"detail": "no"}, 403), "SGP_API_KEY"),
        (Reply(b"nope", 404), "is no server of the spans API: 404"),
        (Reply(b"", 301, {"location": "http://127.0.0.1:1/"}), "no server of the spans API: 301"),
        (Reply({"message": "store busy"}, 503), "answered 503 store busy"),
        (Reply({"detail": [{"loc": ["body"]}]}, 422), "answered 422"),
        (Reply({"code": "SEARCH_RESULT_TOO_LARGE"}, 400), "cannot send even one span"),
        (Reply({"message": "\x1b[2J" + "x" * 9999}, 500), r"answered 500 \x1b[2Jxxx"),
        (Reply(b"{", headers={"content-length": "999", "connection": "close"}), "broke off"),
    ],
)
def test_a_bad_reply_is_one_line(reply: Reply, words: str) -> None:
    """R3: no traceback, whatever it says."""
    with scripted_server(lambda _: reply) as server:
        said = failure(server.url)
    assert words in said
    assert len(said) < 400


def test_a_reply_without_an_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """R3: memory is bounded against a server that never stops, compressed or not."""
    monkeypatch.setattr("everyspan.cli.reader.REPLY_BYTES_MAX", 1 << 20)
    bomb = gzip.compress(b" " * (8 << 20))
    with scripted_server(lambda _: Reply(bomb, headers={"content-encoding": "gzip"})) as server:
        assert "more than 1 MiB" in failure(server.url)


def test_no_server_says_how_to_start_one() -> None:
    """Bad input: one line, and the command to type, with the port that was asked."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        said = failure(f"http://127.0.0.1:{port}")
    assert said == (
        f"no server at http://127.0.0.1:{port}: connection refused; "
        f"start one with: everyspan serve --port {port}"
    )


@pytest.mark.parametrize(
    "url", ["", "localhost:5003", "ftp://h", "http://", "http://h:x", "\x1b[31m", "//h"]
)
def test_what_is_no_url_is_told(url: str) -> None:
    """Bad input: names the value and what is allowed."""
    assert "is no URL of a server; http://127.0.0.1:5003 is one" in failure(url)


def test_a_password_in_the_url_is_not_shown() -> None:
    """P9: secrets stay home."""
    assert "hunter2" not in failure("http://me:hunter2@127.0.0.1:1")


def test_a_proxy_of_the_environment_does_not_hide_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R3: HTTP_PROXY without NO_PROXY is common in companies."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with scripted_server(lambda _: Reply({"items": [], "has_more": False})) as server:
        assert read(server.url) == []


def test_a_key_that_no_header_can_carry_is_told() -> None:
    """Bad input: names the variable, not the key."""
    with pytest.raises(ReaderError, match="SGP_API_KEY") as caught:
        read("http://127.0.0.1:1", key="schlüssel")
    assert "schl" not in str(caught.value)
