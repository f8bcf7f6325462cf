"""A backend in a `World`, and the destinations that send to it.

It stores by (trace, id): of several versions the one with the highest revision, or, for SINGLES,
whichever END came last. What is wrong with it and when is the scenario's; the kinds:

- `status`: answers with that status. `throttle`, `unavailable`: 429 and 503 with `Retry-After`.
- `down`: no connection. `crash`: what is in service breaks, stored or not, then it is down.
- `lost request`, `lost reply`: the client hears nothing, or that the connection broke.
- `late reply`: the answer takes so many seconds more. `duplicate`: stored again so much later.
- `partial`: stores and names a part. `page`: HTML. `defect`: the destination's own code raises.
- `capacity`: so many requests are served at once. `too large`: so many bytes are taken.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from everyspan.delivery.backlog import Batch
from everyspan.delivery.lane import Lane, classify
from everyspan.errors import BatchRefusedError, ExportError, RetryableExportError
from everyspan.model.record import SpanRecord
from everyspan.model.span import Span
from everyspan.processors.base import AsyncTracingProcessor
from everyspan.transport.outcomes import (
    BROKEN,
    TIMED_OUT,
    UNACKNOWLEDGED,
    UNCONNECTED,
    Outcome,
    to_error,
)
from everyspan.transport.reply import Reply
from tests.simulation.scenario import BATCHES, SINGLES, Destination, Fault
from tests.simulation.world import SimulatedLoop, World

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

Key = tuple[str, str]
Version = tuple[str, int]
"""A span's id and the number of its version; 0 is its START."""

TIMEOUT_S = 10.0

_NONE: Mapping[str, str] = {}
STORED = Reply(200, _NONE, b"")
_UNNAMED = RetryableExportError(UNACKNOWLEDGED.text, reason=UNACKNOWLEDGED.reason, status=200)


class Item:
    """What a request says of one span."""

    __slots__ = ("is_bad", "is_end", "key", "size", "version")

    def __init__(
        self, key: Key, revision: int, *, is_end: bool, size: int = 0, is_bad: bool = False
    ) -> None:
        self.key = key
        self.version = (key[1], revision)
        self.is_end = is_end
        self.size = size
        self.is_bad = is_bad


class Request:
    """One request on its way, from its client's point of view done once `future` is."""

    __slots__ = ("future", "items", "loop", "unnamed")

    def __init__(self, loop: SimulatedLoop, items: Sequence[Item]) -> None:
        self.loop = loop
        self.items = items
        self.future: asyncio.Future[Reply | Outcome | list[int]] = loop.create_future()
        self.unnamed: list[int] = []

    @property
    def is_gone(self) -> bool:
        """True if the client waits no more."""
        return self.future.done() or not self.loop.runs

    def answer(self, what: Reply | Outcome | list[int]) -> None:
        """Answer: a reply, how it failed, or the positions of the spans that a refusal names."""
        if not self.future.done() and not self.loop.is_closed():
            self.future.set_result(what)


