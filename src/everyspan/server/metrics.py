"""What the server counts, in the text format of Prometheus.

M1  Labels have few values: routes are those of the route table, reasons are words of ours. Nothing
    that a request says becomes one.
M2  Counting takes no lock: it is done on the event loop alone.
"""

from __future__ import annotations

import os
import resource
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
Kind = Literal["counter", "gauge"]
Samples = Iterable[tuple[Mapping[str, str], float]]
_STARTED_S = time.time()
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Counter:
    """A number that only grows, for each combination of label values."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._labels = labels
        self._values: dict[tuple[str, ...], float] = {}

    def add(self, *values: str, amount: float = 1) -> None:
        """Add to the number for these label values."""
        self._values[values] = self._values.get(values, 0) + amount

    def lines(self, name: str) -> Iterator[str]:
        """Yield its samples."""
        for values, number in sorted(self._values.items()):
            yield _line(name, dict(zip(self._labels, values, strict=True)), number)


class Histogram:
    """How long something took, for each value of one label."""

    def __init__(self, label: str | None) -> None:
        self._label = label
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def observe(self, seconds: float, value: str = "") -> None:
        """Count one duration."""
        counts = self._counts.get(value)
        if counts is None:
            counts = self._counts[value] = [0] * (len(SECONDS) + 1)
            self._sums[value] = 0.0
        counts[bisect_left(SECONDS, seconds)] += 1
        self._sums[value] += seconds

    def lines(self, name: str) -> Iterator[str]:
        """Yield its samples."""
        for value, counts in sorted(self._counts.items()):
            labels = {} if self._label is None else {self._label: value}
            total = 0
            for bound, count in zip((*SECONDS, float("inf")), counts, strict=True):
                total += count
                yield _line(f"{name}_bucket", {**labels, "le": _number(bound)}, total)
            yield _line(f"{name}_sum", labels, self._sums[value])
            yield _line(f"{name}_count", labels, total)


class Metrics:
    """All that one server counts."""

    def __init__(self) -> None:
        self._parts: list[tuple[str, str, str, Callable[[str], Iterable[str]]]] = []
        self.requests = self.counter(
            "everyspan_http_requests_total", "Requests answered.", "route", "method", "status"
        )
        self.request_seconds = self._histogram(
            "everyspan_http_request_seconds", "Seconds until a request was answered.", "route"
        )
        self.refused = self.counter(
            "everyspan_http_refused_total", "Requests refused, by the code of the answer.", "reason"
        )
        self.retried = self.counter(
            "everyspan_http_retried_total",
            "Requests that say they are a repeat, by which one.",
            "attempt",
        )
        self.spans = self.counter(
            "everyspan_spans_total", "Spans that came in.", "protocol", "outcome"
        )
        self.write_seconds = self._histogram(
            "everyspan_store_write_seconds", "Seconds from a write's coming to its commit.", None
        )

    def counter(self, name: str, about: str, *labels: str) -> Counter:
        """Return a new counter."""
        made = Counter(labels)
        self._parts.append((name, "counter", about, made.lines))
        return made

    def _histogram(self, name: str, about: str, label: str | None) -> Histogram:
        made = Histogram(label)
        self._parts.append((name, "histogram", about, made.lines))
        return made

    def read(self, name: str, kind: Kind, about: str, samples: Callable[[], Samples]) -> None:
        """Have a metric that is read when it is asked for."""

        def lines(name: str) -> Iterator[str]:
            for labels, number in samples():
                yield _line(name, labels, number)

        self._parts.append((name, kind, about, lines))

    def text(self, now: Mapping[str, tuple[str, float]]) -> str:
        """Return the page.

        Args:
            now: Gauges that were just read: what each is about, and its value.
        """
        lines: list[str] = []
        for name, kind, about, samples in self._parts:
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}", *samples(name)]
        for name, (about, number) in now.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}", _line(name, {}, number)]
        return "\n".join(lines) + "\n"


def process_figures() -> dict[str, tuple[str, float]]:
    """Return what Prometheus's own clients say of their process, where the system tells."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "process_cpu_seconds_total": ("CPU seconds used.", usage.ru_utime + usage.ru_stime),
        "process_start_time_seconds": ("When the process started, Unix time.", _STARTED_S),
    }
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        figures["process_resident_memory_bytes"] = ("Memory used.", float(pages * _PAGE_BYTES))
        open_files = float(len(os.listdir("/proc/self/fd")))
        figures["process_open_fds"] = ("Files and sockets open.", open_files)
    return figures


def _line(name: str, labels: Mapping[str, str], number: float) -> str:
    said = ",".join(f'{label}="{_escaped(value)}"' for label, value in labels.items())
    return f"{name}{{{said}}} {_number(number)}" if said else f"{name} {_number(number)}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(number: float) -> str:
    if number == float("inf"):
        return "+Inf"
    return str(int(number)) if number == int(number) else repr(number)
