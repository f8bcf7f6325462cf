"""`FaultServer`: each misbehaviour seen by a client, and what everyspan makes of it."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx2
import pytest

import everyspan
from everyspan.errors import SettingsError
from everyspan.testing import FakeClock, FaultServer, faults
from everyspan.testing.exchange import BODY_BYTES_MAX, Exchange, Request
from everyspan.testing.faults import Answer
from everyspan.testing.span_apis import ITEMS_MAX
from tests.waiting import wait_until

PATH = "/v5/spans/batch"


def batch(*ids: str) -> bytes:
    """The body of a write of spans."""
    return json.dumps({"items": [{"id": id, "name": "step"} for id in ids]}).encode()


def put(*ids: str, path: str = PATH) -> bytes:
    """A whole request."""
    body = batch(*ids)
    return f"PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@contextmanager
def connected(server: FaultServer) -> Iterator[socket.socket]:
    """A raw connection."""
    address = httpx2.URL(server.base_url)
    with socket.create_connection((address.host, address.port or 0), 20) as sock:
        yield sock


def read_end(sock: socket.socket) -> bytes:
    """Everything until the server closes."""
    data = b""
    while part := sock.recv(1 << 16):
        data += part
    return data


def read_head(sock: socket.socket) -> bytes:
    """The head of an answer, or what there is of it."""
    data = b""
    while not data.endswith(b"\r\n\r\n") and (byte := sock.recv(1)):
        data += byte
    return data


def read_reply(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One answer with a length; what follows it stays on the socket."""
    head = read_head(sock)
    assert head.endswith(b"\r\n\r\n"), f"closed after {head!r}"
    line, *lines = head.decode().rstrip().split("\r\n")
    headers = dict(header.split(": ", 1) for header in lines)
    body = b""
    while len(body) < int(headers.get("content-length", 0)):
        part = sock.recv(int(headers["content-length"]) - len(body))
        assert part, f"closed after {body!r}"
        body += part
    return int(line.split(" ")[1]), headers, body


def says_nothing(sock: socket.socket) -> bool:
    """Whether nothing has come, and the connection is open."""
    sock.setblocking(False)
    try:
        sock.recv(1)
    except BlockingIOError:
        return True
    finally:
        sock.settimeout(20)
    return False


def talk(server: FaultServer, data: bytes) -> bytes:
    """Send; return all that comes until the connection ends."""
    with connected(server) as sock:
        sock.sendall(data)
        return read_end(sock)


def is_reset(sock: socket.socket) -> bool:
    """Whether the connection ends with a RST, not in order."""
    try:
        read_end(sock)
    except ConnectionResetError:
        return True
    return False


# -- HTTP


