"""What a trace server's answers mean: plain functions from what was seen to what to do about it.

As in diagnosis.py: every finding says how to mend it, and no key is shown but its end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from everyspan.cli.diagnosis import (
    SERVER_HEADER,
    Check,
    Destination,
    State,
    Visit,
    check_visit,
    shown_key,
)
from everyspan.model.text import byte_size, plural, visible
from everyspan.transport.client import LOOPBACK_HOSTS
from everyspan.transport.reply import Reply

FREE_BYTES_LOW = 1024**3
"""Below it, the disk of a busy server is full within hours; chosen, not measured."""
BEHIND_MANY = 10_000
OTLP_PORT = 4318
_SAMPLE = re.compile(r"^([a-z_]+) (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ServerSeen:
    """What one look at a server brought; None where it did not answer.

    Attributes:
        request_id: What was sent as `x-request-id` with everything.
        otlp: What answered `/healthz` at OTLP_PORT of the same machine.
    """

    destination: Destination
    health: Visit
    request_id: str
    ready: Reply | None = None
    session: Reply | None = None
    metrics: Reply | None = None
    otlp: Reply | None = None


def check_server(seen: ServerSeen, *, version: str) -> Iterator[Check]:
    """Yield what a look at a server showed.

    Args:
        version: Ours.
    """
    reply = seen.health.reply
    if reply is not None and _code(reply) == "HOST_NOT_ALLOWED":
        name = urlsplit(seen.destination.url).hostname or ""
        yield Check(
            visible(seen.destination.url),
            State.FINDING,
            f"the server does not go by the name {visible(name)} (403)",
            f"start it with --allow-host {visible(name)}; a proxy has to pass Host on",
        )
        return
    yield from check_visit(seen.health, version=version)
    if reply is None or SERVER_HEADER not in reply.headers:
        return
    yield from _between(reply, seen.request_id)
    yield from _ready(seen.ready)
    yield from check_key(seen.session, seen.destination)
    yield from _store(seen.metrics)
    yield from _otlp(seen.otlp, seen.destination.url)


def _between(reply: Reply, request_id: str) -> Iterator[Check]:
    via = reply.headers.get("via")
    if via is not None:
        yield Check("proxy", State.NOTE, f"one stands in front of the server: {visible(via)}")
    if reply.headers.get("x-request-id") != request_id:
        yield Check(
            "proxy",
            State.FINDING,
            "what stands in front of the server changes or answers requests: x-request-id differs",
            "have it pass headers on, and cache nothing",
        )


def _ready(reply: Reply | None) -> Iterator[Check]:
    if reply is None:
        yield Check("ready", State.FINDING, "/readyz does not answer", "see what the server logs")
    elif reply.status != 200:
        status = _members(reply).get("status", reply.status)
        mends = {
            "the disk is full": "free space on the disk of the store",
            "stopping": "wait until it has started again",
        }
        mend = mends.get(str(status), "see what the server logs")
        yield Check("ready", State.FINDING, f"not ready: {visible(str(status))}", mend)
    else:
        yield Check("ready", State.OK, "takes requests")


def check_key(reply: Reply | None, destination: Destination) -> Iterator[Check]:
    """Yield what a server says of a key.

    Args:
        reply: To `/api/session`; None where there is none.
    """
    whose = shown_key(destination.key)
    if reply is None:
        return
    session = _members(reply)
    is_local = urlsplit(destination.url).hostname in LOOPBACK_HOSTS
    if reply.status == 401:
        said = f"refuses {whose}" if destination.key else "asks for a key"
        mend = (
            "set EVERYSPAN_API_KEY to an active one: everyspan keys create, where the server runs"
        )
        yield Check("key", State.FINDING, f"the server {said} (401)", mend)
    elif reply.status == 403:
        account = visible(destination.account or "local")
        if _code(reply) == "ACCOUNT_REFUSED":
            said = f"{whose} is not for account {account} (403)"
            mend = f"correct EVERYSPAN_ACCOUNT, or: everyspan keys create --account {account}"
            yield Check("key", State.FINDING, said, mend)
        else:
            # To look is to read.
            yield Check("key", State.OK, f"the server takes {whose}, which may only write")
    elif reply.status != 200:
        yield Check("key", State.NOTE, f"the server does not say what a key may ({reply.status})")
    elif not session.get("keys_required"):
        yield Check("key", State.NOTE, "the server asks for none")
    else:
        scopes = " and ".join(map(str, session.get("scopes", [])))
        accounts = ", ".join(map(str, session.get("accounts", [])))
        accounts = "every account" if accounts == "*" else f"account {accounts}"
        said = f"the server takes {whose}, for {visible(accounts)}, to {visible(scopes)}"
        if session.get("expires"):
            said += f", until {visible(str(session['expires']))}"
        if "write" not in scopes:
            said += ": agents need one that may write"
        yield Check("key", State.OK if "write" in scopes else State.NOTE, said)
    if destination.key and not is_local and urlsplit(destination.url).scheme == "http":
        yield Check(
            "key",
            State.FINDING,
            "the key goes over the network in clear",
            "let a proxy end TLS in front of the server, and use https://",
        )


def _store(reply: Reply | None) -> Iterator[Check]:
    if reply is None or reply.status != 200:
        yield Check("store", State.NOTE, "its figures take a key that may read")
        return
    figures = {name: float(value) for name, value in _SAMPLE.findall(reply.body.decode())}
    free = figures.get("everyspan_store_free_bytes")
    stored = plural(int(figures.get("everyspan_store_spans", 0)), "span")
    size = byte_size(int(figures.get("everyspan_store_bytes", 0)))
    if not figures.get("everyspan_store_up"):
        yield Check("store", State.FINDING, "it fails", "see what the server logs")
    elif free is not None and free < FREE_BYTES_LOW:
        yield Check(
            "store",
            State.FINDING,
            f"{stored} in {size}, and {byte_size(int(free))} left on its disk",
            "free space, or keep less",
        )
    else:
        left = "" if free is None else f", {byte_size(int(free))} left on its disk"
        waiting = int(figures.get("everyspan_store_waiting_writes", 0))
        said = f"{stored} in {size}{left}; {plural(waiting, 'write')} under way"
        yield Check("store", State.OK, said)
    for figure, what in (("unsummarized", "lists of traces"), ("unindexed", "texts to search")):
        behind = int(figures.get(f"everyspan_store_{figure}_spans", 0))
        if behind >= BEHIND_MANY:
            said = f"{what} are {plural(behind, 'span')} or more behind, and catch up by themselves"
            yield Check("store", State.NOTE, said)


def _otlp(reply: Reply | None, url: str) -> Iterator[Check]:
    about = f"port {OTLP_PORT}"
    if reply is not None and SERVER_HEADER in reply.headers:
        yield Check(about, State.OK, "OpenTelemetry exporters arrive without settings")
        return
    is_taken = "something else has it" if reply is not None else "nothing listens there"
    said = f"{is_taken}; OpenTelemetry exporters need OTEL_EXPORTER_OTLP_ENDPOINT={visible(url)}"
    yield Check(about, State.NOTE, said)


def _members(reply: Reply) -> dict[str, Any]:
    try:
        body = json.loads(reply.body)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _code(reply: Reply) -> object:
    return _members(reply).get("code")
