"""Connections, against a real loopback server."""

from __future__ import annotations

import asyncio
import gc
import ssl
import threading
import time
import weakref

import pytest

from everyspan.errors import RetryableExportError
from everyspan.testing import FaultServer, faults
from everyspan.testing.faults import Answer
from everyspan.transport.client import REPLY_BYTES_KEPT, HttpClients
from tests.waiting import wait_until

PATH = "/v5/spans/batch"
BODY = b'{"items":[]}'


def make_clients(base_url: str, *, timeout_s: float = 10.0) -> HttpClients:
    """Clients with one header of their own."""
    return HttpClients(base_url, headers={"x-api-key": "k"}, timeout_s=timeout_s)


def put(clients: HttpClients, times: int = 1) -> None:
    """Make requests one after the other on a loop of their own."""

    async def main() -> None:
        for _ in range(times):
            reply = await clients.request("PUT", PATH, BODY)
            assert reply.status == 200

    asyncio.run(main())


def test_requests_share_a_connection() -> None:
    """`trace:L2`: keep-alive is on, and used."""
    with FaultServer() as backend:
        clients = make_clients(backend.base_url + "/")
        put(clients, 50)
        assert (backend.connections, clients.connections) == (1, 1)
        request = backend.requests[0]
        assert (request.method, request.path, request.body) == ("PUT", PATH, BODY)
        assert request.headers["x-api-key"] == "k"


async def test_building_costs_no_client_and_each_loop_has_one() -> None:
    """`trace:L1`: the same object within a loop, another in another."""
    clients = make_clients("http://127.0.0.1:9")
    assert not len(clients._clients)
    loop = asyncio.get_running_loop()
    first = clients.client(loop)
    assert clients.client(loop) is first
    other = asyncio.new_event_loop()
    second = clients.client(other)
    assert second is not first
    assert clients.client(loop) is first
    await second.aclose()
    other.close()
    await clients.close()
    assert loop not in clients._clients
    assert first.is_closed


def test_clients_of_loops_that_ended_are_closed_and_let_go() -> None:
    """`trace:L5`, `L3`: by `asyncio.run` itself; neither loop nor connection lingers."""
    with FaultServer() as backend:
        clients = make_clients(backend.base_url)
        loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

        async def main() -> None:
            loops.append(weakref.ref(asyncio.get_running_loop()))
            await asyncio.gather(*[clients.request("PUT", PATH, BODY) for _ in range(3)])

        for _ in range(20):
            asyncio.run(main())
        wait_until(lambda: backend.open_connections == 0)
        gc.collect()
        assert [loop() for loop in loops] == [None] * 20
        assert len(clients._clients) == 0


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_clients_of_loops_closed_by_hand_are_evicted() -> None:
    """`trace:L5`: nothing was finalised; the next client to be added throws them out."""
    with FaultServer() as backend:
        clients = make_clients(backend.base_url)
        for _ in range(5):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(clients.request("PUT", PATH, BODY))
            loop.close()
        assert len(clients._clients) == 1
        put(clients)
        del loop
        gc.collect()
        assert len(clients._clients) == 0


def test_all_clients_share_one_ssl_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """T3: building one costs 20 ms."""
    built: list[ssl.SSLContext] = []
    create = ssl.create_default_context

    def counted() -> ssl.SSLContext:
        built.append(create())
        return built[-1]

    monkeypatch.setattr("everyspan.transport.client.ssl.create_default_context", counted)
    from everyspan.transport import client

    client._ssl_context.cache_clear()
    for host in ("https://one.example", "https://two.example"):
        clients = make_clients(host)
        for _ in range(3):
            clients.build()
    assert len(built) == 1
    client._ssl_context.cache_clear()


@pytest.mark.parametrize("answer", [faults.hang(), faults.trickle()], ids=repr)
def test_a_request_takes_no_longer_than_its_time(answer: Answer) -> None:
    """T4: whether nothing comes back, or a byte now and then."""
    with FaultServer(answer) as backend:
        clients = make_clients(backend.base_url, timeout_s=0.2)
        before_s = time.monotonic()
        with pytest.raises(RetryableExportError) as caught:
            put(clients)
        assert time.monotonic() - before_s < 2.0
        assert (caught.value.reason, caught.value.congested) == ("timeout", True)


