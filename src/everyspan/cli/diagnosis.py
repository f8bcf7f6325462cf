"""What facts about a machine mean: plain functions from what was seen to what to do about it.

G1  Every finding says how to mend it.
G2  No key is shown but its last four characters, and those only of a long one; nothing of what a
    backend said in its body is, which may repeat a key.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from everyspan.config import Resolved, Switch, Variable
from everyspan.model.text import duration, serve_command, visible
from everyspan.transport.client import LOOPBACK_HOSTS
from everyspan.transport.reply import Reply

SKEW_S_MAX = 5.0
"""Beyond it, times of spans cannot be compared with those of others; chosen, not measured."""

KEY_CHARS_MIN = 12
"""Of a shorter key four characters would say too much."""

SERVER_HEADER = "x-everyspan"


class State(StrEnum):
    """What a check found; only a finding is something to mend."""

    OK = "ok"
    NOTE = "note"
    FINDING = "finding"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `mend` is there where it is a finding (G1)."""

    about: str
    state: State
    said: str
    mend: str | None = None


@dataclass(frozen=True, slots=True)
class Destination:
    """Where spans would go.

    Attributes:
        kind: `everyspan`, `sgp`, `agentex` or `otlp`.
        key_env: The variable that holds the key.
        address_env: The variable, or the option, that holds the address.
    """

    kind: str
    url: str
    account: str | None
    key: str | None
    key_env: str
    address_env: str


@dataclass(frozen=True, slots=True)
class Visit:
    """What came of one harmless request: a reply, or why there is none.

    Attributes:
        asked_s: Unix time when it left.
        took_s: Seconds until its answer.
    """

    destination: Destination
    asked_s: float
    took_s: float
    reply: Reply | None = None
    error: BaseException | None = None


def shown_key(key: str | None) -> str:
    """Return how a key may be shown (G2)."""
    if not key:
        return "no key"
    return f"key …{visible(key[-4:])}" if len(key) >= KEY_CHARS_MIN else "a key"


def shown_value(found: Resolved) -> str | None:
    """Return a value as text for people and programs, secrets hidden (G2); None where unset."""
    if found.value is None:
        return None
    if isinstance(found.row, Switch):
        return "on" if found.value else "off"
    if isinstance(found.row, Variable):
        return shown_key(found.value) if found.row.is_secret else visible(str(found.value))
    return f"{found.value:g}" if isinstance(found.value, float) else str(found.value)


# -- the environment


def check_environment(resolved: Iterable[Resolved]) -> Iterator[Check]:
    """Yield what is wrong with the environment's values, and what switches recording off."""
    for found in resolved:
        row = found.row
        if found.complaint is not None:
            said = visible(found.complaint.removeprefix(f"{row.env} "))
            yield Check(row.env, State.FINDING, said, f"correct {row.env}, or unset it")
        elif isinstance(row, Switch) and row.name == "disabled" and found.value:
            yield Check(
                row.env,
                State.FINDING,
                "switches recording off: configure() sends nothing anywhere",
                f"unset {row.env}",
            )


def check_account(environment: Mapping[str, Any]) -> Iterator[Check]:
    """Yield a finding where one half of the SGP credentials is missing."""
    key, account = environment["sgp_api_key"], environment["sgp_account_id"]
    if bool(key) != bool(account):
        there, missing = (
            ("SGP_API_KEY", "SGP_ACCOUNT_ID") if key else ("SGP_ACCOUNT_ID", "SGP_API_KEY")
        )
        yield Check(
            there,
            State.FINDING,
            f"is set and {missing} is not: configure() sends nothing to the SGP spans API",
            f"set {missing} too, or unset {there}",
        )


# -- destinations


def check_visit(visit: Visit, *, version: str) -> Iterator[Check]:
    """Yield what a visit to a destination showed: its answer, then its clock.

    Args:
        version: Ours, to hold a server's against.
    """
    if visit.reply is None:
        yield _not_reached(visit)
        return
    state, said, mend = _answer(visit.destination, visit.reply, version)
    said = f"answers in {duration(visit.took_s)}: {said}"
    yield Check(visible(visit.destination.url), state, said, mend)
    yield from _clock(visit, visit.reply)