class Backend:
    """See the module text; `rows` maps a span to the version stored of it."""

    def __init__(self, world: World, plan: Destination, faults: Sequence[Fault]) -> None:
        self.rows: dict[Key, Version] = {}
        self.versions: set[Version] = set()
        self.stores = 0
        self.requests_since_store = 0
        self.failing_since_s = world.now_s
        self._world = world
        self._plan = plan
        self._faults = faults
        self._is_well = False
        self._in_service: dict[Request, None] = {}
        for fault in faults:
            if fault.kind == "crash":
                world.at(world.now_s + fault.begins_s, self._crash)
        self._began_s = world.now_s

    def heal(self) -> None:
        """Let nothing be wrong any more."""
        self._is_well = True

    @property
    def is_trusted(self) -> bool:
        """True if the last request was stored."""
        return self.requests_since_store == 0

    def was_in_trouble(self, since_s: float) -> bool:
        """Tell whether anything has been wrong since a moment."""
        since_s -= self._began_s
        return any(fault.begins_s + fault.lasts_s >= since_s for fault in self._faults)

    def send(self, request: Request) -> None:
        """Put a request on the wire."""
        if self._now("down") or self._now("crash"):
            self._answer(request, UNCONNECTED)
        elif not self._met("lost request"):
            self._world.at(self._world.now_s + self._draw_s(), self._arrive, request)

    def defect(self) -> bool:
        """Tell whether the code of the destination is to raise."""
        return self._met("defect") is not None

    # -- within

    def _arrive(self, request: Request) -> None:
        if self._now("down") or self._now("crash"):
            self._answer(request, BROKEN)
            return
        reply = self._refusal()
        capacity = self._now("capacity")
        at_once = int(capacity.value) if capacity else self._plan.capacity
        if reply is None and at_once and len(self._in_service) >= at_once:
            reply = Reply(429, _NONE, b"")
        if reply is not None:
            self._answer(request, reply)
            return
        self._in_service[request] = None
        self._world.at(self._world.now_s + self._draw_s(), self._finish, request)

    def _refusal(self) -> Reply | None:
        if fault := self._met("status"):
            return Reply(int(fault.value), _NONE, b"")
        if fault := self._met("throttle"):
            return Reply(429, {"retry-after": f"{fault.value}"}, b"")
        if fault := self._met("unavailable"):
            return Reply(503, {"retry-after": f"{fault.value}"}, b"")
        if self._met("page"):
            return Reply(200, {"content-type": "text/html"}, b"<html>")
        return None

    def _finish(self, request: Request) -> None:
        if self._in_service.pop(request, 0) == 0:
            return
        items = request.items
        too_large = self._now("too large")
        bytes_max = int(too_large.value) if too_large else self._plan.bytes_max
        if bytes_max and sum(item.size for item in items) > bytes_max:
            self._answer(request, Reply(413, _NONE, b""))
            return
        bad = [number for number, item in enumerate(items) if item.is_bad]
        if bad:
            is_named = self._world.random.random() < 0.5
            self._answer(request, bad if is_named else [])
            return
        if self._plan.kind == BATCHES and len(items) > 1 and self._met("partial"):
            request.unnamed = [
                number for number in range(1, len(items)) if self._world.random.random() < 0.5
            ]
        self._store(request)
        if duplicate := self._met("duplicate"):
            self._world.at(self._world.now_s + duplicate.value, self._store, request)
        if self._met("lost reply"):
            if self._world.random.random() < 0.5:
                self._answer(request, BROKEN)
            return
        late = self._met("late reply")
        self._answer(request, STORED, late.value if late else 0.0)

    def _store(self, request: Request) -> None:
        is_last_wins = self._plan.kind != BATCHES
        if is_last_wins and request.is_gone:
            # Its connection is closed: whoever reads from it would be told so.
            return
        for position, item in enumerate(request.items):
            if position in request.unnamed:
                continue
            row = self.rows.get(item.key)
            # To create what exists is refused (`agx`), so a late START does nothing there either.
            is_replaced = is_last_wins and item.is_end
            if is_replaced or row is None or item.version[1] > row[1]:
                self.rows[item.key] = item.version
            self.versions.add(item.version)
        self.stores += 1
        self.requests_since_store = 0
        self.failing_since_s = self._world.now_s

    def _crash(self) -> None:
        for request in [*self._in_service]:
            if self._world.random.random() < 0.5:
                # Committed; the answer is what was lost.
                self._store(request)
            self._answer(request, BROKEN)
        self._in_service.clear()

    def _answer(
        self, request: Request, what: Reply | Outcome | list[int], later_s: float = 0.0
    ) -> None:
        when_s = self._world.now_s + self._draw_s() + later_s
        self._world.at(when_s, request.answer, what)

    def _draw_s(self) -> float:
        return self._plan.latency_s * self._world.random.random()

    def _now(self, kind: str) -> Fault | None:
        """Return the fault of a kind that is there at the moment."""
        if self._is_well or not self._faults:
            return None
        since_s = self._world.now_s - self._began_s
        for fault in self._faults:
            if fault.kind == kind and fault.begins_s <= since_s < fault.begins_s + fault.lasts_s:
                return fault
        return None

    def _met(self, kind: str) -> Fault | None:
        """Return the fault of a kind that this request is to meet."""
        fault = self._now(kind)
        if fault is None or (fault.share < 1 and self._world.random.random() >= fault.share):
            return None
        return fault


