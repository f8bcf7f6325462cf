"""What the facade's tests record into."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.recording import Recording, recorded


@pytest.fixture
def recording() -> Iterator[Recording]:
    """The process's pipeline, in memory."""
    with recorded() as recording:
        yield recording
