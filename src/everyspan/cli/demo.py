"""`everyspan demo`: an agent under load, and every one of its spans accounted for.

D1  Exit code 0 only if the ids that `scale-gp-beta` reads back are exactly those the script itself
    counted, each once, and nothing was dropped or rejected.
D2  Arrivals are scheduled beforehand: a slow request delays no other's start, and a start that
    comes late is shown.
D3  Ends by itself; whatever happens, the server it started is stopped.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import rich_click as click

from everyspan.cli.options import print_json, print_text
from everyspan.errors import EverySpanError
from everyspan.model.text import duration, plural

if TYPE_CHECKING:
    from everyspan import DestinationStats
    from everyspan.cli.demo_agent import Counter

WORKERS = 32
START_TIMEOUT_S = 20.0
FLUSH_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 10.0
PAGE_SPANS = 500
_SERVING = re.compile(r"http://127\.0\.0\.1:\d+")


class DemoError(EverySpanError):
    """The demo cannot run here; the text is one line for people."""


@click.command()
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 3600),
    default=15.0,
    show_default=True,
    help="How long requests arrive.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0.1, 1000),
    default=42.0,
    show_default=True,
    help="Requests a second.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, for programs.")
def demo(seconds: float, rate: float, as_json: bool) -> None:
    """Trace a LangGraph agent under load and account for every span.

    Starts a server of its own, runs an agent with a scripted model (no network), reads everything
    back with the scale-gp-beta client. Exit code 1 if a single span is missing.

    \b
    Example:
      everyspan demo
      everyspan demo --seconds 5 --rate 100
    """
    # Before anything starts, so that a missing package is one line.
    import langgraph  # noqa: F401
    import scale_gp_beta  # noqa: F401

    result = run(seconds=seconds, rate=rate, out=sys.stderr if as_json else sys.stdout)
    if as_json:
        print_json(result.to_json())
    else:
        result.print()
    raise SystemExit(0 if result.ok else 1)


def run(
    *,
    seconds: float,
    rate: float,
    out: TextIO,
    before_reading: Callable[[Path], None] = lambda store: None,
) -> Result:
    """Run the whole demo and return what it found; progress goes to `out`.

    Args:
        before_reading: Called with the store's file once all spans are delivered; a test does
            there what the audit has to find.

    Raises:
        DemoError: The server did not start, or tracing is switched off.
    """
    import everyspan
    from everyspan.cli.demo_agent import Agent, Counter

    counter = Counter()
    began_s = time.monotonic()
    store = Path(tempfile.mkdtemp(prefix="everyspan-demo-")) / "spans.db"
    requests = max(1, round(seconds * rate))
    print(
        f"A LangGraph agent, {rate:g} requests a second for {seconds:g} s, "
        "each on its own event loop.",
        file=out,
    )
    with _server(store) as url:
        print(f"Server: {url}, store: {store}\n", file=out, flush=True)
        everyspan.configure(
            everyspan.SGPAsyncTracingProcessor(
                everyspan.SGPTracingProcessorConfig(
                    sgp_api_key="local", sgp_account_id="local", sgp_base_url=url
                )
            )
        )
        if not everyspan.stats().destinations:
            raise DemoError(
                "the demo needs tracing on; unset EVERYSPAN_DISABLED, DISABLE_SCALE_TRACING "
                "and OTEL_SDK_DISABLED"
            )
        agent = Agent(counter)
        with _progress(counter, out):
            load_s = _load(agent.handle, requests=requests, rate=rate)
            left = everyspan.flush(timeout=FLUSH_TIMEOUT_S).left
        books = everyspan.stats().destinations[0]
        before_reading(store)
        stored = _read_back(url)
        everyspan.shutdown(timeout=STOP_TIMEOUT_S)
    return Result(
        counter=counter,
        books=books,
        left=dict(pair for reasons in left.values() for pair in reasons.items()),
        stored=stored,
        store=store,
        requests=requests,
        rate=rate,
        load_s=load_s,
        took_s=time.monotonic() - began_s,
    )


@dataclass(kw_only=True)
class Result:
    """What the demo saw: the script's own count, the books, and what was read back."""

    counter: Counter
    books: DestinationStats
    left: dict[str, int]
    stored: list[dict[str, Any]]
    store: Path
    requests: int
    rate: float
    load_s: float
    took_s: float
    findings: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.findings = list(self._findings())

    @property
    def ok(self) -> bool:
        """True if every span is where it belongs (D1)."""
        return not self.findings

    @property
    def spans_per_batch(self) -> float:
        """Mean size of a batch; 0 where none was sent."""
        return self.books.delivered / self.books.requests if self.books.requests else 0.0

    @property
    def handler_us(self) -> float:
        """CPU time of the agent's threads in the callback handler, microseconds a span.

        All of LangChain's callbacks count, also those that make no span.
        """
        spans = len(self.counter.span_ids) - len(self.counter.trace_ids)
        return sum(self.counter.callback_cpu_ns) / 1e3 / max(1, spans)

    @property
    def block_us(self) -> float:
        """CPU time of the agent's threads in entering and leaving one `everyspan.span`."""
        return sum(self.counter.block_cpu_ns) / 1e3 / max(1, len(self.counter.block_cpu_ns))

    def _findings(self) -> Iterator[str]:
        from everyspan.cli.demo_agent import SPANS_PER_REQUEST

        counter, books = self.counter, self.books
        counted, read = Tally(counter.span_ids), Tally(span["id"] for span in self.stored)
        if counter.errors:
            yield f"{plural(len(counter.errors), 'request')} failed: {counter.errors[0]!r}"
        if len(counter.span_ids) != self.requests * SPANS_PER_REQUEST or counted.total() != len(
            counted
        ):
            yield (
                f"{plural(self.requests, 'request')} of {SPANS_PER_REQUEST} spans "
                f"ended {plural(len(counter.span_ids), 'span')}"
            )
        for words, ids in (
            ("missing", counted.keys() - read.keys()),
            ("read back that nobody ended", read.keys() - counted.keys()),
            ("read back more than once", {span_id for span_id, n in read.items() if n > 1}),
        ):
            if ids:
                shown = ", ".join(sorted(ids)[:5])
                more = f" and {len(ids) - 5:,} more" if len(ids) > 5 else ""
                yield f"{plural(len(ids), 'span')} {words}: {shown}{more}"
        for words, reasons in (
            ("dropped", books.dropped),
            ("rejected", books.rejected),
            ("not delivered in time", self.left),
        ):
            for reason, spans in reasons.items():
                if reasons is self.left and reason in {*books.dropped, *books.rejected}:
                    # A flush tells again of what was lost before it.
                    continue
                yield f"{plural(spans, 'span')} {words}: {reason}"
        if books.residual:
            yield f"the books do not add up: residual {books.residual}"

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        counter, books = self.counter, self.books
        return {
            "ok": self.ok,
            "findings": self.findings,
            "requests": counter.requests,
            "load_s": round(self.load_s, 3),
            "late_s_max": round(max(counter.late_s), 4),
            "spans_counted": len(counter.span_ids),
            "spans_read_back": len(self.stored),
            "delivered": books.delivered,
            "dropped": dict(books.dropped),
            "rejected": dict(books.rejected),
            "residual": books.residual,
            "batches": books.requests,
            "spans_per_batch": round(self.spans_per_batch, 1),
            "connections": books.connections,
            "handler_us_per_span": round(self.handler_us, 1),
            "block_us_per_span": round(self.block_us, 1),
            "took_s": round(self.took_s, 2),
            "store": str(self.store),
            "trace_id": counter.trace_ids[len(counter.trace_ids) // 2],
        }

    def print(self) -> None:
        """Print audit, figures, one trace and what to type next."""
        from everyspan.cli.tree import render_tree

        counter, books = self.counter, self.books
        ids = {span["id"] for span in self.stored}
        found = sum(span_id in ids for span_id in counter.span_ids)
        rows = [
            (
                "requests",
                f"{counter.requests:,} answered in {duration(self.load_s)}; "
                f"the latest started {duration(max(counter.late_s))} after it was due",
            ),
            (
                "spans",
                f"{len(counter.span_ids):,} counted by the script; scale-gp-beta read back "
                f"{found:,} of these ids",
            ),
            (
                "books",
                f"{books.accepted:,} accepted = {books.delivered:,} delivered "
                f"+ {books.dropped_total:,} dropped + {books.rejected_total:,} rejected; "
                f"residual {books.residual}",
            ),
            ("batches", f"{books.requests:,}, {self.spans_per_batch:.1f} spans on average"),
            (
                "connections",
                f"{books.connections:,} opened for {plural(books.requests, 'request')}",
            ),
            (
                "agent's thread",
                f"CPU in everyspan: {self.handler_us:.0f} µs a span of LangChain's, "
                f"{self.block_us:.0f} µs one of its own",
            ),
            ("took", duration(self.took_s)),
        ]
        for label, words in rows:
            print(f"  {label:<15} {words}")
        print()
        trace_id = counter.trace_ids[len(counter.trace_ids) // 2]
        spans = [span for span in self.stored if span["trace_id"] == trace_id]
        if spans:
            print_text(render_tree(spans, now_s=time.time()))
            print()
        command = _command()
        print("Next, with the spans of this run, which are kept (serve shows them in a browser):")
        print(f"  {command} serve --store {self.store}")
        print(f"  {command} traces show {trace_id}")
        print(f"  {command} audit\n")
        if self.ok:
            print(f"OK: all {len(counter.span_ids):,} spans accounted for.")
        for finding in self.findings:
            print(f"MISSING: {finding}")


def _command() -> str:
    """How to start everyspan from here: by name, by its path, or as a module."""
    if shutil.which("everyspan"):
        return "everyspan"
    script = Path(sys.executable).with_name("everyspan")
    if not script.exists():
        return f"{sys.executable} -m everyspan"
    with contextlib.suppress(ValueError):
        script = script.relative_to(Path.cwd())
    return str(script)


@contextlib.contextmanager
def _server(store: Path) -> Iterator[str]:
    """Run `everyspan serve` on a free loopback port; yields its URL."""
    log = store.with_name("serve.log")
    command = [sys.executable, "-m", "everyspan", "serve", "--port", "0", "--store", str(store)]
    with log.open("wb") as sink:
        # A group of its own: Ctrl-C is for us, who then stop the server when nothing is sent.
        process = subprocess.Popen(command, stdout=sink, stderr=sink, start_new_session=True)
    try:
        yield _wait_for_url(process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        said = log.read_text(errors="replace")
        if found := _SERVING.search(said):
            return found[0]
        if process.poll() is not None:
            break
        time.sleep(0.02)
    said = (log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
    raise DemoError(f"the demo's server did not start; its last words: {said}")


def _load(handle: Callable[[int, float], None], *, requests: int, rate: float) -> float:
    """Start every request when it is due (D2); returns seconds until the last was answered."""
    began_s = time.perf_counter()
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="agent") as pool:
        for number in range(requests):
            due_s = began_s + number / rate
            time.sleep(max(0.0, due_s - time.perf_counter()))
            pool.submit(handle, number, due_s)
    return time.perf_counter() - began_s


def _read_back(url: str) -> list[dict[str, Any]]:
    """Return every span of the server, as the client that we did not write reads them."""
    from scale_gp_beta import DefaultHttpxClient, SGPClient

    # Without the proxies of the environment: they cannot reach our loopback.
    with SGPClient(
        api_key="local",
        account_id="local",
        base_url=url,
        http_client=DefaultHttpxClient(trust_env=False),
    ) as client:
        return [span.to_dict(mode="json") for span in client.spans.search(limit=PAGE_SPANS)]


@contextlib.contextmanager
def _progress(counter: Counter, out: TextIO) -> Iterator[None]:
    """Show figures while the body runs: one live line on a terminal, else a line every 2 s."""
    done = threading.Event()
    live = out.isatty()
    columns = shutil.get_terminal_size().columns - 1

    def show(began_s: float) -> None:
        line = _progress_line(counter, time.monotonic() - began_s)
        out.write(f"\r{line[:columns]:<{columns}}" if live else line + "\n")
        out.flush()

    def keep_showing(began_s: float) -> None:
        while not done.wait(0.25 if live else 2.0):
            show(began_s)

    began_s = time.monotonic()
    thread = threading.Thread(target=keep_showing, args=(began_s,), daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        show(began_s)
        out.write("\n\n" if live else "\n")


def _progress_line(counter: Counter, elapsed_s: float) -> str:
    import everyspan

    books = everyspan.stats().destinations[0]
    per_batch = books.delivered / books.requests if books.requests else 0.0
    return (
        # What a terminal of 80 columns cuts off stands last.
        f"{elapsed_s:3.0f}s {counter.requests:,} requests, {len(counter.span_ids):,} spans, "
        f"{books.delivered:,} delivered, queue {books.queued + books.in_flight:,}, "
        f"residual {books.residual}, {per_batch:.0f}/batch"
    )
