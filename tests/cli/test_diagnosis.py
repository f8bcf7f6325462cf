"""What facts mean, and that every finding says how to mend it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest

from everyspan.cli.diagnosis import (
    Check,
    Destination,
    State,
    Visit,
    check_account,
    check_environment,
    check_libraries,
    check_proxy,
    check_visit,
    shown_key,
    shown_value,
)
from everyspan.config import resolve_environment, resolve_settings
from everyspan.errors import RetryableExportError
from everyspan.transport.reply import Reply

KEY = "sk-live-0123456789abcdef"
NOW_S = 1_800_000_000.0

OURS = Destination("everyspan", "http://127.0.0.1:5003", None, None, "", "EVERYSPAN_ENDPOINT")
SGP = Destination("sgp", "https://spans.test", "acme", KEY, "SGP_API_KEY", "SGP_CLIENT_BASE_URL")
AGENTEX = Destination(
    "agentex", "http://agents.test", None, KEY, "AGENT_API_KEY", "AGENTEX_BASE_URL"
)
OTLP = Destination(
    "otlp",
    "http://traces.test/v1/traces",
    None,
    f"x-api-key={KEY}",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)
FOUND_NOTHING = b'{"items":[],"has_more":false}'


def visited(
    destination: Destination, status: int = 200, body: bytes = b"{}", **headers: str
) -> list[Check]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    visit = Visit(destination, NOW_S, 0.25, Reply(status, names, body))
    return [*check_visit(visit, version="1.2.3")]


def missed(destination: Destination, error: BaseException) -> Check:
    outer = RetryableExportError("m", reason="cannot connect")
    outer.__cause__ = error
    (check,) = check_visit(Visit(destination, NOW_S, 0.25, error=outer), version="1.2.3")
    return check


# -- keys and values


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (KEY, "key …cdef"),
        ("short-key", "a key"),
        ("1234", "a key"),
        ("", "no key"),
        (None, "no key"),
        ("0123456789ab\x1b[2J", "key …\\x1b[2J"),
    ],
)
def test_a_key_is_hardly_shown(key: str | None, shown: str) -> None:
    """G2: four characters, of a long key."""
    assert shown_key(key) == shown


def test_values_are_shown_without_secrets() -> None:
    """G2."""
    environ = {
        "SGP_API_KEY": KEY,
        "AGENTEX_CUSTOM_HEADERS": "authorization: x",
        "AGENT_NAME": "a\x1b",
        "EVERYSPAN_DISABLED": "1",
    }
    shown = {found.row.env: shown_value(found) for found in resolve_environment(environ)}
    assert shown["SGP_API_KEY"] == "key …cdef"
    assert "authorization" not in str(shown)
    assert shown["AGENT_NAME"] == "a\\x1b"
    assert (shown["EVERYSPAN_DISABLED"], shown["OTEL_SDK_DISABLED"]) == ("on", "off")
    numbers = {
        found.row.env: shown_value(found)
        for found in resolve_settings({"AGENTEX_SPAN_QUEUE_LINGER_MS": "2.5"})
    }
    assert numbers["AGENTEX_SPAN_QUEUE_LINGER_MS"] == "2.5"
    assert numbers["AGENTEX_SPAN_QUEUE_MAX_RETRIES"] is None


# -- the environment


def test_an_environment_that_is_right_has_no_checks() -> None:
    assert [*check_environment([*resolve_settings({}), *resolve_environment({})])] == []


@pytest.mark.parametrize(
    ("environ", "about", "said"),
    [
        ({"EVERYSPAN_BATCH_BYTES": "much"}, "EVERYSPAN_BATCH_BYTES", "must be a whole number"),
        ({"EVERYSPAN_DISABLED": "maybe"}, "EVERYSPAN_DISABLED", "must be one of 1, true"),
        ({"EVERYSPAN_ENDPOINT": "nowhere"}, "EVERYSPAN_ENDPOINT", "must start with http"),
        ({"EVERYSPAN_DISABLED": "yes"}, "EVERYSPAN_DISABLED", "switches recording off"),
        ({"DISABLE_SCALE_TRACING": ""}, "DISABLE_SCALE_TRACING", "switches recording off"),
    ],
)
def test_what_is_wrong_with_the_environment_is_found(
    environ: dict[str, str], about: str, said: str
) -> None:
    """trace:V3, trace §2."""
    resolved = [*resolve_settings(environ), *resolve_environment(environ)]
    (check,) = check_environment(resolved)
    assert (check.about, check.state) == (about, State.FINDING)
    assert check.said.startswith(said)


@pytest.mark.parametrize(
    ("key", "account", "about"),
    [
        (KEY, None, "SGP_API_KEY"),
        (None, "acme", "SGP_ACCOUNT_ID"),
        (KEY, "acme", None),
        (None, None, None),
    ],
)
def test_half_of_the_credentials_are_found(
    key: str | None, account: str | None, about: str | None
) -> None:
    checks = [*check_account({"sgp_api_key": key, "sgp_account_id": account})]
    assert [check.about for check in checks] == ([about] if about else [])


# -- destinations that answer


@pytest.mark.parametrize(
    ("destination", "headers", "body", "said"),
    [
        (OURS, {"x_everyspan": "1.2.3"}, b"{}", "answers in 250ms: everyspan 1.2.3"),
        (
            SGP,
            {},
            FOUND_NOTHING,
            "answers in 250ms: sgp spans API, takes key …cdef for account acme",
        ),
        (
            SGP,
            {"x_everyspan": "9"},
            FOUND_NOTHING,
            "answers in 250ms: everyspan 9, takes key …cdef for account acme",
        ),
        (AGENTEX, {}, b"[]", "answers in 250ms: agentex spans API, takes key …cdef"),
        (OTLP, {}, b"", "answers in 250ms: an OTLP endpoint, takes key …cdef"),
        (OTLP, {"x_everyspan": "9"}, b"{}", "answers in 250ms: everyspan 9, takes key …cdef"),
    ],
)
def test_a_destination_that_takes_the_key_is_well(
    destination: Destination, headers: dict[str, str], body: bytes, said: str
) -> None:
    assert visited(destination, 200, body, **headers) == [
        Check(destination.url, State.OK, said, None)
    ]


def test_a_server_of_another_version_is_noted() -> None:
    (check,) = visited(OURS, x_everyspan="2.0.0")
    assert check.state == State.NOTE
    assert check.said.endswith("everyspan 2.0.0, this is 1.2.3")


@pytest.mark.parametrize(
    ("destination", "status", "body", "headers", "said", "mend"),
    [
        (OURS, 200, b"", {}, "something else than an everyspan server", "EVERYSPAN_ENDPOINT"),
        (OURS, 404, b"", {"x_everyspan": "1.2.3"}, "nothing of it under this path", "without a"),
        (OURS, 503, b"", {"x_everyspan": "1.2.3"}, "the server is failing", "what it logs"),
        (SGP, 401, b"", {}, "refuses key …cdef for account acme (401)", "SGP_API_KEY"),
        (SGP, 403, b"", {}, "does not let key …cdef for account acme in", "SGP_ACCOUNT_ID"),
        (SGP, 404, b"", {}, "no spans API there (404)", "SGP_CLIENT_BASE_URL"),
        (SGP, 302, b"", {}, "no spans API there (302)", "SGP_CLIENT_BASE_URL"),
        (SGP, 502, b"", {}, "the backend is in trouble (502)", "later"),
        (SGP, 429, b"", {}, "the backend is in trouble (429)", "later"),
        (SGP, 200, b"<html>sign in", {}, "something else than spans", "SGP_CLIENT_BASE_URL"),
        (SGP, 200, b"[" * 200_000, {}, "something else than spans", "SGP_CLIENT_BASE_URL"),
        (AGENTEX, 200, b"{}", {}, "something else than spans", "AGENTEX_BASE_URL"),
        (OTLP, 200, b"<html>sign in", {}, "something else than an OTLP endpoint", "OTLP_ENDPOINT"),
        (OTLP, 404, b"", {}, "no OTLP endpoint there (404)", "/v1/traces at its end"),
        (OTLP, 401, b"", {}, "refuses key …cdef (401)", "OTEL_EXPORTER_OTLP_HEADERS"),
        (OTLP, 500, b"", {}, "the backend is in trouble (500); spans are rejected", "later"),
        (AGENTEX, 401, b"", {}, "refuses key …cdef (401)", "AGENT_API_KEY"),
        (AGENTEX, 403, b"", {}, "does not let key …cdef in", "AGENT_API_KEY"),
    ],
)
def test_a_destination_that_is_not_well_is_found(
    destination: Destination,
    status: int,
    body: bytes,
    headers: dict[str, str],
    said: str,
    mend: str,
) -> None:
    """G1."""
    (check,) = visited(destination, status, body, **headers)
    assert check.state == State.FINDING
    assert said in check.said
    assert mend in str(check.mend)


def test_what_a_backend_says_is_not_repeated() -> None:
    """G2: it may repeat the key."""
    for status in (200, 401, 403, 404, 500):
        for destination in (OURS, SGP, AGENTEX, OTLP):
            shown = str(visited(destination, status, f"no key {KEY}".encode()))
            assert KEY not in shown


# -- destinations that do not


def certificate_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("destination", "error", "said", "mend"),
    [
        (SGP, certificate_error(), "its certificate is not trusted: self-signed", "SSL_CERT_FILE"),
        (SGP, ssl.SSLError(1, "x"), "TLS fails", "http://"),
        (SGP, socket.gaierror(-2, "x"), "its name does not resolve", "SGP_CLIENT_BASE_URL"),
        (OURS, ConnectionRefusedError(), "nothing listens there", "everyspan serve; or"),
        (SGP, ConnectionRefusedError(), "nothing listens there", "start the server there"),
        (SGP, TimeoutError(), "no answer within 250ms", "EVERYSPAN_REQUEST_TIMEOUT_S"),
        (SGP, OSError("odd"), "cannot be reached: m", "SGP_CLIENT_BASE_URL"),
        (OTLP, OSError("odd"), "cannot be reached: m", "gRPC"),
    ],
)
def test_why_a_destination_is_not_reached(
    destination: Destination, error: BaseException, said: str, mend: str
) -> None:
    """G1."""
    check = missed(destination, error)
    assert check.state == State.FINDING
    assert check.said.startswith(said)
    assert mend in str(check.mend)


def test_errors_that_go_in_circles_end() -> None:
    one, two = OSError("one"), OSError("two")
    one.__cause__, two.__cause__ = two, one
    assert missed(SGP, one).state == State.FINDING


@pytest.mark.parametrize("proxy", ["http://user:pass@proxy.test:3128", "proxy.test:3128"])
def test_a_proxy_on_the_way_is_noted_without_its_password(proxy: str) -> None:
    """G2."""
    (check,) = check_proxy(SGP, proxy)
    said = "requests to https://spans.test go by way of proxy.test:3128"
    assert check == Check("proxy", State.NOTE, said)
    assert [*check_proxy(SGP, None)] == []


# -- clocks


@pytest.mark.parametrize(
    ("server_ahead_s", "said"),
    [
        (0, None),
        (4, None),
        (-4, None),
        (90, "this machine is 1m30s behind https://spans.test"),
        (-90, "this machine is 1m30s ahead of https://spans.test"),
    ],
)
def test_clocks_that_differ_are_found(server_ahead_s: int, said: str | None) -> None:
    date = format_datetime(datetime.fromtimestamp(NOW_S + server_ahead_s, UTC), usegmt=True)
    well, *clock = visited(SGP, 200, FOUND_NOTHING, date=date)
    assert well.state == State.OK
    assert [check.said for check in clock] == ([] if said is None else [said])


@pytest.mark.parametrize("date", ["", "yesterday", "Thu, 99 Foo 2026 99:99:99 GMT"])
def test_a_date_that_is_none_says_nothing(date: str) -> None:
    assert len(visited(SGP, 200, FOUND_NOTHING, date=date)) == 1


# -- libraries

NONE = dict.fromkeys(("gevent", "eventlet", "uvloop", "langchain-core"))


def libraries(
    patched: tuple[str, ...] = (), error: str | None = None, **versions: str
) -> Iterator[tuple[str, State]]:
    names: dict[str, Any] = {name.replace("_", "-"): value for name, value in versions.items()}
    for check in check_libraries(NONE | names, patched, error):
        assert (check.mend is not None) == (check.state == State.FINDING)
        yield check.about, check.state


def test_libraries_that_concern_everyspan_are_told() -> None:
    """G1: only one that is in the way is a finding."""
    assert [*libraries()] == [("langchain", State.NOTE)]
    assert ("gevent", State.NOTE) in [*libraries(gevent="25")]
    assert ("gevent", State.FINDING) in [*libraries(("gevent",), gevent="25")]
    assert ("eventlet", State.FINDING) in [*libraries(("eventlet",), eventlet="1")]
    assert ("uvloop", State.OK) in [*libraries(uvloop="1")]
    assert [*libraries(langchain_core="1")] == [("langchain", State.OK)]
    assert [*libraries(error="E", langchain_core="1")] == [("langchain", State.FINDING)]
