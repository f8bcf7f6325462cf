"""`everyspan.cli.server_diagnosis`: what a server's answers mean, and how to mend it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from email.utils import formatdate

import pytest

from everyspan.cli.diagnosis import Check, Destination, State, Visit
from everyspan.cli.server_diagnosis import ServerSeen, check_server
from everyspan.transport.reply import Reply

KEY = "esk_0123456789ab_secret-of-the-key"


def reply(status: int = 200, body: object = None, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named = {"x-everyspan": "1.0", "x-request-id": "id", **named}
    encoded = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return Reply(status, named, encoded)


def metrics(**figures: float) -> Reply:
    figures = {"up": 1, "spans": 5, "bytes": 9e6, "free_bytes": 9e12, **figures}
    return reply(body="".join(f"everyspan_store_{name} {figures[name]}\n" for name in figures))


def seen(url: str = "http://127.0.0.1:5003") -> ServerSeen:
    """A server that is well, and asks for a key that we have."""
    destination = Destination(
        "everyspan", url, account="a", key=KEY, key_env="EVERYSPAN_API_KEY", address_env="--server"
    )
    health = Visit(destination, time.time(), 0.001, reply(date=formatdate(usegmt=True)))
    return ServerSeen(
        destination,
        health,
        "id",
        ready=reply(),
        session=reply(body={"keys_required": True, "accounts": ["a"], "scopes": ["read", "write"]}),
        metrics=metrics(),
        otlp=reply(),
    )


def checks(look: ServerSeen) -> list[Check]:
    found = list(check_server(look, version="1.0"))
    assert all(check.mend for check in found if check.state == State.FINDING)
    assert "secret" not in repr([(check.said, check.mend) for check in found])
    return found


def finding(look: ServerSeen) -> str:
    (found,) = [check for check in checks(look) if check.state == State.FINDING]
    return f"{found.about}: {found.said}; {found.mend}"


def test_a_server_that_is_well_has_no_finding() -> None:
    assert {check.state for check in checks(seen())} == {State.OK}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ready": reply(503, {"status": "the disk is full"})}, ["disk", "free space"]),
        ({"ready": reply(503, {"status": "stopping"})}, ["not ready: stopping", "wait"]),
        ({"ready": None}, ["/readyz"]),
        ({"session": reply(401)}, ["refuses key …-key", "keys create"]),
        ({"session": reply(403, {"code": "ACCOUNT_REFUSED"})}, ["account a", "EVERYSPAN_ACCOUNT"]),
        ({"metrics": metrics(up=0)}, ["store: it fails"]),
        ({"metrics": metrics(free_bytes=1e8)}, ["95.4 MiB left", "free space"]),
    ],
)
def test_what_is_wrong_is_said_with_its_mend(change: dict[str, Reply], words: list[str]) -> None:
    said = finding(replace(seen(), **change))  # type: ignore[arg-type]
    for word in words:
        assert word in said


def test_a_name_that_is_not_allowed_is_the_one_thing_to_mend() -> None:
    look = seen("http://traces.example:5003")
    refused = replace(look.health, reply=reply(403, {"code": "HOST_NOT_ALLOWED"}))
    assert "--allow-host traces.example" in finding(replace(look, health=refused))


def test_a_key_over_plain_http_is_a_finding() -> None:
    assert "in clear" in finding(seen("http://traces.example:5003"))
    assert {check.state for check in checks(seen("https://traces.example"))} == {State.OK}


@pytest.mark.parametrize(
    ("change", "state", "words"),
    [
        ({"session": reply(body={"keys_required": False})}, State.NOTE, "asks for none"),
        ({"session": reply(403, {"code": "SCOPE_REFUSED"})}, State.OK, "may only write"),
        ({"session": reply(404)}, State.NOTE, "404"),
        (
            {"session": reply(body={"keys_required": True, "accounts": ["*"], "scopes": ["read"]})},
            State.NOTE,
            "every account, to read: agents need one that may write",
        ),
        (
            {"metrics": metrics(unindexed_spans=10_000, unsummarized_spans=9_999)},
            State.NOTE,
            "texts to search are 10,000 spans or more behind",
        ),
        ({"metrics": reply(403)}, State.NOTE, "figures take a key"),
        ({"otlp": None}, State.NOTE, "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:5003"),
        ({"otlp": Reply(404, {}, b"")}, State.NOTE, "something else has it"),
    ],
)
def test_what_is_worth_knowing_is_no_finding(
    change: dict[str, Reply], state: State, words: str
) -> None:
    found = checks(replace(seen(), **change))  # type: ignore[arg-type]
    assert [check.state for check in found if words in check.said] == [state]
    assert not [check for check in found if check.state == State.FINDING]


def test_what_stands_in_between_is_told() -> None:
    look = seen()
    behind = reply(via="1.1 proxy\x1b[31m", x_request_id="another")
    look = replace(look, health=replace(look.health, reply=behind))
    assert "x-request-id differs" in finding(look)
    assert "1.1 proxy\\x1b[31m" in repr([check.said for check in checks(look)]).replace(
        "\\\\", "\\"
    )


def test_something_else_than_a_server_is_asked_nothing_more() -> None:
    look = seen()
    other = replace(look, health=replace(look.health, reply=Reply(200, {}, b"<html>")))
    assert [check.state for check in checks(other)] == [State.FINDING]