def test_the_example_runs_and_warns_of_nothing() -> None:
    """F2: what the module shows, in a process whose warnings are errors."""
    program = (
        "import doctest, gc, everyspan.testing.fault_server as module;"
        "print(doctest.testmod(module)); gc.collect()"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    assert "failed=0, attempted=4" in done.stdout


def test_requests_of_one_connection_are_answered_in_order() -> None:
    """Kept alive and pipelined: three at once, blank lines between."""
    with FaultServer() as server, connected(server) as sock:
        sock.sendall(put("a") + b"\r\n" + put("b") + put("c", "d"))
        replies = [read_reply(sock) for _ in range(3)]
        assert [[item["id"] for item in json.loads(body)["items"]] for _, _, body in replies] == [
            ["a"],
            ["b"],
            ["c", "d"],
        ]
        assert (server.connections, server.open_connections) == (1, 1)
        assert [(r.number, r.connection, r.method) for r in server.requests] == [
            (1, 1, "PUT"),
            (2, 1, "PUT"),
            (3, 1, "PUT"),
        ]
        assert server.requests[2].spans[1] == {"id": "d", "name": "step"}
        assert list(server.rows) == ["a", "b", "c", "d"]
    assert server.open_connections == 0


def test_a_body_may_come_in_chunks_and_a_byte_at_a_time() -> None:
    body = batch("a", "b")
    head = f"PUT {PATH} HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    chunks = b"5;x=1\r\n%b\r\n%x\r\n%b\r\n0\r\nx: trailer\r\n\r\n" % (
        body[:5],
        len(body) - 5,
        body[5:],
    )
    with FaultServer() as server, connected(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head + chunks:
            sock.sendall(bytes([byte]))
        assert read_reply(sock)[0] == 200
        sock.sendall(put("c"))
        assert read_reply(sock)[0] == 200
        assert server.requests[0].body == body
        assert list(server.rows) == ["a", "b", "c"]


def test_a_body_of_8_mb_is_taken_and_only_announced_where_the_client_asks() -> None:
    body = batch("x" * (8 << 20))
    head = f"PUT {PATH} HTTP/1.1\r\ncontent-length: {len(body)}\r\nexpect: 100-continue\r\n\r\n"
    with FaultServer(faults.status(200)) as server, connected(server) as sock:
        sock.sendall(head.encode())
        assert read_reply(sock)[0] == 100
        sock.sendall(body)
        assert read_reply(sock)[0] == 200
        assert server.requests[0].body == body


@pytest.mark.parametrize(
    ("request_line", "ends"),
    [
        ("GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n", True),
        ("GET /healthz HTTP/1.1\r\nconnection: TE, Close\r\n\r\n", True),
        ("GET /healthz HTTP/1.0\r\n\r\n", True),
        ("GET /healthz HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", False),
    ],
)
def test_a_connection_ends_where_the_client_asks(request_line: str, ends: bool) -> None:
    with FaultServer() as server, connected(server) as sock:
        sock.sendall(request_line.encode())
        status, headers, _ = read_reply(sock)
        assert (status, headers["x-everyspan"]) == (200, "fault-server")
        if ends:
            assert headers["connection"] == "close"
            assert read_end(sock) == b""
        else:
            sock.sendall(put("a"))
            assert read_reply(sock)[0] == 200


def test_an_answer_that_says_so_ends_the_connection() -> None:
    with FaultServer(faults.ok(headers={"Connection": "close"})) as server:
        assert talk(server, put("a") + put("b")).count(b"HTTP/1.1 200 ") == 1


def test_an_answer_without_a_body_has_none() -> None:
    """HEAD and 204: the next answer follows the head."""
    answers = [faults.ok(), faults.status(204), faults.ok()]
    with FaultServer(answers) as server, connected(server) as sock:
        sock.sendall(b"HEAD /healthz HTTP/1.1\r\n\r\n" + put("a") + put("b"))
        data = b""
        while data.count(b"HTTP/1.1 ") < 3 or not data.endswith(b"}]}"):
            data += sock.recv(1 << 16)
        first, second, third = data.split(b"HTTP/1.1 ")[1:]
        assert first.startswith(b"200 ")
        assert b"content-length: 16\r\n" in first
        assert first.endswith(b"\r\n\r\n")
        assert second.startswith(b"204 ")
        assert b"content-length" not in second
        assert third.startswith(b"200 ")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / SPDY/3\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (b"PUT / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n", 400),
        (b"PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\naXX", 400),
        (b"PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nfffffffff\r\n", 413),
        (b"PUT / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1), 413),
        (b"GET /" + b"x" * (1 << 18), 431),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (1 << 14) + b"\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused(data: bytes, status: int) -> None:
    """And nothing is recorded; what the client still sends does not destroy the answer."""
    with FaultServer() as server, connected(server) as sock:
        sock.sendall(data)
        assert read_reply(sock)[0] == status
        assert read_end(sock) == b""
        assert server.requests == []


@pytest.mark.parametrize("cut", [1, 20, len(put("a")) - 1])
def test_a_client_that_leaves_in_the_middle_stores_nothing(cut: int) -> None:
    with FaultServer() as server:
        with connected(server) as sock:
            sock.sendall(put("a")[:cut])
        wait_until(lambda: server.connections == 1 and server.open_connections == 0)
        assert (server.requests, server.rows) == ([], {})


# -- answers


def test_statuses_say_what_they_are_told() -> None:
    """F1: and store what they say they do, before."""
    answers = [
        faults.status(503, retry_after=10),
        faults.status(429, body=b"slow", headers={"content-type": "text/plain"}),
        faults.status(500, stores=True),
        faults.status(202),
        faults.status(200, stores=False),
        faults.redirect("/there"),
        faults.html(),
        faults.refuse(0),
        faults.ok(headers={"x-more": "1"}),
    ]
    with FaultServer(answers) as server, connected(server) as sock:
        replies = []
        for number in range(len(answers)):
            sock.sendall(put(f"s{number}"))
            replies.append(read_reply(sock))
        assert [status for status, _, _ in replies] == [
            *(503, 429, 500, 202, 200, 307, 200, 422, 200),
        ]
        assert replies[0][1]["retry-after"] == "10"
        assert json.loads(replies[0][2])["code"] == 503
        assert (replies[1][1]["content-type"], replies[1][2]) == ("text/plain", b"slow")
        assert replies[5][1]["location"] == "/there"
        assert (replies[6][1]["content-type"], replies[6][2][:9]) == ("text/html", b"<!doctype")
        assert json.loads(replies[7][2])["detail"][0]["loc"][:3] == ["body", "items", 0]
        assert replies[8][1]["x-more"] == "1"
        # The last one repeats.
        sock.sendall(put("more"))
        assert read_reply(sock)[1]["x-more"] == "1"
        assert list(server.rows) == ["s2", "s3", "s8", "more"]


def test_a_partial_answer_names_what_it_stored() -> None:
    with FaultServer(faults.partial(2)) as server, connected(server) as sock:
        sock.sendall(put("a", "b", "c"))
        status, _, body = read_reply(sock)
        assert (status, [item["id"] for item in json.loads(body)["items"]]) == (200, ["a"])
        assert list(server.rows) == ["a"]
        sock.sendall(put("b"))
        assert [item["id"] for item in json.loads(read_reply(sock)[2])["items"]] == ["b"]


@pytest.mark.parametrize(
    ("answer", "stores"),
    [
        (faults.lose_reply(), True),
        (faults.garbage(), False),
        (faults.half_reply(), True),
    ],
    ids=repr,
)
def test_a_connection_ends_without_an_answer(answer: Answer, stores: bool) -> None:
    with FaultServer(answer) as server:
        data = talk(server, put("a"))
        assert list(server.rows) == (["a"] if stores else [])
    match answer.name:
        case "lose_reply()":
            assert data == b""
        case "garbage()":
            assert not data.startswith(b"HTTP")
            assert data
        case "half_reply()":
            head, _, body = data.partition(b"\r\n\r\n")
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            assert 0 < len(body) < length


@pytest.mark.parametrize("stores", [True, False])
def test_a_reset_is_a_reset(stores: bool) -> None:
    with FaultServer(faults.reset_after_body(stores=stores)) as server:
        with connected(server) as sock:
            sock.sendall(put("a"))
            assert is_reset(sock)
        assert len(server.requests) == 1
        assert list(server.rows) == (["a"] if stores else [])


def test_a_server_that_hangs_says_nothing_and_sees_the_client_leave() -> None:
    with FaultServer(faults.hang()) as server:
        with connected(server) as sock:
            sock.sendall(put("a"))
            server.wait_for(requests=1)
            # Another connection is answered after what this one was told: it would be seen.
            server.script = faults.ok()
            with connected(server) as other:
                other.sendall(put("b"))
                assert read_reply(other)[0] == 200
            assert says_nothing(sock)
            assert list(server.rows) == ["b"]
        wait_until(lambda: server.open_connections == 0)


def test_a_head_without_its_body() -> None:
    with FaultServer(faults.hang_after_headers()) as server, connected(server) as sock:
        sock.sendall(put("a"))
        head = read_head(sock)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"content-length: " in head
        assert says_nothing(sock)
        assert list(server.rows) == ["a"]


@pytest.mark.parametrize("ends", [True, False])
def test_a_body_trickles_by_the_clock(ends: bool) -> None:
    """A byte for each step of time."""
    clock = FakeClock()
    answer = faults.trickle(3.0, ends=ends)
    with FaultServer(answer, clock=clock) as server, connected(server) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert read_head(sock).startswith(b"HTTP/1.1 200 ")
        body = b""
        size = 1 if ends else len(b"1\r\nx\r\n")
        for _ in range(16 if ends else 20):
            wait_until(lambda: clock.waiting == 1)
            assert says_nothing(sock)
            clock.advance(3.0)
            part = b""
            while len(part) < size:
                part += sock.recv(size - len(part))
            body += part if ends else part[3:4]
        assert json.loads(body) == {"status": "ok"}
        if ends:
            sock.sendall(put("a"))
            server.wait_for(requests=2)


def test_a_body_without_end_comes_for_as_long_as_it_is_read() -> None:
    with FaultServer(faults.endless()) as server:
        with connected(server) as sock:
            sock.sendall(put("a"))
            size = 0
            while size < 8 << 20:
                size += len(sock.recv(1 << 20))
        wait_until(lambda: server.open_connections == 0)


def test_a_bomb_is_small_until_it_is_unpacked() -> None:
    with FaultServer(faults.compressed_bomb(4 << 20)) as server, connected(server) as sock:
        sock.sendall(put("a"))
        _, headers, body = read_reply(sock)
        assert headers["content-encoding"] == "gzip"
        assert len(body) < 10_000
        unpacked = gzip.decompress(body)
        assert len(unpacked) == 4 << 20
        assert json.loads(unpacked) == {"items": []}
        assert list(server.rows) == ["a"]


def test_a_delay_is_by_the_clock_and_stores_at_its_end() -> None:
    clock = FakeClock()
    answer = faults.delay(90.0, faults.status(503, stores=True))
    with FaultServer(answer, clock=clock) as server, connected(server) as sock:
        sock.sendall(put("a"))
        wait_until(lambda: clock.waiting == 1)
        clock.advance(89.0)
        assert says_nothing(sock)
        assert server.rows == {}
        clock.advance(1.0)
        assert read_reply(sock)[0] == 503
        assert list(server.rows) == ["a"]


def test_a_client_that_gives_up_has_its_request_carried_out_all_the_same() -> None:
    """As a backend that is slow would: the sender's time-out proves nothing."""
    clock = FakeClock()
    with FaultServer(faults.delay(90.0), clock=clock) as server:
        with connected(server) as sock:
            sock.sendall(put("a"))
            wait_until(lambda: clock.waiting == 1)
        clock.advance(90.0)
        server.wait_for(spans=1)


# -- connections


def refused(server: FaultServer) -> bool:
    """Whether a connection is refused."""
    try:
        with connected(server):
            return False
    except ConnectionRefusedError:
        return True


def test_a_server_that_is_down_refuses_and_comes_back_on_its_port() -> None:
    """Several times, with a connection that was open when it went."""
    with FaultServer() as server:
        for number in range(3):
            with connected(server) as sock:
                sock.sendall(put(f"s{number}"))
                assert read_reply(sock)[0] == 200
                server.script = faults.down()
                assert read_end(sock) == b""
            assert refused(server)
            server.script = faults.ok()
            assert not refused(server)
        assert sorted(server.rows) == ["s0", "s1", "s2"]


def test_down_is_part_of_a_sequence_and_goes_by_the_clock() -> None:
    clock = FakeClock()
    script = [faults.down(5.0), faults.status(503), faults.down(7.0), faults.ok()]
    with FaultServer(script, clock=clock) as server:
        assert refused(server)
        wait_until(lambda: clock.waiting == 1)
        clock.advance(5.0)
        wait_until(lambda: not refused(server))
        # The answer before it is whole; then it is away without having been asked.
        data = talk(server, put("a"))
        assert data.startswith(b"HTTP/1.1 503 ")
        assert data.endswith(b"}")
        assert refused(server)
        wait_until(lambda: clock.waiting == 1)
        clock.advance(7.0)
        wait_until(lambda: not refused(server))
        with connected(server) as sock:
            sock.sendall(put("b"))
            assert read_reply(sock)[0] == 200
        assert list(server.rows) == ["b"]


def test_down_as_the_last_answer_lasts() -> None:
    clock = FakeClock()
    with FaultServer([faults.ok(), faults.down(1.0)], clock=clock) as server:
        assert talk(server, put("a")).startswith(b"HTTP/1.1 200 ")
        clock.advance(60.0)
        assert refused(server)
        assert clock.waiting == 0


@pytest.mark.parametrize("is_last", [False, True])
def test_down_begins_with_the_request_whose_turn_it_is(is_last: bool) -> None:
    """The one before it is still in service, on another connection."""
    clock = FakeClock()
    script = [faults.delay(90.0), faults.down(5.0)] + [faults.ok()] * (not is_last)
    with FaultServer(script, clock=clock) as server:
        with connected(server) as first, connected(server) as second:
            first.sendall(put("a"))
            wait_until(lambda: clock.waiting == 1)
            second.sendall(put("b"))
            assert read_end(second) == b""
            assert read_end(first) == b""
        assert refused(server)
        wait_until(lambda: clock.waiting == (1 if is_last else 2))
        clock.advance(5.0)
        if not is_last:
            wait_until(lambda: not refused(server))
        # What was in service is carried out, wherever its client is.
        clock.advance(90.0)
        server.wait_for(spans=1)
        assert refused(server) == is_last
        assert list(server.rows) == ["a"]


def test_a_function_may_say_down_and_the_request_is_lost() -> None:
    clock = FakeClock()

    def script(request: Request) -> Answer:
        return faults.down(5.0) if request.number == 1 else faults.ok()

    with FaultServer(script, clock=clock) as server:
        assert talk(server, put("a")) == b""
        assert refused(server)
        wait_until(lambda: clock.waiting == 1)
        clock.advance(5.0)
        wait_until(lambda: not refused(server))
        assert server.rows == {}


def test_a_script_that_is_changed_while_down_forgets_when_to_come_back() -> None:
    clock = FakeClock()
    with FaultServer([faults.down(5.0), faults.ok()], clock=clock) as server:
        wait_until(lambda: clock.waiting == 1)
        server.script = faults.down()
        wait_until(lambda: clock.waiting == 0)
        clock.advance(10.0)
        assert refused(server)


def test_an_idle_connection_is_closed_with_the_answer() -> None:
    """Nothing in the answer warns of it."""
    with FaultServer(faults.close_idle_connections()) as server, connected(server) as sock:
        sock.sendall(put("a"))
        _, headers, _ = read_reply(sock)
        assert "connection" not in headers
        assert read_end(sock) == b""


def test_an_idle_connection_is_closed_after_a_while() -> None:
    clock = FakeClock()
    with FaultServer(faults.close_idle_connections(60.0), clock=clock) as server:
        with connected(server) as sock:
            for id in ("a", "b"):
                sock.sendall(put(id))
                assert read_reply(sock)[0] == 200
                wait_until(lambda: clock.waiting == 1)
                clock.advance(59.0)
            # What has begun is not idle.
            sock.sendall(put("c")[:-1])
            wait_until(lambda: clock.waiting == 0)
            clock.advance(59.0)
            sock.sendall(put("c")[-1:])
            assert read_reply(sock)[0] == 200
            wait_until(lambda: clock.waiting == 1)
            clock.advance(60.0)
            assert read_end(sock) == b""
        assert list(server.rows) == ["a", "b", "c"]


def test_a_stale_connection_is_cut_under_the_next_request() -> None:
    with FaultServer(faults.stale_connection()) as server, connected(server) as sock:
        sock.sendall(put("a"))
        assert read_reply(sock)[0] == 200
        assert says_nothing(sock)
        sock.sendall(put("b"))
        assert is_reset(sock)
        assert list(server.rows) == ["a"]
        assert len(server.requests) == 1


# -- scripts


def test_a_script_may_be_changed_from_anywhere() -> None:
    """Also by itself, on the server's thread."""

    def script(request: Request) -> Answer:
        server.script = faults.status(503)
        return faults.ok()

    with FaultServer(script) as server, connected(server) as sock:
        sock.sendall(put("a") * 3)
        assert [read_reply(sock)[0] for _ in range(3)] == [200, 503, 503]
        assert server.requests[0].headers["host"] == "x"


def test_what_a_script_raises_is_raised_where_the_block_ends() -> None:
    """A failed assertion in a script fails the test; the request is cut."""

    def script(request: Request) -> Answer:
        raise AssertionError("never this")

    def use() -> None:
        with FaultServer(script) as server, connected(server) as sock:
            sock.sendall(put("a"))
            assert is_reset(sock)

    with pytest.raises(AssertionError, match="never this"):
        use()


def test_what_the_block_raises_comes_first() -> None:
    def script(request: Request) -> Any:
        return 503

    def use() -> None:
        with FaultServer(script) as server, connected(server) as sock:
            sock.sendall(put("a"))
            assert is_reset(sock)
            raise KeyError("own")

    with pytest.raises(KeyError) as caught:
        use()
    assert "must return an answer of faults, got 503" in caught.value.__notes__[0]


def test_an_answer_of_ones_own() -> None:
    async def half_a_head(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200")
        await exchange.close()

    with FaultServer(Answer("half_a_head()", half_a_head)) as server:
        assert talk(server, put("a")) == b"HTTP/1.1 200"


@pytest.mark.parametrize("script", [[], 503, "ok", [503], None.__class__])
def test_a_script_that_is_none_is_refused(script: Any) -> None:
    if script is type(None):
        script = [faults.ok(), None]
    with pytest.raises(
        SettingsError, match=r"script must be an answer of everyspan.testing.faults"
    ):
        FaultServer(script)
    with FaultServer() as server, pytest.raises(SettingsError, match="script must be"):
        server.script = script


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: faults.status(99), "code"),
        (lambda: faults.status("503"), "code"),  # type: ignore[arg-type]
        (lambda: faults.redirect(code=600), "code"),
        (lambda: faults.delay(-1), "seconds"),
        (lambda: faults.delay(float("nan")), "seconds"),
        (lambda: faults.down(float("inf")), "seconds"),
        (lambda: faults.trickle("1"), "every_s"),  # type: ignore[arg-type]
        (lambda: faults.close_idle_connections(True), "after_s"),
        (lambda: faults.partial(-1), "missing"),
        (lambda: faults.compressed_bomb(1.5), "size"),  # type: ignore[arg-type]
        (lambda: faults.capacity(0), "places"),
        (lambda: faults.capacity(1, queue=-1), "queue"),
        (lambda: faults.capacity(1, service_s=-1), "service_s"),
        (lambda: faults.lognormal(median_s=2, p95_s=1), "p95_s"),
    ],
)
def test_a_bad_argument_is_refused_by_name(make: Callable[[], object], name: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} must be "):
        make()


