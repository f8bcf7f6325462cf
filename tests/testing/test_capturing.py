"""`capture()`: everything comes here, nothing goes anywhere else, and what was comes back."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import everyspan
from everyspan import pipeline
from everyspan.errors import SettingsError
from everyspan.testing import capture
from everyspan.testing.capturing import Capture

ROOT = Path(__file__).parents[2]


@pytest.fixture
def before() -> Iterator[everyspan.InMemoryTracingProcessor]:
    """What was configured before."""
    memory = everyspan.InMemoryTracingProcessor()
    everyspan.configure(memory, linger_ms=0)
    yield memory
    everyspan.shutdown(20)
    everyspan.set_tracing_processor_configs([])


def record(name: str) -> None:
    with everyspan.span(name):
        pass


def names(memory: everyspan.InMemoryTracingProcessor) -> list[str]:
    assert everyspan.flush(20)
    return [span.name for span in memory.spans]


def test_a_capture_shows_what_was_recorded() -> None:
    """K1."""
    with capture() as captured:
        with everyspan.span("turn", input={"q": "Rome?"}) as turn:
            record("plan")
            with pytest.raises(KeyError), everyspan.span("search"):
                raise KeyError("down")
            turn.output = {"a": "sunny"}
        record("other")
        assert captured.names == ["plan", "search", "turn", "other"]
        assert captured.one("turn").output == {"a": "sunny"}
        assert captured.tree() == ["turn", "  plan", "  search (ERROR)", "other"]
        assert captured.residual == 0
        assert captured.stats.destinations[0].delivered == 4
    assert captured.tree() == ["turn", "  plan", "  search (ERROR)", "other"]


def test_one_says_what_there_is_instead() -> None:
    with capture() as captured:
        with everyspan.span("turn"):
            record("plan")
        record("plan")
    with pytest.raises(AssertionError) as none:
        captured.one("search")
    assert str(none.value) == "0 spans are named 'search', of:\n  turn\n    plan\n  plan"
    with pytest.raises(AssertionError, match=r"^2 spans are named 'plan', of:"):
        captured.one("plan")


def test_what_was_configured_comes_back_untouched(
    before: everyspan.InMemoryTracingProcessor,
) -> None:
    """K2: destinations, queue and books."""
    record("before")
    assert everyspan.flush(20)
    pipe, queue, books = pipeline.current(), everyspan.get_default_span_queue(), everyspan.stats()
    with capture() as captured:
        record("inside")
        assert everyspan.get_default_span_queue() is not queue
        # Delivered: of a span that waits the books tell its age, another at each look.
        assert captured.names == ["inside"]
        assert everyspan.stats() == captured.stats
    assert pipeline.current() is pipe
    assert everyspan.stats() == books
    record("after")
    assert names(before) == ["before", "after"]
    assert captured.names == ["inside"]


def test_a_block_that_raises_gives_back_what_was(
    before: everyspan.InMemoryTracingProcessor,
) -> None:
    """K2: the error passes."""
    error = KeyError("mine")
    captured = capture()

    def block() -> None:
        with captured:
            record("inside")
            raise error

    with pytest.raises(KeyError) as caught:
        block()
    assert caught.value is error
    record("after")
    assert captured.names == ["inside"]
    assert names(before) == ["after"]


def test_captures_nest(before: everyspan.InMemoryTracingProcessor) -> None:
    with capture() as outer:
        record("a")
        with capture() as inner:
            record("b")
        record("c")
    assert (outer.names, inner.names, names(before)) == (["a", "c"], ["b"], [])


def test_captures_that_overlap_end_in_any_order(
    before: everyspan.InMemoryTracingProcessor,
) -> None:
    """K2: two tasks, or fixtures of different reach."""
    first, second = capture(), capture()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    record("second")
    second.__exit__(None, None, None)
    record("after")
    assert (first.names, second.names, names(before)) == ([], ["second"], ["after"])


async def test_a_capture_is_asynchronous_too() -> None:
    """P3: the loop of the test, its tasks and its threads."""
    async with capture() as captured:

        async def step(name: str) -> None:
            async with everyspan.span(name):
                await asyncio.sleep(0)

        async with everyspan.span("turn"):
            await asyncio.gather(step("a"), step("b"))
            await asyncio.to_thread(record, "c")
        assert captured.tree() == ["turn", "  a", "  b", "  c"]
    assert captured.residual == 0


def test_threads_are_captured() -> None:
    """K1."""
    with capture() as captured:
        threads = [threading.Thread(target=record, args=("t",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert captured.names == ["t"] * 8


@pytest.mark.parametrize(
    "configure",
    [
        lambda: everyspan.configure("http://127.0.0.1:1"),
        lambda: everyspan.set_tracing_processor_configs([]),
        lambda: everyspan.add_tracing_processor_config(
            everyspan.SGPTracingProcessorConfig("key", "account", "http://127.0.0.1:1")
        ),
    ],
)
def test_a_program_that_configures_itself_is_captured(
    configure: Any, before: everyspan.InMemoryTracingProcessor
) -> None:
    """K1: nothing is sent, and K2: nothing of it is left."""
    pipe = pipeline.current()
    with capture() as captured:
        configure()
        record("inside")
        assert [d.name for d in everyspan.stats().destinations] == ["memory"]
    assert captured.names == ["inside"]
    assert pipeline.current() is pipe


def test_a_bad_argument_raises_inside_too() -> None:
    with capture(), pytest.raises(SettingsError, match="a destination that is text must"):
        everyspan.configure("")


def test_a_program_that_shuts_down_ends_its_capture_alone(
    before: everyspan.InMemoryTracingProcessor,
) -> None:
    """K2: the queue before is not shut down with it."""
    with capture() as captured:
        record("inside")
        assert everyspan.shutdown(20)
        record("too late")
    assert captured.names == ["inside"]
    assert captured.residual == 0
    record("after")
    assert names(before) == ["after"]


def test_the_environment_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """K1: neither switched off, nor sampled, nor bounded."""
    for name, text in {
        "EVERYSPAN_DISABLED": "1",
        "EVERYSPAN_SAMPLE": "0",
        "AGENTEX_SPAN_QUEUE_MAX_SIZE": "1",
        "AGENTEX_SPAN_QUEUE_LINGER_MS": "3600000",
    }.items():
        monkeypatch.setenv(name, text)
    with capture() as captured:
        for _ in range(50):
            record("x")
        assert captured.names == ["x"] * 50


def test_a_mask_is_seen_at_work() -> None:
    """P9: what would leave the process."""
    with capture(mask=True) as captured, everyspan.span("x", input={"api_key": "s3cret", "n": 1}):
        pass
    shown = captured.one("x").input
    assert shown["n"] == 1
    assert "s3cret" not in str(shown)


def test_a_span_that_outlives_the_capture_goes_where_it_would(
    before: everyspan.InMemoryTracingProcessor,
) -> None:
    trace = everyspan.Tracer().trace("t")
    with capture() as captured:
        span = trace.start_span("long")
    assert span is not None
    trace.end_span(span)
    assert names(before) == ["long"]
    assert captured.names == []
    assert everyspan.stats().residual == captured.residual == 0


def test_a_capture_is_entered_once() -> None:
    captured = capture()
    with captured, pytest.raises(SettingsError, match="entered once"):
        captured.__enter__()


def test_a_forked_child_sends_nothing_and_leaves_the_block(tmp_path: Path) -> None:
    """K1, P3: what it inherits is its parent's."""
    program = """
import os, everyspan
from everyspan.testing import capture
with capture() as captured:
    with everyspan.span("parent"): pass
    assert captured.names == ["parent"]
    pid = os.fork()
    with everyspan.span("child" if pid == 0 else "parent again"): pass
if pid == 0:
    os._exit(0 if captured.names == ["parent"] else 1)
_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert captured.names == ["parent", "parent again"], captured.names
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


# -- the pytest plugin


def test_the_fixture_comes_with_the_package(tmp_path: Path) -> None:
    """Found by pytest by itself, also in workers of pytest-xdist and in coroutines."""
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "entry-points"
    ]
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in rows.items())
        for group, rows in entry_points.items()
    ]
    info = tmp_path / "probe-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: probe\nVersion: 1\n")
    (info / "entry_points.txt").write_text("\n".join(lines))
    (tmp_path / "test_agent.py").write_text(
        """
