"""A browser's session: a key, exchanged for a cookie that no script can read.

The cookie holds another key, which the server makes for the purpose: it ends after a week, with the
key that it was exchanged for, or at logout. A cookie goes to every server on this machine's name,
whatever its port, and the key itself must not.
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from everyspan.errors import RequestError
from everyspan.server.account import caller_of
from everyspan.server.api_operation import Operation, Values
from everyspan.server.body import Bodies
from everyspan.server.json_body import decode_json
from everyspan.server.json_reply import json_reply
from everyspan.server.keyring import Keyring
from everyspan.server.keys import EVERY_ACCOUNT, SCOPES, SESSION_COOKIE, Key, Scope
from everyspan.server.timestamps import format_timestamp

LOGIN_BYTES_MAX = 4096


class Login(msgspec.Struct):
    """What a browser exchanges."""

    key: str


class Session(msgspec.Struct, kw_only=True):
    """What a caller may do; `accounts` of `*` is every one."""

    keys_required: bool
    accounts: tuple[str, ...] = (EVERY_ACCOUNT,)
    scopes: tuple[Scope, ...] = SCOPES
    name: str | None = None
    expires: str | None = None


_decode_login = msgspec.json.Decoder(Login).decode


def session_operations(keyring: Keyring, bodies: Bodies) -> list[Operation]:
    """Return the operations under `/api` by which a page gets in and out."""
    sessions = _Sessions(keyring, bodies)
    return [
        Operation(
            path="/api/login",
            method="POST",
            handler=sessions.login,
            summary="Exchange a key for a cookie",
            body=Login,
            answer=Session,
            statuses=(413,),
        ),
        Operation(
            path="/api/logout",
            method="POST",
            handler=sessions.logout,
            summary="End the session; its cookie is worth nothing from now on",
            answer=dict,
        ),
        Operation(
            path="/api/session",
            handler=sessions.show,
            summary="What the caller may do",
            answer=Session,
        ),
    ]


class _Sessions:
    def __init__(self, keyring: Keyring, bodies: Bodies) -> None:
        self._keyring = keyring
        self._bodies = bodies

    async def login(self, request: Request, _values: Values) -> Response:
        # Whoever asks this has no key yet, and may not take the memory that bodies share.
        if int(request.headers.get("content-length", LOGIN_BYTES_MAX + 1)) > LOGIN_BYTES_MAX:
            raise RequestError(
                413, "BODY_TOO_LARGE", f"a login has a length, of up to {LOGIN_BYTES_MAX} bytes"
            )
        async with self._bodies.read(request) as body:
            given = decode_json(_decode_login, body).key
        if not await self._keyring.asks():
            return json_reply(Session(keys_required=False))
        key = await self._keyring.find(given.strip())
        if key is None:
            raise RequestError(401, "KEY_REFUSED", "the key is unknown, revoked or expired")
        session, shown = await self._keyring.open_session(key)
        assert session.expires_ns is not None
        reply = json_reply(_session(session))
        reply.set_cookie(
            SESSION_COOKIE,
            shown,
            max_age=(session.expires_ns - session.created_ns) // 10**9,
            httponly=True,
            samesite="strict",
            # A proxy may end TLS in front of us; only the browser knows.
            secure=request.headers.get("origin", "").startswith("https:"),
        )
        return reply

    async def logout(self, request: Request, _values: Values) -> Response:
        key = caller_of(request).key
        if key is not None and key.parent is not None:
            await self._keyring.close_session(key)
        reply = json_reply({})
        reply.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
        return reply

    async def show(self, request: Request, _values: Values) -> Response:
        key = caller_of(request).key
        return json_reply(Session(keys_required=False) if key is None else _session(key))


def _session(key: Key) -> Session:
    return Session(
        keys_required=True,
        accounts=key.accounts,
        scopes=key.scopes,
        name=key.name,
        expires=None if key.expires_ns is None else format_timestamp(key.expires_ns),
    )
