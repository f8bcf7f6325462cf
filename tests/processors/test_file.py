"""The file destination, on real files, pipes and devices."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import everyspan
from everyspan.delivery.backlog import Batch
from everyspan.errors import (
    ExportError,
    PermanentExportError,
    RetryableExportError,
    SettingsError,
)
from everyspan.model.record import Part, SpanRecord, freeze_span
from everyspan.model.span import Span
from everyspan.model.span_error import set_span_error
from everyspan.processors.file import (
    FileTracingProcessor,
    FileTracingProcessorConfig,
    encode_line,
)
from tests.records import T0_NS, end, make_span, start
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
SIZE_MIN = 4096


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Retries come after 50 ms, 100 ms and so on, and nothing stays configured."""
    monkeypatch.setattr("everyspan.delivery.lane.random.random", lambda: 0.1)
    yield
    everyspan.shutdown(5)
    everyspan.set_tracing_processor_configs([])


def export(config: FileTracingProcessorConfig, *records: SpanRecord) -> dict[int, ExportError]:
    """Export records on a loop of its own, by a processor of its own."""
    return dict(asyncio.run(FileTracingProcessor(config).export(Batch([], [*records]))))


def to(path: Path, *ids: str, **options: Any) -> dict[int, ExportError]:
    """Append spans with these ids."""
    return export(FileTracingProcessorConfig(path, **options), *map(end, ids))


def reason_of(call: Callable[[], object], kind: type[ExportError]) -> str:
    """The reason in the books for what `call` raises."""
    with pytest.raises(kind) as caught:
        call()
    return caught.value.reason


def read(*paths: Path) -> list[dict[str, Any]]:
    """Every line of the files that is a span; all of them must be."""
    return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]


def ids_in(*paths: Path) -> list[str]:
    return [line["id"] for line in read(*paths)]


def spans_among_torn(path: Path) -> list[str]:
    """The ids of the lines that parse, as a reader skips the others."""
    found = []
    for line in path.read_bytes().split(b"\n"):
        try:
            found.append(json.loads(line)["id"])
        except ValueError:
            continue
    return found


def run(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
    )


def end_of(process: subprocess.Popen[str]) -> str:
    """Wait for a program; what it said on stderr."""
    return process.communicate(timeout=60)[1]


# -- the line


def test_a_line_holds_the_whole_span() -> None:
    """F1: every field, payloads as they were frozen, times twice, in one order."""
    span = make_span(
        "s1",
        parent_id="p1",
        input={"q": "Rome?"},
        output=[1, 2.5],
        data={"k": None},
        task_id="t1",
        group_id="g1",
        type="COMPLETION",
    )
    set_span_error(span, ValueError("lost"))
    record = freeze_span(span, is_end=True, offered_s=0.0)
    record.part, record.ordinal, record.closes = Part("part", "trace-1"), 2, True
    record.part.total = 2
    record.part.losses = {"file": {"byte budget": 1}, "sgp": {"http 500": 9}}
    line = json.loads(encode_line(record, destination="file"))
    assert list(line) == [
        *("id", "trace_id", "parent_id", "name", "type", "status", "group_id", "task_id"),
        *("start_time", "end_time", "start_ns", "end_ns", "input", "output", "data", "error"),
        "__everyspan__",
    ]
    assert line["input"] == {"q": "Rome?"}
    assert line["output"] == [1, 2.5]
    assert line["data"]["k"] is None
    assert (line["type"], line["status"]) == ("COMPLETION", "ERROR")
    assert (line["parent_id"], line["task_id"], line["group_id"]) == ("p1", "t1", "g1")
    assert line["start_time"] == "2025-10-09T08:53:20.000000+00:00"
    assert (line["start_ns"], line["end_ns"]) == (T0_NS, T0_NS + 1_000_000_000)
    assert line["error"]["type"] == "ValueError"
    assert line["error"]["message"] == "lost"
    assert line["__everyspan__"] == {
        "p": "part",
        "rev": 1,
        "n": 2,
        "total": 2,
        "dropped": {"byte budget": 1},
    }


