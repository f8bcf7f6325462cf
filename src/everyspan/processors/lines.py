"""Write lines to a descriptor that may be full, slow or gone, and know which of them are there.

N1  A line is there once its end is; one that is there in part is never counted.
N2  A pipe or a terminal is asked before each write whether it takes any: a reader that stands
    still holds up the calling loop not at all, and the caller at most `PATIENCE_S`.
N3  A pipe without a reader is not written to: the signal would end an agent that does not ignore
    it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import stat
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from time import monotonic
from typing import NamedTuple

from everyspan.errors import ExportError, PermanentExportError, RetryableExportError

PATIENCE_S = 2.0
"""How long somebody else may hold us up: a reader that takes nothing, a lock; chosen."""

LOOK_EVERY_S = 0.02

STALLED_RETRY_S = 0.5
"""When to look again after that. A terminal that goes on scrolling should not wait out a backoff
that grew while it was paused."""

PIECE_BYTES = select.PIPE_BUF
"""What a pipe that is ready takes whole, without waiting and without others' bytes within."""


class Written(NamedTuple):
    """How far the writing came.

    Attributes:
        lines: How many are there, from the first on.
        error: Why the rest is not; None if all are there.
    """

    lines: int
    error: OSError | None


class LineWriter:
    """Writes to one place, batch by batch, and remembers whether the last one ended in mid line."""

    def __init__(self) -> None:
        self.is_torn = False

    async def write(self, fd: int, lines: Sequence[bytes]) -> Written:
        """Write lines, each with its end; to a file in one call to the system, if it takes them.

        Where `is_torn`, what is there of a line is ended first.
        """
        was_torn = self.is_torn
        if was_torn:
            lines = [b"\n" + lines[0], *lines[1:]]
        # Until it is known better: our task may be cancelled in the middle of a line.
        self.is_torn = True
        taken = 0
        error = None
        try:
            is_file = stat.S_ISREG(os.fstat(fd).st_mode)
            for piece in [b"".join(lines)] if is_file else _pieces(lines):
                left = memoryview(piece)
                while left:
                    if not is_file:
                        await _until_ready(fd)
                    count = os.write(fd, left)
                    taken += count
                    left = left[count:]
        except OSError as caught:
            error = caught
        ends = [*accumulate(map(len, lines))]
        self.is_torn = taken not in ends if taken else was_torn
        return Written(bisect_right(ends, taken), error)


def unwritten(
    written: Written, positions: Sequence[int], error: ExportError
) -> Mapping[int, ExportError]:
    """Return what `Exporter.export` returns where only some lines are there.

    Args:
        positions: Of the records that the lines are of, in the lines' order.

    Raises:
        ExportError: `error`, where no line is there: the batch stays together.
    """
    if not written.lines:
        raise error
    return dict.fromkeys(positions[written.lines :], error)


def to_error(error: OSError, text: str, *, hopeless: Collection[int]) -> ExportError:
    """Return what a failure of the system means; its name (`ENOSPC`) is the reason in the books.

    Args:
        text: Says what was tried.
        hopeless: Numbers of the errors that time does not mend.
    """
    reason = errno.errorcode.get(error.errno or 0, type(error).__name__)
    text = f"{text}: {error.strerror or reason}"
    if error.errno in hopeless:
        return PermanentExportError(text, reason=reason)
    retry_after_s = STALLED_RETRY_S if error.errno == errno.EAGAIN else None
    return RetryableExportError(text, reason=reason, retry_after_s=retry_after_s)


def _pieces(lines: Sequence[bytes]) -> Iterable[bytes]:
    for line in lines:
        for first in range(0, len(line), PIECE_BYTES):
            yield line[first : first + PIECE_BYTES]


async def _until_ready(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    until_s = monotonic() + PATIENCE_S
    while not (events := poll.poll(0)):
        if monotonic() >= until_s:
            raise BlockingIOError(errno.EAGAIN, "nobody reads it")
        await asyncio.sleep(LOOK_EVERY_S)
    if events[0][1] & select.POLLERR:
        raise BrokenPipeError(errno.EPIPE, "its reader is gone")
    # Of whatever else is wrong the write will tell.
