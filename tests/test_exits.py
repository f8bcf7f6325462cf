"""Exits: a process that simply ends delivers what it recorded, within its grace."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.serving import serving

SOURCES = Path(__file__).parent.parent / "src"

GRACE_S = 1.0
SLACK_S = 1.5
"""How much longer than its grace a process may take to end: 0.3 s on a machine of its own; here
other tests share two cores with it. What hangs, hangs for a minute."""

STARTUP_MAX_S = 20.0


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server reached by name, so that a name has to be resolved."""
    with serving() as url:
        yield url.replace("127.0.0.1", "localhost")


def run(script: str, *, timeout_s: float = STARTUP_MAX_S) -> subprocess.CompletedProcess[str]:
    """Run a script as an agent's process; warnings are errors."""
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={"PYTHONPATH": str(SOURCES)},
    )


def stored(server: str, trace_id: str) -> list[str]:
    """Return the names of a trace's stored spans."""
    reply = httpx2.post(
        f"{server}/v5/spans/search", params={"limit": 1000}, json={"trace_ids": [trace_id]}
    )
    return [item["name"] for item in reply.raise_for_status().json()["items"]]


def assert_clean(done: subprocess.CompletedProcess[str]) -> None:
    __tracebackhide__ = True
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    # asyncio's debug mode, which `-X dev` switches on, remarks on slow callbacks.
    remarks = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert remarks == []


def test_one_span_and_no_flush_is_stored(server: str) -> None:
    """The whole life of a short script."""
    done = run(f"""
import everyspan
everyspan.configure({server!r})
with everyspan.span("one", trace_id="one-liner"):
    pass
""")
    assert_clean(done)
    assert stored(server, "one-liner") == ["one"]


def test_a_first_span_during_exit_is_stored(server: str) -> None:
    """No thread can be started any more (3.12), and no exit hook be added."""
    done = run(f"""
import atexit, everyspan
def late():
    with everyspan.span("late", trace_id="first-at-exit"):
        pass
atexit.register(late)
everyspan.configure({server!r})
""")
    assert_clean(done)
    assert stored(server, "first-at-exit") == ["late"]


def test_a_span_after_our_exit_hook_is_stored(server: str) -> None:
    """An `atexit` callback older than ours runs after it."""
    done = run(f"""
import atexit, everyspan
def late():
    with everyspan.span("late", trace_id="after-the-hook"):
        pass
atexit.register(late)
everyspan.configure({server!r})
with everyspan.span("early", trace_id="after-the-hook"):
    pass
""")
    assert_clean(done)
    assert sorted(stored(server, "after-the-hook")) == ["early", "late"]


def test_short_loops_and_no_shutdown_are_stored(server: str) -> None:
    """trace:D1: three `asyncio.run` of five spans each, and the process simply ends."""
    done = run(f"""
import asyncio, everyspan
everyspan.configure({server!r})
async def request():
    for number in range(5):
        with everyspan.span(f"span {{number}}", trace_id="short-loops"):
            pass
for _ in range(3):
    asyncio.run(request())
""")
    assert_clean(done)
    assert len(stored(server, "short-loops")) == 15


def test_a_users_queue_is_drained_at_exit(server: str) -> None:
    """trace:D1: the same through a queue of the user's, whose home is the first of the loops."""
    done = run(f"""
import asyncio, everyspan
processor = everyspan.SGPAsyncTracingProcessor(everyspan.SGPTracingProcessorConfig(
    sgp_api_key="local", sgp_account_id="local", sgp_base_url={server!r}))
queue = everyspan.AsyncSpanQueue(linger_ms=500)
async def request():
    for number in range(5):
        span = everyspan.Span(name=f"span {{number}}", trace_id="users-queue", start_ns=1, end_ns=2)
        queue.enqueue("end", span, [processor])
    await asyncio.sleep(0)
for _ in range(3):
    asyncio.run(request())
""")
    assert_clean(done)
    assert len(stored(server, "users-queue")) == 15


def test_an_open_span_is_stored_as_abandoned(server: str) -> None:
    """DESIGN: at shutdown, spans still open are written as they stand."""
    done = run(f"""
import everyspan
everyspan.configure({server!r})
everyspan.Tracer().trace("abandoned").start_span("open")
with everyspan.span("ended", trace_id="abandoned"):
    pass
everyspan.shutdown(5)
""")
    assert_clean(done)
    assert sorted(stored(server, "abandoned")) == ["ended", "open"]


def test_a_child_of_multiprocessing_delivers(server: str) -> None:
    """Children of `multiprocessing` leave without `atexit`."""
    done = run(f"""
import multiprocessing, everyspan
def child():
    everyspan.configure({server!r})
    with everyspan.span("child", trace_id="multiprocessing"):
        pass
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join()
raise SystemExit(process.exitcode)
""")
    assert done.returncode == 0, done.stderr
    assert stored(server, "multiprocessing") == ["child"]


