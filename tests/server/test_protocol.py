"""`everyspan.server.protocol`: what connections may take, with raw sockets and small limits."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from collections.abc import Iterator

import httpx2
import pytest

from tests.server.rows import make_item
from tests.serving import ServerProcess
from tests.waiting import wait_until

WAIT_S = 20
PRELUDE = """
import everyspan.server.protocol as protocol
protocol.HEAD_TIME_MAX_S = 0.6
protocol.BODY_TIME_MAX_S = 2.0
protocol.BODY_CHECK_S = 0.5
protocol.WRITE_TIME_MAX_S = 0.5
protocol.CONNECTIONS_MAX = 20
"""
HOST = b"host: localhost\r\n"
GET = b"GET /healthz HTTP/1.1\r\n" + HOST
PUT = b"PUT /v5/spans/batch HTTP/1.1\r\n" + HOST
EMPTY = b'{"items":[]}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("store") / "spans.db", prelude=PRELUDE)
    yield server
    assert server.stop() == ""


@pytest.fixture(autouse=True)
def serves_others(server: ServerProcess) -> Iterator[None]:
    """A healthy client is served after each attack; most attacks are still under way then."""
    yield
    assert is_served(server)


def is_served(server: ServerProcess) -> bool:
    reply = httpx2.put(f"{server.base_url}/v5/spans/batch", content=EMPTY, timeout=WAIT_S)
    return reply.status_code == 200


def connect(server: ServerProcess, *, receive_bytes: int | None = None) -> socket.socket:
    host, _, port = server.base_url.removeprefix("http://").partition(":")
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(WAIT_S)
    connection.connect((host, int(port)))
    return connection


def rest_of(connection: socket.socket) -> bytes:
    """Return what comes until the server ends the connection."""
    reply = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65_536):
            reply += data
    return reply


def drip(connection: socket.socket, byte: bytes = b"a", every_s: float = 0.05) -> bytes:
    """Send byte after byte until the server ends the connection; return what came back."""
    connection.settimeout(every_s)
    with contextlib.suppress(ConnectionError):
        for _ in range(int(WAIT_S / every_s)):
            connection.sendall(byte)
            try:
                data = connection.recv(65_536)
            except TimeoutError:
                continue
            connection.settimeout(WAIT_S)
            return data + (rest_of(connection) if data else b"")
        raise AssertionError("the connection is still open")
    return b""


def one_reply(connection: socket.socket) -> bytes:
    """Return the next reply whose body ends in `}`."""
    reply = b""
    while not reply.endswith(b"}"):
        data = connection.recv(65_536)
        assert data, reply
        reply += data
    return reply


@pytest.mark.parametrize("start", [b"GET /", GET + b"x-slow: "])
def test_a_head_byte_by_byte_ends(server: ServerProcess, start: bytes) -> None:
    """H2: bytes that come do not put the end off."""
    with connect(server) as connection:
        connection.sendall(start)
        assert drip(connection) == b""


def test_line_ends_between_requests_do_not_keep_a_connection(server: ServerProcess) -> None:
    """H2: they begin no request; uvicorn's own wait for one ends at any byte."""
    with connect(server) as connection:
        connection.sendall(GET + b"\r\n")
        assert one_reply(connection).startswith(b"HTTP/1.1 200 ")
        assert drip(connection, b"\r\n") == b""


@pytest.mark.parametrize(
    "framing", [b"content-length: 100000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n"]
)
def test_a_body_byte_by_byte_ends(server: ServerProcess, framing: bytes) -> None:
    """H4: by its rate, long before the whole time is over; also where nobody reads it."""
    for start in (PUT, PUT + b"origin: http://evil.example\r\n", PUT.replace(b"batch", b"nowhere")):
        byte = b"a" if b"length" in framing else b"1\r\na\r\n"
        with connect(server) as connection:
            connection.sendall(start + framing)
            reply = drip(connection, byte)
        assert reply.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 403 ", b"HTTP/1.1 405 "))
        # One reply, not a second one for the rest of a body that was answered.
        assert reply.count(b"HTTP/1.1") == 1


