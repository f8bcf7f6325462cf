"""The console, through real terminals and pipes."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gzip
import io
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

import pytest

import everyspan
from everyspan.delivery.backlog import Batch
from everyspan.errors import (
    ExportError,
    PermanentExportError,
    RetryableExportError,
    SettingsError,
)
from everyspan.processors.console import (
    PAYLOAD_CHARS_MAX,
    ConsoleTracingProcessor,
    ConsoleTracingProcessorConfig,
)
from tests.records import end, make_span
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Colours are up to the stream, retries come soon, and nothing stays configured."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("everyspan.delivery.lane.random.random", lambda: 0.1)
    yield
    everyspan.shutdown(0.5)
    everyspan.set_tracing_processor_configs([])


def console(stream: Any) -> ConsoleTracingProcessor:
    return ConsoleTracingProcessor(ConsoleTracingProcessorConfig(cast("TextIO", stream)))


def to(stream: Any, *ids: str, **fields: Any) -> dict[int, ExportError]:
    """Print spans with these ids."""
    records = [end(id, **fields) for id in ids]
    return dict(asyncio.run(console(stream).export(Batch([], records))))


def reason_of(stream: Any, kind: type[ExportError]) -> str:
    """The reason in the books for a span that cannot be printed."""
    with pytest.raises(kind) as caught:
        to(stream, "a")
    return caught.value.reason


def books() -> everyspan.DestinationStats:
    (stats,) = everyspan.stats().destinations
    assert stats.residual == 0
    return stats


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, TextIO]]:
    """A terminal: what shows on it, as a descriptor, and the stream to print to."""
    shows, prints = pty.openpty()
    attributes = termios.tcgetattr(prints)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(prints, termios.TCSANOW, attributes)
    os.set_blocking(shows, False)
    stream = os.fdopen(prints, "w", encoding="utf-8")
    try:
        yield shows, stream
    finally:
        with contextlib.suppress(OSError):
            termios.tcflow(prints, termios.TCOON)
        with contextlib.suppress(OSError):
            stream.close()
        os.close(shows)


def shown(descriptor: int) -> str:
    """What has come since."""
    text = b""
    while True:
        try:
            piece = os.read(descriptor, 1 << 16)
        except (BlockingIOError, OSError):
            return text.decode()
        if not piece:
            return text.decode()
        text += piece


# -- the contract of a destination


def test_what_is_configured_prints_and_keeps_books() -> None:
    """P1, C1: delivered is what is printed."""
    stream = io.StringIO()
    everyspan.configure(everyspan.ConsoleTracingProcessorConfig(stream))
    with everyspan.span("turn", input={"q": 1}), everyspan.span("call"):
        pass
    assert everyspan.flush(20)
    first, payload, second = stream.getvalue().splitlines()
    assert "✓ turn  #" in first
    assert payload.split() == ["in", '{"q":1}']
    assert "✓ └─ call  #" in second
    assert (books().name, books().delivered) == ("console", 2)


async def test_whoever_awaits_it_directly_sees_the_span() -> None:
    """trace:I1: without a queue, through the same method; STARTs are not asked for."""
    stream = io.StringIO()
    processor = everyspan.ConsoleTracingProcessor(everyspan.ConsoleTracingProcessorConfig(stream))
    await processor.on_spans_start([make_span("a", end_ns=None)])
    await processor.on_spans_end([make_span("a"), make_span("b")])
    await processor.shutdown()
    assert stream.getvalue().count("✓") == 2


def test_stderr_is_where_it_goes_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever `sys.stderr` is by then: tests and notebooks replace it."""
    everyspan.configure(everyspan.ConsoleTracingProcessorConfig())
    with everyspan.span("turn"):
        pass
    assert everyspan.flush(20)
    assert "✓ turn" in capsys.readouterr().err