def check_proxy(destination: Destination, proxy: str | None) -> Iterator[Check]:
    """Yield a note where requests to a destination go by way of a proxy of the environment."""
    if proxy:
        # Without the password that it may hold.
        shown = visible(proxy.rpartition("@")[2].rpartition("//")[2])
        said = f"requests to {visible(destination.url)} go by way of {shown}"
        yield Check("proxy", State.NOTE, said)


def _answer(destination: Destination, reply: Reply, version: str) -> tuple[State, str, str | None]:
    status = reply.status
    server = reply.headers.get(SERVER_HEADER)
    if destination.kind == "everyspan":
        if server is None:
            return (
                State.FINDING,
                f"something else than an everyspan server ({status}), which gets no spans",
                f"start one elsewhere (everyspan serve --port 5004) and set "
                f"{destination.address_env} to it",
            )
        if status == 404:
            return (
                State.FINDING,
                "an everyspan server, but nothing of it under this path (404)",
                f"correct {destination.address_env}: the address without a path",
            )
        if status != 200:
            return State.FINDING, f"the server is failing ({status})", "see what it logs"
        other = "" if server == version else f", this is {version}"
        return State.NOTE if other else State.OK, f"everyspan {visible(server)}{other}", None
    is_otlp = destination.kind == "otlp"
    api = "OTLP endpoint" if is_otlp else "spans API"
    whose = shown_key(destination.key)
    if destination.account:
        whose += f" for account {visible(destination.account)}"
    if status == 401:
        said = f"refuses {whose}" if destination.key else "asks for a key"
        return State.FINDING, f"{said} (401)", f"set {destination.key_env} to a valid key"
    if status == 403:
        mend = f"set {destination.key_env} to a key that may"
        if destination.account:
            mend = "correct SGP_ACCOUNT_ID, or have the key let into that account"
        return State.FINDING, f"does not let {whose} in (403)", mend
    if 200 <= status < 300:
        if not _is_what_was_asked(destination.kind, reply):
            return (
                State.FINDING,
                f"something else than {'an OTLP endpoint' if is_otlp else 'spans'} ({status})",
                f"correct {destination.address_env}; a proxy may stand between",
            )
        kind = (
            f"everyspan {visible(server)}"
            if server
            else f"{'an' if is_otlp else destination.kind} {api}"
        )
        return State.OK, f"{kind}, takes {whose}", None
    if status == 429 or status >= 500:
        then = (
            "spans are rejected" if is_otlp and status == 500 else "spans wait and are tried again"
        )
        return (
            State.FINDING,
            f"the backend is in trouble ({status}); {then}",
            "look again later, or ask whoever runs it",
        )
    path = "/v1/traces at its end" if is_otlp else "the address without a path"
    return (
        State.FINDING,
        f"no {api} there ({status})",
        f"correct {destination.address_env}: {path}, as a rule",
    )


def _is_what_was_asked(kind: str, reply: Reply) -> bool:
    if kind == "otlp":
        # It was sent nothing and has nothing to say, be it in protobuf or JSON.
        return reply.body.strip() in (b"", b"{}")
    try:
        answer = json.loads(reply.body)
    except (ValueError, RecursionError):
        return False
    if kind == "agentex":
        return isinstance(answer, list)
    return isinstance(answer, dict) and isinstance(answer.get("items"), list)


def _not_reached(visit: Visit) -> Check:
    about = visible(visit.destination.url)
    for cause in _causes(visit.error):
        why = _why(cause, visit)
        if why is not None:
            return Check(about, State.FINDING, *why)
    mend = f"correct {visit.destination.address_env}, or see whether a proxy stands between"
    if visit.destination.kind == "otlp":
        mend += "; gRPC, which is on port 4317 as a rule, is not spoken"
    return Check(
        about,
        State.FINDING,
        f"cannot be reached: {visible(str(visit.error), chars_max=200)}",
        mend,
    )


