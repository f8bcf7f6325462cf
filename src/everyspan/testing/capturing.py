"""Keeps in memory what a block records, and nothing else anywhere.

K1  While it lasts, every span of this process comes here, whichever thread records it; nothing is
    sent, whatever is configured, before or inside.
K2  Afterwards what was configured before is in force again: its queue and books were not touched,
    however the block was left, and in whatever order captures that overlap end.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from types import TracebackType
from typing import Self

from everyspan import pipeline
from everyspan.config import load_settings
from everyspan.errors import SettingsError
from everyspan.ledger import Stats
from everyspan.model.mask import Mask
from everyspan.model.span import Span, SpanStatus
from everyspan.processors.memory import InMemoryTracingProcessor

DELIVERY_S = 30.0
"""Far more than memory needs; only a machine that stands still takes it."""

BYTES_MAX = 1 << 40


def capture(*, mask: Mask | bool | None = None) -> Capture:
    """Return a block, `with` or `async with`, whose value shows what was recorded in it.

    `configure` and its like are checked inside the block and take no effect, so that a program
    which configures itself is captured as well. A span counts where it ends: one that is still
    open when the block ends goes where it would without, one that was open before is captured.

    Args:
        mask: As of `configure`, to see what it leaves; by default spans are shown as recorded.

    Raises:
        SettingsError: `mask` is neither a bool nor a function.
    """
    # The environment's settings could lose spans; these lose none.
    settings = dataclasses.replace(
        load_settings({}), linger_ms=0, max_size=0, byte_budget=BYTES_MAX
    )
    memory = InMemoryTracingProcessor()
    return Capture(memory, pipeline.Pipeline([memory], settings=settings, mask=mask))


class Capture:
    """What a block recorded; made by `capture`, to be looked at inside the block and after it."""

    def __init__(self, memory: InMemoryTracingProcessor, pipe: pipeline.Pipeline) -> None:
        self._memory = memory
        self._pipe = pipe
        self._is_entered = False

    def __enter__(self) -> Self:
        if self._is_entered:
            raise SettingsError("a capture is entered once; call everyspan.testing.capture() again")
        self._is_entered = True
        pipeline.divert(self._pipe)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pipeline.end_diversion(self._pipe)
        self._pipe.queue.shutdown_sync(DELIVERY_S)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Memory is written by the exporter's thread: no loop is kept waiting for itself.
        self.__exit__(kind, error, trace)

    @property
    def spans(self) -> list[Span]:
        """The spans that have ended so far, in the order of their ends."""
        result = self._pipe.queue.flush_sync(DELIVERY_S)
        assert result.ok, f"not recorded: {result.left}"
        return [*self._memory.spans]

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [span.name for span in self.spans]

    def one(self, name: str) -> Span:
        """Return the only span of this name.

        Raises:
            AssertionError: There is none, or more than one; the text shows what there is.
        """
        found = [span for span in self.spans if span.name == name]
        if len(found) != 1:
            shown = "\n  ".join(self.tree()) or "nothing"
            raise AssertionError(f"{len(found)} spans are named {name!r}, of:\n  {shown}")
        return found[0]

    def tree(self) -> list[str]:
        """Return a line for each span, indented below its parent, siblings in order of start.

        A span that did not succeed says so: `["turn", "  search (ERROR)"]`. One whose parent is
        not here is shown as a root.
        """
        spans = {span.id: span for span in self.spans}
        children: dict[str | None, list[Span]] = defaultdict(list)
        for span in sorted(spans.values(), key=lambda span: span.start_ns):
            children[span.parent_id if span.parent_id in spans else None].append(span)
        lines: list[str] = []
        waiting = [(0, span) for span in reversed(children[None])]
        while waiting:
            depth, span = waiting.pop()
            status = "" if span.status == SpanStatus.SUCCESS else f" ({span.status})"
            lines.append("  " * depth + span.name + status)
            waiting += [(depth + 1, child) for child in reversed(children[span.id])]
        return lines

    @property
    def stats(self) -> Stats:
        """The books of this capture."""
        return self._pipe.queue.stats()

    @property
    def residual(self) -> int:
        """Spans that nobody can account for: 0, unless everyspan has a defect."""
        return self.stats.residual
