"""Spans that end where no code of ours expects it: finalizers and signal handlers."""

from __future__ import annotations

import subprocess
import sys

import pytest

TIME_MAX_S = 60

SCRIPT = """
import faulthandler, gc, signal, sys, threading
from collections import Counter

faulthandler.dump_traceback_later(float(sys.argv[1]) - 5, exit=True)

import everyspan

THREADS, SPANS_A_THREAD, SIGNALS_MIN = 4, 2_500, 150
memory = everyspan.InMemoryTracingProcessor()
# Small batches and a short linger: the gate is busy all the time.
everyspan.configure(memory, linger_ms=1, batch_size=20)
trace = everyspan.Tracer().trace("finalizers")
residuals = set()
collected = []
handled = 0


class Resource:
    def __init__(self):
        self.span = trace.start_span("finalizer", input={"a": [1]})
        self.cycle = self

    def __del__(self):
        trace.end_span(self.span)
        residuals.add(everyspan.stats().residual)
        collected.append(None)


def handle(*_):
    global handled
    handled += 1
    with everyspan.span("signal"):
        residuals.add(everyspan.stats().residual)
    assert everyspan.flush(0) is not None


def work():
    for _ in range(SPANS_A_THREAD):
        Resource()
        with everyspan.span("thread", input={"a": [1]}):
            pass


signal.signal(signal.SIGALRM, handle)
gc.set_threshold(1)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
threads = [threading.Thread(target=work) for _ in range(THREADS)]
for thread in threads:
    thread.start()
# Handlers run on this thread, and find it in the middle of everything.
mains = 0
while any(thread.is_alive() for thread in threads) or handled < SIGNALS_MIN:
    with everyspan.span("main"):
        residuals.add(everyspan.stats().residual)
    mains += 1
    if mains % 100 == 0:
        everyspan.flush(0.001)
for thread in threads:
    thread.join()
signal.setitimer(signal.ITIMER_REAL, 0)
total = THREADS * SPANS_A_THREAD
while len(collected) < total:
    # It does nothing while another thread collects.
    gc.collect()

assert everyspan.flush(20)
stats = everyspan.stats()
(books,) = stats.destinations
names = Counter(span.name for span in memory.spans)
assert names == {"finalizer": total, "thread": total, "signal": handled, "main": mains}, names
assert len({span.id for span in memory.spans}) == len(memory.spans)
assert books.accepted == books.delivered == len(memory.spans), books
assert (residuals, stats.residual, stats.open_spans) == ({0}, 0, 0), (residuals, stats)
assert everyspan.current_span() is None
assert everyspan.shutdown(5)
"""


@pytest.mark.slow
def test_finalizers_and_signal_handlers_never_deadlock_and_all_is_accounted_for() -> None:
    """P1, P2: 10,000 spans ended by `__del__` at every allocation, offers every millisecond,
    four threads that end spans; the books balance whenever one looks, from anywhere.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(TIME_MAX_S)],
        capture_output=True,
        text=True,
        timeout=TIME_MAX_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