def _why(cause: BaseException, visit: Visit) -> tuple[str, str] | None:
    """Return what an exception says of a connection, and how to mend it; None if nothing."""
    address_env = visit.destination.address_env
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted: {getattr(cause, 'verify_message', cause)}",
            "set SSL_CERT_FILE to a PEM file with the certificate of its issuer",
        )
    if isinstance(cause, ssl.SSLError):
        reason = getattr(cause, "reason", None) or "no TLS"
        return (
            f"TLS fails: {reason.replace('_', ' ').lower()}",
            f"correct {address_env}: plain HTTP begins with http://",
        )
    if isinstance(cause, socket.gaierror):
        return (
            "its name does not resolve",
            f"correct {address_env}, or the name server of this machine",
        )
    if isinstance(cause, ConnectionRefusedError):
        return "nothing listens there", _start(visit.destination)
    if isinstance(cause, TimeoutError) or getattr(cause, "reason", None) == "timeout":
        return (
            f"no answer within {duration(visit.took_s)}",
            "see whether a firewall or proxy stands between, or allow it more time with "
            "EVERYSPAN_REQUEST_TIMEOUT_S",
        )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and what it came from, the deepest first."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    yield from reversed(chain)


def _start(destination: Destination) -> str:
    from urllib.parse import urlsplit

    parts = urlsplit(destination.url)
    if parts.hostname not in LOOPBACK_HOSTS:
        return f"start the server there, or correct {destination.address_env}"
    command = serve_command(parts.port)
    return f"start it: {command}; or set {destination.address_env} to another"


def _clock(visit: Visit, reply: Reply) -> Iterator[Check]:
    try:
        date_s = parsedate_to_datetime(reply.headers["date"]).timestamp()
    except (KeyError, ValueError, OverflowError, TypeError):
        return
    # A Date header is cut to the second.
    ahead_s = visit.asked_s + visit.took_s / 2 - (date_s + 0.5)
    if abs(ahead_s) <= SKEW_S_MAX + visit.took_s:
        return
    way = "ahead of" if ahead_s > 0 else "behind"
    yield Check(
        "clock",
        State.FINDING,
        f"this machine is {duration(abs(ahead_s))} {way} {visible(visit.destination.url)}",
        "let both set their clocks by NTP",
    )


# -- libraries


def check_libraries(
    versions: Mapping[str, str | None], patched: Sequence[str], langchain_error: str | None
) -> Iterator[Check]:
    """Yield what libraries there are that concern everyspan.

    Args:
        versions: Of gevent, eventlet, uvloop and langchain-core; None where not installed.
        patched: Those that have put their own threads in the place of Python's, in this process.
        langchain_error: Why the handler cannot be imported; None where it can.
    """
    for name in ("gevent", "eventlet"):
        if name in patched:
            yield Check(
                name,
                State.FINDING,
                f"{versions[name]} has replaced Python's threads, which everyspan sends on",
                "use workers of threads or asyncio; everyspan is not tested with green threads",
            )
        elif versions[name] is not None:
            yield Check(
                name,
                State.NOTE,
                f"{versions[name]} is installed; everyspan is not tested where it replaces "
                "Python's threads",
            )
    if versions["uvloop"] is not None:
        yield Check("uvloop", State.OK, f"{versions['uvloop']}; its loops are as good as any")
    if versions["langchain-core"] is None:
        yield Check(
            "langchain",
            State.NOTE,
            "not installed; for its handler: pip install 'everyspan[langchain]'",
        )
    elif langchain_error is None:
        yield Check("langchain", State.OK, f"the handler loads, core {versions['langchain-core']}")
    else:
        yield Check(
            "langchain",
            State.FINDING,
            f"the handler does not load: {visible(langchain_error, chars_max=200)}",
            "pip install -U 'everyspan[langchain]'",
        )
