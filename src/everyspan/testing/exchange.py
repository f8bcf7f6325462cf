"""One connection to the fault server, and one request on it with whatever is answered.

Requests are read as HTTP/1.1 has them: kept alive, pipelined, with a length or in chunks. What
goes back need not be HTTP at all: that is for a fault to decide, by the calls of an `Exchange`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

from everyspan.clock import Clock
from everyspan.testing.otlp_body import UnsupportedError, read_spans

HEAD_BYTES_MAX = 64 << 10
BODY_BYTES_MAX = 64 << 20
"""Far above what a trace backend takes; a larger body is 413 by itself."""

BATCH_PATH = "/v5/spans/batch"
TRACES_PATH = "/v1/traces"

JSON_TYPE: Mapping[str, str] = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came.

    Attributes:
        number: Counts the server's requests from 1.
        connection: Counts the server's connections from 1.
        path: Without the query; percent-encoded as it was sent.
        headers: Names in lower case; of repeats the last.
        received_s: When it was complete, by the server's clock.
    """

    number: int
    connection: int
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    received_s: float

    @property
    def json(self) -> Any:
        """The body, decoded anew at each reading.

        Raises:
            ValueError: It is no JSON.
        """
        return json.loads(self.body)

    @property
    def spans(self) -> list[dict[str, Any]]:
        """The spans it carries, as they are on the wire; none where it is no write of spans.

        Those of OTLP as `FaultServer.rows` has them.
        """
        try:
            if self.path.endswith(TRACES_PATH):
                return read_spans(self.headers, self.body)
            body = self.json
        except (ValueError, RecursionError, UnsupportedError):
            return []
        if isinstance(body, dict) and self.path.endswith(BATCH_PATH):
            body = body.get("items")
        spans = body if isinstance(body, list) else [body]
        return [span for span in spans if isinstance(span, dict)]


class Reply(NamedTuple):
    """What a backend that behaves says to a request."""

    status: int
    body: bytes
    headers: Mapping[str, str] = JSON_TYPE


class Message(NamedTuple):
    """A request as the wire has it."""

    method: str
    target: str
    version: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def keeps_alive(self) -> bool:
        """True if the client would use the connection again."""
        wishes = self.headers.get("connection", "").lower().replace(" ", "").split(",")
        return "close" not in wishes if self.version == "HTTP/1.1" else "keep-alive" in wishes