def test_a_large_reply_is_cut() -> None:
    """T4: 64 KiB are kept; the connection is used again."""
    large = faults.status(422, body=b"x" * (1 << 20))
    with FaultServer(large) as backend:
        clients = make_clients(backend.base_url)

        async def main() -> None:
            for _ in range(3):
                reply = await clients.request("PUT", PATH, BODY)
                assert (reply.status, len(reply.body)) == (422, REPLY_BYTES_KEPT)

        asyncio.run(main())
        assert backend.connections == 1


def test_a_reply_without_end_is_left() -> None:
    """T4: beyond 16 MiB its connection is given up."""
    with FaultServer(faults.endless()) as backend:
        clients = make_clients(backend.base_url)

        async def main() -> None:
            reply = await clients.request("PUT", PATH, BODY)
            assert len(reply.body) == REPLY_BYTES_KEPT
            await clients.request("PUT", PATH, BODY)

        asyncio.run(main())
        assert backend.connections == 2


@pytest.mark.parametrize("lost", [1, 2])
def test_a_connection_that_breaks_may_be_tried_again(lost: int) -> None:
    """trace:D4: a fresh one as well as one that was kept alive."""
    with FaultServer([faults.ok()] * (lost - 1) + [faults.lose_reply(), faults.ok()]) as backend:
        clients = make_clients(backend.base_url)

        async def main() -> list[str]:
            reasons = []
            for _ in range(3):
                try:
                    await clients.request("PUT", PATH, BODY)
                except RetryableExportError as error:
                    reasons.append("congested" if error.congested else error.reason)
                else:
                    reasons.append("stored")
            return reasons

        expected = ["stored"] * 3
        expected[lost - 1] = "connection broke"
        assert asyncio.run(main()) == expected


def test_nobody_there_is_said_and_may_be_tried_again() -> None:
    """With the word that the exit of the process looks for."""
    with FaultServer() as backend:
        base_url = backend.base_url
    with pytest.raises(RetryableExportError, match="no connection") as caught:
        put(make_clients(base_url))
    assert caught.value.reason == "cannot connect"


def test_redirects_are_not_followed() -> None:
    """`sgp:E3`: a loop of them produced 63 requests."""
    moved = faults.status(307, headers={"location": PATH})
    with FaultServer(moved) as backend:
        clients = make_clients(backend.base_url)
        reply = asyncio.run(clients.request("PUT", PATH, BODY))
        assert (reply.status, len(backend.requests)) == (307, 1)


def test_threads_with_loops_of_their_own_do_not_disturb_each_other() -> None:
    """L1: adding and evicting clients at once from several threads."""
    errors: list[BaseException] = []
    with FaultServer() as backend:
        clients = make_clients(backend.base_url)

        def work() -> None:
            try:
                for _ in range(15):
                    put(clients, 2)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: not any(thread.is_alive() for thread in threads))
        assert errors == []
        assert len(backend.requests) == 4 * 15 * 2


async def test_a_proxy_of_the_environment_is_not_asked_for_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proxy could not reach this machine's own loopback."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with FaultServer() as backend:
        clients = HttpClients(backend.base_url, headers={}, timeout_s=5)
        reply = await clients.request("PUT", "/v5/spans/batch", b'{"items":[]}')
        await clients.close()
    assert reply.status == 200


async def test_headers_of_one_request_are_of_that_one_alone() -> None:
    """Both requests go over the same connection."""
    with FaultServer() as backend:
        clients = make_clients(backend.base_url)
        await clients.request("GET", "/x", headers={"x-api-key": "other", "x-more": "1"})
        await clients.request("GET", "/x")
        await clients.close()
        first, second = backend.requests
        assert (first.headers["x-api-key"], first.headers["x-more"]) == ("other", "1")
        assert second.headers["x-api-key"] == "k"
        assert "x-more" not in second.headers
        assert first.connection == second.connection


async def test_the_library_logs_the_agents_requests_and_none_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """T5, P4: an agent that logs at INFO would get a line for every batch, or every span."""
    caplog.set_level("INFO")
    with FaultServer([faults.ok(), faults.lose_reply(), faults.ok()]) as server:
        clients = make_clients(server.base_url)
        await clients.request("PUT", PATH, BODY)
        with pytest.raises(RetryableExportError):
            await clients.request("PUT", PATH, BODY)
        assert caplog.messages == []
        await clients.current().put(server.base_url + PATH, content=BODY)
        await clients.close()
    (line,) = caplog.messages
    assert "HTTP Request: PUT" in line


def test_outside_a_loop_a_client_is_nobody_elses() -> None:
    """`trace:L4`."""
    clients = make_clients("http://127.0.0.1:9")
    assert clients.current() is not clients.current()
