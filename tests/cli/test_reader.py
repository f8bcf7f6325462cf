"""Reading any server of the SGP spans API: `sgp` §7, and every way in which it can go wrong."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import pytest

from everyspan.cli.connection import ReaderError
from everyspan.cli.reader import SpanReader
from everyspan.testing import FaultServer, faults
from everyspan.testing.exchange import Request
from everyspan.testing.faults import Answer


def read(url: str, *, key: str | None = None, account: str | None = None) -> list[dict[str, Any]]:
    with SpanReader(url, api_key=key, account_id=account) as reader:
        return list(reader.search({"trace_ids": ["t"]}))


def failure(url: str) -> str:
    with pytest.raises(ReaderError) as caught:
        read(url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def reply(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Answer with this, as JSON if it is not bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return faults.status(status, body=content, headers=headers)


def query(request: Request) -> dict[str, str]:
    """The parameters of a search."""
    return dict(parse_qsl(request.query))


def item(n: int) -> dict[str, Any]:
    return {"id": f"s{n}", "trace_id": "t"}


def test_pages_are_followed_by_the_id_of_the_last_item() -> None:
    """R1: as the original client does, the same body every time."""

    def answer(request: Request) -> Answer:
        after = int(query(request).get("starting_after", "s0")[1:])
        items = [item(n) for n in range(after + 1, min(after + 3, 8))]
        return reply({"items": items, "has_more": after + 3 <= 7})

    with FaultServer(answer) as server:
        assert [span["id"] for span in read(server.base_url)] == [f"s{n}" for n in range(1, 8)]
    assert [query(a).get("starting_after") for a in server.requests] == [None, "s2", "s4", "s6"]
    assert {a.path for a in server.requests} == {"/v5/spans/search"}
    assert all(a.json == {"trace_ids": ["t"]} for a in server.requests)


def test_without_has_more_an_empty_page_ends_it() -> None:
    """`sgp` §7 cursors: as the original client."""

    def answer(request: Request) -> Answer:
        return reply({"items": [] if "starting_after" in query(request) else [item(1)]})

    with FaultServer(answer) as server:
        assert read(server.base_url) == [item(1)]


def test_a_page_too_large_is_asked_for_again_smaller() -> None:
    """`sgp` §7, byte budget: nothing is left out and nothing repeated."""

    def answer(request: Request) -> Answer:
        if int(query(request)["limit"]) > 100:
            return reply({"code": "SEARCH_RESULT_TOO_LARGE"}, 400)
        return reply({"items": [item(1)], "has_more": False})

    with FaultServer(answer) as server:
        assert read(server.base_url) == [item(1)]


def test_a_path_prefix_key_and_account_are_sent() -> None:
    """`sgp` §1: the prefix is kept; an unset key is not sent."""
    with FaultServer(reply({"items": [], "has_more": False})) as server:
        read(server.base_url + "/public/", key="k", account="acme")
        read(server.base_url)
    with_key, without = server.requests
    assert with_key.path == "/public/v5/spans/search"
    assert with_key.headers["x-api-key"] == "k"
    assert with_key.headers["x-selected-account-id"] == "acme"
    assert not {"x-api-key", "x-selected-account-id"} & without.headers.keys()


def test_a_server_that_repeats_its_page_is_left() -> None:
    """R2: a server that ignores cursors would be read for ever."""
    with FaultServer(reply({"items": [item(1)], "has_more": True})) as server:
        assert "same page again" in failure(server.base_url)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (reply(b"<html>hello</html>"), "something else than spans"),
        (reply(b""), "something else than spans"),
        (reply(b"[]"), "something else than spans"),
        (reply(b"[" * 100_000), "something else than spans"),
        (reply({"items": None}), "something else than spans"),
        (reply({"items": [1]}), "something else than spans"),
        (reply({"items": [{"id": 7}]}), "something else than spans"),
        (reply(b"\xff\xfe"), "something else than spans"),
        (reply(b"not gzip", headers={"content-encoding": "gzip"}), "broke off"),
        (reply({"items": [], "has_more": False, "search_status": "partial"}), "only a part"),
        (reply({"message": "who?\nyou"}, 401), r"refuses the key or account (401 who?\nyou)"),
        (reply({"detail": "no"}, 403), "SGP_API_KEY"),
        (reply(b"nope", 404), "is no server of the spans API: 404"),
        (reply(b"", 301, {"location": "http://127.0.0.1:1/"}), "no server of the spans API: 301"),
        (reply({"message": "store busy"}, 503), "answered 503 store busy"),
        (reply({"detail": [{"loc": ["body"]}]}, 422), "answered 422"),
        (reply({"code": "SEARCH_RESULT_TOO_LARGE"}, 400), "cannot send even one span"),
        (reply({"message": "\x1b[2J" + "x" * 9999}, 500), r"answered 500 \x1b[2Jxxx"),
        (reply(b"{", headers={"content-length": "999", "connection": "close"}), "broke off"),
    ],
)
def test_a_bad_reply_is_one_line(answer: Answer, words: str) -> None:
    """R3: no traceback, whatever it says."""
    with FaultServer(answer) as server:
        said = failure(server.base_url)
    assert words in said
    assert len(said) < 400


def test_a_reply_without_an_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """R3: memory is bounded against a server that never stops, compressed or not."""
    monkeypatch.setattr("everyspan.cli.connection.REPLY_BYTES_MAX", 1 << 20)
    bomb = gzip.compress(b" " * (8 << 20))
    with FaultServer(reply(bomb, headers={"content-encoding": "gzip"})) as server:
        assert "more than 1 MiB" in failure(server.base_url)


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
    with FaultServer(reply({"items": [], "has_more": False})) as server:
        assert read(server.base_url) == []


def test_a_key_that_no_header_can_carry_is_told() -> None:
    """Bad input: names the variable, not the key."""
    with pytest.raises(ReaderError, match="SGP_API_KEY") as caught:
        read("http://127.0.0.1:1", key="schlüssel")
    assert "schl" not in str(caught.value)
