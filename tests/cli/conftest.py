"""A server for the tests of a module, and an account for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from everyspan.model.ids import new_id
from tests.serving import serving


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as base_url:
        yield base_url


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> str:
    """The account that commands ask for, the test's own."""
    monkeypatch.delenv("EVERYSPAN_ENDPOINT", raising=False)
    name = new_id()
    monkeypatch.setenv("SGP_ACCOUNT_ID", name)
    return name
