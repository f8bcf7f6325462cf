"""Appends spans to a file, one JSON object a line.

F1  A line is one version of a span, whole: what several processes, threads and files' rotators do
    at once never tears one. A line that a killed process or a full disk left half-way is ended
    before the next one is written; readers skip it.
F2  A span counts as delivered once its line, with its end, is in the file.
F3  A span is there at least once. One that counts as undelivered, or was written as in progress
    before, is written again; of lines with the same `trace_id` and `id`, one with an end beats
    one without, then the last one counts.
F4  Nothing is held between batches: no descriptor, no lock, no position. Whoever renames, removes
    or truncates the file meanwhile is obeyed with the next batch.
F5  What the kernel has taken survives the process. It is not forced to the disk: a power cut may
    lose what was written in the seconds before (on Linux about 30), and leave a torn end.

A line has these members, always all of them and null where there is nothing, in this order:

    id, trace_id, parent_id, name, type, status, group_id, task_id
    start_time, end_time    ISO 8601 in UTC, microseconds; the end is null while the span is open
    start_ns, end_ns        the same as integer nanoseconds since 1970
    input, output, data     JSON as it was frozen when the span ended
    error                   {"type", "message", "category"} of a span that recorded one
    __everyspan__           its place in the trace: {"p": part, "n": ordinal, "rev": revision}; the
                            span that closed the part adds "total" and, by reason, "dropped"; an
                            open span that its process left has "abandoned"

Members may be added; readers ignore those they do not know. Lines end with a line feed, and only
they hold one.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import math
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal

from everyspan.config import check_whole
from everyspan.delivery.backlog import Batch
from everyspan.errors import ExportError, RetryableExportError, SettingsError
from everyspan.log import complain
from everyspan.model.record import SpanRecord
from everyspan.model.span import COMPLETENESS_KEY
from everyspan.processors.base import TracingProcessorConfig
from everyspan.processors.builtin import BuiltinProcessor
from everyspan.processors.lines import PATIENCE_S, LineWriter, Written, to_error, unwritten
from everyspan.processors.wire import completeness, encode, timestamp, to_text

ROTATE_BYTES = 100 << 20
ROTATE_BYTES_MIN = 4096
ROTATE_BYTES_MAX = 1 << 50
FILES_KEPT = 9
"""With `ROTATE_BYTES` at most 1 GiB of spans; chosen, not measured."""

FILES_KEPT_MAX = 1000

MODE = 0o600
"""Payloads are private."""

LOCK_EVERY_S = 0.002

_NO_FILE_THERE = frozenset({errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})

# Descriptors that are open at this moment, for a child that is forked at this moment.
_open_now: set[int] = set()


@dataclass(frozen=True, slots=True)
class FileTracingProcessorConfig(TracingProcessorConfig):
    """Where to append, and when to begin a new file.

    Attributes:
        path: Made absolute here and now. Directories that are missing are made. A FIFO, a terminal
            or `/dev/stdout` will do as well.
        rotate_bytes: A file does not grow beyond this, unless a single batch does; None for any
            size. `path` then becomes `path.1`, what was `path.1` becomes `path.2`, and so on.
        rotate_every_s: A file holds no spans of two such periods, counted from 1970 in UTC: 86,400
            begins a new one with the first batch after midnight. None for never.
        files_kept: How many files are kept beside `path`; the oldest beyond is deleted.

    Several processes that append to one file should agree on these. Symbolic links and what is no
    file are never rotated.
    """

    type: Literal["file"] = field(default="file", kw_only=True)
    path: str | os.PathLike[str]
    rotate_bytes: int | None = field(default=ROTATE_BYTES, kw_only=True)
    rotate_every_s: float | None = field(default=None, kw_only=True)
    files_kept: int = field(default=FILES_KEPT, kw_only=True)

    def __post_init__(self) -> None:
        if self.type != "file":
            raise SettingsError(f"type must be file, got {self.type!r}")
        object.__setattr__(self, "path", _absolute(self.path))
        if self.rotate_bytes is not None:
            check_whole(
                self.rotate_bytes, "rotate_bytes", least=ROTATE_BYTES_MIN, most=ROTATE_BYTES_MAX
            )
        check_whole(self.files_kept, "files_kept", least=1, most=FILES_KEPT_MAX)
        every_s = self.rotate_every_s
        is_number = isinstance(every_s, int | float) and not isinstance(every_s, bool)
        if every_s is not None and not (is_number and 1 <= every_s < math.inf):
            raise SettingsError(
                f"rotate_every_s must be a number of seconds of at least 1, or None, got "
                f"{every_s!r}"
            )


class FileTracingProcessor(BuiltinProcessor):
    """The file destination; open spans are written only if `start_delay_ms` is set.

    Raises:
        SettingsError: The path is that of a directory.
    """

    name = "file"
    blocks = True

    def __init__(self, config: FileTracingProcessorConfig) -> None:
        self.config = config
        self.path = os.fspath(config.path)
        self._writer = LineWriter()
        if os.path.isdir(self.path):
            raise SettingsError(f"path must name a file, {self.path!r} is a directory")

    async def export(self, batch: Batch) -> Mapping[int, ExportError]:
        """Append a line for each record; see `Exporter`."""
        lines = [encode_line(record, destination=self.name) for record in batch.records]
        try:
            written = await self._append(lines)
        except OSError as error:
            written = Written(0, error)
        if written.error is None:
            return {}
        failure = to_error(written.error, f"cannot write {self.path}", hopeless=_NO_FILE_THERE)
        if isinstance(failure, RetryableExportError):
            complain("spans wait: %s", failure, cause=str(failure), level=logging.WARNING)
        return unwritten(written, range(len(lines)), failure)

    async def _append(self, lines: list[bytes]) -> Written:
        fd = await self._take_turn(sum(map(len, lines)))
        try:
            there = os.fstat(fd)
            if stat.S_ISREG(there.st_mode):
                # Whoever left it so; of a pipe only what we wrote ourselves is known.
                self._writer.is_torn = _ends_within_a_line(fd, there.st_size)
            return await self._writer.write(fd, lines)
        finally:
            _end_turn(fd)

    async def _take_turn(self, coming_bytes: int) -> int:
        """Return the file that has the path, locked and with room for what comes."""
        until_s = monotonic() + PATIENCE_S
        while True:
            fd = self._open()
            try:
                if self._is_ours_now(fd, coming_bytes):
                    return fd
            except BaseException:
                _end_turn(fd)
                raise
            _end_turn(fd)
            if monotonic() >= until_s:
                raise BlockingIOError(errno.EAGAIN, "somebody else holds it")
            await asyncio.sleep(LOCK_EVERY_S)

    def _is_ours_now(self, fd: int, coming_bytes: int) -> bool:
        """Lock the file, and look whether it is still the one to write to.

        The lock is on the file itself. Whoever waited for it finds out by the path's file number
        that the file was renamed meanwhile, by another of us or by a rotator that knows no locks.
        """
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return self._has_the_path(fd) and not self._rotates(fd, coming_bytes)

    def _open(self) -> int:
        try:
            return self._open_there()
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            return self._open_there()

    def _open_there(self) -> int:
        # To append, whatever the file's length has become: a position of our own would leave a
        # hole after a truncation. Not to wait: a FIFO that nobody reads says so.
        flags = os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
        # Of a file the end is read; a FIFO that is opened to be read has a reader: us.
        flags |= os.O_WRONLY if _is_fifo(self.path) else os.O_RDWR
        fd = os.open(self.path, flags, MODE)
        _open_now.add(fd)
        return fd

    def _has_the_path(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _rotates(self, fd: int, coming_bytes: int) -> bool:
        """Rename the file if its time has come; True if the path is free for another."""
        there = os.fstat(fd)
        if not self._is_due(there, coming_bytes) or os.path.islink(self.path):
            return False
        try:
            self._shift()
        except OSError as error:
            # Spans matter more than the size of the file.
            text = f"cannot rename {self.path}: {error.strerror}; it goes on growing"
            complain("%s", text, cause=text, level=logging.WARNING)
            return False
        successor = self._open()
        try:
            # Whoever may read the one may read the other.
            with suppress(PermissionError):
                os.fchmod(successor, stat.S_IMODE(there.st_mode))
        finally:
            _end_turn(successor)
        return True

    def _is_due(self, there: os.stat_result, coming_bytes: int) -> bool:
        if not stat.S_ISREG(there.st_mode) or not there.st_size:
            return False
        size_max, every_s = self.config.rotate_bytes, self.config.rotate_every_s
        if size_max is not None and there.st_size + coming_bytes > size_max:
            return True
        return every_s is not None and there.st_mtime // every_s < time.time() // every_s

    def _shift(self) -> None:
        """Rename `path` to `path.1`, making room from the far end: a kill between loses nothing."""
        free = 1
        while free < self.config.files_kept and os.path.lexists(f"{self.path}.{free}"):
            free += 1
        for number in range(free, 1, -1):
            os.replace(f"{self.path}.{number - 1}", f"{self.path}.{number}")
        os.replace(self.path, f"{self.path}.1")


def encode_line(record: SpanRecord, *, destination: str) -> bytes:
    """Return the line of a record; see the module text for what it holds."""
    members = {
        "id": to_text(record.id),
        "trace_id": to_text(record.trace_id),
        "parent_id": _text(record.parent_id),
        "name": to_text(record.name),
        "type": _text(record.type),
        "status": to_text(record.status),
        "group_id": _text(record.group_id),
        "task_id": _text(record.task_id),
        "start_time": encode(timestamp(record.start_ns)),
        "end_time": None if record.end_ns is None else encode(timestamp(record.end_ns)),
        "start_ns": encode(record.start_ns),
        "end_ns": encode(record.end_ns),
        "input": record.input,
        "output": record.output,
        "data": record.data,
        "error": None if record.error is None else _error(record.error),
        COMPLETENESS_KEY: (
            None if record.part is None else completeness(record, destination=destination)
        ),
    }
    line = b",".join(
        [b'"%b":%b' % (name.encode(), text or b"null") for name, text in members.items()]
    )
    # Only the agent's own JSON (`msgspec.Raw`) can hold line ends, and only between its values.
    return b"{%b}\n" % line.replace(b"\n", b" ")


def _text(value: str | None) -> bytes | None:
    return None if value is None else to_text(value)


def _error(error: tuple[str, str, str]) -> bytes:
    kind, message, category = map(to_text, error)
    return b'{"type":%b,"message":%b,"category":%b}' % (kind, message, category)


def _ends_within_a_line(fd: int, size_bytes: int) -> bool:
    # Nothing is read where the file was truncated since.
    return size_bytes > 0 and os.pread(fd, 1, size_bytes - 1) not in (b"", b"\n")


def _end_turn(fd: int) -> None:
    # Unlocked by name: a child that was forked meanwhile holds a copy, and so would hold the lock.
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)
    _open_now.discard(fd)
    os.close(fd)


def _close_inherited() -> None:
    """Close, in a forked child, what its parent was writing to; it costs the parent nothing."""
    for fd in _open_now:
        with suppress(OSError):
            os.close(fd)
    _open_now.clear()


os.register_at_fork(after_in_child=_close_inherited)


def _is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _absolute(path: object) -> str:
    if isinstance(path, os.PathLike):
        path = os.fspath(path)
    if not isinstance(path, str) or not path or "\0" in path:
        raise SettingsError(f"path must be the path of a file, got {path!r}")
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        raise SettingsError(
            f"path must be absolute where the working directory is gone, got {path!r}"
        ) from None
