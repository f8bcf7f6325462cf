"""Joins the parts of a process: which destinations there are, and the queue that feeds them."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Unpack, cast

from everyspan.config import (
    SettingArguments,
    Settings,
    check_address,
    load_environment,
    load_settings,
)
from everyspan.delivery.exporter import Exporter
from everyspan.delivery.lane import Lane
from everyspan.errors import SettingsError
from everyspan.home import Home
from everyspan.ledger import FlushResult, Stats
from everyspan.log import complain
from everyspan.metrics.recorder import recorder
from everyspan.model.mask import Mask, Masker, put_in_force
from everyspan.obs import DEFAULT_MODE
from everyspan.processors.base import (
    AsyncTracingProcessor,
    Processor,
    SyncTracingProcessor,
    TracingProcessorConfig,
)
from everyspan.processors.builtin import SyncFace
from everyspan.queue import exits
from everyspan.queue.span_queue import AsyncSpanQueue, Lanes
from everyspan.queue.waiters import Latch
from everyspan.reports import LAST_S, Reporter, conclude_soon, takes_reports

LOCAL_URL = "http://127.0.0.1:5003"
LOCAL_CREDENTIAL = "local"

Destination = TracingProcessorConfig | Processor | str


class Pipeline:
    """The destinations of this process and the queue before them; replaced whole, never changed.

    `configs` is what they were made of, in the same order.
    """

    def __init__(
        self,
        processors: Sequence[Processor | Exporter],
        *,
        configs: Sequence[Destination] = (),
        settings: Settings | None = None,
        mask: Mask | bool | None = None,
    ) -> None:
        self.configs = tuple(configs)
        self.settings = settings or load_settings()
        self.mask = mask
        self.masker = (
            None if mask is None or mask is False else Masker(mask, failed=_note_failed_mask)
        )
        self.sample = self.settings.sample
        self.obs_mode = load_environment().obs_mode or DEFAULT_MODE
        self.processors = tuple(processors)
        self.queue = AsyncSpanQueue(
            settings=self.settings, own_homes=True, masker=lambda: self.masker
        )
        self.limits = self.queue.limits
        self.lanes: Lanes = tuple([self.queue.lane(processor) for processor in self.processors])
        self.reporters = _reporters_of(self.queue, self.lanes)
        self._look_at_lanes()
        self._is_noted = False

    def renewed(self) -> Pipeline:
        """Return another with the same destinations and a queue of its own."""
        return Pipeline(
            self.processors, configs=self.configs, settings=self.settings, mask=self.mask
        )

    def _look_at_lanes(self) -> None:
        self.wants_starts = any(lane.wants_starts for lane in self.lanes)
        # A user's processor sees the input as it is at end (`trace:Q21`).
        self.keeps_inputs = not any(lane.exporter.is_foreign for lane in self.lanes)

    def note_nowhere(self) -> None:
        """Say once that spans go nowhere."""
        if not self._is_noted:
            self._is_noted = True
            why = "call everyspan.configure() to send them"
            if load_environment().disabled:
                why = "the environment switches recording off"
            complain("spans go nowhere: %s", why, cause=why, level=logging.INFO)


_current: Pipeline | None = None
# While these last, the one that was diverted to last is in force, and `_beneath` is not touched.
_diversions: list[Pipeline] = []
_beneath: Pipeline | None = None
# Of pipelines that were replaced and still deliver what they held.
_draining: list[AsyncSpanQueue] = []
# Of such pipelines, until they have told the last.
_parting: list[Reporter] = []
# The books of those that are over: counters that somebody observes never go back.
_past = Stats()
# Re-entrant: a finalizer may come here while its thread is inside.
_lock = threading.RLock()


def current() -> Pipeline:
    """Return the pipeline in force; one without destinations before `configure`."""
    global _current
    pipe = _current
    if pipe is None:
        with _lock:
            pipe = _current = _current or Pipeline(())
    return pipe


def configure(
    *destinations: Destination,
    mask: Mask | bool | None = None,
    **settings: Unpack[SettingArguments],
) -> None:
    """Say where spans go from now on; what was registered before is drained and let go.

    Args:
        destinations: Configurations or processors; text is the address of an everyspan server.
            None at all: that of the environment (`SGP_API_KEY` and `SGP_ACCOUNT_ID`,
            `EVERYSPAN_ENDPOINT`, or `OTEL_EXPORTER_OTLP_ENDPOINT`), else the local server,
            http://127.0.0.1:5003.
        mask: Takes secrets out of spans before they leave the process. True for credentials: the
            values of keys named like one, bearer and other tokens, passwords in addresses. Or a
            function that is called with the place of a value, for instance `("input", "user",
            "email")`, and the value, outermost first, on the thread that sends; what it returns
            stands there instead. What it raises redacts the field.
        settings: By name, see the table of settings; the environment sets what is left out.

    Raises:
        SettingsError: A destination or a setting is not allowed; the text says which and why.
    """
    in_force = load_settings(**settings)
    is_off = load_environment().disabled
    chosen = () if is_off else (destinations or default_destinations())
    processors = _build_all(chosen, in_force)
    _replace(Pipeline(processors, configs=chosen, settings=in_force, mask=mask))


def set_tracing_processor_configs(processor_configs: Sequence[TracingProcessorConfig]) -> None:
    """Replace the registered destinations by these; the former ones are drained (`trace:G3`).

    Raises:
        SettingsError: One of them is none, or they are no sequence.
    """
    if isinstance(processor_configs, str | bytes) or not isinstance(processor_configs, Iterable):
        raise SettingsError(
            f"processor_configs must be a sequence of configurations, got {processor_configs!r}"
        )
    processor_configs = tuple(processor_configs)
    with _lock:
        before = current()
        processors = _build_all(processor_configs, before.settings)
        _replace(
            Pipeline(
                processors, configs=processor_configs, settings=before.settings, mask=before.mask
            )
        )


def add_tracing_processor_config(processor_config: TracingProcessorConfig) -> None:
    """Register one more destination; the same account twice exports twice (`trace:G2`)."""
    global _current
    with _lock:
        pipe = current()
        processor = build(processor_config, pipe.settings)
        _note_repeat(processor_config, pipe.configs)
        if _diversions:
            return
        grown = Pipeline.__new__(Pipeline)
        grown.__dict__.update(pipe.__dict__)
        grown.configs = (*pipe.configs, processor_config)
        grown.processors = (*pipe.processors, processor)
        lane = pipe.queue.lane(processor)
        grown.lanes = (*pipe.lanes, lane)
        grown.reporters = (*pipe.reporters, *_reporters_of(pipe.queue, [lane]))
        grown._look_at_lanes()
        _current = grown


def divert(pipe: Pipeline) -> None:
    """Have everything go to `pipe` alone until `end_diversion`; what was in force is not touched.

    Meanwhile `configure` and its like check their arguments and change nothing. For tests.
    """
    global _beneath
    with _lock:
        if not _diversions:
            _beneath = _current
        _diversions.append(pipe)
        _put_in_force(pipe)


def end_diversion(pipe: Pipeline) -> None:
    """Put in force again what was before `divert(pipe)`; diversions may end in any order."""
    with _lock:
        # A forked child has left the diversions of its parent.
        if pipe in _diversions:
            _diversions.remove(pipe)
            _put_in_force(_diversions[-1] if _diversions else _beneath)


def get_async_tracing_processors() -> list[Processor]:
    """Return the registered destinations; each takes spans of either kind of trace."""
    return [cast("Processor", processor) for processor in current().processors]


def get_sync_tracing_processors() -> list[Processor]:
    """As `get_async_tracing_processors`: nothing is sent on the agent's thread (D24)."""
    return get_async_tracing_processors()