def test_a_capacity_serves_so_many_and_has_so_many_wait() -> None:
    """Two in service, one waits, the fourth is told to come back; by the clock."""
    clock = FakeClock()
    script = faults.capacity(2, service_s=10.0, queue=1, retry_after=30)
    with FaultServer(script, clock=clock) as server, httpx2.Client(timeout=20) as client:
        url, statuses = server.base_url + PATH, {}

        def send(id: str) -> None:
            statuses[id] = client.put(url, content=batch(id)).status_code

        threads = []
        for number, id in enumerate(("a", "b", "c")):
            threads.append(threading.Thread(target=send, args=(id,)))
            threads[-1].start()
            wait_until(lambda: clock.waiting == number + 1)  # noqa: B023
        fourth = client.put(url, content=batch("d"))
        assert (fourth.status_code, fourth.headers["retry-after"]) == (429, "30")
        clock.advance(10.0)
        server.wait_for(spans=2)
        assert sorted(server.rows) == ["a", "b"]
        wait_until(lambda: clock.waiting == 1)
        clock.advance(10.0)
        for thread in threads:
            thread.join(20)
        assert statuses == {"a": 200, "b": 200, "c": 200}


def arrive(script: Callable[[Request], Answer], *times_s: float) -> list[str]:
    """What a script answers requests that come at these times."""
    return [
        script(Request(number, 1, "PUT", PATH, "", {}, b"", time_s)).name
        for number, time_s in enumerate(times_s, 1)
    ]


