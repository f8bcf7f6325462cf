"""`everyspan doctor` as people run it, against real servers."""

from __future__ import annotations

import json
import socket
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from everyspan.cli.app import app
from everyspan.config import CHOICES, SETTINGS, VARIABLES
from everyspan.testing import FaultServer, faults
from everyspan.testing.exchange import Request
from everyspan.testing.faults import Answer
from tests.serving import serving

KEY = "sk-live-0123456789abcdef"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in (*SETTINGS, *CHOICES, *VARIABLES):
        monkeypatch.delenv(row.env, raising=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(Path(tmp_path_factory.mktemp("store")) / "spans.sqlite") as url:
        yield url


def doctor(*words: str) -> Result:
    """Run it in this process; an unexpected exception fails the test."""
    result = CliRunner().invoke(app, ["doctor", *words], prog_name="everyspan")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert KEY not in result.output
    return result


def findings(result: Result) -> list[dict[str, Any]]:
    report = json.loads(result.stdout)
    found = [check for check in report["checks"] if check["state"] == "finding"]
    assert all(check["mend"] for check in found)
    assert result.exit_code == (1 if found else 0)
    return found


def test_a_machine_that_is_well(server: str) -> None:
    """Exit code 0."""
    result = doctor("--endpoint", server)
    assert result.exit_code == 0, result.output
    assert f"✓ {server}  answers in " in result.stdout
    assert result.stdout.rstrip().endswith("Nothing is in the way.")


def test_the_environment_names_the_server(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERYSPAN_ENDPOINT", server)
    report = json.loads(doctor("--json").stdout)
    (destination,) = report["destinations"]
    assert destination["seconds"] > 0
    del destination["seconds"]
    assert destination == {
        "kind": "everyspan",
        "url": server,
        "account": None,
        "key": None,
        "status": 200,
    }


def test_every_setting_is_shown_with_its_source(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTEX_SPAN_QUEUE_LINGER_MS", "7")
    report = json.loads(doctor("--endpoint", server, "--json").stdout)
    settings = {row["environment"]: row for row in report["settings"]}
    assert settings.keys() == {row.env for row in (*SETTINGS, *CHOICES, *VARIABLES)}
    name = "AGENTEX_SPAN_QUEUE_LINGER_MS"
    linger = {"name": "linger_ms", "environment": name, "value": "7", "source": name}
    assert settings[name] == linger
    assert settings["EVERYSPAN_GRACE_S"]["source"] == "default"
    (line,) = [line for line in doctor("--endpoint", server).stdout.splitlines() if name in line]
    assert line.split() == [name, "7", "environment"]


def test_no_server_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1, with what to do."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    result = doctor("--endpoint", f"http://127.0.0.1:{port}")
    assert result.exit_code == 1
    assert "nothing listens there" in result.stdout
    assert f"everyspan serve --port {port}; or set --endpoint to another" in result.stdout
    assert result.stdout.rstrip().endswith("1 finding")


@pytest.mark.parametrize("endpoint", ["nowhere", "ftp://x", "http://", "http://u:p@host", ""])
def test_an_endpoint_that_is_no_address_is_bad_usage(endpoint: str) -> None:
    """Exit code 2."""
    result = doctor("--endpoint", endpoint)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("everyspan: --endpoint must ")


@pytest.mark.parametrize(
    ("status", "said"), [(200, None), (401, "refuses key …cdef"), (403, "does not let key …cdef")]
)
def test_the_key_is_tried_and_not_shown(
    status: int, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D2: one search a run, no span."""
    body = b'{"items":[]}' if status == 200 else f'{{"detail":"{KEY}"}}'.encode()
    with FaultServer(faults.status(status, body=body)) as backend:
        monkeypatch.setenv("SGP_API_KEY", KEY)
        monkeypatch.setenv("SGP_ACCOUNT_ID", "acme")
        monkeypatch.setenv("SGP_CLIENT_BASE_URL", backend.base_url)
        found = findings(doctor("--json"))
        doctor()
    assert [said in check["said"] for check in found] == ([] if said is None else [True])
    assert len(backend.requests) == 2
    for request in backend.requests:
        assert (request.method, request.path) == ("POST", "/v5/spans/search")
        assert request.headers["x-api-key"] == KEY
        assert request.headers["x-selected-account-id"] == "acme"
    assert backend.rows == {}


def test_agentex_is_tried_where_the_environment_names_it(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """agx §1: by the key of the agent."""

    def answer(request: Request) -> Answer:
        known = request.headers.get("x-agent-api-key") == KEY
        return faults.status(200, body=b"[]") if known else faults.status(401)

    with FaultServer(answer) as backend:
        monkeypatch.setenv("EVERYSPAN_ENDPOINT", server)
        monkeypatch.setenv("AGENTEX_BASE_URL", backend.base_url)
        (found,) = findings(doctor("--json"))
        assert "asks for a key (401)" in found["said"]
        monkeypatch.setenv("AGENT_API_KEY", KEY)
        assert findings(doctor("--json")) == []
    assert {request.method for request in backend.requests} == {"GET"}


def test_otlp_is_tried_where_the_environment_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """otlp:B2: an export of nothing, with the headers of the environment."""

    def answer(request: Request) -> Answer:
        return faults.ok() if request.headers.get("x-api-key") == KEY else faults.status(401)

    with FaultServer(answer) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.base_url)
        (found,) = findings(doctor("--json"))
        assert "asks for a key (401)" in found["said"]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-api-key={KEY}")
        assert findings(doctor("--json")) == []
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", backend.base_url)
        (found,) = findings(doctor("--json"))
        assert "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: /v1/traces at its end" in found["mend"]
    assert backend.rows == {}


def test_our_own_server_answers_every_question(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The questions are ones that a real server of each API takes."""
    for name, value in {
        "SGP_API_KEY": KEY,
        "SGP_ACCOUNT_ID": "acme",
        "SGP_CLIENT_BASE_URL": server,
        "AGENTEX_BASE_URL": server,
    }.items():
        monkeypatch.setenv(name, value)
    result = doctor("--json")
    assert findings(result) == []
    assert [d["kind"] for d in json.loads(result.stdout)["destinations"]] == ["sgp", "agentex"]


def test_something_else_on_the_port_gets_no_spans() -> None:
    with FaultServer(faults.html()) as backend:
        (found,) = findings(doctor("--endpoint", backend.base_url, "--json"))
    assert "something else than an everyspan server" in found["said"]


def test_tls_towards_a_server_without_it_is_told(server: str) -> None:
    address = server.replace("http:", "https:")
    (found,) = findings(doctor("--endpoint", address, "--json"))
    assert found["said"].startswith("TLS fails: ")
    assert "http://" in found["mend"]


def test_a_server_that_never_answers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERYSPAN_REQUEST_TIMEOUT_S", "0.2")
    with FaultServer(faults.hang()) as backend:
        (found,) = findings(doctor("--endpoint", backend.base_url, "--json"))
    assert found["said"].startswith("no answer within ")


def test_a_proxy_is_told_where_it_is_used(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is never reached by one."""
    with FaultServer(faults.status(401)) as proxy:
        for name in ("no_proxy", "NO_PROXY", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTP_PROXY", proxy.base_url)
        monkeypatch.setenv("SGP_API_KEY", KEY)
        monkeypatch.setenv("SGP_ACCOUNT_ID", "acme")
        monkeypatch.setenv("SGP_CLIENT_BASE_URL", "http://spans.test")
        report = json.loads(doctor("--json").stdout)
        assert [check["about"] for check in report["checks"]][:2] == ["http://spans.test", "proxy"]
        assert proxy.requests[0].path.startswith("http://spans.test/")
        monkeypatch.setenv("SGP_CLIENT_BASE_URL", server)
        assert "proxy" not in [c["about"] for c in json.loads(doctor("--json").stdout)["checks"]]


def test_a_clock_that_is_off_is_told() -> None:
    headers = {"x-everyspan": "0.1.0", "date": "Thu, 01 Jan 2026 00:00:00 GMT"}
    with FaultServer(faults.status(200, headers=headers)) as backend:
        found = findings(doctor("--endpoint", backend.base_url, "--json"))
    assert "clock" in [check["about"] for check in found]


def test_a_switch_that_is_on_is_told(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERYSPAN_DISABLED", "1")
    monkeypatch.setenv("EVERYSPAN_ENDPOINT", server)
    (found,) = findings(doctor("--json"))
    assert (found["about"], found["mend"]) == ("EVERYSPAN_DISABLED", "unset EVERYSPAN_DISABLED")


@pytest.mark.parametrize("is_patched", [True, False])
def test_threads_that_are_replaced_are_told(
    is_patched: bool, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a `sitecustomize` would leave it: gevent itself is not installed here."""
    monkey: Any = types.ModuleType("gevent.monkey")
    monkey.is_module_patched = lambda name: is_patched
    monkeypatch.setitem(sys.modules, "gevent.monkey", monkey)
    found = findings(doctor("--endpoint", server, "--json"))
    assert [check["about"] for check in found] == (["gevent"] if is_patched else [])


def test_a_terminal_is_sent_no_escapes(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """X1: the environment may be somebody else's."""
    monkeypatch.setenv("AGENT_NAME", "a\x1b[2Jb")
    output = doctor("--endpoint", server).output
    assert "\x1b" not in output
    assert "a\\x1b[2Jb" in output


def test_it_looks_at_a_server(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real requests; what they mean is tests/cli/test_server_diagnosis.py's."""
    result = doctor("--server", server)
    assert result.exit_code == 0, result.output
    for line in ("✓ ready", "the server asks for none", "✓ store  "):
        assert line in result.stdout
    monkeypatch.setenv("EVERYSPAN_ENDPOINT", server)
    report = json.loads(doctor("--server", "--json").stdout)
    assert report["server"] == server
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (gone,) = findings(doctor("--server", f"http://127.0.0.1:{port}", "--json"))
    assert "nothing listens there" in gone["said"]
    assert doctor("--server", server, "--endpoint", server).exit_code == 2