def test_a_forked_child_begins_anew(server: str) -> None:
    """Parent and child deliver what is theirs, once; no wake-up is stolen."""
    # Forking a process with threads warns since 3.12; what is under test is that it works.
    done = run(f"""
import os, warnings, everyspan
warnings.simplefilter("ignore", DeprecationWarning)
everyspan.configure({server!r})
with everyspan.span("parent 1", trace_id="forked"):
    pass
pid = os.fork()
if pid == 0:
    with everyspan.span("child", trace_id="forked"):
        pass
    os._exit(0 if everyspan.flush(5) else 3)
assert os.waitpid(pid, 0)[1] == 0
with everyspan.span("parent 2", trace_id="forked"):
    pass
books = everyspan.stats().destinations[0]
assert books.accepted == 2, books
assert everyspan.flush(5)
""")
    assert done.returncode == 0, done.stderr
    assert sorted(stored(server, "forked")) == ["child", "parent 1", "parent 2"]


def test_a_resolver_that_hangs_does_not_keep_the_process() -> None:
    """P4: name resolution blocks a thread of ours for a minute."""
    done, took_s = timed(f"""
import socket, threading
socket.getaddrinfo = lambda *args, **kwargs: threading.Event().wait(60)
import everyspan
everyspan.configure("http://nowhere.test:5003", grace_s={GRACE_S})
with everyspan.span("one"):
    pass
""")
    assert done.returncode == 0, done.stderr
    assert took_s < GRACE_S + SLACK_S


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_processor_that_never_returns_does_not_keep_the_process(kind: str) -> None:
    """P4, P5: a user's processor blocks its thread for a minute."""
    word = "async " if kind == "async" else ""
    done, took_s = timed(f"""
import threading, everyspan
class Stuck(everyspan.{kind.title()}TracingProcessor):
    {word}def on_span_start(self, span): pass
    {word}def on_span_end(self, span): threading.Event().wait(60)
everyspan.configure(Stuck(), grace_s={GRACE_S})
with everyspan.span("one"):
    pass
""")
    assert done.returncode == 0, done.stderr
    assert took_s < GRACE_S + SLACK_S


def test_a_backend_that_never_answers_does_not_keep_the_process() -> None:
    """P4: connections are accepted, nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        done, took_s = timed(f"""
import everyspan
everyspan.configure(everyspan.SGPTracingProcessorConfig(
    sgp_api_key="k", sgp_account_id="a", sgp_base_url="http://127.0.0.1:{port}"),
    grace_s={GRACE_S})
with everyspan.span("one"):
    pass
""")
    assert done.returncode == 0, done.stderr
    assert took_s < GRACE_S + SLACK_S


def test_the_absence_of_the_local_server_is_said_in_one_line() -> None:
    """DESIGN: half a second of refused connections, then one line that says what to type."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done, took_s = timed(f"""
import everyspan
everyspan.configure("http://127.0.0.1:{port}")
with everyspan.span("one"):
    pass
""")
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert f"`everyspan serve --port {port}`" in done.stderr
    assert took_s < 0.5 + SLACK_S


def timed(script: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run a script; return also the seconds from the end of its own code to that of the process."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", script + "\nprint('end', flush=True)\n"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(SOURCES)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "end\n", process.communicate()[1]
    ended_s = time.monotonic()
    _, errors = process.communicate(timeout=STARTUP_MAX_S)
    took_s = time.monotonic() - ended_s
    return subprocess.CompletedProcess(process.args, process.returncode, "", errors), took_s


def test_several_queues_share_one_grace() -> None:
    """P4: replaced pipelines that hang, and `multiprocessing`'s finaliser beside `atexit`."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        done, took_s = timed(f"""
import multiprocessing.util, everyspan
for _ in range(3):
    everyspan.configure(everyspan.SGPTracingProcessorConfig(
        sgp_api_key="k", sgp_account_id="a", sgp_base_url="http://127.0.0.1:{port}"),
        grace_s={GRACE_S})
    with everyspan.span("one"):
        pass
""")
    assert done.returncode == 0, done.stderr
    assert took_s < GRACE_S + SLACK_S


@pytest.mark.parametrize("stderr", ["None", "Raising()"])
def test_without_a_usable_stderr_the_process_ends_all_the_same(server: str, stderr: str) -> None:
    """P2, P5: nobody is told to start a server, stdout stays the agent's, other spans arrive."""
    script = f"""
import sys
import everyspan

class Raising:
    def write(self, *_):
        raise OSError
    def flush(self):
        pass

everyspan.configure("http://127.0.0.1:9")
with everyspan.span("nowhere"):
    pass
other = everyspan.AsyncSpanQueue(linger_ms=60_000)
config = everyspan.SGPTracingProcessorConfig("local", "local", {server!r})
trace = everyspan.AsyncTracer().trace("no-stderr-{stderr}", span_queue=other)
trace._processors = [everyspan.SGPAsyncTracingProcessor(config)]
with trace.span("there"):
    pass
sys.stderr = {stderr}
"""
    done = run(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert stored(server, f"no-stderr-{stderr}") == ["there"]


def test_nothing_is_loaded_while_spans_are_sent(server: str) -> None:
    """P3: a child that is forked while a thread loads a module waits for that module for ever."""
    script = f"""
import sys
import everyspan
config = everyspan.SGPTracingProcessorConfig("local", "local", {server!r})
everyspan.configure(config, linger_ms=60_000)
with everyspan.span("first"):
    pass
before = {{*sys.modules}}
assert everyspan.flush(20)
assert {{*sys.modules}} == before, {{*sys.modules}} - before
"""
    assert_clean(run(script))