def test_a_capacity_that_is_exceeded_recovers() -> None:
    script = faults.capacity(1, service_s=2.0, queue=1)
    waits = arrive(script, 0.0, 0.5, 0.5, 2.0, 2.5, 9.0)
    assert waits == [
        "delay(2, ok())",
        "delay(3.5, ok())",
        "status(429)",
        "delay(4, ok())",
        "status(429)",
        "delay(2, ok())",
    ]
    # Without a queue those who find no place free are sent away.
    assert arrive(faults.capacity(1, service_s=2.0, queue=0), 0.0, 1.0, 2.0) == [
        "delay(2, ok())",
        "status(429)",
        "delay(2, ok())",
    ]


def test_a_latency_is_drawn_from_its_seed() -> None:
    def draws(seed: int) -> list[float]:
        draw = faults.lognormal(median_s=0.150, p95_s=0.330, seed=seed)
        return sorted(draw() for _ in range(4001))

    assert draws(1) == draws(1) != draws(2)
    named = faults.delay(faults.lognormal(median_s=0.150, p95_s=0.330, seed=1))
    assert repr(named) == "delay(lognormal(median_s=0.15, p95_s=0.33, seed=1), ok())"
    assert 0.140 < draws(1)[2000] < 0.160
    assert 0.300 < draws(1)[3800] < 0.360


