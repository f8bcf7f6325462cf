"""A little of what `python -m tests.server.fuzz` does for long."""

from __future__ import annotations

import random

import pytest

from tests.server.fuzz import TARGETS, fuzz


@pytest.mark.parametrize("name", TARGETS)
def test_garbage_is_refused_and_nothing_else_happens(name: str) -> None:
    """P4, P5, otlp:H7, J4: and what is taken can be shown."""
    number = random.randrange(2**32)
    print(f"seed {number}")
    fuzz(name, examples=40, number=number)
