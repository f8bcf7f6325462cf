"""`everyspan.server.run`: bind, be ready, end in order."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from pathlib import Path

import httpx2
import pytest

from everyspan.errors import SettingsError, StoreError
from everyspan.server import run
from everyspan.server.keys import make_key
from everyspan.server.stores.sqlite import SqliteStore
from tests.server.rows import make_item
from tests.serving import ServerProcess
from tests.waiting import wait_until


def test_a_taken_port_names_its_holder_and_the_way_out(tmp_path: Path) -> None:
    """R1; nothing else was begun."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(SettingsError) as error:
            run(port=port, store_path=tmp_path / "spans.db")
    text = str(error.value)
    name = Path("/proc/self/comm").read_text().strip()
    assert f"port {port} on 127.0.0.1 is taken by {name} (pid {os.getpid()})" in text
    assert "--port" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("host", "port", "named"),
    [
        ("no.such.host.invalid", 0, "no.such.host.invalid"),
        ("203.0.113.1", 0, "203.0.113.1"),
        ("x" * 100, 0, "host"),
        ("127.0.0.1", 70_000, "70000"),
        ("127.0.0.1", -1, "-1"),
        ("", 0, "host"),
    ],
)
def test_an_address_that_cannot_be_had_is_named(
    tmp_path: Path, host: str, port: int, named: str
) -> None:
    with pytest.raises(SettingsError, match=named):
        run(host=host, port=port, store_path=tmp_path / "spans.db")


def test_a_bad_store_is_named_and_the_port_given_back(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(StoreError, match=str(tmp_path)):
        run(port=port, store_path=tmp_path)
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_success(tmp_path: Path, number: signal.Signals) -> None:
    """R2, R4: it answers when it says so; ends with 0 and says nothing; the port is free again."""
    server = ServerProcess(tmp_path / "spans.db")
    assert httpx2.get(f"{server.base_url}/healthz").json()["status"] == "ok"
    port = int(server.base_url.rpartition(":")[2])
    assert server.stop(number) == ""
    again = ServerProcess(tmp_path / "spans.db", port=port)
    again.stop()


def test_a_second_signal_does_not_wait_for_a_stalled_request(tmp_path: Path) -> None:
    """R4: and the first waits for it a bounded time."""
    for signals in (1, 2):
        server = ServerProcess(
            tmp_path / "spans.db",
            prelude="sys.modules['everyspan.server.run'].STOP_TIME_MAX_S = 0.2",
        )
        host, _, port = server.base_url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as stalled:
            stalled.sendall(
                b"PUT /v5/spans/batch HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n"
                b"expect: 100-continue\r\n\r\n"
            )
            # The server waits for the body from here on.
            assert stalled.recv(100).startswith(b"HTTP/1.1 100")
            if signals == 2:
                server.process.send_signal(signal.SIGTERM)
            server.stop()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_open_to_other_machines_it_does_not_start_without_a_key(tmp_path: Path, host: str) -> None:
    """R3: and says which command makes one; an expired one is none."""
    path = tmp_path / "spans.db"
    with pytest.raises(SettingsError, match=f"everyspan keys create --store {path}"):
        run(host=host, port=0, store_path=path)
    add_key(path, expires_ns=1)
    with pytest.raises(SettingsError, match="no key to ask for"):
        run(host=host, port=0, store_path=path)


def test_a_write_under_way_at_the_signal_is_answered_and_stored(tmp_path: Path) -> None:
    """R4, P8: its sender is told so, and it is there after a start."""
    path = tmp_path / "spans.db"
    server = ServerProcess(path)
    body = json.dumps({"items": [make_item(id="late")]}).encode()
    head = f"PUT /v5/spans/batch HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
    host, _, port = server.base_url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode() + b"expect: 100-continue\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        server.process.send_signal(signal.SIGTERM)
        # Nobody new is let in from here on.
        wait_until(lambda: not connects(host, int(port)))
        connection.sendall(body)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
    assert server.process.wait(20) == 0
    server.stop()
    again = ServerProcess(path)
    assert httpx2.get(f"{again.base_url}/v5/spans/late").status_code == 200
    again.stop()


def connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port)).close()
    except OSError:
        return False
    return True


def test_connections_are_counted(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "spans.db")
    with httpx2.Client(base_url=server.base_url) as client:
        for expected in (1, 2):
            with httpx2.Client(base_url=server.base_url) as other:
                if expected == 2:
                    other.get("/healthz")
                assert f"everyspan_http_connections {expected}\n" in client.get("/metrics").text
    server.stop()


def test_open_to_other_machines_it_asks_for_its_key(tmp_path: Path) -> None:
    """R3: and answers under every address of its own, and under the names that it is told."""
    path = tmp_path / "spans.db"
    key = add_key(path)
    server = ServerProcess(path, options="host='0.0.0.0', allow_hosts=['traces.example']")
    url = server.base_url.replace("0.0.0.0", "127.0.0.1")
    assert httpx2.get(f"{url}/spans").status_code == 401
    for host, status in [("10.1.2.3", 200), ("traces.example", 200), ("evil.example", 403)]:
        reply = httpx2.get(f"{url}/spans", headers={"x-api-key": key, "host": host})
        assert reply.status_code == status
    assert "refused a request from 127.0.0.1" in server.stop()


def add_key(path: Path, *, expires_ns: int | None = None) -> str:
    key, shown = make_key(
        name="n", accounts=["*"], scopes=["read"], now_ns=0, expires_ns=expires_ns
    )

    async def add() -> None:
        store = SqliteStore(path)
        await store.add_key(key)
        await store.close()

    asyncio.run(add())
    return shown


def test_a_second_port_takes_everything_too(tmp_path: Path) -> None:
    """R2: where exporters of OTLP send unless told otherwise."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = ServerProcess(tmp_path / "spans.db", options=f"otlp_port={port}")
    for base_url in (server.base_url, f"http://127.0.0.1:{port}"):
        reply = httpx2.post(
            f"{base_url}/v1/traces", content=b"{}", headers={"content-type": "application/json"}
        )
        assert (reply.status_code, reply.content) == (200, b"{}")
    server.stop()


def test_a_second_port_that_is_taken_is_a_line_in_the_log(tmp_path: Path) -> None:
    """R1."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        server = ServerProcess(
            tmp_path / "spans.db",
            prelude="import logging; logging.basicConfig(level='INFO')",
            options=f"otlp_port={port}",
        )
        assert httpx2.get(f"{server.base_url}/healthz").status_code == 200
        lines = [line for line in server.stop().splitlines() if str(port) in line]
    assert len(lines) == 1
    assert lines[0].startswith("INFO:everyspan.server:no second port for OTLP")
    assert "choose another with --otlp-port" in lines[0]


def test_the_slow_runtime_of_protobuf_is_refused_at_start(tmp_path: Path) -> None:
    """P4: it would hold the loop a hundred times longer."""
    prelude = "import os; os.environ['PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION'] = 'python'"
    with pytest.raises(RuntimeError, match="unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"):
        ServerProcess(tmp_path / "spans.db", prelude=prelude)
    assert list(tmp_path.iterdir()) == []