# -- what it stored


def test_the_batch_api_keeps_every_version_and_refuses_what_is_no_batch() -> None:
    with FaultServer() as server, httpx2.Client(base_url=server.base_url + "/public") as client:
        for name in ("first", "second"):
            body = {"items": [{"id": "a", "name": name}, {"name": "no id"}]}
            reply = client.put(PATH, json=body, headers={"x-selected-account-id": "acc"})
            assert reply.json()["items"][0]["account_id"] == "acc"
        assert [version["name"] for version in server.rows["a"]] == ["first", "second"]
        assert len(server.rows) == 3
        minimal = client.put(PATH, json=body, headers={"prefer": "return=minimal"})
        assert minimal.json() == {"object": "list", "items": []}
        for bad in (b"", b"[", b"[]", b"{}", b'{"items":{}}', b'{"items":[1]}', b"[" * 100_000):
            assert client.put(PATH, content=bad).status_code == 422
        bad_id = client.put(PATH, json={"items": [{"id": "b"}, {"id": 7}]})
        assert bad_id.json()["detail"][0]["loc"] == ["body", "items", 1, "id"]
        many = {"items": [{"id": f"{n}"} for n in range(ITEMS_MAX + 1)]}
        assert client.put(PATH, json=many).status_code == 422
        assert client.get(PATH).status_code == 405
        assert client.post("/v5/spans", json={"id": "b"}).status_code == 404
        assert len(server.rows) == 4
        assert len(server.batches) == len(server.requests) - 1


