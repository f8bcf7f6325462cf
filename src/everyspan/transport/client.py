"""HTTP connections, kept alive, one client for each event loop.

A client's connections belong to the loop that opened them, so each loop has its own (`trace:L1`).

T1  The cache is keyed weakly by the loop object, never by its address: those are reused
    (`trace:L3`).
T2  An open connection refers to its loop, so the weak key alone never lets go (`trace:L5`). Two
    remedies: an async generator, started on the loop, closes the client when `asyncio.run`
    finalises generators; and adding a client evicts those of closed loops.
T3  All clients share one SSLContext: a client costs 0.06 ms with it, 20 ms without.
T4  A request, its answer included, takes at most `timeout_s`; the beginning of an answer is kept.
T5  The HTTP library, which logs a line at INFO for every request, logs none for ours (P4).
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import httpx2

from everyspan.errors import RetryableExportError
from everyspan.transport import outcomes
from everyspan.transport.outcomes import Outcome
from everyspan.transport.reply import Reply

# The HTTP library loads these at its first request, on the exporter's thread. A process that is
# forked meanwhile would wait for ever, at its own first request, for a thread that it has not.
for _name in ("httpcore2", "h11", "truststore", "anyio._backends._asyncio"):
    importlib.import_module(_name)

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})

KEEPALIVE_CONNECTIONS_MAX = 64
"""As many as requests are in flight to any destination (`trace:L2`; the original's 20 would close
the others after each request)."""

KEEPALIVE_IDLE_S = 30.0
"""Below the usual 60 s of load balancers; chosen, not measured."""

REPLY_BYTES_KEPT = 64 << 10
"""Unless a processor asks for more."""

REPLY_BYTES_MAX = 16 << 20
"""A reply is read this far, so that its connection can be used again; beyond, it is closed."""

_Loop = asyncio.AbstractEventLoop

_is_ours: ContextVar[bool] = ContextVar("everyspan_request", default=False)


class _NotOurs(logging.Filter):
    """Refuses what is logged within our requests (T5); the agent may use the library as well."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _is_ours.get()


logging.getLogger("httpx2").addFilter(_NotOurs())


class HttpClients:
    """Requests to one base URL from any loop."""

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str],
        timeout_s: float,
        reply_bytes_kept: int = REPLY_BYTES_KEPT,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {**headers, "accept-encoding": "identity"}
        self._timeout_s = timeout_s
        self._reply_bytes_kept = reply_bytes_kept
        self._clients: WeakKeyDictionary[_Loop, httpx2.AsyncClient] = WeakKeyDictionary()
        self._closers: WeakKeyDictionary[_Loop, AsyncGenerator[None]] = WeakKeyDictionary()
        self._ports: set[Any] = set()
        self.connections = 0

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Make one request and return the answer, whatever its status.

        Args:
            headers: In place of the client's of the same names.

        Raises:
            RetryableExportError: No usable answer came; perhaps the request was carried out.
        """
        loop = asyncio.get_running_loop()
        client = self.client(loop)
        if loop not in self._closers:
            closer = self._closers[loop] = self._close_at_the_end(client)
            await closer.__anext__()
        _is_ours.set(True)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(client, method, path, body, headers)
        except TimeoutError:
            raise _failure(outcomes.TIMED_OUT, f"no answer within {self._timeout_s:g} s") from None
        except (httpx2.HTTPError, OSError) as error:
            row = _row_of(error)
            raise _failure(row, f"{row.text}, talking to {self._base_url}: {error!r}") from error
        finally:
            # Not by a token: the collector may close a coroutine in another context.
            _is_ours.set(False)

    def current(self) -> httpx2.AsyncClient:
        """Return the running loop's client; outside any loop a new one (`trace:L4`)."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self.build()
        return self.client(loop)

    def client(self, loop: _Loop) -> httpx2.AsyncClient:
        """Return the client of a loop, made at the first call for it (`trace:L1`)."""
        client = self._clients.get(loop)
        if client is None:
            # Strong references at once: other threads add clients of theirs meanwhile.
            for other in [ref() for ref in self._clients.keyrefs()]:
                if other is not None and other.is_closed():
                    self._clients.pop(other, None)
                    self._closers.pop(other, None)
            client = self._clients[loop] = self.build()
        return client

    def build(self) -> httpx2.AsyncClient:
        """Return a new client that nobody else knows."""
        return httpx2.AsyncClient(
            headers=self._headers,
            verify=_ssl_context(secure=self._base_url.startswith("https:")),
            timeout=self._timeout_s,
            # A proxy of the environment cannot reach this machine's own loopback.
            trust_env=httpx2.URL(self._base_url).host not in LOOPBACK_HOSTS,
            follow_redirects=False,
            limits=httpx2.Limits(
                max_connections=None,
                max_keepalive_connections=KEEPALIVE_CONNECTIONS_MAX,
                keepalive_expiry=KEEPALIVE_IDLE_S,
            ),
        )

    async def close(self) -> None:
        """Close the running loop's client, if it has one."""
        loop = asyncio.get_running_loop()
        client = self._clients.pop(loop, None)
        if client is not None:
            await client.aclose()
        closer = self._closers.pop(loop, None)
        if closer is not None:
            await closer.aclose()

    async def _exchange(
        self,
        client: httpx2.AsyncClient,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str] | None,
    ) -> Reply:
        url = self._base_url + path
        async with client.stream(method, url, content=body, headers=headers) as response:
            self._count_connection(response)
            kept = bytearray()
            size = 0
            async for chunk in response.aiter_raw():
                size += len(chunk)
                if len(kept) < self._reply_bytes_kept:
                    kept += chunk[: self._reply_bytes_kept - len(kept)]
                if size > REPLY_BYTES_MAX:
                    break
            return Reply(response.status_code, dict(response.headers), bytes(kept))

    def _count_connection(self, response: httpx2.Response) -> None:
        stream = response.extensions.get("network_stream")
        port = stream.get_extra_info("client_addr") if stream is not None else None
        if port not in self._ports:
            if len(self._ports) >= 1024:
                self._ports.clear()
            self._ports.add(port)
            self.connections += 1

    async def _close_at_the_end(self, client: httpx2.AsyncClient) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            # Both refer to their loop, even now, and so would keep their entries for ever.
            loop = asyncio.get_running_loop()
            self._clients.pop(loop, None)
            self._closers.pop(loop, None)
            await client.aclose()


@functools.cache
def _ssl_context(*, secure: bool) -> ssl.SSLContext:
    # Reading the system's certificates is what costs 20 ms; plain HTTP needs none.
    return ssl.create_default_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _row_of(error: httpx2.HTTPError | OSError) -> Outcome:
    if isinstance(error, httpx2.TimeoutException):
        return outcomes.TIMED_OUT
    causes = {type(cause) for cause in _causes(error)}
    if any(issubclass(cause, ssl.SSLError) for cause in causes):
        return outcomes.UNTRUSTED
    if any(issubclass(cause, socket.gaierror) for cause in causes):
        return outcomes.UNRESOLVED
    if isinstance(error, httpx2.ConnectError):
        return outcomes.UNCONNECTED
    # A reused connection that the other side closed is a RemoteProtocolError.
    return outcomes.BROKEN


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _failure(row: Outcome, message: str) -> RetryableExportError:
    return RetryableExportError(message, reason=row.reason, congested=row.congested)