def get_default_span_queue() -> AsyncSpanQueue:
    """Return the queue of this process."""
    return current().queue


async def shutdown_default_span_queue(timeout: float = 30.0) -> FlushResult:
    """Deliver what is held, at most `timeout` seconds, and go on with a new queue.

    As the original has it: what comes later is not dropped. What could not be delivered in time is
    not given up either; for that there is `ashutdown`.
    """
    result = await aflush(timeout)
    with _lock:
        _replace(current().renewed())
    return result


def stats() -> Stats:
    """Return the books of all destinations at this instant; callable from anywhere.

    Those that `configure` replaced are among them while they still deliver.
    """
    return functools.reduce(Stats.joined, [queue.stats() for queue in _queues()])


def flush(timeout: float = 30.0) -> FlushResult:
    """Wait until every span that has ended has its answer, at most `timeout` seconds.

    Returns:
        True if all are delivered; else what was left, where, and why.
    """
    return _each_sync(AsyncSpanQueue.flush_sync, timeout)


async def aflush(timeout: float = 30.0) -> FlushResult:
    """As `flush`, awaiting."""
    return await _each(AsyncSpanQueue.flush, timeout)


def shutdown(timeout: float = 30.0) -> FlushResult:
    """Deliver what is held and stop, at most `timeout` seconds; later spans count as dropped.

    Returns:
        True if all are delivered; else what was given up, where, and why.
    """
    until_s = monotonic() + seconds(timeout)
    reporters = _reporters()
    result = _each_sync(AsyncSpanQueue.shutdown_sync, timeout)
    _conclude(reporters, until_s - monotonic())
    return result


