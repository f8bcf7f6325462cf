"""What a hostile or broken client can do to one server: cost itself an error, and nothing else."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from everyspan.model.ids import new_id
from tests.server.rows import make_item
from tests.serving import ServerProcess

WAIT_S = 20
PRELUDE = """
import everyspan.server.body as body, everyspan.server.protocol as protocol
body.BODY_BYTES_MAX = 1_000_000
body._THROWN_AWAY_MAX = 4_000_000
body.HELD_BYTES_MAX = 2_000_000
protocol.BODY_TIME_MAX_S = 0.5
protocol.HEAD_TIME_MAX_S = 0.5
"""
PIECES = [b"\\u0000", b"\\ud800", b"1e999", b"null", b"9" * 40, b'"id":"\\udfff",']
CLOSE = b" HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
PUT = b"PUT /v5/spans/batch HTTP/1.1\r\nhost: 127.0.0.1\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with small limits; it must be in order after every test and silent at the end."""
    server = ServerProcess(tmp_path_factory.mktemp("store") / "spans.db", prelude=PRELUDE)
    yield server
    assert server.stop() == ""


@pytest.fixture(autouse=True)
def still_serves(server: ServerProcess) -> Iterator[None]:
    before = memory_bytes(server)
    yield
    account = {"x-selected-account-id": new_id()}
    with httpx2.Client(base_url=server.base_url, timeout=WAIT_S, headers=account) as client:
        assert client.put("/v5/spans/batch", json={"items": [make_item()]}).status_code == 200
        assert len(client.post("/v5/spans/search", json={}).json()["items"]) == 1
    assert memory_bytes(server) - before < 64 * 1024 * 1024


def memory_bytes(server: ServerProcess) -> int:
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096


def connect(server: ServerProcess) -> socket.socket:
    host, _, port = server.base_url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=WAIT_S)


def flood(connection: socket.socket, start: bytes, part: bytes, total: int) -> bytes:
    """Send `start` and then `part` over and over; return what came back before the end."""
    reply = b""
    with contextlib.suppress(ConnectionError):
        connection.sendall(start)
        sent = 0
        while sent < total:
            sent += connection.send(part)
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65_536):
            reply += data
    return reply


def exchange(server: ServerProcess, data: bytes) -> bytes:
    """Send, and return everything until the server ends the connection."""
    with connect(server) as connection:
        return flood(connection, data, b"", 0)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
        b"FOO / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        PUT + b"content-length: -1\r\n\r\n",
        PUT + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
        PUT + b"content-length: 99999999999999999999999\r\n\r\n",
        PUT + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        PUT + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        PUT + b"bad header\r\n\r\n",
    ],
)
def test_what_is_no_http_is_told_so(server: ServerProcess, data: bytes) -> None:
    """H3."""
    reply = exchange(server, data)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b"x-everyspan: " in reply
    assert reply.endswith(b'"code":"INVALID_HTTP"}')


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (b"GET / HTTP/1.1\r\n", b"x-a: " + b"b" * 1_000 + b"\r\n"),
        (b"GET / HTTP/1.1\r\n", b"a:\r\n" * 1_000),
        (b"GET / HTTP/1.1\r\nx-endless: ", b"a" * 10_000),
        (b"GET / HTTP/1.1\r\n", b"a" * 10_000),
        (b"GET /", b"a" * 10_000),
        (b"", b"A" * 10_000),
        (PUT + b"transfer-encoding: chunked\r\n\r\n", b"1;" + b"e" * 1_000 + b"\r\nx\r\n"),
        (PUT + b"transfer-encoding: chunked\r\n\r\n0\r\n", b"x-t: " + b"b" * 1_000 + b"\r\n"),
        (PUT + b"transfer-encoding: chunked\r\n\r\n", b"0" * 10_000),
    ],
)
def test_endless_heads_end(server: ServerProcess, start: bytes, part: bytes) -> None:
    """H1: 50 MB of headers, address, framing or trailers."""
    with connect(server) as connection:
        reply = flood(connection, start, part, 50_000_000)
    # The reply is lost where the flood is still under way when the connection ends.
    assert reply == b"" or reply.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 414 ", b"HTTP/1.1 400 "))


