"""The fixture that these tests take everyspan's names from."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

import everyspan
from tests.compat.names import ours


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The names under test; retries come at once, since the draw of the jitter is 0."""
    monkeypatch.setattr("everyspan.delivery.lane.random.random", lambda: 0.0)
    yield ours()
    everyspan.shutdown(0)
    everyspan.set_tracing_processor_configs([])
