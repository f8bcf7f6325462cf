"""What delivery needs of a destination."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from everyspan.delivery.backlog import Batch
from everyspan.errors import ExportError

CONCURRENCY = 16
"""Exports under way at once, as a rule (chosen, not measured)."""


class Exporter(Protocol):
    """One destination.

    `wants_every_start` and `is_foreign` are True for a user's own processor: it gets every START
    as its interface promises, and its errors are its own, not a backend's refusal.
    `blocks` is True for a destination of ours whose `export` may hold up its loop, a file's for
    example: it gets a thread of its own, wherever its queue runs, and one batch at a time.
    `start_delay_s` is when it is told of a span that is still open, unless a setting says
    otherwise; None for never. `hint` is what to tell a person when it cannot be reached.
    `one_by_one` is True where every span is a request of its own and the last one wins: the lane
    hands over single spans, so that it counts and paces requests, and a span's versions in turn.
    `only_ends` is True where a span can be told of only once it has ended.
    `concurrency` is how many exports may be under way, unless a setting says otherwise.
    """

    name: str
    wants_every_start: bool
    is_foreign: bool
    blocks: bool
    start_delay_s: float | None
    hint: str | None
    one_by_one: bool
    only_ends: bool
    concurrency: int

    async def export(self, batch: Batch) -> Mapping[int, ExportError]:
        """Send a batch once.

        Returns:
            Positions in `batch.records` that failed, and why; empty if all are stored.

        Raises:
            ExportError: The whole batch failed; the class says what to do with it.
        """
        ...

    def connections(self) -> int:
        """Return how many connections were opened so far."""
        ...

    async def close(self) -> None:
        """Let go of what belongs to the running loop."""
        ...


class Teller(Protocol):
    """Tells a destination what became of its lane's spans; called on the lane's loop."""

    def answered(self) -> None:
        """Note that a batch has its answer, and the books count it."""
        ...

    async def tell_last(self) -> None:
        """Tell what is still untold: the lane ends. Bounded; never raises an `Exception`."""
        ...
