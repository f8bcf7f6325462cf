"""A trace backend on loopback that misbehaves as told: real sockets, in a thread of this process.

F1  What a request asks for is stored before anything is answered, and only where the script says
    that it is carried out: `rows` is what a backend would have.
F2  Leaving the block ends every connection, timer and thread within a second, whatever hangs.
F3  Memory is bounded: beyond `kept_bytes_max` the oldest requests are forgotten, ids are not.

An agent whose backend fails once, and says nothing at all once, loses nothing:

>>> import everyspan
>>> from everyspan.testing import FaultServer, faults
>>> with FaultServer([faults.status(503), faults.lose_reply(), faults.ok()]) as server:
...     everyspan.configure(
...         everyspan.SGPTracingProcessorConfig("key", "account", server.base_url)
...     )
...     with everyspan.span("turn"):
...         pass
...     server.wait_for(spans=1)
...     result = everyspan.shutdown(10)
>>> result.ok, len(server.rows)
(True, 1)

Every test of one process, and every process of a test run, may have servers of its own.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from inspect import isawaitable
from types import TracebackType
from typing import Self

from everyspan.clock import SYSTEM_CLOCK, Clock
from everyspan.errors import SettingsError
from everyspan.home import ThreadHome
from everyspan.testing.exchange import (
    BATCH_PATH,
    TRACES_PATH,
    Connection,
    Exchange,
    Message,
    MessageError,
    Reply,
    Request,
    connect,
    wait,
)
from everyspan.testing.faults import Answer, Down, ok
from everyspan.testing.span_apis import SpanApis, Version, Written

Script = Answer | Sequence[Answer] | Callable[[Request], Answer]
_Checked = tuple[Answer, ...] | Callable[[Request], Answer]

KEPT_BYTES_MAX = 64 << 20
REQUEST_BYTES = 2 << 10
"""What a request weighs besides its body; chosen, not measured."""

END_S = 1.0
"""F2."""

BLOCKED_S = 5.0
"""The server's thread does what it is told within milliseconds, unless a script blocks it."""

BACKLOG = 1024

WAIT_S = 20.0
"""Long enough for a busy machine."""


