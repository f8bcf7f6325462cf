"""The pytest plugin: the fixture `everyspan_capture`. Every pytest run imports this file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from everyspan.testing.capturing import Capture


@pytest.fixture
def everyspan_capture() -> Iterator[Capture]:
    """What everyspan records during the test, kept in memory; nothing is sent."""
    from everyspan.testing.capturing import capture

    with capture() as captured:
        yield captured