def test_a_span_comes_back_as_it_was() -> None:
    """F1: what was dumped validates again."""
    line = json.loads(encode_line(end("s1", input={"a": 1}, type="CUSTOM"), destination="file"))
    again = Span.model_validate(line)
    assert (again.id, again.input, again.type) == ("s1", {"a": 1}, "CUSTOM")
    assert again.end_ns == T0_NS + 1_000_000_000


def test_an_open_span_has_no_end() -> None:
    """F3: a START is told from an END by its end."""
    line = json.loads(encode_line(start("s1", input="in"), destination="file"))
    assert line["end_time"] is None
    assert line["end_ns"] is None
    assert line["input"] == "in"


@given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)))
def test_any_text_is_one_line_of_json(name: str, id: str) -> None:
    """F1: surrogates, line ends, controls; in ids too."""
    text = encode_line(end(id, name=name, input=name), destination="file")
    assert text.count(b"\n") == 1
    assert text.endswith(b"\n")
    assert json.loads(text.decode())["name"] is not None


def test_the_agents_own_json_cannot_break_a_line() -> None:
    """F1: `msgspec.Raw` is taken at its word, line ends between its values included."""
    text = encode_line(end("s1", input=msgspec.Raw(b'{"a":\n 1}')), destination="file")
    assert text.count(b"\n") == 1
    assert json.loads(text)["input"] == {"a": 1}


# -- the contract of a destination


def test_what_is_configured_delivers_and_keeps_books(tmp_path: Path) -> None:
    """P1, F2: delivered is what is in the file."""
    path = tmp_path / "spans.jsonl"
    everyspan.configure(everyspan.FileTracingProcessorConfig(path))
    with everyspan.span("turn", input={"q": 1}), everyspan.span("call"):
        pass
    assert everyspan.flush(20)
    lines = read(path)
    assert [line["name"] for line in lines] == ["call", "turn"]
    assert lines[1]["__everyspan__"]["total"] == 2
    (books,) = everyspan.stats().destinations
    assert (books.name, books.delivered, books.residual) == ("file", 2, 0)
    assert path.stat().st_mode & 0o777 == 0o600


async def test_whoever_awaits_it_directly_finds_the_span(tmp_path: Path) -> None:
    """trace:I1: without a queue, through the same method; STARTs are not asked for."""
    path = tmp_path / "spans.jsonl"
    processor = everyspan.FileTracingProcessor(everyspan.FileTracingProcessorConfig(path))
    await processor.on_spans_start([make_span("a", end_ns=None)])
    assert not path.exists()
    await processor.on_spans_end([make_span("a"), make_span("b")])
    await processor.shutdown()
    assert ids_in(path) == ["a", "b"]


def test_open_spans_are_written_if_a_delay_is_set(tmp_path: Path) -> None:
    """F3: then there are two lines of a span, the later one with its end."""
    path = tmp_path / "spans.jsonl"
    everyspan.configure(everyspan.FileTracingProcessorConfig(path), start_delay_ms=0, linger_ms=0)
    with everyspan.span("turn"):
        wait_until(lambda: path.exists() and path.read_bytes().endswith(b"\n"))
    assert everyspan.flush(20)
    first, last = read(path)
    assert first["id"] == last["id"]
    assert first["end_time"] is None
    assert last["end_time"] is not None
    assert first["__everyspan__"]["rev"] < last["__everyspan__"]["rev"]


