"""Prints spans for people, as they end; `console_text` says how they look.

C1  What is printed is delivered, and nothing else: no span waits here for its trace to end, which
    may take hours or never come. Spans that end together are drawn as a tree; of one whose parent
    still runs it is said under which `#id` that will come.
C2  Colours go to terminals only.
C3  A stream of the system is written by its descriptor, which can be asked whether it takes any.
    Its Python object cannot, and has a lock: held by a paused terminal, it would hang every `print`
    of the agent, and the interpreter's end.
C4  A stream that is closed or broken costs the spans, counted; one that takes nothing for a while
    lets them wait, as any destination that is down.
"""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO

from everyspan.config import check_whole, load_environment
from everyspan.delivery.backlog import Batch
from everyspan.errors import ExportError, PermanentExportError, SettingsError
from everyspan.processors.base import TracingProcessorConfig
from everyspan.processors.builtin import BuiltinProcessor
from everyspan.processors.console_text import Drawing
from everyspan.processors.lines import LineWriter, to_error, unwritten

PAYLOAD_CHARS = 160
PAYLOAD_CHARS_MAX = 1 << 20

_BROKEN = frozenset({errno.EPIPE, errno.EBADF, errno.EIO, errno.ENXIO, errno.EINVAL})


@dataclass(frozen=True, slots=True)
class ConsoleTracingProcessorConfig(TracingProcessorConfig):
    """Where to print, and how much.

    Attributes:
        stream: A text stream; None for what `sys.stderr` is when spans are printed.
        payload_chars: Characters of input and of output, 0 for neither.
    """

    type: Literal["console"] = field(default="console", kw_only=True)
    stream: TextIO | None = None
    payload_chars: int = field(default=PAYLOAD_CHARS, kw_only=True)

    def __post_init__(self) -> None:
        if self.type != "console":
            raise SettingsError(f"type must be console, got {self.type!r}")
        if self.stream is not None and not callable(getattr(self.stream, "write", None)):
            raise SettingsError(f"stream must be a text stream, got {self.stream!r}")
        check_whole(self.payload_chars, "payload_chars", least=0, most=PAYLOAD_CHARS_MAX)


class ConsoleTracingProcessor(BuiltinProcessor):
    """The console; open spans are printed only if `start_delay_ms` is set.

    There are colours on a terminal, unless `NO_COLOR` is set or `TERM` is `dumb`.
    """

    name = "console"
    blocks = True

    def __init__(self, config: ConsoleTracingProcessorConfig) -> None:
        self.config = config
        environment = load_environment()
        self._may_color = environment.no_color is None and environment.term != "dumb"
        self._writer = LineWriter()

    async def export(self, batch: Batch) -> Mapping[int, ExportError]:
        """Print each record; see `Exporter`."""
        stream = sys.stderr if self.config.stream is None else self.config.stream
        if stream is None:
            raise PermanentExportError("there is no stderr", reason="closed")
        with _told_apart():
            fd, encoding, is_terminal = _look_at(stream)
        drawing = Drawing(
            is_colored=is_terminal and self._may_color, payload_chars=self.config.payload_chars
        )
        positions, lines = [], []
        for position, text in drawing.draw(batch.records):
            positions.append(position)
            lines.append(text.encode(encoding, "backslashreplace"))
        if fd is None:
            with _told_apart():
                stream.write(b"".join(lines).decode(encoding))
                if callable(flush := getattr(stream, "flush", None)):
                    flush()
            return {}
        written = await self._writer.write(fd, lines)
        if written.error is None:
            return {}
        return unwritten(written, positions, _what_it_means(written.error))


def _look_at(stream: Any) -> tuple[int | None, str, bool]:
    """Return the descriptor to write to, if there is one, the encoding, and if it is a terminal."""
    if getattr(stream, "closed", False):
        raise PermanentExportError("the stream is closed", reason="closed")
    is_terminal = callable(isatty := getattr(stream, "isatty", None)) and bool(isatty())
    return _descriptor(stream), getattr(stream, "encoding", None) or "utf-8", is_terminal


def _descriptor(stream: Any) -> int | None:
    """Return where a stream writes to (C3), if that is plain text in a file of the system.

    A notebook's stream has a descriptor too, but another one than it writes to; a compressed file
    has one for what it compressed.
    """
    if type(stream) is not io.TextIOWrapper:
        return None
    buffer = stream.buffer
    return stream.fileno() if isinstance(getattr(buffer, "raw", buffer), io.FileIO) else None


@contextmanager
def _told_apart() -> Iterator[None]:
    """Turn what a stream raises into what it means for the spans; one of the agent's own may raise
    anything.
    """
    try:
        yield
    except ExportError:
        raise
    except OSError as error:
        raise _what_it_means(error) from error
    except Exception as error:
        kind = type(error).__name__
        raise PermanentExportError(f"the stream raised {kind}", reason=kind) from error


def _what_it_means(error: OSError) -> ExportError:
    return to_error(error, "cannot print", hopeless=_BROKEN)