def test_the_agentex_api_is_strict() -> None:
    """`agx` §3, §4: 400 for a repeat, 404 for an unknown id, `data` merged, null is no news."""
    times = {"start_time": "2026-01-02T03:04:05Z", "end_time": None}
    span = {"id": "a/b", "trace_id": "t", "name": "n", **times, "data": {"x": 1, "y": 1}}
    with FaultServer() as server, httpx2.Client(base_url=server.base_url) as client:
        created = client.post("/spans", json={**span, "unknown": 1})
        assert created.status_code == 200
        assert created.json() == {
            **dict.fromkeys(("parent_id", "task_id", "input", "output")),
            **span,
        }
        repeat = client.post("/spans", json=span)
        assert (repeat.status_code, repeat.json()) == (
            400,
            {"message": "Item already exists: a/b", "code": 400, "data": None},
        )
        change = {"data": {"y": 2}, "output": [{"o": 1}], "name": None, "id": "other"}
        changed = client.patch("/spans/a%2Fb", json=change)
        assert changed.json()["data"] == {"x": 1, "y": 2}
        assert (changed.json()["name"], changed.json()["id"]) == ("n", "a/b")
        missing = client.patch("/spans/nobody", json={"name": "n"})
        assert (missing.status_code, missing.json()) == (
            404,
            {"message": "Item with id 'nobody' does not exist.", "code": 404, "data": None},
        )
        bodies: list[Any] = [
            {**span, "id": "c", "name": None},
            {**span, "id": "c", "input": "text"},
            {**span, "id": "c", "input": [1]},
            {**span, "id": "c", "start_time": "soon"},
            {**span, "id": 7},
            [],
        ]
        for bad in bodies:
            refused = client.post("/spans", json=bad)
            assert refused.status_code == 422
            assert refused.json()["status_code"] == 10422
        assert client.patch("/spans/a%2Fb", json={"data": [{}]}).status_code == 500
        assert client.post("/spans", json={**span, "id": None}).json()["id"]
        assert [version["output"] for version in server.rows["a/b"]] == [None, [{"o": 1}]]
        assert len(server.rows) == 2
        assert server.spans["a/b"] == changed.json()
        assert server.calls[:4] == [("POST", 200), ("POST", 400), ("PATCH", 200), ("PATCH", 404)]
        # The two APIs do not see each other's spans.
        assert client.put(PATH, content=batch("sgp")).status_code == 200
        assert client.post("/spans", json={**span, "id": "sgp"}).status_code == 200
        assert len(server.rows["sgp"]) == 2


def test_memory_is_bounded_and_no_id_forgotten() -> None:
    """F3: the oldest requests go, their spans keep their ids."""
    times = {"start_time": "2026-01-02T03:04:05Z"}
    with (
        FaultServer(kept_bytes_max=100_000) as server,
        httpx2.Client(base_url=server.base_url) as client,
    ):
        span = {"id": "agx", "trace_id": "t", "name": "n", **times}
        client.post("/spans", json=span)
        for number in range(30):
            body = {"items": [{"id": f"s{number}", "input": {"x": "x" * 10_000}}]}
            assert client.put(PATH, json=body).status_code == 200
        requests = server.requests
        assert sum(len(request.body) for request in requests) <= 100_000
        assert requests[-1].number == 31
        assert requests[0].number > 20
        assert len(server.rows) == 31
        assert server.rows["s0"] == [{"id": "s0"}]
        assert len(server.rows["s29"][0]["input"]["x"]) == 10_000
        assert client.post("/spans", json=span).status_code == 400
        assert client.patch("/spans/agx", json={"name": "m"}).json() == {"id": "agx", "name": "m"}
        # One that is larger than all that is kept is there until the next.
        client.put(PATH, json={"items": [{"id": "big", "input": {"x": "x" * 200_000}}]})
        assert [request.number for request in server.requests] == [34]


