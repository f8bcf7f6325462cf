"""A server that answers searches with what a test says, right or wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit


class Asked(NamedTuple):
    """One request as it arrived."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class Reply(NamedTuple):
    """What to answer."""

    body: bytes | dict[str, Any]
    status: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


Answer = Callable[[Asked], Reply]


class ScriptedServer(NamedTuple):
    """A running server: its base URL, and what it was asked so far."""

    url: str
    asked: list[Asked]


@contextmanager
def scripted_server(answer: Answer) -> Iterator[ScriptedServer]:
    """Serve `answer` on a free loopback port."""
    asked: list[Asked] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            address = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(address.query).items()}
            headers = {key.lower(): value for key, value in self.headers.items()}
            asked.append(Asked(address.path, query, headers, json.loads(body)))
            reply = answer(asked[-1])
            content = (
                reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            )
            self.send_response(reply.status)
            for name, value in {"content-length": str(len(content)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield ScriptedServer(f"http://127.0.0.1:{server.server_port}", asked)
        finally:
            server.shutdown()
            thread.join()