def test_missing_directories_are_made_for_their_owner_alone(tmp_path: Path) -> None:
    """F4: at the first batch, and again if somebody removes them."""
    path = tmp_path / "a" / "b" / "spans.jsonl"
    config = FileTracingProcessorConfig(path)
    assert not path.parent.exists()
    assert export(config, end("a")) == {}
    path.unlink()
    path.parent.rmdir()
    assert export(config, end("b")) == {}
    assert ids_in(path) == ["b"]
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_the_path_stays_where_it_was_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent may change its working directory."""
    monkeypatch.chdir(tmp_path)
    config = FileTracingProcessorConfig("spans.jsonl")
    monkeypatch.chdir("/")
    assert export(config, end("a")) == {}
    assert ids_in(tmp_path / "spans.jsonl") == ["a"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"path": ""}, "path"),
        ({"path": b"x"}, "path"),
        ({"path": None}, "path"),
        ({"path": "a\0b"}, "path"),
        ({"rotate_bytes": 5}, "rotate_bytes"),
        ({"rotate_bytes": True}, "rotate_bytes"),
        ({"rotate_bytes": 1e9}, "rotate_bytes"),
        ({"rotate_every_s": 0}, "rotate_every_s"),
        ({"rotate_every_s": float("nan")}, "rotate_every_s"),
        ({"rotate_every_s": float("inf")}, "rotate_every_s"),
        ({"rotate_every_s": "day"}, "rotate_every_s"),
        ({"files_kept": 0}, "files_kept"),
        ({"files_kept": 1001}, "files_kept"),
        ({"type": "fifo"}, "type"),
    ],
)
def test_a_bad_argument_is_named(options: dict[str, Any], named: str) -> None:
    """STYLE, Settings: from the call that takes it."""
    with pytest.raises(SettingsError, match=f"^{named} must be"):
        FileTracingProcessorConfig(**{"path": "spans.jsonl"} | options)


def test_a_directory_is_refused_by_configure(tmp_path: Path) -> None:
    """Before a span is lost to it."""
    with pytest.raises(SettingsError, match="is a directory"):
        everyspan.configure(FileTracingProcessorConfig(tmp_path))


# -- rotation


def test_a_full_file_makes_way(tmp_path: Path) -> None:
    """F1: `path` is the newest; no more are kept than was said."""
    path = tmp_path / "spans.jsonl"
    for n in range(8):
        big = end(f"s{n}", input="x" * 3000)
        assert (
            export(FileTracingProcessorConfig(path, rotate_bytes=SIZE_MIN, files_kept=3), big) == {}
        )
    files = [path, *(tmp_path / f"spans.jsonl.{n}" for n in (1, 2, 3))]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert ids_in(*files) == ["s7", "s6", "s5", "s4"]


def test_a_batch_larger_than_a_file_has_one_to_itself(tmp_path: Path) -> None:
    """P5: it is written all the same."""
    path = tmp_path / "spans.jsonl"
    config = FileTracingProcessorConfig(path, rotate_bytes=SIZE_MIN)
    for n in range(2):
        assert export(config, end(f"s{n}", input="x" * 9000)) == {}
    assert ids_in(path) == ["s1"]
    assert ids_in(tmp_path / "spans.jsonl.1") == ["s0"]


def test_a_file_of_another_day_makes_way(tmp_path: Path) -> None:
    """By the time of the last write, which outlives the process."""
    path = tmp_path / "spans.jsonl"
    config = FileTracingProcessorConfig(path, rotate_bytes=None, rotate_every_s=86_400)
    export(config, end("old"))
    export(config, end("old too"))
    os.utime(path, (T0_NS / 1e9, T0_NS / 1e9))
    export(config, end("new"))
    assert ids_in(tmp_path / "spans.jsonl.1") == ["old", "old too"]
    assert ids_in(path) == ["new"]


def test_who_may_read_the_file_may_read_the_next(tmp_path: Path) -> None:
    """A log shipper's group, for example."""
    path = tmp_path / "spans.jsonl"
    path.touch()
    path.chmod(0o640)
    for n in range(2):
        to(path, f"{n}" * 4000, rotate_bytes=SIZE_MIN)
    assert (tmp_path / "spans.jsonl.1").exists()
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_link_is_written_through_and_stays(tmp_path: Path) -> None:
    """`/dev/stdout` is one."""
    path, target = tmp_path / "link", tmp_path / "target"
    path.symlink_to(target)
    for n in range(3):
        to(path, f"{n}" * 4000, rotate_bytes=SIZE_MIN)
    assert len(ids_in(target)) == 3
    assert sorted(tmp_path.iterdir()) == [path, target]


