"""Look at a trace server with a few requests that change nothing."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import httpx2

from everyspan.cli.diagnosis import Destination, Visit
from everyspan.cli.server_diagnosis import OTLP_PORT, ServerSeen
from everyspan.config import Environment
from everyspan.model.ids import new_id
from everyspan.transport.client import LOOPBACK_HOSTS
from everyspan.transport.reply import Reply

TIMEOUT_S = 10.0
BODY_BYTES_MAX = 1 << 20


def see_server(url: str, environment: Environment) -> ServerSeen:
    """Return what a server answers, asked with the key of the environment."""
    key, account = environment.for_commands()
    destination = Destination(
        "everyspan",
        url,
        account=account,
        key=key,
        key_env="EVERYSPAN_API_KEY",
        address_env="--server",
    )
    request_id = new_id()
    parts = urlsplit(url)
    with _client(destination, request_id) as client:
        asked_s, began_s = time.time(), time.monotonic()
        reply, error = _get(client, f"{url}/healthz")
        health = Visit(destination, asked_s, time.monotonic() - began_s, reply, error)
        if reply is None:
            return ServerSeen(destination, health, request_id)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        # Whoever has that port gets no key.
        with httpx2.Client(timeout=TIMEOUT_S, trust_env=False) as stranger:
            otlp, _ = _get(stranger, f"http://{host}:{OTLP_PORT}/healthz")
        return ServerSeen(
            destination,
            health,
            request_id,
            ready=_get(client, f"{url}/readyz")[0],
            session=_get(client, f"{url}/api/session")[0],
            metrics=_get(client, f"{url}/metrics")[0],
            otlp=otlp,
        )


def ask_session(destination: Destination) -> Reply | None:
    """Return what a server says of the key that spans would be sent with; None if nothing."""
    with _client(destination, new_id()) as client:
        return _get(client, f"{destination.url}/api/session")[0]


def _client(destination: Destination, request_id: str) -> httpx2.Client:
    headers = {
        "x-request-id": request_id,
        "x-api-key": destination.key,
        "x-selected-account-id": destination.account,
    }
    return httpx2.Client(
        headers={name: value for name, value in headers.items() if value},
        timeout=TIMEOUT_S,
        # A proxy of the environment cannot reach this machine's own loopback.
        trust_env=urlsplit(destination.url).hostname not in LOOPBACK_HOSTS,
    )


def _get(client: httpx2.Client, url: str) -> tuple[Reply | None, Exception | None]:
    try:
        with client.stream("GET", url) as reply:
            body = bytearray()
            for piece in reply.iter_bytes():
                body += piece
                if len(body) > BODY_BYTES_MAX:
                    break
            headers = {name.lower(): value for name, value in reply.headers.items()}
            return Reply(reply.status_code, headers, bytes(body)), None
    except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError, ValueError) as error:
        return None, error
