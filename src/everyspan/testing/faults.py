"""What a `FaultServer` can do with a request, by name: `server.script = faults.hang()`.

Seconds are by the server's clock; where they are asked for, a function may stand that returns
them, `lognormal` for example, and is called for each request.
"""

from __future__ import annotations

import functools
import heapq
import json
import math
import random
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist

from everyspan.errors import SettingsError
from everyspan.testing.exchange import JSON_TYPE, Exchange, Reply, Request

Seconds = float | Callable[[], float]

CHUNK = b" " * (64 << 10)


@dataclass(frozen=True, slots=True)
class Answer:
    """What to do with one request.

    Those that this module makes are enough for most; `Answer("mine()", coroutine_function)` is one
    of your own.

    Attributes:
        name: As a test's output shows it.
        give: Does it.
    """

    name: str
    give: Callable[[Exchange], Awaitable[None]] = field(compare=False)

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, repr=False)
class Down(Answer):
    """What `down` makes: unlike all others it needs no request to begin."""

    seconds: float | None = None


# -- answers


def ok(*, headers: Mapping[str, str] | None = None) -> Answer:
    """Behave: store what is sent, and answer as the API would, refusals included.

    Args:
        headers: Sent besides.
    """

    async def give(exchange: Exchange) -> None:
        reply = exchange.carry_out()
        await exchange.reply(reply._replace(headers={**reply.headers, **(headers or {})}))

    return Answer("ok()", give)


def status(
    code: int,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    retry_after: float | str | None = None,
    stores: bool | None = None,
) -> Answer:
    """Answer with this status.

    Args:
        code: 200 to 599.
        body: None for a JSON object that says it was scripted.
        headers: Sent besides `content-type` and the length.
        retry_after: Seconds, or a date as HTTP writes it.
        stores: Carry the request out before; None where the status is 2xx.
    """
    if isinstance(code, bool) or not isinstance(code, int) or not 200 <= code <= 599:
        raise SettingsError(f"code must be a status from 200 to 599, got {code!r}")
    if body is None:
        said = {"detail": "scripted", "message": "scripted", "code": code}
        body = json.dumps(said).encode()
    waiting = {} if retry_after is None else {"retry-after": f"{retry_after}"}
    reply = Reply(code, body, {**JSON_TYPE, **waiting, **(headers or {})})

    async def give(exchange: Exchange) -> None:
        if code < 300 if stores is None else stores:
            exchange.carry_out()
        await exchange.reply(reply)

    return Answer(f"status({code})", give)


def refuse(*positions: int) -> Answer:
    """Refuse a batch (422), naming the spans at these positions as those at fault (`sgp:E4`)."""
    detail = [
        {"loc": ["body", "items", position, "type"], "msg": "scripted", "type": "enum"}
        for position in positions
    ]
    return status(422, body=json.dumps({"detail": detail or "scripted"}).encode())


def partial(missing: int = 1) -> Answer:
    """Store a batch but for its last `missing` spans; 200, naming only what was stored.

    A batch's first span is stored always: 200 that names nobody would say nothing of the others.
    """
    _check_count("missing", missing)

    async def give(exchange: Exchange) -> None:
        await exchange.reply(exchange.carry_out(missing=missing))

    return Answer(f"partial({missing})", give)


def redirect(to: str = "/elsewhere", *, code: int = 307) -> Answer:
    """Send the client elsewhere."""
    return status(code, headers={"location": to}, body=b"")


def html() -> Answer:
    """Answer 200 with a page for people, as a proxy or a captive portal does; nothing is stored."""
    page = b"<!doctype html><title>Sign in</title><p>Please sign in to the network.</p>"
    return status(200, body=page, headers={"content-type": "text/html"}, stores=False)


def garbage(data: bytes = b"\x15\x03\x01\x00\x02\x02\x16\r\n\r\n") -> Answer:
    """Send what is no HTTP (by default a TLS alert), then close; nothing is stored."""

    async def give(exchange: Exchange) -> None:
        await exchange.send(data)
        await exchange.close()

    return Answer("garbage()", give)


