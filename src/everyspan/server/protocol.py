"""HTTP/1.1 on one connection, bounded: uvicorn's httptools protocol sets no limits of its own.

H1  What is not body (request line, headers, chunk framing, trailers) may take HEAD_BYTES_MAX a
    request, and 8 bytes more for each byte of body; beyond, 431 and the connection ends. So it does
    beyond HEADERS_MAX headers, and with 414 beyond URL_BYTES_MAX of address.
H2  A request's head must be complete within HEAD_TIME_MAX_S; else the connection ends.
H3  Refusals from down here are JSON and carry `x-everyspan` as all others do.
H4  A body is complete within BODY_TIME_MAX_S, and brings BODY_RATE_MIN bytes a second meanwhile,
    whether or not anybody reads it; else 408.
H5  Whoever does not take a reply's next bytes within WRITE_TIME_MAX_S is cut off.
H6  There are at most `connections_max()` connections. A new one beyond takes the place of the one
    that has been without a whole head for longest; if all are at work it is told 503.
H7  At most PIPELINED_MAX requests wait behind one that is being answered, with at most
    BUFFERED_BYTES_MAX of body; beyond, the connection ends.
H8  Trailers are counted and thrown away: nothing joins the headers after they were judged.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NoReturn

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from everyspan.server.envelope import VERSION_HEADER
from everyspan.server.metrics import Metrics
from everyspan.server.problem import problem

HEAD_BYTES_MAX = 64 * 1024
HEADERS_MAX = 200
URL_BYTES_MAX = 16 * 1024
HEAD_TIME_MAX_S = 30.0
BODY_TIME_MAX_S = 60.0
BODY_RATE_MIN = 1024
"""Bytes a second, on the average of each BODY_CHECK_S; chosen, not measured."""
BODY_CHECK_S = 10.0
WRITE_TIME_MAX_S = 30.0
CONNECTIONS_MAX = 1_000
OTHER_FILES = 100
"""Descriptors left to the store and to what else opens files."""
PIPELINED_MAX = 100
BUFFERED_BYTES_MAX = 1024 * 1024
_FRAMING_PER_BODY_BYTE = 8


def connections_max() -> int:
    """Return how many connections there may be: CONNECTIONS_MAX, or what the system allows."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return min(CONNECTIONS_MAX, max(1, files - OTHER_FILES))