def test_a_file_that_cannot_be_renamed_goes_on_growing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """P1: spans matter more than the size of the file."""

    def replace(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", replace)
    path = tmp_path / "spans.jsonl"
    for n in range(3):
        assert to(path, f"{n}" * 4000, rotate_bytes=SIZE_MIN) == {}
    assert len(ids_in(path)) == 3
    assert [r.getMessage() for r in caplog.records] == [
        f"cannot rename {path}: Permission denied; it goes on growing"
    ]


WRITER = """
import sys, threading, everyspan
path, mark = sys.argv[1], sys.argv[2]
everyspan.configure(
    everyspan.FileTracingProcessorConfig(path, rotate_bytes=int(sys.argv[3]), files_kept=1000),
    linger_ms=0, batch_size=5,
)
print("ready", flush=True)
sys.stdin.readline()
def work(thread):
    for n in range(200):
        with everyspan.span("step", input="x" * 300, parent_id=None) as span:
            span.id = f"{mark}-{thread}-{n}"
threads = [threading.Thread(target=work, args=(thread,)) for thread in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert everyspan.flush(50), everyspan.stats()
"""
WRITTEN = {f"{mark}-{thread}-{n}" for mark in "ab" for thread in range(3) for n in range(200)}


def write_from_two_processes(
    path: Path, *, rotate_bytes: int = 1 << 30, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Have two processes of three threads write `WRITTEN`; call `meanwhile` again and again."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, path, mark, str(rotate_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        )
        for mark in "ab"
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    def is_over() -> bool:
        meanwhile()
        return all(process.poll() is not None for process in processes)

    wait_until(is_over, deadline_s=60)
    for process in processes:
        assert end_of(process) == ""
        assert process.returncode == 0


def test_rotation_under_load_loses_and_tears_nothing(tmp_path: Path) -> None:
    """F1: two processes rotate one file, each with three threads that record."""
    path = tmp_path / "spans.jsonl"
    write_from_two_processes(path, rotate_bytes=20_000)
    files = [*tmp_path.iterdir()]
    assert len(files) > 2
    found = ids_in(*files)
    assert len(found) == len(WRITTEN)
    assert set(found) == WRITTEN
    assert all(file.stat().st_size <= 20_000 for file in files)


def test_a_rotator_that_renames_is_followed(tmp_path: Path) -> None:
    """F4: logrotate's `create` and `nocreate`, while two processes write."""
    path = tmp_path / "spans.jsonl"
    renamed: list[Path] = []

    def rename() -> None:
        if path.exists():
            renamed.append(tmp_path / f"renamed-{len(renamed)}")
            path.rename(renamed[-1])
            if len(renamed) % 2:
                path.touch(0o600)

    write_from_two_processes(path, meanwhile=rename)
    assert len(renamed) > 2
    found = ids_in(*tmp_path.iterdir())
    assert len(found) == len(WRITTEN)
    assert set(found) == WRITTEN


def test_a_rename_between_opening_and_locking_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F4: the narrowest moment; the renamed file may be deleted the next."""
    path = tmp_path / "spans.jsonl"
    to(path, "a")
    flock = fcntl.flock

    def rename_first(fd: int, operation: int) -> None:
        if ids_in(path) == ["a"]:
            path.rename(tmp_path / "renamed")
            path.touch()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", rename_first)
    to(path, "b")
    assert ids_in(tmp_path / "renamed") == ["a"]
    assert ids_in(path) == ["b"]


@pytest.mark.parametrize("waits", [True, False])
def test_a_truncation_leaves_no_hole_and_tears_no_line(tmp_path: Path, waits: bool) -> None:
    """F4: logrotate's `copytruncate`.

    It loses what is written between its copy and its truncation; only one that waits for its turn
    does not.
    """
    path = tmp_path / "spans.jsonl"
    copies: list[bytes] = []

    def copy_and_truncate() -> None:
        if path.exists():
            with path.open("r+b") as file:
                if waits:
                    fcntl.flock(file, fcntl.LOCK_EX)
                    copies.append(file.read())
                os.truncate(path, 0)

    write_from_two_processes(path, meanwhile=copy_and_truncate)
    assert to(path, "last") == {}
    everything = b"".join([*copies, path.read_bytes()])
    assert b"\0" not in everything
    found = [json.loads(line)["id"] for line in everything.splitlines()]
    assert found.pop() == "last"
    assert len(set(found)) == len(found)
    assert set(found) <= WRITTEN
    if waits:
        assert set(found) == WRITTEN


# -- what others leave behind


def test_a_truncation_between_two_batches_starts_at_the_front(tmp_path: Path) -> None:
    """F4: no hole of NULs."""
    path = tmp_path / "spans.jsonl"
    config = FileTracingProcessorConfig(path)
    export(config, *(end(f"a{n}") for n in range(50)))
    os.truncate(path, 0)
    export(config, end("b"))
    assert ids_in(path) == ["b"]


@pytest.mark.parametrize("left", [b'{"id":"torn","na', b"\xff\xfe", b"{}"])
def test_a_line_that_was_left_half_way_costs_only_itself(tmp_path: Path, left: bytes) -> None:
    """F1: it is ended first; a file that ends well gets no empty line."""
    path = tmp_path / "spans.jsonl"
    path.write_bytes(left)
    to(path, "a")
    to(path, "b")
    first, *rest = path.read_bytes().splitlines()
    assert first == left
    assert [json.loads(line)["id"] for line in rest] == ["a", "b"]


KILLED = """
import os, signal, sys, everyspan
write = os.write
def write_half(fd, data):
    write(fd, bytes(data)[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
everyspan.configure(everyspan.FileTracingProcessorConfig(sys.argv[1]), linger_ms=0)
with everyspan.span("whole"):
    pass
assert everyspan.flush(20)
os.write = write_half
with everyspan.span("torn"):
    pass
everyspan.flush(20)
"""


def test_after_a_kill_in_mid_write_the_next_process_goes_on(tmp_path: Path) -> None:
    """F1: the lock dies with its holder, the torn line is ended."""
    path = tmp_path / "spans.jsonl"
    killed = run(KILLED, path)
    assert end_of(killed) == ""
    assert killed.returncode == -signal.SIGKILL
    assert not path.read_bytes().endswith(b"\n")
    assert to(path, "next") == {}
    whole, torn, last = path.read_bytes().splitlines()
    assert json.loads(whole)["name"] == "whole"
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|delimiter"):
        json.loads(torn)
    assert json.loads(last)["id"] == "next"


# -- failures


def test_a_full_disk_keeps_the_spans_until_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """P1, F2: /dev/full, then a file; all are there, the books balance throughout."""
    path = tmp_path / "spans.jsonl"
    path.symlink_to("/dev/full")
    everyspan.configure(FileTracingProcessorConfig(path), linger_ms=0)
    for _ in range(3):
        with everyspan.span("turn"):
            pass
    result = everyspan.flush(0.2)
    assert not result
    assert result.left["file"]["ENOSPC"] >= 1
    (books,) = everyspan.stats().destinations
    assert (books.delivered, books.dropped_total, books.residual) == (0, 0, 0)
    assert f"spans wait: cannot write {path}: No space left on device" in caplog.messages
    path.unlink()
    assert everyspan.flush(20)
    assert len(set(ids_in(path))) == 3
    (books,) = everyspan.stats().destinations
    assert (books.delivered, books.dropped_total, books.residual) == (3, 0, 0)


def test_a_limit_in_mid_line_counts_only_whole_lines(tmp_path: Path) -> None:
    """F2: RLIMIT_FSIZE stops a write half-way; what is torn is not delivered, and is ended."""
    path = tmp_path / "spans.jsonl"
    records = [end(f"s{n}", input="x" * 1000) for n in range(10)]
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limit[1]))
    try:
        failed = export(FileTracingProcessorConfig(path), *records)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.stat().st_size == 5000
    whole = spans_among_torn(path)
    assert 0 < len(whole) < 10
    assert [*failed] == [*range(len(whole), 10)]
    assert {type(error) for error in failed.values()} == {RetryableExportError}
    assert {error.reason for error in failed.values()} == {"EFBIG"}
    assert export(FileTracingProcessorConfig(path), *(records[n] for n in failed)) == {}
    assert sorted(spans_among_torn(path)) == [f"s{n}" for n in range(10)]


def test_short_writes_are_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F1: POSIX allows them at any time."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:7]))
    path = tmp_path / "spans.jsonl"
    assert to(path, "a", "b") == {}
    assert ids_in(path) == ["a", "b"]


def test_a_disk_that_fills_in_mid_batch_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P1: a scripted disk, through the queue: each span is there, none is given up."""
    write = os.write
    script = iter([700, None, 0, None])

    def write_little(fd: int, data: Any) -> int:
        room = next(script, 1 << 30)
        if room is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, bytes(data)[:room])

    path = tmp_path / "spans.jsonl"
    everyspan.configure(FileTracingProcessorConfig(path))
    monkeypatch.setattr(os, "write", write_little)
    made = []
    for _ in range(3):
        with everyspan.span("turn") as span:
            made.append(span.id)
    assert everyspan.flush(20)
    assert sorted(spans_among_torn(path)) == sorted(made)
    (books,) = everyspan.stats().destinations
    assert (books.delivered, books.residual) == (3, 0)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, RetryableExportError),
        (errno.EROFS, RetryableExportError),
        (errno.EIO, RetryableExportError),
        (errno.EDQUOT, RetryableExportError),
        (errno.EMFILE, RetryableExportError),
        (errno.ENOENT, RetryableExportError),
        (errno.ENAMETOOLONG, PermanentExportError),
        (errno.ELOOP, PermanentExportError),
    ],
)
def test_what_an_operator_can_mend_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[ExportError]
) -> None:
    """STYLE, Errors: the class says whether to retry, the reason is the system's own word."""

    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    assert reason_of(lambda: to(tmp_path / "f", "a"), kind) == errno.errorcode[number]


