"""`everyspan.server.app` where the store fails: what a client is told, and what is logged."""

from __future__ import annotations

import logging
from typing import NoReturn

import httpx2
import pytest

from everyspan.errors import StoreBusyError, StoreError
from everyspan.server.app import create_app
from everyspan.server.stores.base import Store
from tests.server.rows import START, make_item


def failing_store(error: Exception) -> Store:
    """A store that raises the same error from everything but its end."""

    async def fail(*_: object, **__: object) -> NoReturn:
        raise error

    async def close(_self: Store) -> None:
        """Nothing is held."""

    def watch(_self: Store, _call: object) -> None:
        """Nothing is ever committed."""

    async def keys(_self: Store) -> list[object]:
        """None: requests get as far as the routes."""
        return []

    failing = dict.fromkeys(Store.__abstractmethods__, fail)
    methods = failing | {"close": close, "keys": keys, "watch": watch}
    store: Store = type("FailingStore", (Store,), methods)()
    return store


def client_of(error: Exception) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(create_app(failing_store(error)))
    return httpx2.AsyncClient(transport=transport, base_url="http://localhost")


async def every_reply(client: httpx2.AsyncClient) -> list[httpx2.Response]:
    item = make_item(input={"password": "hunter2"})
    return [
        await client.put("/v5/spans/batch", json={"items": [item]}),
        await client.post("/public/v5/spans", json=item),
        await client.patch("/v5/spans/x", json={"name": "hunter2"}),
        await client.get("/v5/spans/x"),
        await client.post("/v5/spans/search", json={}),
        await client.get("/healthz"),
    ]


async def every_agentex_reply(client: httpx2.AsyncClient) -> list[httpx2.Response]:
    span = {"name": "n", "trace_id": "t", "start_time": START, "data": {"password": "hunter2"}}
    replies = [
        await client.post("/spans", json=span),
        await client.patch("/spans/x", json={"name": "hunter2"}),
        await client.get("/spans/x"),
        await client.get("/spans"),
    ]
    for reply in replies:
        assert reply.json() == {
            "message": reply.json()["message"],
            "code": reply.status_code,
            "data": None,
        }
    return replies


async def test_a_busy_store_asks_to_come_back(caplog: pytest.LogCaptureFixture) -> None:
    """`sgp:E2`: 503 with Retry-After, never 500; nothing to log."""
    async with client_of(StoreBusyError("7 writes wait", retry_after_s=2.0)) as client:
        for reply in await every_reply(client):
            assert (reply.status_code, reply.json()["code"]) == (503, "STORE_BUSY")
            assert reply.headers["retry-after"] == "2"
            assert reply.headers["x-everyspan"]
        for reply in await every_agentex_reply(client):
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
            assert reply.headers["x-everyspan"]
    assert caplog.text == ""


async def test_a_failed_store_is_not_the_clients_business(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A3, `sgp:E2`."""
    async with client_of(StoreError("the store failed: disk full at /secret")) as client:
        for reply in await every_reply(client):
            assert (reply.status_code, reply.json()["code"]) == (503, "STORE_FAILED")
            assert 1 <= int(reply.headers["retry-after"]) <= 60
            assert "secret" not in reply.text
        for reply in await every_agentex_reply(client):
            assert reply.status_code == 503
            assert "secret" not in reply.text
    assert "disk full" in caplog.text


async def test_our_own_mistake_is_a_500_with_an_id_and_without_a_payload(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A3: the log leads to the line; neither it nor the reply repeats what was sent."""
    caplog.set_level(logging.DEBUG)
    async with client_of(KeyError("hunter2")) as client:
        for reply in await every_reply(client):
            assert reply.status_code == 500
            assert reply.headers["x-everyspan"]
            assert reply.json()["request_id"] in caplog.text
            assert "hunter2" not in reply.text
        for reply in await every_agentex_reply(client):
            assert reply.status_code == 500
            assert reply.json()["message"].rpartition(" ")[2] in caplog.text
            assert "hunter2" not in reply.text
    assert "KeyError" in caplog.text
    assert "test_app.py" in caplog.text
    assert "hunter2" not in caplog.text
