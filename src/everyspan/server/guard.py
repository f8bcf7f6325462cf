"""What every request has to pass before a route is run, whatever the route.

G1  `Host` names this server, and no page of another site caused the request (hosts.py): else 403.
    Not 421, at which a sender would take its spans for the fault.
G2  An account that is named is one that the caller may use.

Routes need not think of it: they ask `account_of`. Refusals are raised, and worded by the API that
was asked.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.routing import BaseRoute, Router
from starlette.types import Receive, Scope, Send

from everyspan.errors import RequestError
from everyspan.server.account import ACCOUNT_HEADER, ACCOUNT_MAX, LOCAL_ACCOUNT, Caller
from everyspan.server.hosts import Hosts, is_cross_site


class Guard:
    """Lets requests through to the routes that it stands before."""

    def __init__(self, routes: Router, hosts: Hosts) -> None:
        self._router = routes
        self._hosts = hosts

    @property
    def routes(self) -> list[BaseRoute]:
        """Everything that is behind it."""
        return self._router.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        self._check_site(scope, request.headers)
        request.state.caller = Caller(account=_account(request.headers))
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


def _account(headers: Headers) -> str:
    account = headers.get(ACCOUNT_HEADER) or LOCAL_ACCOUNT
    if len(account) > ACCOUNT_MAX:
        raise RequestError(
            400,
            "INVALID_ACCOUNT",
            f"the account has more than {ACCOUNT_MAX} characters",
            loc=("header", ACCOUNT_HEADER),
        )
    return account