def test_a_directory_in_the_way_is_no_reason_to_wait(tmp_path: Path) -> None:
    """P1: dropped at once, with the reason, and counted."""
    path = tmp_path / "spans.jsonl"
    everyspan.configure(FileTracingProcessorConfig(path))
    path.mkdir()
    with everyspan.span("turn"):
        pass
    assert everyspan.flush(20).left == {"file": {"EISDIR": 1}}
    (books,) = everyspan.stats().destinations
    assert (dict(books.dropped), books.residual) == ({"EISDIR": 1}, 0)


def test_a_file_as_a_directory_is_no_reason_to_wait(tmp_path: Path) -> None:
    """As above."""
    (tmp_path / "f").touch()
    assert reason_of(lambda: to(tmp_path / "f" / "g", "a"), PermanentExportError) == "ENOTDIR"


def test_a_pipe_waits_for_a_reader(tmp_path: Path) -> None:
    """P2: opening it does not block; whoever reads then gets whole lines."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert reason_of(lambda: to(path, "a"), RetryableExportError) == "ENXIO"
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    processor = FileTracingProcessor(FileTracingProcessorConfig(path))
    records = [end(f"s{n}", input="x" * 9000) for n in range(30)]

    def is_read() -> bool:
        try:
            return asyncio.run(processor.export(Batch([], records))) == {}
        except RetryableExportError:
            return False

    wait_until(is_read)
    reader.join(20)
    assert [json.loads(line)["id"] for line in got[0].splitlines()] == [f"s{n}" for n in range(30)]


def test_a_pipe_that_is_full_tears_no_line_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F1, N2: a reader that stands still; once it reads on, the torn line is ended."""
    monkeypatch.setattr("everyspan.processors.lines.PATIENCE_S", 0.0)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        processor = FileTracingProcessor(FileTracingProcessorConfig(path))
        records = [end(f"s{n}", input="x" * 9000) for n in range(30)]
        failed = asyncio.run(processor.export(Batch([], records)))
        assert {error.reason for error in failed.values()} == {"EAGAIN"}
        with pytest.raises(RetryableExportError):
            asyncio.run(processor.export(Batch([], [end("while it is full")])))
        text = _drain(reader)
        assert len(text.splitlines()) == 30 - len(failed) + 1
        assert asyncio.run(processor.export(Batch([], [end("next")]))) == {}
        text += _drain(reader)
    finally:
        os.close(reader)
    lines = text.split(b"\n")
    assert json.loads(lines[-2])["id"] == "next"
    assert lines[-1] == b""


