"""What changed, as server-sent events: `GET /api/events`.

F1  Events are numbered by the store's changes. Whoever goes on from a number, here or at another
    server process over the same store, misses nothing and gets nothing twice: no state is kept.
F2  A change is told at once; what changes within COALESCE_S after it is told together, each trace
    and span once, as it is by then.
F3  At most VIEWERS_MAX streams are open; beyond, 503. A viewer that does not take what is written
    to it is cut off by the connection's protocol, and costs only itself: nothing is kept for it.
F4  When the server stops, every stream ends at once; its viewer comes back by number.
F5  A stream ends with the key that it was opened by: once that is revoked or has expired, nothing
    more is told. One that was opened without ends when keys come to be asked for.

Commits of this process wake the viewers; those of others are looked for every POLL_S.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from everyspan.errors import RequestError, StoreBusyError, StoreError
from everyspan.model.w3c import trace_hex
from everyspan.server.account import Caller, caller_of
from everyspan.server.api_items import SpanSkeleton, TraceItem, skeleton, trace_item
from everyspan.server.api_operation import Operation, Param, Values
from everyspan.server.checks import TRACE_ID_MAX
from everyspan.server.keyring import Keyring
from everyspan.server.stores.base import Store
from everyspan.server.stores.traces import OutlinePage, SpanPosition

EVENTS_PATH = "/api/events"
VIEWERS_MAX = 200
"""Chosen, not measured."""
COALESCE_S = 0.1
POLL_S = 1.0
HEARTBEAT_S = 15.0
RETRY_MS = 1_000
"""When a browser whose stream ended comes back."""
TRACES_MAX = 500
SPANS_MAX = 1_000
"""Looked at in one go."""

_encode = msgspec.json.Encoder().encode


class OpenEvent(msgspec.Struct, frozen=True):
    """`open`: the stream begins, after a change. `is_lost`: the number asked for is none of ours.

    Whoever reads that has to load anew what it shows.
    """

    change: str
    is_lost: bool


class TracesEvent(msgspec.Struct, frozen=True):
    """`traces`: those that changed, as they are now."""

    items: list[TraceItem]


class TraceEvent(msgspec.Struct, frozen=True):
    """`trace`: the spans that changed, and the trace, null where its summary did not."""

    trace: TraceItem | None
    spans: SpanSkeleton


class _News(msgspec.Struct, frozen=True):
    """What a viewer has not seen: the data of events, and the number to go on from after them."""

    events: list[bytes]
    change: int


class Feed:
    """The viewers of one server; all of it but `_committed` runs on the server's loop.

    Args:
        stopping: Set when the server is about to end.
    """

    def __init__(self, store: Store, keyring: Keyring, stopping: asyncio.Event) -> None:
        self._store = store
        self._keyring = keyring
        self._stopping = stopping
        self._viewers = 0
        self._woken = asyncio.Event()
        self._is_waking = False
        self._loop: asyncio.AbstractEventLoop | None = None
        # Viewers at the same place look once.
        self._looks: dict[tuple[str, bytes | None, int], asyncio.Task[_News]] = {}
        store.watch(self._committed)

    @property
    def viewers(self) -> int:
        """How many streams are open."""
        return self._viewers

    def operation(self) -> Operation:
        """Return the operation of the feed."""
        return Operation(
            path=EVENTS_PATH,
            handler=self._open,
            summary="What changes, as server-sent events, from a change on",
            params=(
                Param(
                    name="after",
                    kind="integer",
                    help="Go on after this change, as `Last-Event-ID` says too; else from now on.",
                ),
                Param(
                    name="trace",
                    length_max=TRACE_ID_MAX,
                    help="Only this trace, with its spans that change.",
                ),
            ),
            answer=bytes,
            media_type="text/event-stream",
        )

    async def _open(self, request: Request, values: Values) -> Response:
        caller, after = caller_of(request), _read_last_id(request)
        after = values["after"] if after is None else after
        trace = values["trace"]
        key = None if trace is None else bytes.fromhex(trace_hex(trace))
        now = await self._store.last_change()
        if self._stopping.is_set() or self._viewers >= VIEWERS_MAX:
            raise StoreBusyError(f"{self._viewers} streams are open", retry_after_s=5.0)
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        self._loop = asyncio.get_running_loop()
        # A number of another store, or of this one before it was set back, says nothing here.
        is_lost = after is not None and after > now
        start = now if after is None or is_lost else after
        return _Stream(self._watch(caller, key, start, is_lost=is_lost), self._stopping)

    # -- within

    def _committed(self) -> None:
        # On the store's own thread.
        loop = self._loop
        if self._viewers and loop is not None and not self._is_waking:
            self._is_waking = True
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._is_waking = False
        woken, self._woken = self._woken, asyncio.Event()
        woken.set()

    async def _watch(
        self, caller: Caller, key: bytes | None, after: int, *, is_lost: bool
    ) -> AsyncGenerator[bytes]:
        kind = b"traces" if key is None else b"trace"
        loop = asyncio.get_running_loop()
        self._viewers += 1
        try:
            opening = _encode(OpenEvent(str(after), is_lost))
            yield b"retry: %d\n" % RETRY_MS + _event(b"open", opening, after)
            said_s = loop.time()
            while True:
                # Taken before the look: what is committed after it sets this one.
                woken = self._woken
                news = await self._look(caller.account, key, after)
                # Asked after the look: a key that ends during it tells nothing.
                if news is None or not await self._is_let_in(caller):
                    return
                for number, data in enumerate(news.events, 1):
                    # A stream that breaks in the middle goes on from before.
                    change = news.change if number == len(news.events) else None
                    yield _event(kind, data, change)
                after = news.change
                if news.events:
                    said_s = loop.time()
                    await asyncio.sleep(COALESCE_S)
                elif loop.time() - said_s >= HEARTBEAT_S:
                    said_s = loop.time()
                    yield b":\n\n"
                else:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(POLL_S):
                            await woken.wait()
        finally:
            self._viewers -= 1

    async def _is_let_in(self, caller: Caller) -> bool:
        try:
            return await self._keyring.still_lets(caller.key)
        except StoreError:
            return False

    async def _look(self, account: str, key: bytes | None, after: int) -> _News | None:
        place = (account, key, after)
        look = self._looks.get(place)
        if look is None:
            look = asyncio.get_running_loop().create_task(
                self._changed_traces(account, after)
                if key is None
                else self._changed_spans(account, key, after)
            )
            self._looks[place] = look
            look.add_done_callback(lambda _: self._looks.pop(place, None))
        try:
            # A viewer that leaves takes nothing from the others.
            return await asyncio.shield(look)
        except StoreBusyError:
            return _News([], after)
        except StoreError:
            # It has said so in the log; whoever comes back finds out whether it works again.
            return None

    async def _changed_traces(self, account: str, after: int) -> _News:
        limit = TRACES_MAX
        while True:
            traces = await self._store.changed_traces(account, after=after, limit=limit)
            if len(traces) < limit:
                break
            # The last change may go on beyond: it is told whole, with the next event.
            last = traces[-1].change
            if traces[0].change < last:
                traces = [trace for trace in traces if trace.change < last]
                break
            limit *= 2
        if not traces:
            return _News([], after)
        data = _encode(TracesEvent([trace_item(trace) for trace in traces]))
        return _News([data], traces[-1].change)

    async def _changed_spans(self, account: str, key: bytes, after: int) -> _News:
        # First the trace: what it sums up is written before it is, so that no number is passed
        # whose spans are still to be told.
        trace = await self._store.get_trace(account, key)
        page = first = await self._store.trace_spans(account, key, since=after, limit=SPANS_MAX)
        pages = [first]
        while page.has_next:
            end = page.spans[-1]
            place = SpanPosition(end.start_ns, end.id, end.trace_id)
            page = await self._store.trace_spans(
                account, key, since=after, after=place, limit=SPANS_MAX
            )
            # What was written since the first page was read comes with the next event.
            spans = [span for span in page.spans if span.change <= first.change]
            pages.append(OutlinePage(spans, page.has_next, first.change))
        is_new = trace is not None and trace.change > after
        if not first.spans and not is_new:
            return _News([], after)
        shown = None if trace is None or not is_new else trace_item(trace)
        last = len(pages) - 1
        events = [
            _encode(TraceEvent(shown if at == last else None, skeleton(page, next_cursor=None)))
            for at, page in enumerate(pages)
        ]
        return _News(events, first.change)


class _Stream(Response):
    """A response that lasts until its source ends, its viewer leaves or the server stops."""

    def __init__(self, source: AsyncGenerator[bytes], stopping: asyncio.Event) -> None:
        super().__init__(
            media_type="text/event-stream",
            # A proxy that waits for more would hold the stream back.
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        del self.headers["content-length"]
        self._source = source
        self._stopping = stopping

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        loop = asyncio.get_running_loop()
        tasks = [
            loop.create_task(self._write(send)),
            loop.create_task(_until_gone(receive)),
            loop.create_task(_until(self._stopping)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        error = None if tasks[0].cancelled() else tasks[0].exception()
        if error is not None:
            raise error
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send) -> None:
        async with aclosing(self._source) as source:
            async for data in source:
                await send({"type": "http.response.body", "body": data, "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _until(event: asyncio.Event) -> None:
    await event.wait()


def _event(kind: bytes, data: bytes, change: int | None) -> bytes:
    number = b"" if change is None else b"id: %d\n" % change
    return b"%bevent: %b\ndata: %b\n\n" % (number, kind, data)


def _read_last_id(request: Request) -> int | None:
    text = request.headers.get("last-event-id")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise RequestError(
            422, "INVALID_CHANGE", "is not the number of a change", loc=("header", "Last-Event-ID")
        )
    return int(text)