def test_a_body_at_a_fair_rate_ends_at_its_time(server: ServerProcess) -> None:
    """H4."""
    with connect(server) as connection:
        connection.sendall(PUT + b"content-length: 10000000\r\n\r\n")
        assert drip(connection, b" " * 1_000).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n", b"414", b"URL_TOO_LONG"),
        (b"GET /spans?x=" + b"a" * 20_000 + b" HTTP/1.1\r\n", b"414", b"URL_TOO_LONG"),
        (GET + b"a:\r\n" * 10_000 + b"\r\n", b"431", b"TOO_MANY_HEADERS"),
        (GET + b"a: " + b"b" * 70_000, b"431", b"HEAD_TOO_LARGE"),
    ],
)
def test_a_long_head_is_refused(
    server: ServerProcess, data: bytes, status: bytes, code: bytes
) -> None:
    """H1, H3."""
    with connect(server) as connection:
        connection.sendall(data)
        reply = rest_of(connection)
    assert reply.startswith(b"HTTP/1.1 " + status)
    assert code in reply
    assert b"x-everyspan: " in reply


def test_headers_up_to_the_limit_are_taken(server: ServerProcess) -> None:
    with connect(server) as connection:
        connection.sendall(GET + b"a: b\r\n" * 198 + b"connection: close\r\n\r\n")
        assert rest_of(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        b"content-length: 5\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n",
        b"content-length: 5\r\ncontent-length: 6\r\n",
        b"content-length: 5, 5\r\n",
        b"content-length: +5\r\n",
        b"content-length: 0x5\r\n",
        b"content-length : 5\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"transfer-encoding: chunked, gzip\r\n",
        b"transfer-encoding: chunked\r\n folded: 1\r\n",
        b"x: a\rtransfer-encoding: chunked\r\n",
        b"x: a\x00b\r\n",
    ],
)
def test_a_body_whose_end_two_could_see_differently_is_refused(
    server: ServerProcess, head: bytes
) -> None:
    """Request smuggling: a proxy in front must not see another request than we do."""
    smuggled = b"GET /spans/smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
    with connect(server) as connection:
        connection.sendall(PUT + head + b"\r\n0\r\n\r\n" + smuggled)
        reply = rest_of(connection)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert reply.count(b"HTTP/1.1 ") == 1


def test_trailers_are_no_headers(server: ServerProcess) -> None:
    """H8: nothing is added after the headers were judged."""
    with connect(server) as connection:
        connection.sendall(
            PUT + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
            b"c\r\n" + EMPTY + b"\r\n0\r\n"
            b"prefer: return=minimal\r\n\r\n"
        )
        reply = rest_of(connection)
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert b"preference-applied" not in reply


def test_a_body_left_out_after_a_refusal_is_not_the_next_request(server: ServerProcess) -> None:
    """A sender that expects 100 and is refused may leave the body out: the connection ends."""
    for start, status in (
        (PUT + b"origin: http://evil.example\r\n", b"403"),
        (b"POST /nowhere HTTP/1.1\r\n" + HOST, b"404"),
    ):
        with connect(server) as connection:
            connection.sendall(start + b"expect: 100-continue\r\ncontent-length: 40\r\n\r\n")
            reply = rest_of(connection)
        assert reply.startswith(b"HTTP/1.1 " + status)
        assert b"connection: close\r\n" in reply.lower()


def test_a_body_that_was_expected_keeps_the_connection(server: ServerProcess) -> None:
    with connect(server) as connection:
        for _ in range(2):
            connection.sendall(PUT + b"expect: 100-continue\r\ncontent-length: 12\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
            connection.sendall(EMPTY)
            reply = one_reply(connection)
            assert reply.startswith(b"HTTP/1.1 200 ")
            assert b"connection: close" not in reply


def test_pipelined_requests_are_bounded(server: ServerProcess) -> None:
    """H7: their number."""
    with connect(server) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall((GET + b"\r\n") * 5_000)
        assert rest_of(connection).count(b"HTTP/1.1 200") < 5_000


def test_a_body_before_its_turn_is_bounded(server: ServerProcess) -> None:
    """H7: while others are answered, the next one's body is not read without a bound."""
    body = json.dumps({"items": [make_item()]}).encode()
    put = PUT + b"content-length: %d\r\n\r\n" % len(body) + body
    sent = 0
    with connect(server) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(put * 90 + PUT + b"content-length: 999999999999\r\n\r\n")
        while sent < 200_000_000:
            sent += connection.send(b" " * 1_000_000)
    # What the system buffers comes on top.
    assert sent < 50_000_000


def test_a_full_house_makes_room(server: ServerProcess) -> None:
    """H6: connections without a request never keep others out; the oldest of them goes."""
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(server)) for _ in range(20)]
        assert is_served(server)
        assert idle[0].recv(1) == b""
    # With as many heads begun.
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(server)).sendall(GET)
        assert is_served(server)