def test_open_spans_are_printed_if_a_delay_is_set() -> None:
    """A line when it runs, a line when it has ended."""
    stream = io.StringIO()
    everyspan.configure(ConsoleTracingProcessorConfig(stream), start_delay_ms=0, linger_ms=0)
    with everyspan.span("turn"):
        wait_until(lambda: "◐ turn" in stream.getvalue())
    assert everyspan.flush(20)
    assert "✓ turn" in stream.getvalue()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"stream": "stderr"}, "stream"),
        ({"stream": 2}, "stream"),
        ({"payload_chars": -1}, "payload_chars"),
        ({"payload_chars": 1.5}, "payload_chars"),
        ({"payload_chars": True}, "payload_chars"),
        ({"type": "tty"}, "type"),
    ],
)
def test_a_bad_argument_is_named(options: dict[str, Any], named: str) -> None:
    """STYLE, Settings: from the call that takes it."""
    with pytest.raises(SettingsError, match=f"^{named} must be"):
        ConsoleTracingProcessorConfig(**options)


# -- colours


def test_a_terminal_has_colours() -> None:
    """C2: a real one."""
    with terminal() as (shows, stream):
        assert to(stream, "a") == {}
        assert "\x1b[32m✓\x1b[0m" in shown(shows)


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_that_wants_no_colours_has_none(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C2: no-color.org."""
    monkeypatch.setenv(name, value)
    with terminal() as (shows, stream):
        to(stream, "a")
        text = shown(shows)
    assert "✓ step" in text
    assert "\x1b" not in text


def test_a_pipe_has_no_colours() -> None:
    """C2: a program's stderr, as a log collector sees it."""
    done = run("with everyspan.span('turn'): pass")
    assert "✓ turn" in done.stderr
    assert "\x1b" not in done.stderr


def test_what_the_encoding_lacks_is_escaped() -> None:
    """C2: an ASCII terminal shows escapes, and nothing is lost."""
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="ascii")
    assert to(stream, "a", name="日本") == {}
    assert b"\\u2713 \\u65e5\\u672c" in buffer.getvalue()


# -- streams that do not do what they should


def test_a_paused_terminal_holds_spans_until_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """C4, P2: Ctrl-S, then Ctrl-Q; the agent goes on, nothing is lost."""
    monkeypatch.setattr("everyspan.processors.lines.PATIENCE_S", 0.05)
    with terminal() as (shows, stream):
        termios.tcflow(stream.fileno(), termios.TCOOFF)
        everyspan.configure(ConsoleTracingProcessorConfig(stream), linger_ms=0)
        for _ in range(5):
            with everyspan.span("turn"):
                pass
        assert not everyspan.flush(0.2)
        assert (books().delivered, books().dropped_total) == (0, 0)
        assert shown(shows) == ""
        termios.tcflow(stream.fileno(), termios.TCOON)
        assert everyspan.flush(20)
        lines = shown(shows).splitlines()
        assert len(lines) == 5, "and no empty ones"
        assert all("✓" in line for line in lines)
        assert books().delivered == 5


def test_a_reader_that_stands_still_tears_no_line_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """C4, N1: what was not printed whole is printed again, on a line of its own."""
    monkeypatch.setattr("everyspan.processors.lines.PATIENCE_S", 0.0)
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with os.fdopen(writer, "w") as stream:
        config = ConsoleTracingProcessorConfig(stream, payload_chars=10_000)
        processor = ConsoleTracingProcessor(config)
        records = [end(f"{n:06}", input="y" * 9_000) for n in range(20)]
        failed = asyncio.run(processor.export(Batch([], records)))
        assert {error.reason for error in failed.values()} == {"EAGAIN"}
        assert {type(error) for error in failed.values()} == {RetryableExportError}
        text = shown(reader)
        assert not text.endswith('y"\n'), "it stopped between two spans, by chance"
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
        again = [records[position] for position in failed]
        assert asyncio.run(processor.export(Batch([], again))) == {}
        text += shown(reader)
        os.close(reader)
    headings = [line for line in text.split("\n") if "trace trace-1" in line]
    assert all(re.match(r"\d\d:\d\d:\d\d", line) for line in headings)
    printed = [line.split("#")[1][:6] for line in headings]
    assert [*dict.fromkeys(printed)] == [f"{n:06}" for n in range(20)]
    assert text.count('y"\n') == 20