def compressed_bomb(size: int = 64 << 20) -> Answer:
    """Store, and answer 200 with a small gzip body that unpacks to `size` bytes of JSON."""
    _check_count("size", size)
    reply = Reply(200, _bomb(size), {**JSON_TYPE, "content-encoding": "gzip"})

    async def give(exchange: Exchange) -> None:
        exchange.carry_out()
        await exchange.reply(reply)

    return Answer("compressed_bomb()", give)


# -- time


def delay(seconds: Seconds, then: Answer | None = None) -> Answer:
    """Wait, then do as `then` says, by default behave; the client may have given up by then."""
    draw, last = _draw("seconds", seconds), then or ok()

    async def give(exchange: Exchange) -> None:
        await exchange.wait(draw())
        await last.give(exchange)

    return Answer(f"delay({_shown(seconds)}, {last})", give)


def hang() -> Answer:
    """Take the request, store nothing, and never say a word."""
    return Answer("hang()", Exchange.until_gone)


def hang_after_headers() -> Answer:
    """Store, send the head of an answer, and never its body."""

    async def give(exchange: Exchange) -> None:
        reply = exchange.carry_out()
        await exchange.send_head(reply, length=len(reply.body) + 1)
        await exchange.until_gone()

    return Answer("hang_after_headers()", give)


def trickle(every_s: Seconds = 0.02, *, ends: bool = False) -> Answer:
    """Store, and send the answer's body a byte at a time.

    Args:
        every_s: Between two bytes.
        ends: Whether the body ever ends; if not, spaces follow for as long as the client stays.
    """
    draw = _draw("every_s", every_s)

    async def give(exchange: Exchange) -> None:
        reply = exchange.carry_out()
        await exchange.send_head(reply, length=len(reply.body) if ends else None)
        for position in range(len(reply.body)):
            await exchange.wait(draw())
            byte = reply.body[position : position + 1]
            await (exchange.send(byte) if ends else exchange.send_chunk(byte))
        while not ends:
            await exchange.wait(draw())
            await exchange.send_chunk(b" ")

    return Answer(f"trickle({_shown(every_s)}, ends={ends})", give)


def endless() -> Answer:
    """Store, and send a body without end as fast as the client takes it."""

    async def give(exchange: Exchange) -> None:
        await exchange.send_head(exchange.carry_out())
        while True:
            await exchange.send_chunk(CHUNK)

    return Answer("endless()", give)


# -- connections


def down(seconds: float | None = None) -> Answer:
    """Be away: every connection is closed, new ones are refused; the same port opens again later.

    In a sequence it needs no request: it begins when its turn comes, and at once where it is first.

    Args:
        seconds: How long; None, or as the last answer of a sequence: until the script is changed.
    """
    if seconds is not None:
        _check_seconds("seconds", seconds)

    async def give(exchange: Exchange) -> None:
        exchange.go_down(seconds)

    return Down(f"down({'' if seconds is None else seconds})", give, seconds)


def lose_reply() -> Answer:
    """Store, then close the connection without an answer."""

    async def give(exchange: Exchange) -> None:
        exchange.carry_out()
        await exchange.close()

    return Answer("lose_reply()", give)


def reset_after_body(*, stores: bool = False) -> Answer:
    """Read the whole request, then cut the connection with a RST instead of an answer."""

    async def give(exchange: Exchange) -> None:
        if stores:
            exchange.carry_out()
        exchange.reset()

    return Answer("reset_after_body()", give)


