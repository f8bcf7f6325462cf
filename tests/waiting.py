"""Wait for a condition instead of sleeping for a guess."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

DEADLINE_S = 20.0
"""Long enough for a busy machine; a test that passes never waits for it."""

_LOOK_EVERY_S = 0.002


def wait_until(condition: Callable[[], object], *, deadline_s: float = DEADLINE_S) -> None:
    """Return once `condition()` is true, from a thread without a loop.

    Raises:
        AssertionError: It was not true within the deadline.
    """
    until_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until_s, f"not within {deadline_s:g} s: {condition}"
        time.sleep(_LOOK_EVERY_S)


async def until(condition: Callable[[], object], *, deadline_s: float = DEADLINE_S) -> None:
    """As `wait_until`, letting the running loop go on meanwhile."""
    until_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until_s, f"not within {deadline_s:g} s: {condition}"
        await asyncio.sleep(_LOOK_EVERY_S)


async def settle(rounds: int = 20) -> None:
    """Let everything that is ready on the running loop run."""
    for _ in range(rounds):
        await asyncio.sleep(0)
