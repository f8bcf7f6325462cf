"""HTTP/1.1 on one connection, bounded: uvicorn's httptools protocol sets no limits of its own.

H1  What is not body (request line, headers, chunk framing, trailers) may take HEAD_BYTES_MAX a
    request, and 8 bytes more for each byte of body; beyond, 431 and the connection ends.
H2  A request's head must be complete within HEAD_TIME_MAX_S; else the connection ends.
H3  Refusals from down here are JSON and carry `x-everyspan` as all others do.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from everyspan.server.envelope import VERSION_HEADER
from everyspan.server.problem import problem

HEAD_BYTES_MAX = 64 * 1024
HEAD_TIME_MAX_S = 30.0
_FRAMING_PER_BODY_BYTE = 8


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol within H1 to H3."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._overhead = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._overhead += len(data)
        super().data_received(data)
        if self._overhead > HEAD_BYTES_MAX and not self.transport.is_closing():
            self._refuse(431, "HEAD_TOO_LARGE", f"more than {HEAD_BYTES_MAX} bytes of headers")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._start_head_timer()

    def on_headers_complete(self) -> None:
        self._stop_head_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._overhead -= (1 + _FRAMING_PER_BODY_BYTE) * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._overhead = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "INVALID_HTTP", msg)

    def _refuse(self, status: int, code: str, message: str) -> None:
        reply = problem(status, code, message, headers={"connection": "close"})
        head = [STATUS_LINE[status]]
        for name, value in (*reply.raw_headers, VERSION_HEADER):
            head += [name, b": ", value, b"\r\n"]
        self.transport.write(b"".join([*head, b"\r\n", bytes(reply.body)]))
        self.transport.close()

    def _start_head_timer(self) -> None:
        self._stop_head_timer()
        self._head_timer = self.loop.call_later(HEAD_TIME_MAX_S, self.transport.close)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