async def ashutdown(timeout: float = 30.0) -> FlushResult:
    """As `shutdown`, awaiting."""
    until_s = monotonic() + seconds(timeout)
    reporters = _reporters()
    result = await _each(AsyncSpanQueue.shutdown, timeout)
    await _aconclude(reporters, until_s - monotonic())
    return result


def _observed() -> Stats:
    """Return the books since the process began, without those of diversions."""
    with _lock:
        pipe = _beneath if _diversions else _current
        queues = [*_draining] if pipe is None else [pipe.queue, *_draining]
        return functools.reduce(Stats.joined, map(_books_of, queues), _past).summed()


def _books_of(queue: AsyncSpanQueue) -> Stats:
    stats = queue.stats()
    # What is open when a queue ends will end in the next one.
    return replace(stats, open_spans=0) if queue.is_over else stats


def _queues() -> list[AsyncSpanQueue]:
    if _diversions:
        return [current().queue]
    return [current().queue, *(queue for queue in _draining if not queue.is_over)]


def _each_sync(wait: Callable[[AsyncSpanQueue, float], FlushResult], timeout: float) -> FlushResult:
    until_s = monotonic() + seconds(timeout)
    results = [wait(queue, max(0.0, until_s - monotonic())) for queue in _queues()]
    return functools.reduce(FlushResult.joined, results)


async def _each(
    wait: Callable[[AsyncSpanQueue, float], Awaitable[FlushResult]], timeout: float
) -> FlushResult:
    until_s = monotonic() + seconds(timeout)
    results = [await wait(queue, max(0.0, until_s - monotonic())) for queue in _queues()]
    return functools.reduce(FlushResult.joined, results)


def _reporters_of(queue: AsyncSpanQueue, lanes: Iterable[Lane]) -> tuple[Reporter, ...]:
    return tuple(
        [
            Reporter(queue, lane, lane.exporter)
            for lane in lanes
            if lane.teller is None and takes_reports(lane.exporter)
        ]
    )


def _reporters() -> list[Reporter]:
    if _diversions:
        return []
    return [*current().reporters, *(one for one in [*_parting] if not one.is_over)]


def _conclude(reporters: Sequence[Reporter], timeout: float) -> None:
    """Have the last reports sent, within what is left of a timeout."""
    done = Latch()
    if timeout > 0 and conclude_soon(reporters, done.set):
        done.wait(min(timeout, LAST_S))


async def _aconclude(reporters: Sequence[Reporter], timeout: float) -> None:
    done = asyncio.Event()
    here = Home(asyncio.get_running_loop())
    if timeout > 0 and conclude_soon(reporters, lambda: here.call(done.set)):
        with suppress(TimeoutError):
            async with asyncio.timeout(min(timeout, LAST_S)):
                await done.wait()


def _conclude_at_exit() -> None:
    _conclude(_reporters(), current().queue.grace_left_s)


