"""Tells an everyspan server the books of this process: its health page shows figures, not guesses.

R1  Only a server whose answers say that it is an everyspan server is told anything.
R2  A report leaves at most every EVERY_S, only on change or while spans wait, and at the end of its
    lane. One that fails is replaced by a later one, after a pause that doubles; nobody is told.
R3  A report is made after the answers it speaks of, on the loop that got them: the spans that it
    calls delivered are stored.
R4  It holds counts, reasons, names of destinations and ids of traces; no payloads (P9).
R5  Losses are told until a report with them was taken, each part's at least once (P11).

There is one reporter for each lane to such a server: its queue is the producer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import PurePath
from typing import Protocol, TypeGuard

import msgspec

from everyspan.config import load_environment
from everyspan.delivery.lane import Lane
from everyspan.errors import ExportError
from everyspan.ledger import DestinationStats, Stats
from everyspan.log import complain
from everyspan.model.record import Part
from everyspan.model.report import (
    DESTINATIONS_MAX,
    LOSSES_MAX,
    REASONS_MAX,
    TEXT_MAX,
    DestinationReport,
    PartLosses,
    ProducerReport,
)
from everyspan.processors.wire import valid_text
from everyspan.queue.exporter_home import exporter_home
from everyspan.queue.span_queue import AsyncSpanQueue
from everyspan.untraced import untraced

EVERY_S = 3.0
"""DESIGN: every few seconds at most."""

PAUSE_S_MAX = 120.0
"""Between tries where a server takes no reports; chosen, not measured."""

LAST_S = 1.0
"""Longest time that the end of a lane takes for its report; chosen, not measured."""

_encode = msgspec.json.Encoder().encode


class ReportTaker(Protocol):
    """A destination that may be an everyspan server."""

    is_everyspan: bool
    """True once an answer said so."""

    async def report(self, producer: str, body: bytes) -> None:
        """Send a report once.

        Raises:
            ExportError: It was not taken.
        """
        ...


class Reporter:
    """See the module text; all of it runs on the lane's loop."""

    def __init__(self, queue: AsyncSpanQueue, lane: Lane, taker: ReportTaker) -> None:
        self._over = asyncio.Event()
        self._started_ns = time.time_ns()
        self._service = load_environment().agent_name or PurePath(sys.argv[0]).name
        self._queue = queue
        self._lane = lane
        self._taker = taker
        self._seq = 0
        self._told: Stats | None = None
        self._pause_s = EVERY_S
        self._next_s = 0.0
        self._timer: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        lane.teller = self

    def answered(self) -> None:
        """Have a report sent before long, unless one is due anyway."""
        if not self._taker.is_everyspan:
            return
        loop = asyncio.get_running_loop()
        # That of another loop died with it: the lane has moved.
        if self._timer is None or self._timer[0] is not loop:
            self._expect(loop)

    async def tell(self, *, is_last: bool = False) -> None:
        """Send a report if there is news; never raises an `Exception`."""
        if not self._taker.is_everyspan:
            return
        stats = self._queue.stats()
        if is_last or self._is_news(stats):
            await self._send(stats, is_last=is_last)

    async def tell_last(self) -> None:
        """Send the last report of a lane that ends."""
        try:
            async with asyncio.timeout(LAST_S):
                await self.tell(is_last=True)
        except TimeoutError:
            _say("the last report to %s got no answer", self._lane.account.name)
        finally:
            self._over.set()

    async def conclude(self) -> None:
        """Send the last report; where the lane ends, wait until its end has sent it."""
        if self._lane.home is None:
            return
        if self._queue.is_stopped:
            await self._over.wait()
        else:
            # The process ends, without a shutdown: the queue still takes spans, and nobody looks.
            await self.tell(is_last=True)

    @property
    def is_over(self) -> bool:
        """True once the lane has ended."""
        return self._over.is_set()

    # -- within

    def _expect(self, loop: asyncio.AbstractEventLoop) -> None:
        delay_s = max(0.0, self._next_s - loop.time())
        self._timer = (loop, loop.call_later(delay_s, self._due, loop))

    def _due(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self.is_over:
            task = loop.create_task(self._tell_and_go_on(loop))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _tell_and_go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        await self.tell()
        self._next_s = loop.time() + self._pause_s
        self._timer = None
        # While spans wait they may be lost without another answer; and what was not taken is news.
        if not self.is_over and self._is_news(self._queue.stats()):
            self._expect(loop)

    def _is_news(self, stats: Stats) -> bool:
        if self._lane.lost_parts or self._told is None:
            return True
        books = stats.destinations
        return _counts(stats) != _counts(self._told) or any(
            one.oldest_age_s is not None for one in books
        )

    async def _send(self, stats: Stats, *, is_last: bool) -> None:
        parts = self._queue.take_lost_parts(self._lane, LOSSES_MAX)
        is_taken = False
        try:
            body = _encode(self._report(stats, parts, is_last=is_last))
            with untraced(requests_too=True):
                await self._taker.report(self._queue.producer, body)
            is_taken = True
        except ExportError as error:
            _say("%s took no report: %s", self._lane.account.name, error.reason)
        except Exception as error:
            # A defect of ours: spans are what matters.
            _say("no report to %s: %s", self._lane.account.name, type(error).__name__)
        finally:
            if is_taken:
                self._told, self._pause_s = stats, EVERY_S
            else:
                self._queue.put_back_lost_parts(self._lane, parts)
                self._pause_s = min(PAUSE_S_MAX, 2 * self._pause_s)

    def _report(self, stats: Stats, parts: Sequence[Part], *, is_last: bool) -> ProducerReport:
        self._seq += 1
        name = self._lane.account.name
        own_first = sorted(stats.destinations, key=lambda one: one.name != name)
        return ProducerReport(
            seq=self._seq,
            time_ns=time.time_ns(),
            started_ns=self._started_ns,
            pid=os.getpid(),
            host=_text(socket.gethostname()),
            service=_text(self._service),
            python=platform.python_version(),
            everyspan=version("everyspan"),
            destination=_text(name),
            open_spans=stats.open_spans,
            destinations=[_books(one) for one in own_first[:DESTINATIONS_MAX]],
            # A longer id is one that no server stores a span of (`sgp` §3).
            losses=[_losses(part, name) for part in parts if 0 < len(part.trace_id) <= TEXT_MAX],
            losses_untold=self._lane.lost_parts.forgotten,
            ended=is_last,
        )


def takes_reports(exporter: object) -> TypeGuard[ReportTaker]:
    """Tell whether a destination can be told reports."""
    # Of the class: a mock has whatever it is asked for.
    return hasattr(type(exporter), "report")


def conclude_soon(reporters: Sequence[Reporter], done: Callable[[], object]) -> bool:
    """Have the exporter thread conclude all of them and call `done`, within LAST_S; never waits.

    Returns:
        False if there is nothing that `done` will be called for.
    """
    home = exporter_home()
    if not reporters or home.is_here or not home.is_running:
        return False
    return home.call(_begin, reporters, done)


_concluding: set[asyncio.Task[None]] = set()


def _begin(reporters: Iterable[Reporter], done: Callable[[], object]) -> None:
    task = asyncio.get_running_loop().create_task(_conclude(reporters, done))
    _concluding.add(task)
    task.add_done_callback(_concluding.discard)


async def _conclude(reporters: Iterable[Reporter], done: Callable[[], object]) -> None:
    try:
        async with asyncio.timeout(LAST_S):
            for reporter in reporters:
                await reporter.conclude()
    except TimeoutError:
        _say("the process may end before its last report was taken")
    finally:
        done()


def _counts(stats: Stats) -> tuple[object, ...]:
    return (stats.open_spans, *(_books(one, age=False) for one in stats.destinations))


def _books(one: DestinationStats, *, age: bool = True) -> DestinationReport:
    return DestinationReport(
        name=_text(one.name),
        accepted=one.accepted,
        adopted=one.adopted,
        delivered=one.delivered,
        dropped=_by_reason(one.dropped),
        rejected=_by_reason(one.rejected),
        queued=one.queued,
        in_flight=one.in_flight,
        spooled=one.spooled,
        oldest_age_s=one.oldest_age_s if age else None,
    )


def _losses(part: Part, destination: str) -> PartLosses:
    # Copied at once: another thread may be adding a reason.
    lost = dict((part.losses or {}).get(destination, {}))
    return PartLosses(
        trace_id=_text(part.trace_id),
        part=part.id,
        lost=_by_reason(lost),
        total=part.total,
    )


def _by_reason(spans: Mapping[str, int]) -> dict[str, int]:
    """Return the most frequent reasons; those of a user's processor may be any number."""
    most = sorted(spans.items(), key=lambda item: -item[1])
    told = {_text(reason): count for reason, count in most[: REASONS_MAX - 1]}
    if len(most) >= REASONS_MAX:
        told["other reasons"] = sum(count for _, count in most[REASONS_MAX - 1 :])
    return told


def _text(value: str) -> str:
    return valid_text(value)[:TEXT_MAX]


def _say(text: str, *args: object) -> None:
    complain(text, *args, level=logging.DEBUG)