def half_reply() -> Answer:
    """Store, promise an answer of some length, send half of it, close."""

    async def give(exchange: Exchange) -> None:
        reply = exchange.carry_out()
        await exchange.send_head(reply, length=len(reply.body))
        await exchange.send(reply.body[: len(reply.body) // 2])
        await exchange.close()

    return Answer("half_reply()", give)


def close_idle_connections(after_s: Seconds = 0.0) -> Answer:
    """Behave, and close the connection once it has idled so long; 0 closes it with the answer.

    Nothing in the answer says so: the client believes that it may use the connection again.
    """
    draw = _draw("after_s", after_s)

    async def give(exchange: Exchange) -> None:
        exchange.idle_s = draw()
        await exchange.reply(exchange.carry_out())

    return Answer(f"close_idle_connections({_shown(after_s)})", give)


def stale_connection() -> Answer:
    """Behave, and cut the connection under the next request on it, which is not stored.

    What happens now and then where a request and the closing of an idle connection cross; here
    each time. The request that is cut is not among the server's, nor does it take an answer.
    """

    async def give(exchange: Exchange) -> None:
        await exchange.reply(exchange.carry_out())
        await exchange.close_on_next()

    return Answer("stale_connection()", give)


# -- scripts and times


def capacity(
    places: int,
    *,
    service_s: Seconds = 0.15,
    queue: int = 100,
    retry_after: float | None = None,
) -> Callable[[Request], Answer]:
    """Return a script: a backend that serves so many at once; others wait in order, or get 429.

    Args:
        places: Requests in service at once.
        service_s: How long one takes, its wait aside.
        queue: How many may wait.
        retry_after: Seconds, told to those that may not.
    """
    _check_count("places", places, least=1)
    _check_count("queue", queue)
    draw = _draw("service_s", service_s)
    free_at_s = [-math.inf] * places  # A heap: when each place is free again.
    begins_s: deque[float] = deque()  # Of those that wait, in order.

    def script(request: Request) -> Answer:
        now_s = request.received_s
        while begins_s and begins_s[0] <= now_s:
            begins_s.popleft()
        if free_at_s[0] > now_s and len(begins_s) >= queue:
            return status(429, retry_after=retry_after)
        begin_s = max(now_s, free_at_s[0])
        if begin_s > now_s:
            begins_s.append(begin_s)
        end_s = begin_s + draw()
        heapq.heapreplace(free_at_s, end_s)
        return delay(end_s - now_s)

    return script


def lognormal(*, median_s: float, p95_s: float, seed: int = 0) -> Callable[[], float]:
    """Return a function that returns a latency: log-normal, the same sequence for the same seed."""
    _check_seconds("median_s", median_s)
    _check_seconds("p95_s", p95_s)
    if not 0 < median_s <= p95_s:
        raise SettingsError(f"p95_s must be >= median_s ({median_s:g}) > 0, got {p95_s:g}")
    numbers = random.Random(seed)
    sigma = math.log(p95_s / median_s) / NormalDist().inv_cdf(0.95)

    def draw() -> float:
        return numbers.lognormvariate(math.log(median_s), sigma)

    draw.__name__ = f"lognormal(median_s={median_s:g}, p95_s={p95_s:g}, seed={seed})"
    return draw


@functools.cache
def _bomb(size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    packed = [packer.compress(b'{"items":[]}')]
    for begin in range(len(b'{"items":[]}'), size, len(CHUNK)):
        packed.append(packer.compress(CHUNK[: size - begin]))
    return b"".join([*packed, packer.flush()])


def _draw(name: str, seconds: Seconds) -> Callable[[], float]:
    if callable(seconds):
        return seconds
    _check_seconds(name, seconds)
    fixed_s = float(seconds)
    return lambda: fixed_s


def _shown(seconds: Seconds) -> str:
    # A function's repr holds an address: no two workers of pytest-xdist agree on it.
    return getattr(seconds, "__name__", "a function") if callable(seconds) else f"{seconds:g}"


def _check_seconds(name: str, value: object) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and 0 <= value < math.inf):  # type: ignore[operator]
        raise SettingsError(f"{name} must be seconds, at least 0, got {value!r}")


def _check_count(name: str, value: object, *, least: int = 0) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SettingsError(f"{name} must be a whole number of at least {least}, got {value!r}")