class _StoppedError(Exception):
    """Makes the parser stop; what is to be said stands in the protocol."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol within H1 to H8."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._overhead = 0
        self._in_head = True
        self._refusal: tuple[int, str, str] | None = None
        # Runs while a head or a body is due, and in no other state.
        self._receive_timer: asyncio.TimerHandle | None = None
        self._idle_since_s = self.loop.time()
        self._body_until_s = 0.0
        self._body_bytes = 0
        self._send_timer: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._keeps_alive = False
        # From the application's lifespan.
        self._metrics: Metrics = self.app_state["metrics"]

    # -- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > connections_max():
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_receive_timer()
        if self._send_timer is not None:
            self._send_timer.cancel()
        super().connection_lost(exc)

    def _make_room(self) -> None:
        idle = [
            other
            for other in self.connections
            if isinstance(other, BoundedHttpProtocol)
            and other is not self
            and other._is_idle()
            and not other.transport.is_closing()
        ]
        if idle:
            self._metrics.refused.add("CONNECTION_REPLACED")
            min(idle, key=attrgetter("_idle_since_s"))._end()
        else:
            self._refuse(503, "TOO_MANY_CONNECTIONS", "too many connections", retry_after_s=1)

    def _is_idle(self) -> bool:
        """Whether no request is at work: at most a part of a head has come."""
        return (self.cycle is None or self.cycle.response_complete) and self._in_head

    def _end(self) -> None:
        self._stop_receive_timer()
        self.transport.close()
        # It stays open until all is sent.
        self._watch_reader()

    # -- what comes in

    def data_received(self, data: bytes) -> None:
        self._overhead += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._overhead > HEAD_BYTES_MAX:
            self._refuse(431, "HEAD_TOO_LARGE", f"more than {HEAD_BYTES_MAX} bytes of headers")
        elif self._receive_timer is None and self._is_idle():
            # Line ends between requests, and what comes after an upgrade that nobody made, start no
            # message, but end uvicorn's wait for one.
            self._await_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._await_head()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > URL_BYTES_MAX:
            self._stop(414, "URL_TOO_LONG", f"the address has more than {URL_BYTES_MAX} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return
        if len(self.headers) >= HEADERS_MAX:
            self._stop(431, "TOO_MANY_HEADERS", f"more than {HEADERS_MAX} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()  # Raises where the address is none.
        self._in_head = False
        self._body_until_s = self.loop.time() + BODY_TIME_MAX_S
        self._body_bytes = 0
        self._start_receive_timer(min(BODY_CHECK_S, BODY_TIME_MAX_S), self._check_body)
        self._keeps_alive = self.cycle.keep_alive
        if self.expect_100_continue:
            # Refused unread, its sender may leave the body out, and the next request would be taken
            # for it.
            self.cycle.keep_alive = False
        if len(self.pipeline) > PIPELINED_MAX:
            self._stop(400, "TOO_MANY_PIPELINED", f"more than {PIPELINED_MAX} requests wait")

    def on_body(self, body: bytes) -> None:
        self._overhead -= (1 + _FRAMING_PER_BODY_BYTE) * len(body)
        self._body_bytes += len(body)
        super().on_body(body)
        if len(self.cycle.body) > BUFFERED_BYTES_MAX:
            # Whoever answers the request before it asks for more, and would go on doing so.
            self._stop(400, "TOO_MUCH_PIPELINED", "a body came before its turn")

    def on_message_complete(self) -> None:
        self._overhead = 0
        self._in_head = True
        self._stop_receive_timer()
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._keeps_alive
        self._idle_since_s = self.loop.time()
        super().on_message_complete()

    def _await_head(self) -> None:
        self._idle_since_s = self.loop.time()
        self._start_receive_timer(HEAD_TIME_MAX_S, self._end)

    def _check_body(self) -> None:
        left_s = self._body_until_s - self.loop.time()
        # While we do not read, it is not the sender who is slow.
        is_slow = self._body_bytes < BODY_RATE_MIN * BODY_CHECK_S and not self.flow.read_paused
        if left_s <= 0 or is_slow:
            self._refuse(408, "BODY_TOO_SLOW", "the body took too long")
            return
        self._body_bytes = 0
        self._start_receive_timer(min(BODY_CHECK_S, left_s), self._check_body)

    def _start_receive_timer(self, wait_s: float, act: Callable[[], None]) -> None:
        self._stop_receive_timer()
        self._receive_timer = self.loop.call_later(wait_s, act)

    def _stop_receive_timer(self) -> None:
        if self._receive_timer is not None:
            self._receive_timer.cancel()
            self._receive_timer = None

    # -- refusing

    def _stop(self, status: int, code: str, message: str) -> NoReturn:
        """Refuse from within the parser."""
        self._refusal = (status, code, message)
        raise _StoppedError

    def send_400_response(self, msg: str) -> None:
        self._refuse(*(self._refusal or (400, "INVALID_HTTP", msg)))

    def _refuse(self, status: int, code: str, message: str, *, retry_after_s: int = 0) -> None:
        """End the connection, saying why if it is this request's turn to be answered."""
        self._metrics.refused.add(code)
        cycle = self.cycle
        is_answered = cycle is None or cycle.response_complete
        if is_answered if self._in_head else not (cycle.response_started or self.pipeline):
            headers = {"connection": "close"}
            if retry_after_s:
                headers["retry-after"] = str(retry_after_s)
            reply = problem(status, code, message, headers=headers)
            head = [STATUS_LINE[status]]
            for name, value in (*reply.raw_headers, VERSION_HEADER):
                head += [name, b": ", value, b"\r\n"]
            self.transport.write(b"".join([*head, b"\r\n", bytes(reply.body)]))
        if cycle is not None:
            # Nobody may answer after this.
            cycle.disconnected = True
            cycle.message_event.set()
        self._end()

    # -- what goes out

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def on_response_complete(self) -> None:
        self._idle_since_s = self.loop.time()
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_reader()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_reader()

    def _watch_reader(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        if self._send_timer is None and self._unsent:
            self._send_timer = self.loop.call_later(WRITE_TIME_MAX_S, self._check_reader)

    def _check_reader(self) -> None:
        self._send_timer = None
        unsent = self.transport.get_write_buffer_size()
        if not (self.flow.write_paused or self.transport.is_closing()):
            return
        if unsent >= self._unsent:
            self._metrics.refused.add("READER_TOO_SLOW")
            # With a reset: the system would keep what it has taken until somebody reads it.
            self.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            self.transport.abort()
        else:
            self._watch_reader()