class MessageError(Exception):
    """What came is no request that can be answered but by this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Connection:
    """One accepted connection; on the server's loop."""

    def __init__(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.number = number
        self._reader = reader
        self._writer = writer

    @property
    def is_closing(self) -> bool:
        """True if nothing can be written any more."""
        return self._writer.transport.is_closing()

    async def read_message(self, *, begun: Callable[[], object] | None = None) -> Message | None:
        """Return the next request; None where the client leaves instead, even in the middle of it.

        Args:
            begun: Called when there is something of it.

        Raises:
            MessageError: It is none.
        """
        try:
            # Empty lines may stand between requests.
            head = b""
            while not head:
                head = (await self._reader.readuntil(b"\r\n")).strip(b"\r\n")
            if begun is not None:
                begun()
            line = head.decode("latin-1").split(" ")
            if len(line) != 3 or not line[2].startswith("HTTP/1."):
                raise MessageError(400)
            method, target, version = line
            headers = await self._read_headers()
            if headers.get("expect", "").lower() == "100-continue":
                await self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return Message(method, target, version, headers, await self._read_body(headers))
        except asyncio.LimitOverrunError:
            raise MessageError(431) from None
        except asyncio.IncompleteReadError:
            return None

    async def write(self, data: bytes) -> None:
        """Send; return once the client has taken nearly all.

        Raises:
            ConnectionError: It is gone.
        """
        self._writer.write(data)
        await self._writer.drain()

    async def until_data(self) -> None:
        """Return once the next request begins; what has come of it is gone then.

        Raises:
            ConnectionError: The client left instead.
        """
        if not await self._reader.read(1):
            raise ConnectionError("the client is gone")

    async def until_gone(self) -> None:
        """Return once the client has left; whatever it says until then is thrown away."""
        while await self._reader.read(HEAD_BYTES_MAX):
            pass

    async def finish(self) -> None:
        """Close in order, once the client has taken what was sent."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    async def refuse(self, status: int) -> None:
        """Answer what is no request."""
        await self.write(head(status, {"connection": "close", "content-length": "0"}))
        if self._writer.can_write_eof():
            # Closed with something unread, the kernel would reset and the client read nothing.
            self._writer.write_eof()
            await self.until_gone()

    def close(self) -> None:
        """Close in order, in the background."""
        self._writer.close()

    def abort(self) -> None:
        """Close at once."""
        self._writer.transport.abort()

    def reset(self) -> None:
        """Close at once with a RST: the client's next read fails."""
        sock = self._writer.get_extra_info("socket")
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    async def _read_headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        size = 0
        while (line := await self._reader.readuntil(b"\r\n")) != b"\r\n":
            size += len(line)
            if size > HEAD_BYTES_MAX:
                raise MessageError(431)
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon:
                raise MessageError(400)
            headers[name.strip().lower()] = value.strip()
        return headers

    async def _read_body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return await self._read_chunks()
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not (length.isascii() and length.isdigit()):
            raise MessageError(400)
        # Python makes no number of thousands of digits.
        if len(length) > 18 or int(length) > BODY_BYTES_MAX:
            raise MessageError(413)
        return await self._reader.readexactly(int(length))

    async def _read_chunks(self) -> bytes:
        body = bytearray()
        while True:
            line = await self._reader.readuntil(b"\r\n")
            try:
                size = int(line.split(b";")[0], 16)
            except ValueError:
                raise MessageError(400) from None
            if size < 0:
                raise MessageError(400)
            if size == 0:
                break
            if len(body) + size > BODY_BYTES_MAX:
                raise MessageError(413)
            body += await self._reader.readexactly(size)
            if await self._reader.readexactly(2) != b"\r\n":
                raise MessageError(400)
        await self._read_headers()  # Trailers, which nobody asks for.
        return bytes(body)


async def connect(sock: socket.socket, number: int) -> Connection:
    """Return the connection of an accepted socket."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=HEAD_BYTES_MAX, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock)
    return Connection(number, reader, asyncio.StreamWriter(transport, protocol, reader, loop))


class Backend(Protocol):
    """The server, as far as an exchange needs it."""

    clock: Clock

    def carry_out(self, request: Request, *, missing: int) -> Reply:
        """Store what the request says, but for the last `missing` spans of a batch."""
        ...

    def go_down(self, seconds: float | None) -> None:
        """Close every connection and refuse new ones."""
        ...


class Exchange:
    """One request and what becomes of it; a fault is a coroutine function that takes one.

    Every call that sends raises ConnectionError where the client is gone; the server handles it.
    """

    def __init__(
        self, request: Request, connection: Connection, backend: Backend, *, keeps_alive: bool
    ) -> None:
        self.request = request
        self.keeps_alive = keeps_alive
        self.idle_s: float | None = None
        """How long the connection may idle after this; None for ever."""
        self._connection = connection
        self._backend = backend

    def carry_out(self, *, missing: int = 0) -> Reply:
        """Store what the request asks for; return what a backend that behaves would say."""
        return self._backend.carry_out(self.request, missing=missing)

    async def reply(self, reply: Reply) -> None:
        """Send a whole answer."""
        sent = self._head(reply, {"content-length": str(len(reply.body))})
        await self.send(sent + self._visible(reply))

    async def send_head(self, reply: Reply, *, length: int | None = None) -> None:
        """Send the head alone; the body's length is `length`, or open (chunks follow) if None."""
        size = (
            {"transfer-encoding": "chunked"} if length is None else {"content-length": f"{length}"}
        )
        await self.send(self._head(reply, size))

    async def send(self, data: bytes) -> None:
        """Send these bytes."""
        await self._connection.write(data)

    async def send_chunk(self, data: bytes) -> None:
        """Send a part of a body whose length is open."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def wait(self, seconds: float) -> None:
        """Return once so much time has passed by the server's clock."""
        await wait(self._backend.clock, seconds)

    async def until_gone(self) -> None:
        """Return once the client has left."""
        await self._connection.until_gone()

    async def close_on_next(self) -> None:
        """Wait for the next request to begin, then cut the connection under it."""
        await self._connection.until_data()
        self.reset()

    async def close(self) -> None:
        """Close the connection in order: the client reads what was sent, then the end."""
        await self._connection.finish()

    def reset(self) -> None:
        """Cut the connection: RST."""
        self._connection.reset()

    def go_down(self, seconds: float | None) -> None:
        """Have the server refuse connections for so long; None: until its script is changed."""
        self._backend.go_down(seconds)

    def _head(self, reply: Reply, size: Mapping[str, str]) -> bytes:
        headers = {name.lower(): value for name, value in reply.headers.items()}
        if reply.status >= 200 and reply.status not in (204, 304):
            headers = {**size, **headers}
        if not self.keeps_alive:
            headers["connection"] = "close"
        self.keeps_alive = headers.get("connection") != "close"
        return head(reply.status, headers)

    def _visible(self, reply: Reply) -> bytes:
        is_bare = self.request.method == "HEAD" or reply.status in (204, 304)
        return b"" if is_bare else reply.body


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """Return the head of an answer."""
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Whatever"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {headers[name]}" for name in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def wait(clock: Clock, seconds: float) -> None:
    """Return once `seconds` have passed by the clock; at once where they are 0 or less."""
    if seconds <= 0:
        return
    passed = asyncio.Event()
    timer = clock.call_at(asyncio.get_running_loop(), clock.monotonic() + seconds, passed.set)
    try:
        await passed.wait()
    finally:
        timer.cancel()