class Link:
    """What a destination and its processor share: the wire, and what was told over it.

    `told` counts, for every version of a span, the reasons for which a request with it failed;
    `told_alone` those of requests with nothing else in it.
    """

    def __init__(self, simulation: Simulation, plan: Destination, faults: Sequence[Fault]) -> None:
        self.simulation = simulation
        self.plan = plan
        self.backend = Backend(simulation.world, plan, faults)
        self.told: dict[Version, Counter[str]] = {}
        self.told_alone: dict[Version, Counter[str]] = {}
        self.not_before_s = 0.0
        self.lane: Lane | None = None

    async def ask(self, items: Sequence[Item]) -> list[int]:
        """Send a request; return the positions that an answer did not acknowledge.

        Raises:
            ExportError: As a destination of ours would.
        """
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        request = Request(loop, items)
        self.backend.requests_since_store += 1
        self.backend.send(request)
        timer = loop.call_later(TIMEOUT_S, request.answer, TIMED_OUT)
        try:
            answer = await request.future
        finally:
            timer.cancel()
        error: ExportError | None
        if isinstance(answer, list):
            error = BatchRefusedError("m", reason="http 422", status=422, offenders=answer)
        elif isinstance(answer, Reply):
            error = to_error(answer)
        else:
            error = RetryableExportError(
                answer.text, reason=answer.reason, congested=answer.congested
            )
        if error is not None:
            self.note(items, error)
            raise error
        if request.unnamed:
            self.note([items[position] for position in request.unnamed], _UNNAMED)
        return request.unnamed

    def note(self, items: Sequence[Item], error: ExportError) -> None:
        """Remember what was told of spans."""
        if isinstance(error, BatchRefusedError) and error.offenders:
            alone = [items[position] for position in error.offenders]
        else:
            alone = [*items] if len(items) == 1 else []
        for told, some in ((self.told, items), (self.told_alone, alone)):
            for item in some:
                told.setdefault(item.version, Counter())[error.reason] += 1


class SimulatedDestination:
    """A destination of ours: an `Exporter`."""

    wants_every_start = False
    is_foreign = False
    only_ends = False
    hint: str | None = None

    def __init__(self, link: Link) -> None:
        plan = link.plan
        self.link = link
        self.name = plan.kind
        self.blocks = plan.blocks
        self.start_delay_s = plan.start_delay_s
        self.one_by_one = plan.kind == SINGLES
        self.concurrency = plan.concurrency

    async def export(self, batch: Batch) -> Mapping[int, ExportError]:
        """See `Exporter`."""
        link = self.link
        simulation = link.simulation
        items = [
            Item(
                (record.trace_id, record.id),
                record.revision,
                is_end=record.is_end,
                size=record.held_bytes,
                is_bad=simulation.is_bad(record.id),
            )
            for record in batch.records
        ]
        simulation.check_send(link, batch)
        bodies = [(record.input, record.output, record.data) for record in batch.records]
        try:
            return await self._export(batch, items)
        finally:
            after = [(record.input, record.output, record.data) for record in batch.records]
            if after != bodies and simulation.is_in_flight(link, batch):
                simulation.found("a payload went that was in a request")

    async def _export(self, batch: Batch, items: Sequence[Item]) -> Mapping[int, ExportError]:
        link, simulation = self.link, self.link.simulation
        if link.backend.defect():
            defect = RuntimeError("a defect")
            link.note(items, classify(defect))
            raise defect
        try:
            unnamed = await link.ask(items)
        except RetryableExportError as error:
            asked_s = error.retry_after_s
            # What a lane still hears of a batch that it took back from this loop does not count.
            if asked_s and asked_s >= 0.5 and simulation.is_in_flight(link, batch):
                now_s = simulation.world.now_s
                link.not_before_s = max(link.not_before_s, now_s + asked_s)
            raise
        return dict.fromkeys(unnamed, _UNNAMED)

    def connections(self) -> int:
        """None is counted."""
        return 0

    async def close(self) -> None:
        """Nothing to close."""


class ForeignError(Exception):
    """An exception of a user's processor, with the status that its client library saw."""

    def __init__(self, status_code: int | None) -> None:
        self.status_code = status_code


class ForeignProcessor(AsyncTracingProcessor):
    """A user's own processor, which sends what it is given at once."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def on_span_start(self, span: Span) -> None:
        """Take note."""
        await self._send([span], is_end=False)

    async def on_span_end(self, span: Span) -> None:
        """Take note."""
        await self._send([span], is_end=True)

    async def on_spans_start(self, spans: Sequence[Span]) -> None:
        """Take note."""
        await self._send(spans, is_end=False)

    async def on_spans_end(self, spans: Sequence[Span]) -> None:
        """Take note."""
        await self._send(spans, is_end=True)

    async def _send(self, spans: Sequence[Span], *, is_end: bool) -> None:
        link = self.link
        items = [Item((span.trace_id, span.id), _revision(span), is_end=is_end) for span in spans]
        if link.backend.defect():
            error: ExportError | None = classify(ForeignError(None))
            assert error is not None
            link.note(items, error)
            raise ForeignError(None)
        try:
            await link.ask(items)
        except ExportError as caught:
            foreign = ForeignError(caught.status)
            link.note(items, classify(foreign))
            raise foreign from None


def _revision(span: Span) -> int:
    output: Any = span.output
    return int(output["v"]) if output else 0


def version_of(record: SpanRecord) -> Version:
    """Return which version of which span a record is."""
    return (record.id, record.revision)
