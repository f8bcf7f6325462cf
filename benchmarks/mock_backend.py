"""A trace backend that costs next to nothing: answers after a fixed wait, counts span ids.

It runs in a process of its own, so that its CPU time is in nobody's figures. It takes SGP batches
(`PUT /v5/spans/batch`) and OTLP protobuf (`POST /v1/traces`) over kept-alive HTTP/1.1.
`GET /received` tells what arrived since the last one, and forgets it.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import msgspec


class Received(msgspec.Struct):
    """What arrived; `spans` counts distinct ids, so a START and its END are one.

    `lag_p99_ms` is the 99th percentile from the end of a span to its arrival, of SGP batches.
    """

    spans: int = 0
    requests: int = 0
    connections: int = 0
    bytes: int = 0
    lag_p99_ms: float = 0.0


class Backend:
    """The client's end of a running mock backend."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.url = f"http://127.0.0.1:{port}"

    def take_received(self) -> Received:
        """Return what arrived since the last call; connections are those ever opened since."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        connection.request("GET", "/received")
        received = msgspec.json.decode(connection.getresponse().read(), type=Received)
        connection.close()
        return received


@contextmanager
def running_backend(*, latency_ms: int) -> Iterator[Backend]:
    """Run a backend that answers every span request after `latency_ms`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.mock_backend", str(latency_ms)],
        # It ends when this closes, however its parent ends.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process:
        try:
            yield Backend(int(process.stdout.readline()))
        finally:
            process.kill()


class _Item(msgspec.Struct):
    id: str
    end_timestamp: datetime | None = None
    end_ns: int = 0

    @property
    def end_s(self) -> float:
        """When the span ended, as Unix time."""
        return self.end_ns / 1e9 if self.end_timestamp is None else self.end_timestamp.timestamp()


class _SgpBatch(msgspec.Struct):
    items: list[_Item]


class _Books:
    def __init__(self) -> None:
        self.ids: set[str | bytes] = set()
        self.received = Received()
        self.lags_s: list[float] = []
        self._decoder = msgspec.json.Decoder(_SgpBatch)

    def count(self, target: bytes, body: bytes) -> None:
        self.received.requests += 1
        self.received.bytes += len(body)
        if target.endswith(b"/v1/traces"):
            self.ids.update(_otlp_span_ids(body))
        else:
            now_s = time.time()
            items = self._decoder.decode(body).items
            self.ids.update(item.id for item in items)
            self.lags_s += [now_s - item.end_s for item in items if item.end_s]

    def take(self) -> bytes:
        self.received.spans = len(self.ids)
        if self.lags_s:
            self.received.lag_p99_ms = sorted(self.lags_s)[len(self.lags_s) * 99 // 100] * 1000
        taken = msgspec.json.encode(self.received)
        self.ids, self.received, self.lags_s = set(), Received(), []
        return taken


class _Connection(asyncio.Protocol):
    """One kept-alive connection; requests come one after the other."""

    _transport: asyncio.Transport

    def __init__(self, books: _Books, latency_s: float) -> None:
        self._books = books
        self._latency_s = latency_s
        self._buffer = bytearray()
        self._needed = 0  # bytes of the request being read, 0 until its head is complete
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._books.received.connections += 1

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._needed:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head = bytes(self._buffer[: end + 2])
            self._needed = end + 4 + _content_length(self._head)
        if len(self._buffer) >= self._needed:
            body = bytes(memoryview(self._buffer)[len(self._head) + 2 : self._needed])
            self._buffer, self._needed = bytearray(), 0
            self._handle(body)

    def _handle(self, body: bytes) -> None:
        method, target, _ = self._head.split(b" ", 2)
        if method == b"GET":
            # The question itself came over a connection that is nobody's.
            self._books.received.connections -= 1
            self._reply(_http(b"application/json", self._books.take()))
            return
        self._books.count(target, body)
        otlp = target.endswith(b"/v1/traces")
        reply = _http(b"application/x-protobuf", b"") if otlp else _SGP_REPLY
        asyncio.get_running_loop().call_later(self._latency_s, self._reply, reply)

    def _reply(self, reply: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(reply)


def _http(content_type: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
    return head % (content_type, len(body)) + body


_SGP_REPLY = _http(b"application/json", b'{"items":[],"object":"list"}')


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        match name.lower():
            case b"content-length":
                return int(value)
            case b"transfer-encoding" | b"content-encoding":
                raise ValueError(f"the mock backend reads plain bodies only, got {line!r}")
    return 0


def _otlp_span_ids(body: bytes) -> Iterator[bytes]:
    for resource_spans in _fields(body, 0, len(body), 1):
        for scope_spans in _fields(body, *resource_spans, 2):
            for span in _fields(body, *scope_spans, 2):
                start, end = next(_fields(body, *span, 2))
                yield body[start:end]


def _fields(body: bytes, at: int, end: int, number: int) -> Iterator[tuple[int, int]]:
    """Yield where the length-delimited fields `number` of a protobuf message begin and end."""
    while at < end:
        tag, at = _varint(body, at)
        match tag & 7:
            case 0:
                _, at = _varint(body, at)
            case 1:
                at += 8
            case 2:
                size, at = _varint(body, at)
                if tag >> 3 == number:
                    yield at, at + size
                at += size
            case 5:
                at += 4


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


class _UntilParentEnds(asyncio.Protocol):
    def connection_lost(self, error: Exception | None) -> None:
        os._exit(0)


async def _serve(latency_s: float) -> None:
    books = _Books()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(_UntilParentEnds, sys.stdin)
    server = await loop.create_server(lambda: _Connection(books, latency_s), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]) / 1000))