def _drain(reader: int) -> bytes:
    text = b""
    while True:
        try:
            piece = os.read(reader, 1 << 16)
        except BlockingIOError:
            return text
        if not piece:
            return text
        text += piece


def test_somebody_who_keeps_the_lock_delays_nobody_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4: a process that was stopped in its turn, for example."""
    monkeypatch.setattr("everyspan.processors.file.PATIENCE_S", 0.0)
    path = tmp_path / "spans.jsonl"
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert reason_of(lambda: to(path, "a"), RetryableExportError) == "EAGAIN"
    assert to(path, "a") == {}
    assert ids_in(path) == ["a"]


# -- processes and descriptors


def test_nothing_stays_open(tmp_path: Path) -> None:
    """F4: whatever went well or not."""
    before = len(os.listdir("/proc/self/fd"))
    to(tmp_path / "f", "a", rotate_bytes=SIZE_MIN)
    to(tmp_path / "f", "b" * 5000, rotate_bytes=SIZE_MIN)
    with pytest.raises(RetryableExportError):
        to(Path("/dev/full"), "a")
    assert len(os.listdir("/proc/self/fd")) == before


FORKER = """
import os, sys, everyspan
path = sys.argv[1]
everyspan.configure(everyspan.FileTracingProcessorConfig(path), linger_ms=0)
write = os.write
children = []
def write_and_fork(fd, data):
    # The worst moment: the parent's turn, with its lock.
    os.write = write
    children.append(os.fork())
    if not children[-1]:
        try:
            os.fstat(fd)
            os._exit(3)
        except OSError:
            os._exit(0)
    return write(fd, data)