def seconds(timeout: float) -> float:
    """Return a timeout that the platform's waits can take.

    Raises:
        SettingsError: It is no number of seconds.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
        raise SettingsError(f"timeout must be a number of seconds of at least 0, got {timeout!r}")
    # A year; infinity would overflow the platform's waits.
    return float(min(timeout, 3.2e7))


def _put_in_force(pipe: Pipeline | None) -> None:
    global _current
    _current = pipe
    put_in_force(None if pipe is None else pipe.masker)


def _replace(pipe: Pipeline) -> None:
    global _past
    with _lock:
        if _diversions:
            return
        before = _current
        _put_in_force(pipe)
        for queue in [*_draining]:
            if queue.is_over:
                _draining.remove(queue)
                _past = _past.joined(_books_of(queue)).summed()
        _parting[:] = [one for one in _parting if not one.is_over]
        if before is not None:
            _draining.append(before.queue)
            _parting.extend(before.reporters)
    if before is not None:
        before.queue.close_soon(keep=lambda: current().processors)


def default_destinations() -> list[Destination]:
    """Return what `configure()` without arguments sends to, by the environment."""
    environment = load_environment()
    if environment.sgp_api_key and environment.sgp_account_id:
        from everyspan.processors.sgp import SGPTracingProcessorConfig

        return [
            SGPTracingProcessorConfig(
                sgp_api_key=environment.sgp_api_key, sgp_account_id=environment.sgp_account_id
            )
        ]
    if environment.sgp_api_key or environment.sgp_account_id:
        complain(
            "spans go to %s: of SGP_API_KEY and SGP_ACCOUNT_ID only one is set",
            environment.endpoint or LOCAL_URL,
            level=logging.WARNING,
        )
    if environment.endpoint is None and (
        environment.otlp_traces_endpoint or environment.otlp_endpoint
    ):
        from everyspan.processors.otlp import OTLPTracingProcessorConfig

        return [OTLPTracingProcessorConfig()]
    return [environment.endpoint or LOCAL_URL]


def _build_all(configs: Sequence[Destination], settings: Settings) -> list[Processor | Exporter]:
    for position, config in enumerate(configs):
        _note_repeat(config, configs[:position])
    return [build(config, settings) for config in configs]


def _note_repeat(config: Destination, others: Sequence[Destination]) -> None:
    # Two accounts are common, one of them twice is a slip, which doubles what is sent (`trace:G2`).
    if isinstance(config, str | TracingProcessorConfig) and config in others:
        text = f"{config!r} is registered more than once: each time exports every span"
        complain("%s", text, cause=text, level=logging.WARNING)


def build(destination: Destination, settings: Settings) -> Processor | Exporter:
    """Return the processor of a destination; it has connected to nothing yet.

    Raises:
        SettingsError: It is none; the text says why.
    """
    # The HTTP client is loaded only where a destination needs it (P10).
    if isinstance(destination, AsyncTracingProcessor | SyncTracingProcessor):
        return destination.destination if isinstance(destination, SyncFace) else destination
    if isinstance(destination, str):
        return _build_local(destination, settings)
    kind = getattr(destination, "type", None)
    if kind == "sgp":
        from everyspan.processors.sgp import SGPAsyncTracingProcessor, SGPTracingProcessorConfig

        if isinstance(destination, SGPTracingProcessorConfig):
            return SGPAsyncTracingProcessor(destination, settings=settings)
    if kind == "agentex":
        from everyspan.processors.agentex import (
            AgentexAsyncTracingProcessor,
            AgentexTracingProcessorConfig,
        )

        if isinstance(destination, AgentexTracingProcessorConfig):
            return AgentexAsyncTracingProcessor(destination, settings=settings)
    if kind == "otlp":
        from everyspan.processors.otlp import OTLPTracingProcessor, OTLPTracingProcessorConfig

        if isinstance(destination, OTLPTracingProcessorConfig):
            return OTLPTracingProcessor(destination, settings=settings)
    if kind == "console":
        from everyspan.processors.console import (
            ConsoleTracingProcessor,
            ConsoleTracingProcessorConfig,
        )

        if isinstance(destination, ConsoleTracingProcessorConfig):
            return ConsoleTracingProcessor(destination)
    if kind == "file":
        from everyspan.processors.file import FileTracingProcessor, FileTracingProcessorConfig

        if isinstance(destination, FileTracingProcessorConfig):
            return FileTracingProcessor(destination)
    raise SettingsError(
        "a destination must be a configuration (known types: agentex, console, file, otlp, sgp), a "
        f"processor, or the address of an everyspan server, got {destination!r}{_slip(destination)}"
    )


def _slip(given: object) -> str:
    """Return what was probably meant, where that can be told."""
    if isinstance(given, list | tuple | set):
        return "; each destination is an argument of its own: configure(first, second)"
    if isinstance(given, type):
        return f", which is a class; make one of it: {given.__name__}(...)"
    return ""


def _build_local(address: str, settings: Settings) -> Exporter:
    from everyspan.processors.sgp import SGPAsyncTracingProcessor, SGPTracingProcessorConfig

    check_address(address, "a destination that is text")
    environment = load_environment()
    config = SGPTracingProcessorConfig(
        sgp_api_key=environment.api_key or LOCAL_CREDENTIAL,
        sgp_account_id=environment.account or LOCAL_CREDENTIAL,
        sgp_base_url=address,
    )
    return SGPAsyncTracingProcessor(config, only_everyspan=True, settings=settings)


def _note_failed_mask(error: BaseException) -> None:
    # Not its text, nor where it came from: both may show what was to be hidden.
    complain("mask raised %s: the field is redacted", type(error).__name__)


def _forget_parent() -> None:
    """Begin anew in a forked child, with the same destinations and nothing of the parent's."""
    global _beneath, _lock, _past
    _lock = threading.RLock()
    _past = Stats()
    exits.pin([*_draining, *_parting, *_diversions, _beneath])
    is_diverted = bool(_diversions)
    _draining.clear()
    _parting.clear()
    _diversions.clear()
    _beneath = None
    if _current is not None:
        exits.pin(_current)
        # What a test diverts is for nobody in its child, nor is what was in force before.
        _put_in_force(Pipeline(()) if is_diverted else _current.renewed())


exits.after_fork(_forget_parent)
exits.at_the_end(_conclude_at_exit)
recorder.books = _observed