class FaultServer:
    """See the module text.

    All that it shows may be read from any thread, inside the block and after it.

    Args:
        script: An answer for every request; or one for each in the order of arrival, of which the
            last repeats; or a function from a request to its answer, called on the server's
            thread. By default the server behaves.
        port: On 127.0.0.1; 0 for a free one.
        clock: What delays and idle times go by.
        kept_bytes_max: Of request bodies; what they were decoded to takes some times as much.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        port: int = 0,
        clock: Clock = SYSTEM_CLOCK,
        kept_bytes_max: int = KEPT_BYTES_MAX,
    ) -> None:
        self.clock = clock
        self.base_url = ""
        self._script: _Checked = _checked(ok() if script is None else script)
        self._position = 0
        self._port = port
        self._kept_bytes_max = kept_bytes_max

        # Read and written by any thread, under the lock.
        self._lock = threading.RLock()
        self._apis = SpanApis()
        self._requests: deque[Request] = deque()
        self._done: dict[int, list[tuple[int, list[Written]]]] = {}
        self._kept_bytes = 0
        self._request_count = 0
        self._connection_count = 0
        self._watchers: set[Callable[[], object]] = set()
        self._error: BaseException | None = None

        # Of the server's loop.
        self._home: ThreadHome | None = None
        self._reserved: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._return: asyncio.Task[None] | None = None
        self._open: dict[asyncio.Task[None], Connection | None] = {}

    # -- what a test says

    def __enter__(self) -> Self:
        if self._home is not None:
            raise SettingsError("a FaultServer is entered once; make another")
        self._home = ThreadHome("everyspan-fault-server")
        if not self._home.start():
            raise RuntimeError("the interpreter starts no more threads")
        try:
            self._call(self._start)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the server.

        Raises:
            BaseException: What a script raised first, unless the block raised by itself.
        """
        assert self._home is not None
        try:
            self._call(self._end)
        finally:
            self._home.stop(END_S)
        if self._error is not None:
            if error is None:
                raise self._error
            error.add_note(f"the server's script raised before: {self._error!r}")

    @property
    def script(self) -> Script:
        """What the server does; a new one is in force when the assignment returns."""
        return self._script

    @script.setter
    def script(self, script: Script) -> None:
        checked = _checked(script)
        home = self._home
        if home is None or not home.is_running:
            self._script = checked
        elif home.is_here:
            self._change(checked)
        else:
            self._call(self._change, checked)

    # -- what a test reads

    @property
    def requests(self) -> list[Request]:
        """The requests that came whole, in order, answered or not; see F3."""
        with self._lock:
            return [*self._requests]

    @property
    def batches(self) -> list[Request]:
        """Those of them that were sent to the SGP API's batch path, or to OTLP's."""
        paths = (BATCH_PATH, TRACES_PATH)
        return [request for request in self.requests if request.path.endswith(paths)]

    @property
    def rows(self) -> dict[str, list[Version]]:
        """What is stored: the versions of each span by its id, in the order they were written.

        A version is a span as it is on the wire; in the AgentEx API as it stood after the write. Of
        OTLP it has `attributes`, `resource`, `status` and such by name, and ids as text.
        """
        with self._lock:
            return {id: [*versions] for id, versions in self._apis.rows.items()}

    @property
    def spans(self) -> dict[str, Version]:
        """The version of each span that was written last, by its id."""
        with self._lock:
            return {id: versions[-1] for id, versions in self._apis.rows.items()}

    @property
    def calls(self) -> list[tuple[str, int]]:
        """Method of each request that was carried out, and the status the API has for it.

        In the order of arrival; it says nothing of what was answered. As far as `requests` goes.
        """
        with self._lock:
            return [
                (request.method, status)
                for request in self._requests
                for status, _ in self._done.get(request.number, ())
            ]

    @property
    def connections(self) -> int:
        """How many connections were accepted so far."""
        return self._connection_count

    @property
    def open_connections(self) -> int:
        """How many of them are open, as far as the server has noticed."""
        return len(self._open)

    def wait_for(self, *, requests: int = 0, spans: int = 0, timeout: float = WAIT_S) -> None:
        """Return once so many requests have come, and so many different spans are stored.

        Raises:
            TimeoutError: Not within `timeout` seconds; the text says what there was.
        """
        changed = threading.Event()
        until_s = time.monotonic() + timeout
        with self._watching(changed.set):
            while not self._has(requests, spans):
                if not changed.wait(max(0.0, until_s - time.monotonic())):
                    raise TimeoutError(self._shortfall(requests, spans, timeout))
                changed.clear()

    async def await_for(
        self, *, requests: int = 0, spans: int = 0, timeout: float = WAIT_S
    ) -> None:
        """As `wait_for`, letting the running loop go on meanwhile."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        with self._watching(partial(loop.call_soon_threadsafe, changed.set)):
            try:
                async with asyncio.timeout(timeout):
                    while not self._has(requests, spans):
                        await changed.wait()
                        changed.clear()
            except TimeoutError:
                raise TimeoutError(self._shortfall(requests, spans, timeout)) from None

    # -- what an answer asks for, on the server's loop

    def carry_out(self, request: Request, *, missing: int = 0) -> Reply:
        """Store what the request asks for; see `Backend`."""
        with self._lock:
            reply, written = self._apis.carry_out(request, missing=missing)
            self._done.setdefault(request.number, []).append((reply.status, written))
            if request.number < self._requests[0].number:
                # Forgotten while its answer was delayed.
                self._forget(request)
        self._tell()
        return reply

    def go_down(self, seconds: float | None) -> None:
        """Close every connection and the port, for so long; see `Backend`."""
        self._close_port()
        for connection in self._open.values():
            if connection is not None:
                connection.close()
        self._stay_down()
        if seconds is not None:
            self._return = asyncio.get_running_loop().create_task(self._come_back(seconds))

    # -- the port

    def _start(self) -> None:
        # Bound for as long as the server lives, never listening: while the server is down the
        # kernel refuses connections, and gives the port to nobody else.
        self._reserved = _bound_socket(self._port)
        self._port = self._reserved.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self._port}"
        self._settle()

    async def _end(self) -> None:
        self._stay_down()
        self._close_port()
        if self._reserved is not None:
            self._reserved.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait([*self._open])
        # Sockets are closed a turn after their connections.
        await asyncio.sleep(0)

    def _change(self, script: _Checked) -> None:
        self._script, self._position = script, 0
        self._stay_down()
        self._settle()

    def _settle(self) -> None:
        """Open the port, unless the script's next answer is to be down."""
        if not self._fall() and self._listener is None:
            listener = self._listener = _bound_socket(self._port)
            listener.setblocking(False)
            listener.listen(BACKLOG)
            # Not asyncio's own server: closed at the wrong moment it forgets what it has accepted.
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _close_port(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _fall(self) -> bool:
        """Go down where that is the script's next answer."""
        if callable(self._script):
            return False
        answer = self._script[self._position]
        if not isinstance(answer, Down):
            return False
        is_last = self._position == len(self._script) - 1
        self.go_down(None if is_last else answer.seconds)
        return True

    async def _come_back(self, seconds: float) -> None:
        await wait(self.clock, seconds)
        self._return = None
        if not callable(self._script) and isinstance(self._script[self._position], Down):
            self._position += 1
        self._settle()

    def _stay_down(self) -> None:
        """Do not come back, if down, but when told."""
        if self._return is not None:
            self._return.cancel()
            self._return = None

    # -- connections

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # No descriptors left: asked again and again, it would take all of a processor.
            self._error = self._error or error
            self._close_port()
            return
        self._connection_count += 1
        task = asyncio.get_running_loop().create_task(
            self._talk(listener, sock, self._connection_count)
        )
        self._open[task] = None
        task.add_done_callback(partial(self._closed, sock))

    def _closed(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        connection = self._open.pop(task)
        if connection is None:
            sock.close()
        else:
            connection.abort()
        if not task.cancelled():
            # None, unless this server has a defect.
            self._error = self._error or task.exception()
        self._tell()

    async def _talk(self, listener: socket.socket, sock: socket.socket, number: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        with suppress(ConnectionError):
            connection = self._open[task] = await connect(sock, number)
            if self._listener is not listener:
                # The server went down between the two.
                return
            try:
                await self._serve(connection)
            except MessageError as error:
                await connection.refuse(error.status)
            await connection.finish()

    async def _serve(self, connection: Connection) -> None:
        """Answer requests until the client leaves, or an answer ends the connection."""
        loop, idle = asyncio.get_running_loop(), None
        try:
            while True:
                message = await connection.read_message(begun=idle.cancel if idle else None)
                if message is None or connection.is_closing:
                    # Closed from here just when it came: gone with the connection.
                    return
                exchange = self._begin(connection, message)
                await self._give(exchange)
                if self._listener is not None:
                    self._fall()
                if connection.is_closing or not exchange.keeps_alive or exchange.idle_s == 0:
                    return
                idle = None
                if exchange.idle_s is not None:
                    idle = self.clock.call_at(
                        loop, self.clock.monotonic() + exchange.idle_s, connection.close
                    )
        finally:
            if idle is not None:
                idle.cancel()

    def _begin(self, connection: Connection, message: Message) -> Exchange:
        path, _, query = message.target.partition("?")
        with self._lock:
            self._request_count += 1
            request = Request(
                self._request_count,
                connection.number,
                message.method,
                path,
                query,
                message.headers,
                message.body,
                self.clock.monotonic(),
            )
            self._requests.append(request)
            self._kept_bytes += len(request.body) + REQUEST_BYTES
            while self._kept_bytes > self._kept_bytes_max and len(self._requests) > 1:
                oldest = self._requests.popleft()
                self._kept_bytes -= len(oldest.body) + REQUEST_BYTES
                self._forget(oldest)
        self._tell()
        return Exchange(request, connection, self, keeps_alive=message.keeps_alive)

    async def _give(self, exchange: Exchange) -> None:
        try:
            if not self._fall():
                await self._choose(exchange.request).give(exchange)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except BaseException as error:
            # The script's own, a failed assertion for example: raised where the block ends.
            self._error = self._error or error
            exchange.reset()

    def _choose(self, request: Request) -> Answer:
        if callable(self._script):
            answer = self._script(request)
            if not isinstance(answer, Answer):
                raise SettingsError(f"a script must return an answer of faults, got {answer!r}")
            return answer
        answer = self._script[self._position]
        self._position = min(self._position + 1, len(self._script) - 1)
        return answer

    # -- within

    def _forget(self, request: Request) -> None:
        for _, written in self._done.pop(request.number, ()):
            for version in written:
                self._apis.forget(version)

    def _tell(self) -> None:
        """Wake those that wait for something to happen."""
        with self._lock:
            for wake in self._watchers:
                # A loop that was closed meanwhile waits no more.
                with suppress(RuntimeError):
                    wake()

    @contextmanager
    def _watching(self, wake: Callable[[], object]) -> Iterator[None]:
        with self._lock:
            self._watchers.add(wake)
        try:
            yield
        finally:
            with self._lock:
                self._watchers.discard(wake)

    def _has(self, requests: int, spans: int) -> bool:
        with self._lock:
            return self._request_count >= requests and len(self._apis.rows) >= spans

    def _shortfall(self, requests: int, spans: int, timeout: float) -> str:
        with self._lock:
            return (
                f"after {timeout:g} s: {self._request_count} requests of {requests}, "
                f"{len(self._apis.rows)} spans of {spans}"
            )

    def _call(self, work: Callable[..., object], *args: object) -> None:
        """Have the server's loop do something; return when it is done."""
        assert self._home is not None

        async def on_the_loop() -> None:
            result = work(*args)
            if isawaitable(result):
                await result

        done = asyncio.run_coroutine_threadsafe(on_the_loop(), self._home.loop)
        try:
            done.result(BLOCKED_S)
        except TimeoutError:
            raise RuntimeError("the script blocks the server's thread") from None


def _checked(script: object) -> _Checked:
    if isinstance(script, Answer):
        return (script,)
    if callable(script):
        return script
    if isinstance(script, Sequence) and script and all(isinstance(a, Answer) for a in script):
        return tuple(script)
    raise SettingsError(
        "script must be an answer of everyspan.testing.faults, some of them, or a function that "
        f"returns one, got {script!r}"
    )


def _bound_socket(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform != "linux" and hasattr(socket, "SO_REUSEPORT"):
            # What Linux allows two sockets of which one listens, BSD allows by this.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return sock