@pytest.mark.parametrize("part", [b"1\r\nx\r\n", b"2710\r\n" + b"x" * 10_000 + b"\r\n"])
def test_an_endless_chunked_body_ends(server: ServerProcess, part: bytes) -> None:
    """B1."""
    with connect(server) as connection:
        start = PUT + b"transfer-encoding: chunked\r\n\r\n"
        reply = flood(connection, start, part * (10_000 // len(part) + 1), 60_000_000)
    assert reply == b"" or reply.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 408 "))


@pytest.mark.parametrize("size", [1_000_001, 3_900_000])
@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_413_and_its_sender_sees_it(
    server: ServerProcess, size: int, declared: bool
) -> None:
    """B1: a batch sender halves its batches on 413, so it must not see a reset instead."""

    def parts() -> Iterator[bytes]:
        yield b" " * size

    content = b" " * size if declared else parts()
    reply = httpx2.put(f"{server.base_url}/v5/spans/batch", content=content, timeout=WAIT_S)
    assert (reply.status_code, reply.json()["code"]) == (413, "BODY_TOO_LARGE")
    assert reply.headers["connection"] == "close"


def test_a_body_at_the_limit_is_read(server: ServerProcess) -> None:
    url = f"{server.base_url}/v5/spans/batch"
    reply = httpx2.put(url, content=b'{"items":[]' + b" " * 999_988 + b"}", timeout=WAIT_S)
    assert reply.status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET /hea",
        PUT,
        PUT + b"content-length: 100\r\n\r\n{",
        PUT + b"transfer-encoding: chunked\r\n\r\n5\r\nab",
    ],
)
def test_a_stalled_request_ends(server: ServerProcess, data: bytes) -> None:
    """H2, H4."""
    reply = exchange(server, data)
    assert reply == b"" or reply.startswith(b"HTTP/1.1 408 ")


def test_bodies_held_at_once_are_bounded(server: ServerProcess) -> None:
    """B2: senders that do not finish take the memory; another is sent away, not left waiting."""
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            slow = stack.enter_context(connect(server))
            slow.sendall(PUT + b"content-length: 999999\r\nexpect: 100-continue\r\n\r\n")
            assert slow.recv(100).startswith(b"HTTP/1.1 100")
            slow.sendall(b" " * 999_000)
        replies = []
        # Until what the two sent has been read.
        for _ in range(1_000):
            content = b'{"items":[]' + b" " * 900_000 + b"}"
            replies.append(
                httpx2.put(f"{server.base_url}/v5/spans/batch", content=content, timeout=WAIT_S)
            )
            if replies[-1].status_code == 503:
                break
        assert replies[-1].status_code == 503
        assert int(replies[-1].headers["retry-after"]) >= 1


def test_a_client_that_leaves_mid_body_stores_nothing(server: ServerProcess) -> None:
    account = new_id()
    body = b'{"items":[{"id":"s","trace_id":"t","name":"n","start_timestamp":"2026-01-01T00:00Z"}]}'
    with connect(server) as connection:
        head = f"content-length: {len(body) + 1}\r\nx-selected-account-id: {account}\r\n\r\n"
        connection.sendall(PUT + head.encode() + body)
    headers = {"x-selected-account-id": account}
    assert httpx2.get(f"{server.base_url}/v5/spans/s", headers=headers).status_code == 404


def test_pipelined_requests_are_answered_in_order(server: ServerProcess) -> None:
    body = b'{"items":[]}'
    put = PUT + b"content-length: %d\r\n\r\n" % len(body) + body
    reply = exchange(
        server,
        put
        + b"GET /nope HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
        + put.replace(b"host", b"connection: close\r\nhost"),
    )
    statuses = [part[:3] for part in reply.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"404", b"200"]


