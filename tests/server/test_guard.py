"""`everyspan.server.guard`: what holds for every route, found in the application's route table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from starlette.types import ASGIApp

from everyspan.server.app import create_app
from everyspan.server.stores.sqlite import SqliteStore
from tests.server.rows import make_item
from tests.server.sweep import every_request


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[ASGIApp]:
    store = SqliteStore(tmp_path / "spans.db")
    yield create_app(store)
    await store.close()


def client_of(app: ASGIApp) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost:5003")


async def code_of(client: httpx2.AsyncClient, method: str, path: str, **said: str) -> object:
    """Return the status of a request with these headers; of a refusal that it is worded."""
    headers = {name.replace("_", "-"): value for name, value in said.items()}
    # An event stream that is let in would not end.
    reply = await client.request(method, path, headers=headers)
    if reply.status_code >= 400 and method != "HEAD":
        assert reply.content
    return reply.status_code


async def test_no_route_answers_to_a_foreign_name(app: ASGIApp) -> None:
    """G1: DNS rebinding."""
    async with client_of(app) as client:
        for method, path in every_request(app):
            status = await code_of(client, method, path, host="evil.example:5003")
            assert (method, path, status) == (method, path, 403)


async def test_no_route_serves_a_page_of_another_site(app: ASGIApp) -> None:
    """G1: simple requests, embeddings, event streams."""
    async with client_of(app) as client:
        for method, path in every_request(app):
            for said in (
                {"origin": "http://evil.example"},
                {"origin": "http://localhost:3000", "sec_fetch_site": "same-site"},
                {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
            ):
                status = await code_of(client, method, path, **said)
                assert (method, path, status) == (method, path, 403)


async def test_a_form_elsewhere_stores_nothing(app: ASGIApp) -> None:
    """G1: `text/plain` needs no leave of ours, as `application/json` would."""
    async with client_of(app) as client:
        body = {"items": [make_item(id="forged")]}
        form = {"content-type": "text/plain", "origin": "http://evil.example"}
        for path in ("/v5/spans/batch", "/public/v5/spans/batch"):
            reply = await client.post(path, json=body, headers=form)
            assert (reply.status_code, reply.json()["code"]) == (403, "CROSS_SITE")
        assert (await client.get("/v5/spans/forged")).status_code == 404
        # The same from our own page is what it is for.
        own = {"origin": "http://localhost:5003", "sec-fetch-site": "same-origin"}
        assert (await client.post("/v5/spans/batch", json=body, headers=own)).status_code == 200


async def test_no_reply_lets_another_origin_read_it(app: ASGIApp) -> None:
    """N2: no CORS header anywhere; A5 on every reply."""
    async with client_of(app) as client:
        for path in ("/healthz", "/spans", "/nowhere", "/v5/spans/x"):
            for said in ({}, {"origin": "http://evil.example"}):
                headers = (await client.get(path, headers=said)).headers
                assert not [name for name in headers if name.startswith("access-control")]
                assert headers["x-content-type-options"] == "nosniff"
                assert headers["referrer-policy"] == "no-referrer"
                assert headers["cross-origin-resource-policy"] == "same-origin"
                assert headers["cache-control"] == "no-store"
                assert "frame-ancestors 'none'" in headers["content-security-policy"]


async def test_a_refusal_is_worded_by_the_api_that_was_asked(app: ASGIApp) -> None:
    async with client_of(app) as client:
        foreign = {"host": "evil.example"}
        reply = await client.get("/v5/spans/x", headers=foreign)
        assert reply.json()["code"] == "HOST_NOT_ALLOWED"
        assert "--allow-host" in reply.json()["message"]
        assert reply.json()["request_id"] == reply.headers["x-request-id"]
        assert (await client.get("/spans/x", headers=foreign)).json()["code"] == 403


async def test_every_request_has_an_id_and_a_sane_one_is_kept(app: ASGIApp) -> None:
    """A4."""
    async with client_of(app) as client:
        for given, kept in [
            ("req-1.2_3", True),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
            ("", False),
            ("a b", False),
            ("<script>", False),
            ("x" * 129, False),
        ]:
            reply = await client.get("/nowhere", headers={"x-request-id": given})
            request_id = reply.headers["x-request-id"]
            assert reply.json()["request_id"] == request_id
            assert (request_id == given) is kept
            assert request_id
