"""Who asks, and about whose spans: what the guard found out before any route is run."""

from __future__ import annotations

import msgspec
from starlette.requests import Request

from everyspan.server.keys import Key

ACCOUNT_HEADER = "x-selected-account-id"
LOCAL_ACCOUNT = "local"
"""Of whoever names none: every AgentEx client, and our own SDK towards the local server."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who a request is from.

    Attributes:
        account: Whose spans it is about; the caller may use it.
        key: None where no key is asked for.
    """

    account: str
    key: Key | None = None


def caller_of(request: Request) -> Caller:
    """Return who a request is from."""
    caller: Caller = request.state.caller
    return caller


def account_of(request: Request) -> str:
    """Return the account that a request is about."""
    return caller_of(request).account