async def test_who_gives_up_in_mid_line_leaves_an_end_to_it() -> None:
    """N1: a queue that stops cancels its task, wherever that is."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with os.fdopen(writer, "w") as stream:
        config = ConsoleTracingProcessorConfig(stream, payload_chars=PAYLOAD_CHARS_MAX)
        processor = ConsoleTracingProcessor(config)
        batch = Batch([], [end("a", input="y" * 500_000)])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(processor.export(batch), 0.1)
        assert not shown(reader).endswith("\n")
        await processor.export(Batch([], [end("b")]))
        assert shown(reader).startswith("\n")
    os.close(reader)


def test_a_stderr_that_nobody_reads_blocks_neither_agent_nor_exit() -> None:
    """P2, C3: a full pipe; the process ends within its grace, and in peace."""
    process = start_program(
        "import os\n"
        "os.set_blocking(2, False)\n"
        "try:\n"
        "    while os.write(2, b'.' * 4096): pass\n"
        "except BlockingIOError: os.set_blocking(2, True)\n"
        "for n in range(100):\n"
        "    with everyspan.span('turn'): pass\n"
        "print('agent is done', flush=True)\n",
        EVERYSPAN_GRACE_S="0.3",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "agent is done\n"
    # Nobody reads stderr until then: it would hang here if the exit needed that.
    assert process.wait(timeout=30) == 0
    out, err = process.communicate()
    assert out == ""
    assert err.strip(".") == ""


def test_a_stderr_that_nobody_reads_any_more_costs_nothing_else() -> None:
    """C4, N3: EPIPE, and no signal where the agent takes its default; no traceback, exit code 0."""
    process = start_program(
        "import signal, sys\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "for n in range(100):\n"
        "    with everyspan.span('turn'): pass\n"
        "everyspan.flush(10)\n"
        "(books,) = everyspan.stats().destinations\n"
        "print(dict(books.dropped), books.residual)\n"
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    process.stderr.close()
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.read() == "{'EPIPE': 100} 0\n"
    assert process.wait(timeout=30) == 0
    process.stdin.close()
    process.stdout.close()


def test_a_terminal_that_was_closed_costs_the_spans() -> None:
    """C4: the window is gone."""
    shows, prints = pty.openpty()
    with os.fdopen(prints, "w") as stream:
        os.close(shows)
        assert reason_of(stream, PermanentExportError) in {"EIO", "EPIPE"}


def test_a_closed_stream_costs_the_spans_counted() -> None:
    """C4: through the queue, with the reason."""
    stream = io.StringIO()
    stream.close()
    everyspan.configure(ConsoleTracingProcessorConfig(stream))
    with everyspan.span("turn"):
        pass
    assert everyspan.flush(20).left == {"console": {"closed": 1}}
    assert dict(books().dropped) == {"closed": 1}


def test_without_stderr_spans_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """C4: a process that was started without one."""
    monkeypatch.setattr(sys, "stderr", None)
    assert reason_of(None, PermanentExportError) == "closed"


def test_a_stream_of_the_agents_own_may_raise_anything() -> None:
    """P2: its class is the reason."""

    class Odd:
        def write(self, text: str) -> int:
            raise LookupError(text)

    assert reason_of(Odd(), PermanentExportError) == "LookupError"


def test_a_stream_need_only_write() -> None:
    """Duck typing: no `isatty`, no `flush`, no `encoding`."""
    texts: list[str] = []

    class Bare:
        def write(self, text: str) -> None:
            texts.append(text)

    assert to(Bare(), "a", "b") == {}
    assert "".join(texts).count("✓") == 2


def test_a_compressed_file_gets_text_not_its_descriptor(tmp_path: Path) -> None:
    """C3: only plain files are written by their descriptor."""
    path = tmp_path / "spans.gz"
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        to(stream, "a")
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        assert "✓ step" in stream.read()


def test_the_descriptor_needs_no_lock_of_the_stream() -> None:
    """C3: what the agent has written and not flushed stays where it is."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        stream.write("in the agent's buffer")
        to(stream, "a")
        assert os.read(reader, 4096).decode().startswith(tuple("0123456789"))
    os.close(reader)


# -- processes


def start_program(body: str, **environ: str) -> subprocess.Popen[str]:
    """Start a program that has configured the console.

    Not in Python's development mode, where asyncio remarks on slow callbacks, on stderr.
    """
    setup = "import everyspan\neveryspan.configure(everyspan.ConsoleTracingProcessorConfig())\n"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", setup + body],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Unbuffered, the streams of Python have no lock.
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": ""} | environ,
    )


def run(body: str) -> subprocess.CompletedProcess[str]:
    """Run such a program to its end."""
    process = start_program(body)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