def test_a_house_full_of_work_says_so(server: ServerProcess) -> None:
    """H6: 503 to whoever comes, and those at work are not disturbed."""
    with contextlib.ExitStack() as stack:
        at_work = [stack.enter_context(connect(server)) for _ in range(20)]
        for connection in at_work:
            connection.sendall(PUT + b"expect: 100-continue\r\ncontent-length: 12\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        with connect(server) as late:
            reply = rest_of(late)
        assert reply.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in reply
        for connection in at_work:
            connection.sendall(EMPTY)
            assert one_reply(connection).startswith(b"HTTP/1.1 200 ")


def test_who_does_not_read_its_reply_is_cut_off(server: ServerProcess) -> None:
    """H5: and the memory that its reply takes is given back."""
    item = {"name": "n", "trace_id": "big", "start_timestamp": "2026-01-01T00:00:00Z"}
    items = [{**item, "id": f"big-{n}", "input": {"a": "x" * 100_000}} for n in range(100)]
    batch = httpx2.put(f"{server.base_url}/v5/spans/batch", json={"items": items}, timeout=WAIT_S)
    assert batch.status_code == 200
    search = b'{"trace_ids":["big"]}'
    for ending in (b"", b"connection: close\r\n"):
        with connect(server, receive_bytes=4_096) as connection:
            connection.sendall(
                b"POST /v5/spans/search HTTP/1.1\r\n"
                + HOST
                + ending
                + b"content-length: 21\r\n\r\n"
            )
            connection.sendall(search)
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
            # Reads nothing more; cut off, the socket has an error, whatever is unread.
            wait_until(lambda: is_cut_off(connection))


def is_cut_off(connection: socket.socket) -> bool:
    state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state != 1  # TCP_ESTABLISHED


SEEDS = [
    PUT + b"content-length: 12\r\n\r\n" + EMPTY,
    PUT + b"transfer-encoding: chunked\r\n\r\nc\r\n" + EMPTY + b"\r\n0\r\nx-t: 1\r\n\r\n",
    GET + b"\r\nGET /spans?limit=1 HTTP/1.1\r\n" + HOST + b"connection: close\r\n\r\n",
    PUT + b"expect: 100-continue\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n{}",
]
PIECES = [
    *(b"\r\n", b"\r\n\r\n", b"\n", b"\x00", b": ", b"a" * 500),
    *(b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"connection: close\r\n"),
]


def test_mutated_connections_never_make_it_fail(server: ServerProcess) -> None:
    """A seeded fuzz of whole connections, in pieces of any size: no 500, no noise, no harm."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(400):
        sent = bytearray(b"".join(rng.choices(SEEDS, k=rng.randrange(1, 4))))
        for _ in range(rng.randrange(5)):
            at = rng.randrange(len(sent))
            match rng.randrange(4):
                case 0:
                    sent[at] = rng.randrange(256)
                case 1:
                    del sent[at + 1 : at + rng.randrange(2, 30)]
                case 2:
                    sent[at:at] = sent[at : at + rng.randrange(200)]
                case 3:
                    sent[at:at] = rng.choice(PIECES)
        with connect(server) as connection, contextlib.suppress(OSError):
            # Long enough for an answer on a machine that is not busy; some are not waited for.
            connection.settimeout(0.02)
            piece = rng.choice([7, 50, 1_000])
            for start in range(0, len(sent), piece):
                connection.sendall(sent[start : start + piece])
            assert b"HTTP/1.1 500 " not in connection.recv(65_536), bytes(sent)