# -- waiting, ending


def test_waiting_says_what_was_missing() -> None:
    with FaultServer() as server:
        talk(server, b"GET /healthz HTTP/1.0\r\n\r\n")
        server.wait_for(requests=1)
        with pytest.raises(TimeoutError, match=r"1 requests of 1, 0 spans of 2"):
            server.wait_for(requests=1, spans=2, timeout=0.01)


async def test_async_tests_wait_without_blocking_their_loop() -> None:
    """With several servers at once."""
    with FaultServer() as one, FaultServer(faults.status(503, stores=True)) as other:
        assert one.base_url != other.base_url
        async with httpx2.AsyncClient() as client:
            waiting = asyncio.gather(one.await_for(spans=2), other.await_for(requests=1, spans=1))
            await client.put(one.base_url + PATH, content=batch("a"))
            await client.put(other.base_url + PATH, content=batch("b"))
            assert not waiting.done()
            await client.put(one.base_url + PATH, content=batch("c"))
            await waiting
        with pytest.raises(TimeoutError, match="2 requests of 9"):
            await one.await_for(requests=9, timeout=0.01)


HANGING = [
    faults.hang(),
    faults.hang_after_headers(),
    faults.trickle(1000.0),
    faults.endless(),
    faults.delay(1000.0),
    faults.stale_connection(),
    faults.close_idle_connections(1000.0),
    faults.ok(),
]


@pytest.mark.parametrize("answer", HANGING, ids=repr)
def test_a_server_ends_whatever_hangs(answer: Answer) -> None:
    """F2: nobody reads, some are in the middle of a request, one never began."""
    before = {*threading.enumerate()}
    with FaultServer(answer) as server:
        socks = []
        for data in (put("a"), put("b")[:-1], b"PUT", b""):
            with connected(server) as sock:
                socks.append(sock.dup())
            socks[-1].sendall(data)
        server.wait_for(requests=1)
    names = {thread.name for thread in {*threading.enumerate()} - before}
    assert "everyspan-fault-server" not in names
    assert server.open_connections == 0
    for sock in socks:
        sock.close()


def test_a_server_that_is_down_ends_too() -> None:
    with FaultServer([faults.down(1000.0), faults.ok()]) as server:
        assert refused(server)
    server.script = faults.ok()  # Too late for anything, and no error.
    assert refused(server)


def test_a_port_of_ones_own_and_one_that_is_taken() -> None:
    with FaultServer() as server:
        port = httpx2.URL(server.base_url).port or 0
        with pytest.raises(OSError, match="in use"), FaultServer(port=port):
            pass
    with FaultServer(port=port) as again:
        assert again.base_url == server.base_url
        with pytest.raises(SettingsError, match="entered once"), again:
            pass


ALL_OF_IT = """
import gc, socket
from urllib.parse import urlsplit
from everyspan.testing import FaultServer, faults

BODY = b'{"items":[{"id":"a"}]}'
DATA = b"PUT /v5/spans/batch HTTP/1.1\\r\\ncontent-length: %d\\r\\n\\r\\n%b" % (len(BODY), BODY)
ANSWERS = [
    faults.ok(), faults.status(503), faults.partial(), faults.redirect(), faults.html(),
    faults.garbage(), faults.compressed_bomb(1000), faults.delay(0.001), faults.delay(60),
    faults.hang(), faults.hang_after_headers(), faults.trickle(), faults.trickle(ends=True),
    faults.endless(), faults.down(), faults.down(0.001), faults.lose_reply(),
    faults.reset_after_body(), faults.half_reply(), faults.close_idle_connections(),
    faults.close_idle_connections(60), faults.stale_connection(),
]
for answer in ANSWERS:
    for is_function in (False, True):
        with FaultServer((lambda request: answer) if is_function else answer) as server:
            try:
                address = urlsplit(server.base_url)
                with socket.create_connection((address.hostname, address.port)) as sock:
                    sock.sendall(DATA + DATA)
                    server.wait_for(requests=1)
                    sock.recv(10) if not answer.name.startswith(("hang()", "delay(60")) else None
            except ConnectionError:
                pass
        gc.collect()
print(len(ANSWERS))
"""


def test_nothing_warns_whatever_the_server_did() -> None:
    """F2: no socket, transport, task or loop is left to the collector."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALL_OF_IT],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "22\n")


# -- the whole path


@pytest.fixture
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Retries come at once: the draw of the jitter is 0. Nothing stays configured."""
    monkeypatch.setattr("everyspan.delivery.lane.random.random", lambda: 0.0)
    monkeypatch.setattr("everyspan.delivery.backoff.FIRST_CEILING_S", 0.02)
    monkeypatch.setattr("everyspan.delivery.backoff.LAST_CEILING_S", 0.05)
    yield
    everyspan.set_tracing_processor_configs([])
    everyspan.shutdown(10)


