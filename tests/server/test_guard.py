"""`everyspan.server.guard`: what holds for every route, found in the application's route table."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from everyspan.clock import SYSTEM_CLOCK
from everyspan.server.app import create_app
from everyspan.server.envelope import Envelope
from everyspan.server.guard import KEYLESS, READING_POSTS
from everyspan.server.keyring import Keyring
from everyspan.server.keys import SCOPES, Scope, id_in, make_key
from everyspan.server.page import is_page
from everyspan.server.stores.sqlite import SqliteStore
from everyspan.testing import FakeClock
from tests.server.rows import make_item
from tests.server.sweep import every_request


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Envelope]:
    store = SqliteStore(tmp_path / "spans.db")
    yield create_app(store)
    await store.close()


def client_of(app: Envelope) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost:5003")


async def code_of(client: httpx2.AsyncClient, method: str, path: str, **said: str) -> object:
    """Return the status of a request with these headers; of a refusal that it is worded."""
    headers = {name.replace("_", "-"): value for name, value in said.items()}
    # An event stream that is let in would not end.
    reply = await client.request(method, path, headers=headers)
    if reply.status_code >= 400 and method != "HEAD":
        assert reply.content
    return reply.status_code


async def test_no_route_answers_to_a_foreign_name(app: Envelope) -> None:
    """G1: DNS rebinding."""
    async with client_of(app) as client:
        for method, path in every_request(app):
            status = await code_of(client, method, path, host="evil.example:5003")
            assert (method, path, status) == (method, path, 403)


async def test_no_route_serves_a_page_of_another_site(app: Envelope) -> None:
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


async def test_a_form_elsewhere_stores_nothing(app: Envelope) -> None:
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


async def test_no_reply_lets_another_origin_read_it(app: Envelope) -> None:
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


async def test_a_refusal_is_worded_by_the_api_that_was_asked(app: Envelope) -> None:
    async with client_of(app) as client:
        foreign = {"host": "evil.example"}
        reply = await client.get("/v5/spans/x", headers=foreign)
        assert reply.json()["code"] == "HOST_NOT_ALLOWED"
        assert "--allow-host" in reply.json()["message"]
        assert reply.json()["request_id"] == reply.headers["x-request-id"]
        assert (await client.get("/spans/x", headers=foreign)).json()["code"] == 403


# -- keys


class Keys:
    """Makes keys in a store that a server is running on."""

    def __init__(self, path: Path) -> None:
        # Of its own, as the command line has it: nothing passes but through the file.
        self._store = SqliteStore(path)

    async def make(self, *scopes: Scope, accounts: Sequence[str] = ("a",), **fields: Any) -> str:
        now_ns = SYSTEM_CLOCK.time_ns()
        key, shown = make_key(
            name="n", accounts=accounts, scopes=scopes or SCOPES, now_ns=now_ns, **fields
        )
        await self._store.add_key(key)
        return shown

    async def revoke(self, shown: str) -> None:
        assert await self._store.revoke_key(str(id_in(shown)))

    async def close(self) -> None:
        await self._store.close()


@pytest.fixture
async def keys(app: Envelope, tmp_path: Path) -> AsyncIterator[Keys]:
    keys = Keys(tmp_path / "spans.db")
    yield keys
    await keys.close()


async def test_no_route_but_three_and_the_page_lets_in_without_a_key(
    app: Envelope, keys: Keys
) -> None:
    """G2: once there is a key; `sgp` §1."""
    await keys.make()
    async with client_of(app) as client:
        for method, path in every_request(app):
            for said in ({}, {"x_api_key": "esk_nope"}, {"authorization": "Bearer nope"}):
                status = await code_of(client, method, path, **said)
                if path in KEYLESS or is_page(path):
                    assert status != 401, (method, path)
                else:
                    assert (method, path, status) == (method, path, 401)
    assert {"/healthz", "/readyz", "/api/login"} == KEYLESS


async def test_a_key_that_may_read_writes_nowhere_and_the_reverse(
    app: Envelope, keys: Keys
) -> None:
    """G2."""
    reads, writes = await keys.make("read"), await keys.make("write")
    async with client_of(app) as client:
        for method, path in every_request(app):
            if path in KEYLESS or is_page(path):
                continue
            # A span may be called `search`: by another method the same address writes.
            is_reading = method in ("GET", "HEAD", "OPTIONS") or (
                method == "POST" and path.removeprefix("/public") in READING_POSTS
            )
            refused = writes if is_reading else reads
            status = await code_of(client, method, path, x_api_key=refused)
            assert (method, path, status) == (method, path, 403)
        # What may be asked is answered, whatever the answer.
        for method, path, key in [
            ("GET", "/spans", reads),
            ("POST", "/v5/spans/search", reads),
            ("POST", "/spans", writes),
            ("PUT", "/public/v5/spans/batch", writes),
        ]:
            assert await code_of(client, method, path, x_api_key=key) not in (401, 403)


@pytest.mark.parametrize(
    "carrier",
    [
        lambda key: {"x-api-key": key},
        lambda key: {"x-agent-api-key": key},
        lambda key: {"authorization": f"Bearer {key}"},
        lambda key: {"authorization": f"bearer  {key} "},
        lambda key: {"authorization": key},
        lambda key: {"authorization": "Basic " + b64encode(f"public:{key}".encode()).decode()},
        lambda key: {"authorization": f"Bearer {key}", "x-api-key": "of another system"},
        lambda key: {"cookie": f"a=b; everyspan_session={key}"},
    ],
)
async def test_a_key_is_taken_where_clients_put_it(
    app: Envelope, keys: Keys, carrier: Callable[[str], dict[str, str]]
) -> None:
    """`sgp` §1, `agx` §1, `otlp` §1."""
    key = await keys.make()
    async with client_of(app) as client:
        assert (await client.get("/spans", headers=carrier(key))).status_code == 200
        wrong = carrier(key[:-1] + ("0" if key[-1] != "0" else "1"))
        reply = await client.get("/spans", headers=wrong)
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Basic !!!"},
        {"authorization": "Basic " + b64encode(b"no colon").decode()},
        {"authorization": "Basic " + b64encode(b":\xff").decode()},
        {"authorization": "Digest a=b"},
        {"authorization": "   "},
        {"x-api-key": ""},
        {"x-api-key": "é".encode("latin-1")},
        {"x-api-key": "esk_" + "0" * 12 + "_" + "0" * 64},
        {"cookie": "everyspan_session="},
    ],
)
async def test_what_is_no_key_is_401(app: Envelope, keys: Keys, headers: Any) -> None:
    await keys.make()
    async with client_of(app) as client:
        assert (await client.get("/spans", headers=headers)).status_code == 401


async def test_a_key_is_for_its_accounts_alone(app: Envelope, keys: Keys) -> None:
    """G2: on the way in and on the way out; the first account is that of whoever names none."""
    key = await keys.make(accounts=["a", "b"])
    every = await keys.make(accounts=["*"])
    async with client_of(app) as client:
        for account in ("a", "b", "c", "local", "*"):
            for method, path in (("GET", "/spans"), ("PUT", "/v5/spans/batch")):
                headers = {"x-api-key": key, "x-selected-account-id": account}
                status = (await client.request(method, path, headers=headers)).status_code
                assert (status == 403) is (account not in "ab"), account
        batch = {"items": [make_item(id="s")]}
        put = await client.put("/v5/spans/batch", json=batch, headers={"x-api-key": key})
        assert put.json()["items"][0]["account_id"] == "a"
        put = await client.put("/v5/spans/batch", json=batch, headers={"x-api-key": every})
        assert put.json()["items"][0]["account_id"] == "local"


async def test_what_others_do_with_keys_counts_within_a_second(
    app: Envelope, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R1, R2: nothing is remembered that another process could not see."""
    monkeypatch.setattr("everyspan.server.keyring.KEPT_S", 0.0)
    async with client_of(app) as client:
        assert (await client.get("/spans")).status_code == 200
        key = await keys.make()
        assert (await client.get("/spans")).status_code == 401
        headers = {"x-api-key": key}
        assert (await client.get("/spans", headers=headers)).status_code == 200
        await keys.revoke(key)
        assert (await client.get("/spans", headers=headers)).status_code == 401
        # The last key is gone, and the door stays shut.
        assert (await client.get("/spans")).status_code == 401