os.write = write_and_fork
with everyspan.span("in parent"):
    pass
assert everyspan.flush(20)
assert os.waitpid(children[0], 0)[1] == 0
if not (child := os.fork()):
    with everyspan.span("in child"):
        pass
    ok = everyspan.flush(20)
    os._exit(0 if ok else 4)
assert os.waitpid(child, 0)[1] == 0
with everyspan.span("after"):
    pass
"""


def test_a_fork_inherits_neither_descriptor_nor_turn(tmp_path: Path) -> None:
    """P3: parent and child both go on, and the child holds no lock of its parent's."""
    path = tmp_path / "spans.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", FORKER, path],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "ignore"},
    )
    assert end_of(process) == ""
    assert process.returncode == 0
    assert [line["name"] for line in read(path)] == ["in parent", "in child", "after"]


def test_standard_output_will_do() -> None:
    """Containers collect it: a pipe that others write to as well."""
    process = run(
        "import everyspan\n"
        "everyspan.configure(everyspan.FileTracingProcessorConfig('/dev/stdout'))\n"
        "print('hello', flush=True)\n"
        "with everyspan.span('turn'): pass\n"
    )
    out, err = process.communicate(timeout=60)
    assert err == ""
    first, line = out.splitlines()
    assert first == "hello"
    assert json.loads(line)["name"] == "turn"
