"""What every request has to pass before a route is run, whatever the route.

G1  `Host` names this server, and no page of another site caused the request (hosts.py): else 403.
    Not 421, at which a sender would take its spans for the fault.
G2  Where keys are asked for, a request carries one that is active (401), that is for the account it
    names (403), and that may read or write, as the request does (403). KEYLESS routes tell nothing
    that is anybody's.
G3  What was given for a key is never logged, nor is who was refused more than once a minute.

Routes need not think of it: they ask `account_of`. Refusals are raised, and worded by the API that
was asked.
"""

from __future__ import annotations

import logging

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.routing import BaseRoute, Router
from starlette.types import Receive, Scope, Send

from everyspan.errors import RequestError
from everyspan.server import keys
from everyspan.server.account import ACCOUNT_HEADER, LOCAL_ACCOUNT, Caller
from everyspan.server.hosts import Hosts, is_cross_site
from everyspan.server.keyring import Keyring
from everyspan.server.keys import Key
from everyspan.server.logs import Sparse
from everyspan.server.page import is_page

KEYLESS = frozenset({"/healthz", "/readyz", "/api/login"})
"""Asked before a key is at hand."""
READING_POSTS = frozenset({"/v5/spans/search", "/api/logout"})
"""What a key that may only read may ask by a method that writes elsewhere. A route that is not
listed here writes: forgotten, it refuses."""
READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_log = logging.getLogger("everyspan.server")


class Guard:
    """Lets requests through to the routes that it stands before."""

    def __init__(self, routes: Router, hosts: Hosts, keyring: Keyring) -> None:
        self._router = routes
        self._hosts = hosts
        self._keyring = keyring
        self._sparse = Sparse(_log)

    @property
    def routes(self) -> list[BaseRoute]:
        """Everything that is behind it."""
        return self._router.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        self._check_site(scope, request.headers)
        try:
            request.state.caller = await self._caller(request)
        except RequestError as error:
            if error.status == 401:
                peer = "?" if request.client is None else request.client.host
                text = "refused a request from %s: %s"
                self._sparse.log(logging.WARNING, error.code, text, peer, error)
            raise
        await self._router(scope, receive, send)

    def _check_site(self, scope: Scope, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) > 1 or (not hosts and scope["http_version"] == "1.1"):
            raise RequestError(400, "INVALID_HTTP", "one Host header is needed")
        # HTTP/1.0 may do without; no browser does.
        if hosts and not self._hosts.allows(hosts[0]):
            raise RequestError(
                403,
                "HOST_NOT_ALLOWED",
                "this server does not go by that name; everyspan serve --allow-host NAME lets it",
                loc=("header", "host"),
            )
        if len(headers.getlist("origin")) > 1 or is_cross_site(scope["method"], headers):
            raise RequestError(403, "CROSS_SITE", "pages of other origins may not ask this server")

    async def _caller(self, request: Request) -> Caller:
        account = _named_account(request.headers)
        path: str = request.scope["path"]
        if path in KEYLESS or is_page(path) or not await self._keyring.asks():
            return Caller(account=account or LOCAL_ACCOUNT)
        key = await self._key(request)
        if account is None:
            account = LOCAL_ACCOUNT if key.is_for(LOCAL_ACCOUNT) else key.accounts[0]
        if not key.is_for(account):
            raise RequestError(
                403, "ACCOUNT_REFUSED", "the key is not for this account", loc=_ACCOUNT_LOC
            )
        reads = request.method in READING_METHODS or (
            request.method == "POST" and path.removeprefix("/public") in READING_POSTS
        )
        needed: keys.Scope = "read" if reads else "write"
        if needed not in key.scopes:
            raise RequestError(403, "SCOPE_REFUSED", f"the key may not {needed}")
        return Caller(account=account, key=key)

    async def _key(self, request: Request) -> Key:
        given = False
        for text in keys.keys_in(request.headers, request.cookies):
            given = True
            key = await self._keyring.find(text)
            if key is not None:
                return key
        if given:
            raise RequestError(401, "KEY_REFUSED", "the key is unknown, revoked or expired")
        raise RequestError(401, "KEY_MISSING", "a key is needed: everyspan keys create makes one")


_ACCOUNT_LOC = ("header", ACCOUNT_HEADER)


def _named_account(headers: Headers) -> str | None:
    account = headers.get(ACCOUNT_HEADER) or None
    if account is not None and len(account) > keys.ACCOUNT_MAX:
        raise RequestError(
            400,
            "INVALID_ACCOUNT",
            f"the account has more than {keys.ACCOUNT_MAX} characters",
            loc=_ACCOUNT_LOC,
        )
    return account
