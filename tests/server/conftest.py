"""One server for all tests of this folder; each test has an account of its own."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from everyspan.model.ids import new_id
from tests.serving import serving


@pytest.fixture(scope="session")
def base_url() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture
def account() -> str:
    return new_id()


@pytest.fixture
def http(base_url: str, account: str) -> Iterator[httpx2.Client]:
    """A client of that server, for the test's account."""
    headers = {"x-api-key": "any", "x-selected-account-id": account}
    with httpx2.Client(base_url=base_url, headers=headers, timeout=30) as client:
        yield client
