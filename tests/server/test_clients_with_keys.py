"""Unmodified clients against a server that asks for a key, each putting it where it does."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest
from click.testing import CliRunner
from scale_gp_beta import AuthenticationError, PermissionDeniedError, SGPClient

import everyspan
from everyspan.cli.app import app
from everyspan.server.keys import SCOPES, Scope, make_key
from everyspan.server.stores.sqlite import SqliteStore
from tests.peers import PYTHON, needs_peers
from tests.serving import ServerProcess

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

AGENTEX = """
import sys
from agentex import Agentex, AuthenticationError
url, key = sys.argv[1:]
client = Agentex(base_url=url, api_key=key, max_retries=0)
client.spans.create(id="agentex", name="n", trace_id="t", start_time="2026-01-02T03:04:05Z")
print(client.spans.retrieve("agentex").id)
try:
    Agentex(base_url=url, api_key="wrong", max_retries=0).spans.retrieve("agentex")
except AuthenticationError:
    print("refused")
"""
OPENTELEMETRY = """
import sys
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
url, authorization, name = sys.argv[1:]
provider = TracerProvider()
headers = {"authorization": authorization, "x-selected-account-id": "team"}
exporter = OTLPSpanExporter(endpoint=f"{url}/v1/traces", headers=headers)
provider.add_span_processor(SimpleSpanProcessor(exporter))
provider.get_tracer("t").start_span(name).end()
provider.shutdown()
"""


class Keyed(NamedTuple):
    url: str
    key: str
    reader: str


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """A server that asks for a key, one key of account `team`, and one that may only read."""
    path = tmp_path_factory.mktemp("store") / "spans.db"
    url_keys = [add_key(path, SCOPES), add_key(path, ("read",))]
    server = ServerProcess(path)
    yield Keyed(server.base_url, *url_keys)
    server.stop()


def add_key(path: Path, scopes: tuple[Scope, ...]) -> str:
    key, shown = make_key(name="n", accounts=["team"], scopes=scopes, now_ns=0)

    async def add() -> None:
        store = SqliteStore(path)
        await store.add_key(key)
        await store.close()

    asyncio.run(add())
    return shown


def names_of(keyed: Keyed) -> set[str]:
    headers = {"x-api-key": keyed.reader}
    reply = httpx2.post(f"{keyed.url}/v5/spans/search", json={}, headers=headers)
    return {item["name"] for item in reply.json()["items"]}


def sgp(keyed: Keyed, key: str, account: str = "team") -> SGPClient:
    return SGPClient(api_key=key, account_id=account, base_url=f"{keyed.url}/public", max_retries=0)


def test_the_sgp_client(keyed: Keyed) -> None:
    """`sgp` §1, §5: 401 for a wrong key, 403 for another account or a key that may only read."""

    def create(client: SGPClient) -> None:
        client.spans.create(name="sgp", start_timestamp=START, trace_id="t", id="sgp")

    create(sgp(keyed, keyed.key))
    assert "sgp" in names_of(keyed)
    with pytest.raises(AuthenticationError):
        create(sgp(keyed, "wrong"))
    with pytest.raises(PermissionDeniedError):
        create(sgp(keyed, keyed.key, "another"))
    with pytest.raises(PermissionDeniedError):
        create(sgp(keyed, keyed.reader))
    reader = sgp(keyed, keyed.reader)
    assert [span.id for span in reader.spans.search(trace_ids=["t"], names=["sgp"])] == ["sgp"]


@pytest.mark.parametrize("id_", [pytest.param("agentex", marks=needs_peers)])
def test_the_agentex_client(keyed: Keyed, id_: str) -> None:
    """`agx` §1: `Authorization: Bearer`; the account is that of the key."""
    run = subprocess.run(
        [PYTHON, "-c", AGENTEX, keyed.url, keyed.key], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [id_, "refused"]
    assert "n" in names_of(keyed)


@pytest.mark.parametrize(
    ("name", "template"),
    [
        pytest.param("bearer", "Bearer {key}", marks=needs_peers),
        pytest.param("basic", "Basic {basic}", marks=needs_peers),
        pytest.param("bare", "{key}", marks=needs_peers),
    ],
)
def test_the_opentelemetry_exporter(keyed: Keyed, name: str, template: str) -> None:
    """`otlp` §1: Bearer, Basic with the key as password, bare."""
    basic = base64.b64encode(f"public:{keyed.key}".encode()).decode()
    authorization = template.format(key=keyed.key, basic=basic)
    subprocess.run([PYTHON, "-c", OPENTELEMETRY, keyed.url, authorization, name], check=True)
    assert name in names_of(keyed)


def test_an_agent_of_ours(keyed: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment; without a key its spans wait, and none is lost or rejected."""
    monkeypatch.setenv("EVERYSPAN_API_KEY", keyed.key)
    monkeypatch.setenv("EVERYSPAN_ACCOUNT", "team")
    try:
        everyspan.configure(keyed.url, linger_ms=0)
        with everyspan.span("has a key"):
            pass
        assert everyspan.flush(timeout=10).ok
        assert "has a key" in names_of(keyed)
        doctor = CliRunner().invoke(app, ["doctor", "--endpoint", keyed.url])
        assert "for account team, to read and write" in doctor.output
        assert keyed.key not in doctor.output
        assert CliRunner().invoke(app, ["traces", "list", "--url", keyed.url]).exit_code == 0
        monkeypatch.setenv("EVERYSPAN_API_KEY", "wrong")
        doctor = CliRunner().invoke(app, ["doctor", "--endpoint", keyed.url])
        assert "set EVERYSPAN_API_KEY" in doctor.output
        assert doctor.exit_code == 1
        everyspan.configure(keyed.url, linger_ms=0)
        with everyspan.span("waits for a key"):
            pass
        assert dict(everyspan.flush(timeout=0.5).left) == {"sgp": {"http 401": 1}}
        (books,) = everyspan.stats().destinations
        assert (books.rejected_total, books.dropped_total) == (0, 0)
    finally:
        everyspan.shutdown(timeout=0.5)


@pytest.mark.parametrize("content_type", ["application/json", "application/x-protobuf"])
def test_an_exporter_without_a_key_is_told_so_in_its_encoding(
    keyed: Keyed, content_type: str
) -> None:
    """`otlp` §1: a Status; 401 is not tried again by any exporter."""
    headers = {"content-type": content_type}
    reply = httpx2.post(f"{keyed.url}/v1/traces", content=b"", headers=headers)
    assert reply.status_code == 401
    assert reply.headers["content-type"] == content_type
    assert b"a key is needed" in reply.content
    if content_type == "application/json":
        assert json.loads(reply.content)["message"]