@pytest.mark.parametrize(
    "data",
    [
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"OPTIONS *" + CLOSE,
        b"GET http://other/healthz" + CLOSE,
        b"CONNECT other:443 HTTP/1.1\r\nhost: other:443\r\nconnection: close\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\n"
        b"upgrade: websocket\r\n\r\n",
        PUT + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\n{}",
        PUT
        + b"connection: close\r\nx-selected-account-id: \xff\xfe\r\ncontent-length: 2\r\n\r\n{}",
        b"GET /v5/spans/%00%ff%2e%2e%2f" + CLOSE,
        b"GET //v5//spans" + CLOSE,
        b"GET /spans/%00%ff%2e%2e%2f?limit=%00" + CLOSE,
        b"GET /spans?limit=%ff&task_id=%00&trace_id=%ed%a0%80 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
        b"PATCH /spans/../../x HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 2\r\n\r\n{}",
        b"GET /v5/spans/search?limit=%00&limit=1" + CLOSE,
    ],
)
def test_unusual_requests_get_an_answer(server: ServerProcess, data: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(data)
        reply = connection.recv(65_536)
    assert reply.startswith(b"HTTP/1.1 ")
    assert not reply.startswith(b"HTTP/1.1 5")
    assert b"x-everyspan: " in reply


BODIES = {
    ("PUT", "/v5/spans/batch"): (
        b'{"items":[{"id":"s","trace_id":"t","name":"n","start_timestamp":"2026-01-01T00:00:00Z",'
        b'"input":{"a":[1,-2.5e3,"\\u00e9\\ud83d\\ude00"]},"metadata":{"__everyspan__":{"rev":1},'
        b'"usage":{"input_tokens":1}},"status":"SUCCESS","type":"COMPLETION","parent_id":null}]}'
    ),
    ("POST", "/spans"): (
        b'{"id":"s","trace_id":"t","name":"n","start_time":"2026-01-01T00:00:00Z","task_id":"k",'
        b'"input":[{"a":[1,-2.5e3,"\\u00e9\\ud83d\\ude00"]}],"data":{"__everyspan__":{"rev":1},'
        b'"__error__":{"type":"E","message":"m","category":"c"},"__span_type__":"COMPLETION"}}'
    ),
    ("PATCH", "/spans/s"): (
        b'{"trace_id":"t","parent_id":"p","end_time":"2026-01-01T00:00:01Z","output":[{"a":1}],'
        b'"data":{"__everyspan__":{"rev":2},"__error__":null,"__task_id__":"k","a":{"b":[]}}}'
    ),
}


@pytest.mark.parametrize(("method", "path"), BODIES)
def test_mutated_requests_never_make_it_fail(server: ServerProcess, method: str, path: str) -> None:
    """A seeded fuzz: bytes of a good request changed, cut, repeated; no 500, no hang, no noise."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    body = BODIES[method, path]
    url = server.base_url + path
    with httpx2.Client(timeout=WAIT_S, headers={"x-selected-account-id": new_id()}) as client:
        client.post(f"{server.base_url}/spans", content=BODIES["POST", "/spans"])
        for _ in range(800):
            mutant = bytearray(body)
            for _ in range(rng.randrange(1, 4)):
                at = rng.randrange(len(mutant))
                match rng.randrange(4):
                    case 0:
                        mutant[at] = rng.choice(b'{}[]":,\\\x00\xff019-+.eEun')
                    case 1:
                        del mutant[at : at + rng.randrange(1, 20)]
                    case 2:
                        mutant[at:at] = mutant[at : at + rng.randrange(1, 40)]
                    case 3:
                        mutant[at:at] = rng.choice(
                            [
                                b"\\u0000",
                                b"\\ud800",
                                b"1e999",
                                b"null",
                                b"9" * 40,
                                b'"id":"\\udfff",',
                            ]
                        )
                if not mutant:
                    break
            reply = client.request(method, url, content=bytes(mutant))
            assert reply.status_code in (200, 400, 404, 409, 422), bytes(mutant)
            reply.json()
        # Whatever was stored can be shown on both surfaces.
        assert client.post(f"{server.base_url}/v5/spans/search", json={}).status_code == 200
        assert client.get(f"{server.base_url}/spans").status_code == 200