import everyspan
import pytest

@pytest.mark.parametrize("n", range(4))
def test_sync(everyspan_capture, n):
    with everyspan.span("turn"):
        pass
    assert everyspan_capture.tree() == ["turn"]

@pytest.mark.parametrize("n", range(4))
async def test_async(everyspan_capture, n):
    async with everyspan.span("turn"):
        pass
    assert everyspan_capture.one("turn").output is None
"""
    )
    path = os.pathsep.join([str(ROOT / "src"), str(tmp_path)])
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            "-p",
            "no:langsmith_plugin",
            "-p",
            "no:cacheprovider",
            "-o",
            "asyncio_mode=auto",
            "-o",
            "asyncio_default_fixture_loop_scope=function",
            "-W",
            "error",
            "test_agent.py",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "8 passed" in done.stdout, done.stdout + done.stderr


def test_the_plugin_costs_a_pytest_run_nothing() -> None:
    """P10: of everyspan, pytest loads the package and this file."""
    program = (
        "import sys, pytest; had = {*sys.modules}; import everyspan.testing.plugin; "
        "print(*sorted({*sys.modules} - had))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["everyspan", "everyspan.testing", "everyspan.testing.plugin"]


def test_a_capture_is_what_the_fixture_gives() -> None:
    assert isinstance(capture(), Capture)
