"""Whose spans a request is about: the header of the SGP spans API, on every surface."""

from __future__ import annotations

from starlette.requests import Request

from everyspan.errors import RequestError

ACCOUNT_HEADER = "x-selected-account-id"
LOCAL_ACCOUNT = "local"
"""Of whoever names none: every AgentEx client, and our own SDK towards the local server."""
ACCOUNT_MAX = 256


def account_of(request: Request) -> str:
    """Return the account that a request selects.

    Raises:
        RequestError: 400; the name is too long.
    """
    account = request.headers.get(ACCOUNT_HEADER) or LOCAL_ACCOUNT
    if len(account) > ACCOUNT_MAX:
        raise RequestError(
            400,
            "INVALID_ACCOUNT",
            f"the account has more than {ACCOUNT_MAX} characters",
            loc=("header", ACCOUNT_HEADER),
        )
    return account
