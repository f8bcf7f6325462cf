"""A trace backend on loopback that misbehaves as told; it runs in a thread of this process.

It keeps what it stored as the SGP spans API would (`rows`: versions of a span by id, as they
came), what it was sent (`requests`), and how many connections were made.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

BATCH_PATH = "/v5/spans/batch"


@dataclass(frozen=True)
class Request:
    """One request; `number` counts all from 1, `connection` says on which one it came."""

    number: int
    connection: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def items(self) -> list[dict[str, Any]]:
        """The spans of a batch."""
        items: list[dict[str, Any]] = json.loads(self.body)["items"]
        return items


@dataclass(frozen=True)
class Answer:
    """What to do with a request.

    Attributes:
        stores: Keep the spans of a batch; by default where the status is 2xx.
        then: `reply`; `lose` the reply: cut the connection instead; `hang` for ever; `trickle` the
            reply a byte at a time, without end.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    stores: bool | None = None
    then: Literal["reply", "lose", "hang", "trickle"] = "reply"


Script = Callable[[Request], Answer]


def refusal(*positions: int) -> bytes:
    """The body of a 422 that names these items (`sgp:E4`)."""
    detail = [
        {"loc": ["body", "items", position, "type"], "msg": "no", "type": "enum"}
        for position in positions
    ]
    return json.dumps({"detail": detail or "invalid"}).encode()


class Backend:
    """See the module text; `with Backend(script) as backend: ... backend.base_url`."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or (lambda request: Answer())
        self.requests: list[Request] = []
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.connections = 0
        self.base_url = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._handlers: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._run, name="test-backend", daemon=True)

    @property
    def batches(self) -> list[Request]:
        """The requests that carried spans."""
        return [request for request in self.requests if request.path == BATCH_PATH]

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=1 << 24)
        self.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._handlers:
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self.connections += 1
        try:
            await self._talk(reader, writer, self.connections)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._handlers.discard(task)

    async def _talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *lines = head.rstrip().split("\r\n")
            method, path, _ = line.split(" ")
            headers = {
                name.lower(): value.strip()
                for name, _, value in (header.partition(":") for header in lines)
            }
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            request = Request(len(self.requests) + 1, connection, method, path, headers, body)
            self.requests.append(request)
            if not await self._answer(request, writer):
                return

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        answer = self.script(request)
        stores = 200 <= answer.status < 300 if answer.stores is None else answer.stores
        if stores and request.path == BATCH_PATH:
            for item in request.items:
                self.rows.setdefault(item["id"], []).append(item)
        if answer.then == "hang":
            await asyncio.Event().wait()
        if answer.then == "lose":
            return False
        head = f"HTTP/1.1 {answer.status} Whatever\r\n"
        for name, value in answer.headers.items():
            head += f"{name}: {value}\r\n"
        if answer.then == "trickle":
            writer.write(f"{head}content-length: 1000000\r\n\r\n".encode())
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.write(f"{head}content-length: {len(answer.body)}\r\n\r\n".encode() + answer.body)
        await writer.drain()
        return True
