"""Sends batches of spans to a server, from a process of its own, at next to no cost.

`python -m benchmarks.span_sender` reads orders from stdin, a JSON line each, and answers each with
a line when all batches of the order were acknowledged. A body is encoded once and sent many times:
the number of the batch is in its ids, and only that is changed.
"""

from __future__ import annotations

import itertools
import random
import socket
import sys
import threading
import time
import uuid

import msgspec

from benchmarks.payloads import requests

SPANS_A_BATCH = 200
SPANS_A_TRACE = 10
_BODIES = 8
_MARK = "@@batch@@"
_ACCOUNT = "0c4b8a52-1f7e-4d0b-9a44-5d3c2e1f0a9b"


class Order(msgspec.Struct):
    """Send `batches` to the server on `port`, over so many connections at once."""

    port: int
    batches: int
    connections: int = 4


class Done(msgspec.Struct):
    """How long it took, and how many bytes of spans there were."""

    wall_s: float
    bytes: int


def bodies() -> list[bytes]:
    """Return bodies of 200 spans of 4 KB, as an everyspan agent sends them, with marks for ids."""
    calls = [call for request in requests("chat", 400) for call in request]
    rng = random.Random(11)
    made = []
    trace_id = root_id = part_id = ""
    for body in range(_BODIES):
        items = []
        for n in range(SPANS_A_BATCH):
            call = calls[(body * SPANS_A_BATCH + n) % len(calls)]
            position = n % SPANS_A_TRACE
            if position == 0:
                trace_id, root_id, part_id = _id(rng), _id(rng), _id(rng)
            item = {
                "id": _id(rng) if position else root_id,
                "trace_id": trace_id,
                "name": call.name,
                # Later in later batches: time goes on.
                "start_timestamp": f"2026-01-02T03:04:05.{_MARK}Z",
                "end_timestamp": f"2026-01-02T03:04:06.{_MARK}Z",
                "type": "COMPLETION",
                "status": "SUCCESS",
                "input": call.input,
                "output": call.output,
                "metadata": {
                    "__source__": "everyspan",
                    "__agent_name__": "bench",
                    "__everyspan__": {"p": part_id, "n": position + 1, "rev": 1},
                },
            }
            if position:
                item["parent_id"] = root_id
            items.append(item)
        made.append(msgspec.json.encode({"items": items}))
    return made


def numbered(body: bytes, batch: int) -> bytes:
    """Return the body of one batch, its ids unlike those of any other."""
    return body.replace(_MARK.encode(), b"%08d" % batch)


def _id(rng: random.Random) -> str:
    # The mark at the end: ids of one batch lie apart in an index, as those of real agents do.
    return f"{uuid.UUID(int=rng.getrandbits(128), version=4)}"[:-8] + _MARK


def _request(body: bytes) -> bytes:
    return (
        b"PUT /v5/spans/batch HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        b"x-api-key: any\r\nx-selected-account-id: %b\r\nprefer: return=minimal\r\n"
        b"content-length: %d\r\n\r\n%b" % (_ACCOUNT.encode(), len(body), body)
    )


def _send_all(
    port: int, numbers: itertools.count[int], until: int, made: list[bytes], acknowledged: list[int]
) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        replies = connection.makefile("rb")
        while (number := next(numbers)) < until:
            connection.sendall(_request(numbered(made[number % len(made)], number)))
            status = replies.readline()
            length = 0
            while (line := replies.readline()) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            text = replies.read(length)
            if b" 200 " not in status:
                raise RuntimeError(f"the server answered {status!r}: {text[:500]!r}")
            acknowledged.append(number)


def main() -> None:
    made = bodies()
    next_batch = 1
    for line in sys.stdin.buffer:
        order = msgspec.json.decode(line, type=Order)
        numbers = itertools.count(next_batch)
        next_batch += order.batches
        acknowledged: list[int] = []
        arguments = (order.port, numbers, next_batch, made, acknowledged)
        threads = [
            threading.Thread(target=_send_all, args=arguments) for _ in range(order.connections)
        ]
        began_s = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(acknowledged) != order.batches:
            sys.exit(1)  # A thread has said why.
        done = Done(
            wall_s=time.perf_counter() - began_s,
            bytes=order.batches * sum(map(len, made)) // len(made),
        )
        print(msgspec.json.encode(done).decode(), flush=True)


if __name__ == "__main__":
    main()