async def test_an_expired_key_is_none(app: Envelope, keys: Keys) -> None:
    key = await keys.make(expires_ns=SYSTEM_CLOCK.time_ns() - 1)
    async with client_of(app) as client:
        assert (await client.get("/spans", headers={"x-api-key": key})).status_code == 401


async def test_keys_are_read_at_most_once_a_second(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "spans.db")
    clock = FakeClock()
    keyring = Keyring(store, must_ask=False, clock=clock)
    assert not await keyring.asks()
    key, shown = make_key(name="n", accounts=["a"], scopes=["read"], now_ns=1)
    await store.add_key(key)
    assert not await keyring.asks()
    clock.advance(1.0)
    assert await keyring.asks()
    assert await keyring.find(shown) == key
    await store.close()


async def test_refused_callers_are_logged_once_a_minute_and_never_what_they_gave(
    app: Envelope, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """G3."""
    await keys.make()
    async with client_of(app) as client:
        for n in range(50):
            await client.get("/spans?q=canary", headers={"x-api-key": f"canary-{n}"})
    assert len(caplog.records) == 1
    assert "canary" not in caplog.text
    assert "127.0.0.1" in caplog.text


# -- a browser's session


async def test_a_key_is_exchanged_for_a_cookie_and_ends_at_logout(
    app: Envelope, keys: Keys
) -> None:
    key = await keys.make("read", accounts=["a"])
    async with client_of(app) as client:
        reply = await client.post("/api/login", json={"key": f" {key}\n"})
        assert reply.json()["accounts"] == ["a"]
        assert reply.json()["scopes"] == ["read"]
        cookie = reply.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert "secure" not in cookie
        assert key not in cookie
        # The client keeps the cookie.
        session = (await client.get("/api/session")).json()
        assert (session["keys_required"], session["name"]) == (True, "n")
        assert (await client.get("/spans")).status_code == 200
        assert (await client.post("/spans", json={})).status_code == 403
        copy = client.cookies["everyspan_session"]
        assert (await client.post("/api/logout")).status_code == 200
        client.cookies.clear()
        headers = {"cookie": f"everyspan_session={copy}"}
        assert (await client.get("/spans", headers=headers)).status_code == 401


async def test_a_session_ends_with_its_key(
    app: Envelope, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everyspan.server.keyring.KEPT_S", 0.0)
    key = await keys.make()
    async with client_of(app) as client:
        await client.post("/api/login", json={"key": key})
        # A session opens none for longer.
        session = client.cookies["everyspan_session"]
        await client.post("/api/login", json={"key": session})
        assert (await client.get("/spans")).status_code == 200
        await keys.revoke(key)
        assert (await client.get("/spans")).status_code == 401


async def test_login_refuses_what_is_no_key_and_what_is_no_page_of_ours(
    app: Envelope, keys: Keys
) -> None:
    key = await keys.make()
    async with client_of(app) as client:
        for body, status in [({"key": "nope"}, 401), ({}, 422), ({"key": 1}, 422)]:
            assert (await client.post("/api/login", json=body)).status_code == status
        form = {"origin": "http://evil.example", "content-type": "text/plain"}
        reply = await client.post("/api/login", json={"key": key}, headers=form)
        assert reply.status_code == 403
        assert "set-cookie" not in reply.headers
        behind_tls = {"origin": "https://localhost", "host": "localhost"}
        reply = await client.post("/api/login", json={"key": key}, headers=behind_tls)
        assert "secure" in reply.headers["set-cookie"].lower()


@pytest.mark.parametrize("declared", [True, False])
async def test_login_reads_no_more_than_a_key(app: Envelope, keys: Keys, declared: bool) -> None:
    """Whoever has no key must not take the memory of those who have."""
    await keys.make()
    body = b'{"key": "' + b"x" * 5_000 + b'"}'

    async def parts() -> AsyncIterator[bytes]:
        yield body

    async with client_of(app) as client:
        reply = await client.post("/api/login", content=body if declared else parts())
        assert (reply.status_code, reply.json()["code"]) == (413, "BODY_TOO_LARGE")


async def test_without_keys_login_says_that_there_is_no_need(app: Envelope) -> None:
    async with client_of(app) as client:
        reply = await client.post("/api/login", json={"key": "any"})
        assert reply.json()["keys_required"] is False
        assert "set-cookie" not in reply.headers
        assert (await client.get("/api/session")).json()["accounts"] == ["*"]


async def test_every_request_has_an_id_and_a_sane_one_is_kept(app: Envelope) -> None:
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
