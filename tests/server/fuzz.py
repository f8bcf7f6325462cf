"""Garbage for every decoder of the server: none raises anything but a refusal, nor takes for ever.

    python -m tests.server.fuzz --minutes 10

runs for that long, the targets in turn, each round with another seed, which it prints with what it
finds. `test_fuzz.py` runs a few examples of each in the suite.

What is sent begins as something valid and is spoiled: bytes are changed, cut out, repeated and
replaced by what has broken parsers before; values of JSON are replaced by others; attributes of
OTLP get the keys that the mapping knows with values that it does not expect.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from everyspan.errors import RequestError
from everyspan.server import (
    agentex_reply,
    agentex_spans,
    otlp_json,
    otlp_protobuf,
    sgp_assessments,
    sgp_reply,
    sgp_search,
    sgp_spans,
)
from everyspan.server import otlp_tables as tables
from everyspan.server.otlp_mapping import Mapper
from everyspan.server.otlp_span import OtlpSpan
from everyspan.server.paging import Int64, parse_cursor
from everyspan.server.redaction import redact_row
from everyspan.server.row import SpanRow
from tests.server.otlp_requests import (
    NOW_NS,
    PARENT,
    TRACE,
    make_event,
    make_request,
    make_span,
    pairs,
    to_json,
    to_protobuf,
)
from tests.server.rows import END, START, make_item

CPU_S_MAX = 5.0
"""An input of a few kilobytes that takes longer has found something; usual are milliseconds."""

# What is sent ----------------------------------------------------------------------------------

_PAYLOAD = {
    "messages": [{"role": "user", "content": "hi"}],
    "usage": {"input_tokens": 1, "output_tokens": 2},
    "__error__": {"type": "E", "message": "m"},
    "__everyspan__": {"p": "x", "n": 1, "rev": 2},
    "__task_id__": "task",
}
_ITEM = make_item(
    id="s",
    parent_id="p",
    input=_PAYLOAD,
    output=_PAYLOAD,
    metadata=_PAYLOAD,
    group_id="g",
    status="ERROR",
    type="COMPLETION",
    obs_trace_id="0" * 31 + "1",
    obs_span_id="0" * 15 + "1",
)
_AGENTEX = {
    "id": "s",
    "trace_id": "t",
    "parent_id": "p",
    "task_id": "k",
    "name": "n",
    "start_time": START,
    "end_time": END,
    "input": [_PAYLOAD],
    "output": _PAYLOAD,
    "data": {**_PAYLOAD, "__span_type__": "COMPLETION"},
}
_ASSESSMENT = {
    "assessment_type": "comment",
    "trace_id": "t",
    "span_id": "s",
    "comment": "fine",
    "rating": 1,
    "metadata": _PAYLOAD,
    "rubric": {"a": "b"},
}
_SEARCH = {
    "trace_ids": ["t"],
    "names": ["n"],
    "statuses": ["ERROR"],
    "spans": [{"trace_id": "t", "span_id": "s"}],
    "metadata": {"a": [1, {"b": None}]},
    "search_texts": ['"two words" -not name:x'],
    "min_duration_ms": 1,
    "obs_trace_ids": ["0" * 31 + "1"],
}
_OTLP = make_request(
    make_span(
        {
            "openinference.span.kind": "LLM",
            "llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.tool_calls.0.tool_call.id": "c",
            "input.value": '{"a": [1, {"b": "c"}]}',
            "input.mime_type": "application/json",
            "gen_ai.output.messages": json.dumps(_PAYLOAD["messages"]),
            "gen_ai.usage.input_tokens": 3,
            "logfire.json_schema": '{"type": "object", "properties": {"a": {"type": "array"}}}',
            "bytes": b"\xff",
            "list": [1, 2.5, None, {"a": True}],
        },
        parentSpanId=PARENT,
        kind=3,
        status={"code": 2, "message": "m"},
        events=[make_event("exception", {"exception.type": "E", "exception.message": "m"})],
        links=[{"traceId": TRACE, "spanId": PARENT, "attributes": pairs({"l": 1})}],
    ),
    make_span({"gen_ai.operation.name": "chat"}, spanId="1" * 16),
    resource={"service.name": "svc"},
    scope={"name": "lib", "version": "1"},
)


def _bytes(value: object) -> bytes:
    return json.dumps(value).encode()


# How it is spoiled -----------------------------------------------------------------------------

_TOKENS = [
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    b"\\u0000",
    b"\\ud800",
    b"\\udc00\\ud800",
    b"\xef\xb7\x90",
    b"null",
    b"{}",
    b"[]",
    b'""',
    b'"',
    b"\\",
    b"NaN",
    b"-0",
    b"1e999",
    b"1" * 5_000,
    b"0.1e-400",
    b"[" * 300,
    b'{"a":' * 300,
    b"[" * 5_000 + b"]" * 5_000,
    b"\x0a\xff\xff\xff\xff\x0f",
    b"\x80" * 11,
    b"\x4a\x00" * 2_000,
    b"0000-00-00T00:00:00Z",
    b"9999-12-31T23:59:59.999999999Z",
    b"x" * 5_000,
]


class _Spoiling(NamedTuple):
    """One change of a body, at parts of its length from 0 to 1."""

    kind: str
    at: float
    to: float
    token: bytes

    def apply(self, body: bytes) -> bytes:
        start, end = sorted((int(self.at * len(body)), int(self.to * len(body))))
        if self.kind == "insert":
            return body[:start] + self.token + body[start:]
        if self.kind == "replace":
            return body[:start] + self.token + body[end:]
        if self.kind == "repeat":
            return body[:end] + body[start:end] * 3 + body[end:]
        if self.kind == "swap":
            return body[end:] + body[start:end] + body[:start]
        assert self.kind == "cut"
        return body[:start] + body[end:]


_places = st.floats(0, 1, exclude_max=True)
_spoilings = st.builds(
    _Spoiling,
    st.sampled_from(["insert", "replace", "repeat", "swap", "cut"]),
    _places,
    _places,
    st.one_of(st.sampled_from(_TOKENS), st.binary(min_size=1, max_size=4)),
)

_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["a\0b", "\ud800", "9" * 30, START, "", "{", '{"a":1}', "[" * 300, "1e999"]),
)
_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def _spoiled_bytes(valid: bytes) -> st.SearchStrategy[bytes]:
    def spoil(spoilings: list[_Spoiling]) -> bytes:
        body = valid
        for spoiling in spoilings:
            body = spoiling.apply(body)[:200_000]
        return body

    return st.lists(_spoilings, max_size=4).map(spoil)


def _spoiled_json(valid: object) -> st.SearchStrategy[bytes]:
    places = list(_places_of(valid))

    def spoil(changes: list[tuple[tuple[Any, ...], object]]) -> bytes:
        document = json.loads(json.dumps(valid))
        for place, value in changes:
            document = _with(document, place, value)
        # A lone surrogate becomes an escape, NaN a name: what some senders do send.
        return json.dumps(document).encode()

    change = st.tuples(st.sampled_from(places), _values)
    return st.lists(change, max_size=4).map(spoil)


def _places_of(node: object, place: tuple[Any, ...] = ()) -> Any:
    yield place
    items: Any = ()
    if isinstance(node, dict):
        items = node.items()
    elif isinstance(node, list):
        items = enumerate(node)
    for key, inner in items:
        yield from _places_of(inner, (*place, key))


def _with(node: Any, place: tuple[Any, ...], value: object) -> Any:
    if not place:
        return value
    key, *rest = place
    if isinstance(node, dict):
        return node | {key: _with(node.get(key), tuple(rest), value)}
    if isinstance(node, list) and isinstance(key, int) and key < len(node):
        return [*node[:key], _with(node[key], tuple(rest), value), *node[key + 1 :]]
    return node


def _known_keys() -> list[str]:
    keys = {
        *tables.INPUT_LLM,
        *tables.OUTPUT_LLM,
        *tables.MODEL,
        *tables.GROUP_ID,
        *tables.TASK_ID,
        *tables.USER_ID,
        *tables.TOOL_NAME,
        *tables.TOOL_ID,
        *tables.TAGS,
        *tables.METADATA_KEYS,
        *tables.MIME_TYPES.values(),
        *tables.EVERYSPAN_IDS,
        *(key for key, _ in tables.TYPE_KEYS),
        *(key.partition(" > ")[0] for keys in tables.USAGE.values() for key in keys),
        *(key.partition(" > ")[0] for key in tables.COST_USD),
        *(prefix + "x" for prefix in (*tables.METADATA_PREFIXES, tables.EVERYSPAN_DATA)),
    }
    keys |= {tables.SCHEMA_KEY, tables.EVENTS_KEY, tables.SYSTEM_KEY, tables.TOOLS_KEY}
    keys |= {tables.SPAN_KIND_KEY, tables.PENDING_PARENT_KEY, tables.MESSAGE_KEY, "error.type"}
    keys |= {"everyspan.data.__everyspan__", "everyspan.data.usage", tables.EVERYSPAN_STATUS}
    return sorted(keys)


_words = sorted({word for _, words in tables.TYPE_KEYS for word in words} | {tables.PENDING})
_events = [tables.DETAILS_EVENT, *tables.MESSAGE_EVENTS, tables.CHOICE_EVENT, "exception"]
_events += [tables.PROMPT_EVENT[0], tables.COMPLETION_EVENT[0]]
_sound = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_otlp_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.binary(max_size=4),
        _sound,
        st.sampled_from(_words),
        _spoiled_json(_PAYLOAD).map(lambda body: body.decode()),
        _spoiled_json([_PAYLOAD, {"event.name": "gen_ai.choice", "message": {}}]).map(bytes.decode),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(_sound, inner, max_size=3)
    ),
    max_leaves=5,
)
_otlp_keys = st.one_of(
    st.sampled_from(_known_keys()),
    st.builds(
        lambda key, n, rest: key.replace(".N.*", f".{n}.{rest}"),
        st.sampled_from([key for key in _known_keys() if key.endswith(".N.*")]),
        st.integers(0, 10**9),
        st.lists(st.sampled_from(["message", "tool_calls", "0", "7", "", "role"]), max_size=20).map(
            ".".join
        ),
    ),
    _sound,
)
_otlp_attributes = st.dictionaries(_otlp_keys, _otlp_values, max_size=6)
_times = st.one_of(st.just(0), st.integers(0, 2**64 - 1)).map(str)
_odd_requests = st.builds(
    lambda attributes, events, resource, fields: make_request(
        make_span(attributes, events=[make_event(*event) for event in events], **fields),
        resource=resource,
    ),
    _otlp_attributes,
    st.lists(st.tuples(st.sampled_from(_events), _otlp_attributes), max_size=3),
    st.dictionaries(_sound, _otlp_values, max_size=2),
    st.fixed_dictionaries(
        {"startTimeUnixNano": _times, "endTimeUnixNano": _times, "name": _sound},
        optional={
            "kind": st.integers(0, 9),
            "status": st.fixed_dictionaries({"code": st.integers(0, 3), "message": _sound}),
            "parentSpanId": st.just(PARENT),
        },
    ),
)

# What is asked of it ---------------------------------------------------------------------------


def _check_row(row: SpanRow) -> None:
    """Whatever was taken can be shown, on every surface, to the strictest reader."""
    for text in (row.id, row.trace_id, row.name, row.parent_id, row.group_id, row.task_id):
        if text is not None:
            text.encode()
            assert "\0" not in text
    assert 0 <= row.start_ns < 2**63
    assert row.end_ns is None or row.start_ns <= row.end_ns < 2**63
    row = redact_row(row)
    assert row.facts is not None
    for reply in (sgp_reply.encode_span(row), agentex_reply.encode_span(row)):
        _read_strictly(reply)
    for payload in (row.input, row.output, row.metadata):
        if payload is not None:
            _read_strictly(payload)


def _read_strictly(payload: bytes) -> None:
    text = payload.decode()
    value = json.loads(text, parse_constant=_no_constant)
    # Reading escapes, no surrogate is left alone; NUL is nowhere.
    json.dumps(value, ensure_ascii=False).encode()
    assert "\\u0000" not in text.replace("\\\\", "")


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def _sgp_batch(body: bytes) -> None:
    for row in sgp_spans.decode_batch(body, "a"):
        _check_row(row)


def _sgp_create(body: bytes) -> None:
    _check_row(sgp_spans.decode_create(body, "a"))


def _agentex_create(body: bytes) -> None:
    _check_row(agentex_spans.decode_create(body, "a"))


def _patch(body: bytes) -> None:
    for decode in (sgp_spans.decode_patch, agentex_spans.decode_patch):
        try:
            decode(body)
        except RequestError:
            pass


def _assessment(body: bytes) -> None:
    for decode in (sgp_assessments.decode_draft, sgp_assessments.decode_change):
        try:
            decode(body)
        except RequestError as error:
            _must_be_refusal(error)


def _cursor(text: str) -> None:
    parse_cursor(text, tuple[Int64, str, str])


def _search(body: bytes) -> None:
    sgp_search.decode_search(body, {}, "a")


def _must_be_refusal(error: RequestError) -> None:
    assert 400 <= error.status < 500, error


def _parameters(params: Mapping[str, str]) -> None:
    for decode in (
        lambda: sgp_search.decode_search(b"", params, "a"),
        lambda: agentex_spans.decode_list(params, "a"),
    ):
        try:
            decode()
        except RequestError as error:
            _must_be_refusal(error)


def _otlp_protobuf(body: bytes) -> None:
    mapper = Mapper("a", NOW_NS)
    for item in otlp_protobuf.read_spans(body):
        if isinstance(item, OtlpSpan):
            _check_row(mapper.to_row(item))


def _otlp_json(body: bytes) -> None:
    mapper = Mapper("a", NOW_NS)
    for item in otlp_json.read_spans(body):
        if isinstance(item, OtlpSpan):
            _check_row(mapper.to_row(item))


def _otlp_both(request: dict[str, Any]) -> None:
    """Valid requests with odd attributes: nothing is refused, both encodings make one row."""
    rows = []
    for items in (
        otlp_protobuf.read_spans(to_protobuf(request)),
        otlp_json.read_spans(to_json(request)),
    ):
        mapper = Mapper("a", NOW_NS)
        (span,) = [item for item in items if item is not None]
        assert isinstance(span, OtlpSpan), span
        rows.append(mapper.to_row(span))
        _check_row(rows[-1])
    assert rows[0] == rows[1]


class Target(NamedTuple):
    """A decoder, and what it is fed."""

    inputs: st.SearchStrategy[Any]
    feed: Callable[[Any], None]


def _both_ways(valid: object) -> st.SearchStrategy[bytes]:
    return st.one_of(_spoiled_bytes(_bytes(valid)), _spoiled_json(valid))


_names = ["limit", "sort_by", "sort_order", "from_ts", "to_ts", "starting_after", "ending_before"]
_names += ["page_number", "order_by", "order_direction", "trace_id", "task_id"]
TARGETS: dict[str, Target] = {
    "sgp batch": Target(_both_ways({"items": [_ITEM, make_item()]}), _sgp_batch),
    "sgp create": Target(_both_ways(_ITEM), _sgp_create),
    "agentex create": Target(_both_ways(_AGENTEX), _agentex_create),
    "patches": Target(_both_ways(_AGENTEX | _ITEM), _patch),
    "assessments": Target(_both_ways(_ASSESSMENT), _assessment),
    "cursors": Target(
        st.one_of(
            st.text(max_size=20),
            _both_ways([1, "t", "s"]).map(lambda body: base64.urlsafe_b64encode(body).decode()),
        ),
        _cursor,
    ),
    "searches": Target(_both_ways(_SEARCH), _search),
    "parameters": Target(
        st.dictionaries(
            st.sampled_from(_names),
            st.one_of(st.text(max_size=12), st.sampled_from([START, "9" * 5_000, "desc", "-1"])),
        ),
        _parameters,
    ),
    "otlp protobuf": Target(_spoiled_bytes(to_protobuf(_OTLP)), _otlp_protobuf),
    "otlp json": Target(_both_ways(_OTLP), _otlp_json),
    "otlp attributes": Target(_odd_requests, _otlp_both),
}


def fuzz(name: str, *, examples: int, number: int) -> float:
    """Feed a target that many inputs; return the most CPU seconds that one took.

    Raises:
        Exception: What the decoder raised, or AssertionError; hypothesis shows the smallest input.
    """
    target = TARGETS[name]
    slowest = 0.0

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def run(sent: Any) -> None:
        nonlocal slowest
        began_s = time.process_time()
        try:
            target.feed(sent)
        except RequestError as error:
            _must_be_refusal(error)
        took_s = time.process_time() - began_s
        slowest = max(slowest, took_s)
        assert took_s < CPU_S_MAX

    run()
    return slowest


def main() -> None:
    """Fuzz until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--target", choices=TARGETS, action="append")
    given_ = parser.parse_args()
    names = given_.target or list(TARGETS)
    end_s = time.monotonic() + 60 * given_.minutes
    counts = dict.fromkeys(names, 0)
    slowest = dict.fromkeys(names, 0.0)
    found = []
    while time.monotonic() < end_s:
        for name in names:
            number = random.randrange(2**32)
            try:
                slowest[name] = max(slowest[name], fuzz(name, examples=500, number=number))
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                print(f"{name}, seed {number}: {type(error).__name__}: {error}", file=sys.stderr)
                found.append(name)
            counts[name] += 500
    for name in names:
        print(f"{name}: {counts[name]} inputs, the slowest took {slowest[name] * 1e3:.1f} ms")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