LOSES_NOTHING = [
    [faults.status(503)],
    [faults.status(503, retry_after=0), faults.status(429), faults.status(500, stores=True)],
    [faults.lose_reply(), faults.lose_reply()],
    [faults.reset_after_body(), faults.reset_after_body(stores=True)],
    [faults.half_reply()],
    [faults.garbage(), faults.garbage(b"\r\n")],
    [faults.hang()],
    [faults.hang_after_headers()],
    [faults.trickle(0.01)],
    [faults.delay(0.01), faults.delay(faults.lognormal(median_s=0.01, p95_s=0.02))],
    [faults.down(0.1)],
    [faults.ok(), faults.down(0.1)],
    [faults.close_idle_connections()] * 5,
    [faults.close_idle_connections(0.0), faults.stale_connection()] * 3,
    [faults.compressed_bomb(1 << 20)],
    [faults.endless()],
    [faults.html()],
    [faults.redirect()],
    [faults.partial(3), faults.partial(0)],
]


@pytest.mark.usefixtures("_no_backoff")
@pytest.mark.parametrize("trouble", LOSES_NOTHING, ids=repr)
def test_everyspan_loses_nothing(trouble: list[Answer]) -> None:
    """P1, P6: a backend in trouble that recovers has every span, in one version at least."""
    with FaultServer([*trouble, faults.ok()]) as server:
        everyspan.configure(
            everyspan.SGPTracingProcessorConfig("key", "account", server.base_url),
            linger_ms=1,
            batch_size=10,
            request_timeout_s=0.5,
        )
        ids = []
        for _ in range(50):
            with everyspan.span("step") as span:
                ids.append(span.id)
        assert everyspan.shutdown(20)
        assert sorted(server.rows) == sorted(ids)
        assert all(v == versions[0] for versions in server.rows.values() for v in versions)
        (stats,) = everyspan.stats().destinations
        assert (stats.residual, stats.delivered, stats.dropped_total) == (0, 50, 0)


@pytest.mark.usefixtures("_no_backoff")
def test_a_backend_of_small_capacity_gets_everything_in_the_end() -> None:
    """P1: beyond two at once and one that waits it refuses."""
    script = faults.capacity(2, service_s=faults.lognormal(median_s=0.005, p95_s=0.02), queue=1)
    with FaultServer(script) as server:
        everyspan.configure(
            everyspan.SGPTracingProcessorConfig("key", "account", server.base_url),
            linger_ms=0,
            batch_size=2,
        )
        for _ in range(100):
            with everyspan.span("step"):
                pass
        assert everyspan.shutdown(20)
        assert (len(server.rows), everyspan.stats().residual) == (100, 0)


@pytest.mark.usefixtures("_no_backoff")
def test_a_backend_that_stays_down_is_told_apart_from_a_loss_without_a_word() -> None:
    """P1: what could not be delivered is counted, with its reason."""
    with FaultServer(faults.down()) as server:
        everyspan.configure(everyspan.SGPTracingProcessorConfig("key", "account", server.base_url))
        with everyspan.span("step"):
            pass
        result = everyspan.shutdown(0.2)
        assert {name: sum(left.values()) for name, left in result.left.items()} == {"sgp": 1}
        assert everyspan.stats().residual == 0
        assert server.requests == []


# -- attacks


FRAGMENTS = [
    *(b"GET ", b"PUT ", b"/v5/spans/batch", b"/spans/", b" HTTP/1.1", b"\r\n", b"\r\n\r\n", b": "),
    *(b"content-length: ", b"7", b"-", b"transfer-encoding: chunked", b"expect: 100-continue"),
    *(b'{"items":[{"id":', b'"a"}]}', b"\x00", b"\xff\xfe", b"x" * 70_000, b"0\r\n\r\n"),
]


@pytest.mark.parametrize("seed", range(3))
def test_no_bytes_disturb_the_server(seed: int) -> None:
    """A defect of its own would be raised where the block ends."""
    draw = random.Random(seed)
    with FaultServer() as server:
        for _ in range(50):
            data = b"".join(draw.choices(FRAGMENTS, k=draw.randrange(1, 12)))
            with connected(server) as sock, suppress(ConnectionError):
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                read_end(sock)
        wait_until(lambda: server.open_connections == 0)
        assert talk(server, b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_threads_change_the_script_while_others_send() -> None:
    """The last assignment stands; what was answered 200 is stored, whatever happened between."""
    stored: set[str] = set()
    answers = [faults.ok(), faults.down(), faults.reset_after_body(), faults.down(0.001)]
    over = threading.Event()

    def steer(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(40):
            server.script = [draw.choice(answers), draw.choice(answers)]

    def send(name: str) -> None:
        number = 0
        while not over.is_set():
            number += 1
            with suppress(ConnectionError), connected(server) as sock:
                sock.sendall(put(f"{name}{number}"))
                if read_head(sock).startswith(b"HTTP/1.1 200 "):
                    stored.add(f"{name}{number}")

    with FaultServer() as server:
        steering = [threading.Thread(target=steer, args=(seed,)) for seed in range(2)]
        sending = [threading.Thread(target=send, args=(name,)) for name in "ab"]
        for thread in (*steering, *sending):
            thread.start()
        for thread in steering:
            thread.join(20)
        server.script = faults.ok()
        assert not refused(server)
        server.wait_for(spans=len(server.rows) + 1)
        over.set()
        for thread in sending:
            thread.join(20)
        assert stored
        assert stored <= {*server.rows}
