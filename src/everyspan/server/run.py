"""Run the trace server: bind, serve, stop in order.

R1  The port is bound before anything else, and a taken one is an error that names who has it.
    The port of OpenTelemetry is a convenience: a taken one is a line in the log.
R2  `ready` is called when requests are answered, with the ports that were bound.
R3  Open to other machines it does not start before there is a key to ask for.
R4  SIGINT and SIGTERM end it: replies that go on for ever end at once, requests under way get their
    answer (at most STOP_TIME_MAX_S), what was accepted is committed, the store is closed. A second
    signal does not wait for requests.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

import uvicorn

from everyspan.errors import SettingsError
from everyspan.server.app import create_app
from everyspan.server.hosts import Hosts
from everyspan.server.protocol import BoundedHttpProtocol
from everyspan.server.stores.base import Store
from everyspan.server.stores.sqlite import SqliteStore

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 5003
"""Where AgentEx agents and the SGP client's environment `local` look (`sgp` §1)."""
OTLP_PORT = 4318
"""Where exporters of OTLP over HTTP send unless told otherwise."""
KEEP_ALIVE_S = 75.0
"""Longer than clients keep idle connections, so that we do not close one as they send."""
STOP_TIME_MAX_S = 5
BACKLOG = 2048

Ready = Callable[[str, int, int | None], None]
"""Is told host, port, and the further port for OTLP, None where there is none."""

_log = logging.getLogger("everyspan.server")


def run(
    *,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    store_path: str | Path,
    otlp_port: int | None = None,
    allow_hosts: Sequence[str] = (),
    keep_s: float | None = None,
    keep_bytes: int | None = None,
    ready: Ready | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        port: 0 takes a free one.
        otlp_port: Listened on too, if it can be had; everything is answered there as well.
        allow_hosts: Further names that requests may call it by, as one behind a proxy is.
        keep_s: How long traces are kept after their last activity; None is for ever.
        keep_bytes: Beyond this size of the store the oldest are deleted; None is no bound.
        ready: Called once, when requests are answered.

    Raises:
        SettingsError: The address cannot be had, a name is none, there is no key and must be, or
            protobuf would be read by its slow runtime; the text says what to do.
        StoreError: The store cannot be opened.
    """
    _check_protobuf()
    with ExitStack() as stack:
        listener = stack.enter_context(_listen(host, port))
        listeners = [listener]
        bound_otlp_port = None
        if otlp_port is not None:
            try:
                listeners.append(
                    stack.enter_context(_listen(host, otlp_port, option="--otlp-port"))
                )
                bound_otlp_port = listeners[-1].getsockname()[1]
            except SettingsError as error:
                _log.info("no second port for OTLP, which the first one takes as well: %s", error)
        address = listener.getsockname()
        hosts = Hosts([host, address[0]], allow_hosts)
        is_open = not ip_address(address[0].partition("%")[0]).is_loopback
        store = SqliteStore(store_path, keep_s=keep_s, keep_bytes=keep_bytes)
        app = create_app(store, hosts, must_ask_key=is_open)
        config = uvicorn.Config(
            app,
            http=BoundedHttpProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(KEEP_ALIVE_S),
            timeout_graceful_shutdown=STOP_TIME_MAX_S,
            backlog=BACKLOG,
        )
        server = _Server(
            config,
            lambda: ready(host, address[1], bound_otlp_port) if ready else None,
            app.stopping.set,
        )
        app.metrics.read(
            "everyspan_http_connections",
            "gauge",
            "Connections open.",
            lambda: [({}, len(server.server_state.connections))],
        )

        async def serve() -> None:
            if is_open and not await _has_key(store):
                await store.close()
                raise SettingsError(
                    f"{host} is open to other machines, and there is no key to ask for;"
                    f" make one: everyspan keys create --store {store_path}"
                )
            await server.serve(sockets=listeners)

        asyncio.run(serve())


def _check_protobuf() -> None:
    from google.protobuf.internal import api_implementation

    if api_implementation.Type() != "upb":
        raise SettingsError(
            "protobuf runs in Python here, a hundred times slower; unset"
            " PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION, or install a protobuf that has a wheel"
        )


async def _has_key(store: Store) -> bool:
    now_ns = time.time_ns()
    return any(key.is_active(now_ns) and key.parent is None for key in await store.keys())


class _Server(uvicorn.Server):
    """uvicorn's server that says when it is ready, and that a signal ends without an exception.

    Args:
        stopping: Called at the first signal.
    """

    def __init__(
        self, config: uvicorn.Config, ready: Callable[[], None], stopping: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        # uvicorn raises the signal again once it has stopped; a server that was asked to end and
        # did has succeeded.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self._stopping()


def _listen(host: str, port: int, *, option: str = "--port") -> socket.socket:
    if not 0 <= port <= 65_535:  # The resolver would take the rest of a division.
        raise SettingsError(f"port must be 0 to 65535, got {port}")
    if not host:  # The resolver would take every address of the machine.
        raise SettingsError("host must be a name or an address, got ''")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"cannot listen on host {host!r}: {error}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Listening at once: two servers bound with SO_REUSEADDR would collide only here.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"port {port} on {host} is taken{_holder_text(port)};"
                f" choose another with {option} (0: a free one)"
            ) from None
        raise SettingsError(f"cannot listen on {host} port {port}: {error}") from None
    return listener


def _holder_text(port: int) -> str:
    holder = _port_holder(port)
    return "" if holder is None else f" by {holder[1]} (pid {holder[0]})"


def _port_holder(port: int) -> tuple[int, str] | None:
    """Return pid and name of the process that listens on `port`, None where we may not know."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    if str(descriptor.readlink()) in inodes:
                        return int(process.name), (process / "comm").read_text().strip()
    return None
