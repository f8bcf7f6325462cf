"""Run one recorder in a process of its own, a burst at a time.

The parent writes `shape requests pace` a line, where the pace is requests a second, 0 for as fast
as can be; the worker answers with one JSON line a burst.
"""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

import msgspec

from benchmarks.payloads import SPANS_PER_REQUEST, Request, requests
from benchmarks.recorders import Recorder, make_recorder

# Between bursts glibc gives freed memory back, or not, by whose block lies last in the heap; the
# page faults that follow cost up to 2 us a span and say nothing of the contender. All keep theirs.
_KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}


class Burst(msgspec.Struct):
    """One burst: seconds from the first span until all were acknowledged, and peak memory."""

    spans: int
    caller_cpu_s: float
    process_cpu_s: float
    wall_s: float
    peak_mb: float

    @property
    def caller_us(self) -> float:
        """Microseconds a span of the calling thread's CPU."""
        return self.caller_cpu_s / self.spans * 1e6

    @property
    def process_us(self) -> float:
        """Microseconds a span of the whole process's CPU, sending included."""
        return self.process_cpu_s / self.spans * 1e6


class Worker:
    """The parent's end. Raises ModuleNotFoundError where the contender is not installed."""

    def __init__(self, recorder: str, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", recorder, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | _KEEP_MEMORY,
        )
        self._name = recorder
        if (ready := self._read_line()) != "ready":
            self.close()
            raise ModuleNotFoundError(ready)

    def burst(self, shape: str, requests: int, *, pace: int = 0) -> Burst:
        assert self._process.stdin is not None
        print(shape, requests, pace, file=self._process.stdin, flush=True)
        return msgspec.json.decode(self._read_line(), type=Burst)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().rstrip("\n")
        if not line:
            raise RuntimeError(f"the worker of {self._name} ended; its error is above")
        return line


def _run(recorder_name: str, url: str) -> None:
    try:
        recorder = make_recorder(recorder_name, url)
    except ModuleNotFoundError as missing:
        print(f"{recorder_name} left out: {missing}", flush=True)
        return
    print("ready", flush=True)
    for line in sys.stdin:
        shape, count, pace = line.split()
        work = requests(shape, int(count))
        gc.collect()
        wall, process = time.perf_counter(), time.process_time()
        caller_cpu_s = _record(recorder, work, int(pace))
        recorder.drain()
        burst = Burst(
            spans=len(work) * SPANS_PER_REQUEST,
            caller_cpu_s=caller_cpu_s,
            process_cpu_s=time.process_time() - process,
            wall_s=time.perf_counter() - wall,
            peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )
        print(msgspec.json.encode(burst).decode(), flush=True)


def _record(recorder: Recorder, work: Sequence[Request], pace: int) -> float:
    if not pace:
        return recorder.record(work)
    began_s, caller_cpu_s = time.monotonic(), 0.0
    for number, request in enumerate(work):
        time.sleep(max(0.0, began_s + number / pace - time.monotonic()))
        caller_cpu_s += recorder.record([request])
    return caller_cpu_s


if __name__ == "__main__":
    _run(sys.argv[1], sys.argv[2])
