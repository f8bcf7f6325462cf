"""The live feed over real sockets: F1 to F4 of `server.feed`."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx2
import pytest

from everyspan.clock import SYSTEM_CLOCK
from everyspan.model.ids import new_id
from everyspan.model.w3c import trace_hex
from everyspan.server.keys import make_key
from everyspan.server.stores.sqlite import SqliteStore
from tests.cli.spans import make_span, make_trace
from tests.serving import ServerProcess
from tests.waiting import wait_until

PRELUDE = """
from everyspan.model import completeness
from everyspan.server import feed, protocol
feed.VIEWERS_MAX = 8
feed.HEARTBEAT_S = 0.2
feed.POLL_S = 0.1
protocol.WRITE_TIME_MAX_S = 1.0
completeness.LATE_S_MAX = 0.4

import socket
made = protocol.BoundedHttpProtocol.connection_made

def connection_made(self, transport):
    # The system would buffer megabytes for a reader that is stuck.
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    made(self, transport)

protocol.BoundedHttpProtocol.connection_made = connection_made
"""

Json = dict[str, Any]


class Event(NamedTuple):
    """One event; `id` is the number of the last one that had any, as a browser keeps it."""

    kind: str
    data: Json
    id: str


class Viewer:
    """One stream, read line by line."""

    def __init__(self, http: httpx2.Client, **params: str) -> None:
        last = params.pop("last", None)
        headers = {} if last is None else {"last-event-id": last}
        self._manager = http.stream("GET", "/api/events", params=params, headers=headers)
        self.reply = self._manager.__enter__()
        self._lines = self.reply.iter_lines()
        self.comments = 0

    def __iter__(self) -> Iterator[Event]:
        kind, data, number = "", "", ""
        for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                data = value
            elif name == "id":
                number = value
            elif name == ":":
                self.comments += 1
            elif not line and data:
                yield Event(kind, json.loads(data), number)
                data = ""

    def close(self) -> None:
        self._manager.__exit__(None, None, None)


@contextmanager
def watching(http: httpx2.Client, **params: str) -> Iterator[Iterator[Event]]:
    """Open a stream; yield its events after the first, which says that it is open."""
    viewer = Viewer(http, **params)
    try:
        events = iter(viewer)
        assert next(events).kind == "open"
        yield events
    finally:
        viewer.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("feed") / "spans.db", prelude=PRELUDE)
    yield process
    process.stop()


@pytest.fixture
def http(server: ServerProcess) -> Iterator[httpx2.Client]:
    with client(server.base_url) as http:
        yield http


def client(base_url: str, account: str | None = None) -> httpx2.Client:
    headers = {"x-selected-account-id": account or new_id()}
    return httpx2.Client(base_url=base_url, headers=headers, timeout=20)


def put(http: httpx2.Client, *spans: Json) -> None:
    reply = http.put("/v5/spans/batch", json={"items": spans})
    assert reply.status_code == 200, reply.text


def named(events: Iterator[Event], trace_id: str) -> Json:
    """Return what the next event that tells of a trace says of it."""
    for event in events:
        for trace in event.data["items"]:
            if trace["trace_id"] == trace_id:
                found: Json = trace
                return found
    raise AssertionError("the stream ended")


def spans_of(event: Event) -> dict[str, str | None]:
    """Return the spans that an event tells of, and how long each took."""
    table = event.data["spans"]["spans"]
    return dict(zip(table["id"], table["duration"], strict=True))


def test_a_change_is_told_with_its_number(http: httpx2.Client) -> None:
    """F1, F2: summaries only."""
    with watching(http) as events:
        put(http, *make_trace("t"))
        event = next(events)
    assert event.kind == "traces"
    (trace,) = event.data["items"]
    assert (trace["trace_id"], trace["id"], trace["spans"]) == ("t", trace_hex("t"), 5)
    assert event.id == trace["change"]
    assert "metadata" not in json.dumps(trace)


def test_nobody_sees_another_accounts_traces(http: httpx2.Client, server: ServerProcess) -> None:
    """Accounts are apart on the feed too."""
    with client(server.base_url) as other, watching(http) as events:
        put(other, *make_trace("theirs"))
        put(http, *make_trace("mine"))
        (trace,) = next(events).data["items"]
        assert trace["trace_id"] == "mine"


def test_a_stream_that_breaks_again_and_again_misses_nothing_and_repeats_nothing(
    http: httpx2.Client,
) -> None:
    """F1: under concurrent ingest, wherever it breaks; numbers only grow."""
    traces = 120
    viewer = Viewer(http)
    opening = next(iter(viewer))
    viewer.close()

    def ingest() -> None:
        with client(str(http.base_url), http.headers["x-selected-account-id"]) as writer:
            for n in range(traces):
                put(writer, make_span(f"s{n}", trace_id=f"t{n}"))

    thread = threading.Thread(target=ingest)
    thread.start()
    told: list[tuple[str, int]] = []
    last, changes = opening.id, [int(opening.id)]
    while len({trace for trace, _ in told}) < traces:
        viewer = Viewer(http, last=last)
        for number, event in enumerate(viewer):
            if event.kind == "open":
                assert event.data["is_lost"] is False
                continue
            told += [(trace["trace_id"], trace["change"]) for trace in event.data["items"]]
            changes.append(int(event.id))
            last = event.id
            if number == 2 or len({trace for trace, _ in told}) == traces:
                break
        viewer.close()
    thread.join()
    assert len(told) == len(set(told))
    assert changes == sorted(set(changes))


def test_a_stream_that_begins_late_is_told_all_since(http: httpx2.Client) -> None:
    """F1: from any number, of which the store alone knows; each trace once, as it is now."""
    with watching(http) as events:
        put(http, make_span("a", trace_id="first"))
        number = next(events).id
    for n in range(3):
        put(http, make_span(f"s{n}", trace_id="grows"))
    with watching(http, after=number) as events:
        trace = named(events, "grows")
        while trace["spans"] < 3:
            trace = named(events, "grows")


def test_a_number_that_is_not_of_this_store_is_told(http: httpx2.Client) -> None:
    """F1: a viewer has to load anew, and goes on from now."""
    viewer = Viewer(http, after=str(10**15))
    event = next(iter(viewer))
    viewer.close()
    assert event.data["is_lost"] is True
    assert int(event.data["change"]) < 10**15


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "9" * 30, "²"])
def test_what_is_no_number_is_refused(http: httpx2.Client, after: str) -> None:
    reply = http.get("/api/events", params={"after": after})
    assert reply.status_code == 422
    assert reply.json()["detail"][0]["loc"] == ["query", "after"]


def test_the_spans_of_one_trace_are_told_as_they_change(http: httpx2.Client) -> None:
    """F1: a trace's page gets the changed spans without payloads, and the trace's summary."""
    put(http, make_span("root", trace_id="t", took_s=None), make_span("other", trace_id="u"))
    with watching(http, trace=trace_hex("t"), after="0") as events:
        seen: dict[str, str | None] = {}
        summary: Json | None = None
        while "root" not in seen or summary is None:
            event = next(events)
            seen |= spans_of(event)
            summary = event.data["trace"] or summary
        number = event.id
        put(http, make_span("child", "root", trace_id="t", input={"secret": 1}))
        while "child" not in seen:
            event = next(events)
            assert "root" not in spans_of(event)
            seen |= spans_of(event)
        assert int(event.id) > int(number)
        assert "other" not in seen
        assert "secret" not in json.dumps(seen)
    put(http, make_span("root", trace_id="t"))
    with watching(http, trace="t", after=event.id) as events:
        assert spans_of(next(events))["root"] is not None


def test_a_trace_of_many_spans_is_told_in_pieces(http: httpx2.Client) -> None:
    """P4: each span once; only the last piece has the number."""
    for first in range(0, 2500, 500):
        put(http, *[make_span(f"s{n}", trace_id="t") for n in range(first, first + 500)])
    seen: list[str] = []
    with watching(http, trace="t", after="0") as events:
        while len(seen) < 2500:
            event = next(events)
            assert len(spans_of(event)) <= 1000
            seen += spans_of(event)
    assert len(set(seen)) == 2500


def test_a_verdict_that_time_alone_changes_is_told(http: httpx2.Client) -> None:
    """P11: late becomes unaccounted while nobody writes."""
    with watching(http) as events:
        put(http, *make_trace("t", began_s=time.time(), gone=(2,)))
        states = [named(events, "t")["completeness"]["state"]]
        while states[-1] != "unaccounted":
            states.append(named(events, "t")["completeness"]["state"])
    assert states[0] == "late"


def test_another_process_over_the_same_store_is_heard(
    http: httpx2.Client, server: ServerProcess
) -> None:
    """F1: whichever process took it."""
    second = ServerProcess(server.store_path, prelude=PRELUDE)
    account = http.headers["x-selected-account-id"]
    with client(second.base_url, account) as other, watching(http) as events:
        put(other, *make_trace("t"))
        assert named(events, "t")["spans"] == 5
    second.stop()


def test_seven_viewers_are_all_told(http: httpx2.Client) -> None:
    """Acceptance 25: seven tabs."""
    viewers = [Viewer(http) for _ in range(7)]
    streams = [iter(viewer) for viewer in viewers]
    assert [next(events).kind for events in streams] == ["open"] * 7
    put(http, *make_trace("t"))
    assert [named(events, "t")["trace_id"] for events in streams] == ["t"] * 7
    for viewer in viewers:
        viewer.close()


def test_beyond_so_many_viewers_is_503_until_one_leaves(http: httpx2.Client) -> None:
    """F3, P4."""
    viewers = [Viewer(http) for _ in range(8)]
    reply = http.get("/api/events")
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
    viewers.pop().close()

    def has_room() -> bool:
        viewer = Viewer(http)
        viewer.close()
        return viewer.reply.status_code == 200

    wait_until(has_room)
    for viewer in viewers:
        viewer.close()


def test_a_quiet_stream_beats(http: httpx2.Client) -> None:
    """A proxy may close what is silent, and a viewer wants to know that the server lives."""
    viewer = Viewer(http)
    events = iter(viewer)
    assert next(events).kind == "open"
    timer = threading.Timer(0.7, lambda: put(http, make_span("s")))
    timer.start()
    next(events)
    assert viewer.comments >= 1
    viewer.close()
    timer.join()


def test_a_stuck_reader_is_cut_off_and_costs_only_itself(
    http: httpx2.Client, server: ServerProcess
) -> None:
    """F3: another viewer is told everything meanwhile."""
    address = urlsplit(server.base_url)
    account = http.headers["x-selected-account-id"]
    stuck = socket.socket()
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stuck.connect((address.hostname, address.port))
    stuck.sendall(
        f"GET /api/events?after=0 HTTP/1.1\r\nhost: {address.netloc}\r\n"
        f"x-selected-account-id: {account}\r\n\r\n".encode()
    )
    names = ["x" * 200 + str(n) for n in range(400)]
    with watching(http) as events:
        for first in range(0, 400, 100):
            some = names[first : first + 100]
            put(http, *[make_span(f"{n}", trace_id=n, name=n, input={"x": n}) for n in some])
        told: set[str] = set()
        while not told.issuperset(names):
            told |= {trace["trace_id"] for trace in next(events).data["items"]}
        wait_until(lambda: _is_cut(stuck))
        put(http, make_span("after"))
        assert named(events, "t1")["spans"] == 1
    stuck.close()


def _is_cut(stuck: socket.socket) -> bool:
    """Tell whether the server has let go of a connection, without reading from it."""
    port = stuck.getsockname()[1]
    ends = Path("/proc/net/tcp").read_text().splitlines()[1:]
    mine = f"0100007F:{port:04X}"
    # The server's end of it: the remote address is ours, the state is ESTABLISHED.
    return not any(line.split()[2] == mine and line.split()[3] == "01" for line in ends)


def test_a_stop_ends_every_stream_at_once(tmp_path: Path) -> None:
    """F4: in order, and whoever comes back goes on by number."""
    store = tmp_path / "spans.db"
    server = ServerProcess(
        store, prelude="from everyspan.server import run as r; r.STOP_TIME_MAX_S = 3600"
    )
    with client(server.base_url, "a") as http:
        viewers = [Viewer(http), Viewer(http, trace="t")]
        streams = [iter(viewer) for viewer in viewers]
        put(http, *make_trace("t"))
        assert [next(events).kind for events in streams] == ["open", "open"]
        last = next(streams[0]).id
        server.stop()
        for events in streams:
            list(events)  # Ends, without an error.
        for viewer in viewers:
            viewer.close()
    again = ServerProcess(store, prelude=PRELUDE)
    with client(again.base_url, "a") as http:
        put(http, *make_trace("t2"))
        with watching(http, last=last) as events:
            assert named(events, "t2")["spans"] == 5
    again.stop()


async def test_a_stream_ends_with_the_key_that_opened_it(tmp_path: Path) -> None:
    """F5: who may not ask any more is not told either, and nobody without a key once keys are."""
    path = tmp_path / "spans.db"
    server = ServerProcess(path, prelude=PRELUDE)
    # Of its own, as the command line has it.
    store = SqliteStore(path)
    try:
        with client(server.base_url, "a") as http, watching(http) as open_to_all:
            key, shown = make_key(
                name="n", accounts=["a"], scopes=["read"], now_ns=SYSTEM_CLOCK.time_ns()
            )
            await store.add_key(key)
            assert list(open_to_all) == []
            http.headers["x-api-key"] = shown
            with watching(http) as events:
                assert await store.revoke_key(key.id)
                assert list(events) == []
            assert http.get("/api/traces").status_code == 401
    finally:
        await store.close()
        server.stop()
