"""W3C trace context against the rules of `otlp` §4-5 and OpenTelemetry's own propagator."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from everyspan.model.w3c import (
    HEADER_BYTES_MAX,
    STATE_MEMBERS_MAX,
    Headers,
    RemoteParent,
    format_headers,
    parse_headers,
    span_hex,
    trace_hex,
)

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
VALID = f"00-{TRACE}-{SPAN}-01"

propagator = TraceContextTextMapPropagator()


def theirs(headers: dict[str, str]) -> tuple[str, str, str, str] | None:
    """What OpenTelemetry reads."""
    context = trace.get_current_span(propagator.extract(headers)).get_span_context()
    if not context.is_valid:
        return None
    return (
        trace.format_trace_id(context.trace_id),
        trace.format_span_id(context.span_id),
        f"{context.trace_flags:02x}",
        context.trace_state.to_header(),
    )


def ours(headers: Headers | list[tuple[Any, Any]]) -> tuple[str, str, str, str] | None:
    """What everyspan reads."""
    parent = parse_headers(headers)
    if parent is None:
        return None
    return (parent.trace_id, parent.id, parent.flags, parent.tracestate)


# -- traceparent


@pytest.mark.parametrize(
    ("header", "valid"),
    [
        (VALID, True),
        (f"00-{TRACE}-{SPAN}-00", True),
        (f"  {VALID}\t", True),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-holds", True),
        (f"fe-{TRACE}-{SPAN}-01-", True),
        (VALID.upper(), False),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"ff-{TRACE}-{SPAN}-01-more", False),
        (f"{VALID}-", False),
        (f"{VALID}-more", False),
        (f"{VALID}.", False),
        (f"01-{TRACE}-{SPAN}-01.what", False),
        (f"01-{TRACE}-{SPAN}-0123", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE[:-1]}-{SPAN}-01", False),
        (f"00-{TRACE}0-{SPAN}-01", False),
        (f"00-{TRACE}-{SPAN[:-1]}-01", False),
        (f"00-{TRACE}-{SPAN}-1", False),
        (f"00-{TRACE}-{SPAN}-zz", False),
        (f"0-{TRACE}-{SPAN}-01", False),
        (f"00-{TRACE}-{SPAN}", False),
        (f"00-{TRACE[:-1]}g-{SPAN}-01", False),
        (f"00 {TRACE} {SPAN} 01", False),
        (f"00-{TRACE}-{SPAN}-01\n", False),
        (f"00-{TRACE}-{SPAN[:-1]}１-01", False),
        ("", False),
        ("-" * 55, False),
    ],
)
def test_which_traceparents_are_valid(header: str, valid: bool) -> None:
    """otlp:W1, W2."""
    found = parse_headers({"traceparent": header})
    assert (found is not None) is valid
    if found is not None:
        assert (found.trace_id, found.id) == (TRACE, SPAN)
        assert found.flags == header.strip()[53:55]


HEX = "0123456789abcdef"


@given(
    version=st.sampled_from(["00", "01", "fe", "ff", "0", "zz"]),
    trace_id=st.text(HEX + "gA", min_size=31, max_size=33) | st.sampled_from([TRACE, "0" * 32]),
    span_id=st.text(HEX + "gA", min_size=15, max_size=17) | st.sampled_from([SPAN, "0" * 16]),
    flags=st.sampled_from(["00", "01", "ff", "0", "zz"]),
    rest=st.sampled_from(["", "-x", "-"]),
)
@example(version="00", trace_id=TRACE, span_id=SPAN, flags="01", rest="")
@example(version="01", trace_id=TRACE, span_id=SPAN, flags="01", rest="-x")
def test_traceparents_are_read_as_opentelemetry_reads_them(
    version: str, trace_id: str, span_id: str, flags: str, rest: str
) -> None:
    """otlp:W1."""
    headers = {"traceparent": f"{version}-{trace_id}-{span_id}-{flags}{rest}"}
    assert ours(headers) == theirs(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"TraceParent": VALID},
        {b"traceparent": VALID.encode()},
        {"traceparent": [VALID]},
        {"traceparent": (VALID,)},
        {"traceparent": [VALID.encode()]},
        [(b"host", b"x"), (b"traceparent", VALID.encode())],
    ],
)
def test_headers_come_in_any_form(headers: Any) -> None:
    """otlp:W3."""
    assert ours(headers) == (TRACE, SPAN, "01", "")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"tracestate": "a=b"},
        {"traceparent": [VALID, VALID]},
        {"traceparent": []},
        {"traceparent": VALID, "Traceparent": VALID},
        [("traceparent", VALID), ("traceparent", VALID)],
    ],
)
def test_none_or_two_traceparents_are_no_parent(headers: Any) -> None:
    """otlp:W2."""
    assert parse_headers(headers) is None


# -- tracestate


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        ("a=b", "a=b"),
        ("a=b,c=d", "a=b,c=d"),
        (" a=b , ,c=d,\t", "a=b,c=d"),
        ("tenant@vendor=1", "tenant@vendor=1"),
        ("a=b c", "a=b c"),
        (["a=b", "c=d"], "a=b,c=d"),
        (",".join(f"k{n}=v" for n in range(32)), ",".join(f"k{n}=v" for n in range(32))),
        (",".join(f"k{n}=v" for n in range(33)), ""),
        ("a=b,a=c", ""),
        ("a=b,c", ""),
        ("a=b,C=d", ""),
        ("a=b,c=d=e", ""),
        ("a=b,c=", ""),
        ("a=b,=d", ""),
        ("a=b,c=\x7f", ""),
        ("a=b,c=é", ""),
        ("a=" + "b" * 257, ""),
        ("a" * 257 + "=b", ""),
        ("", ""),
        (",,,", ""),
    ],
)
def test_one_bad_member_discards_the_state_and_keeps_the_parent(
    header: str | list[str], kept: str
) -> None:
    """otlp:W4."""
    found = parse_headers({"traceparent": VALID, "tracestate": header})
    assert found is not None
    assert (found.id, found.tracestate) == (SPAN, kept)
    if isinstance(header, str):
        expected = theirs({"traceparent": VALID, "tracestate": header})
        assert expected is not None
        assert expected[3] == kept


def test_an_endless_state_is_ignored_whole() -> None:
    """otlp:W7's limit, for both headers."""
    members = [f"k{number}={'v' * 250}" for number in range(STATE_MEMBERS_MAX)]
    assert len(",".join(members)) < HEADER_BYTES_MAX
    for header, kept in (
        (",".join(members), ",".join(members)),
        (",".join(members) + "," * HEADER_BYTES_MAX, ""),
    ):
        found = parse_headers({"traceparent": VALID, "tracestate": header})
        assert found is not None
        assert found.tracestate == kept


# -- ids

UUID4 = "f47ac10b-58cc-4372-a567-0e02b2c3d479"
UUID7 = "01890a5d-ac96-774b-bcce-b302099a8057"
UUID1 = "c232ab00-9414-11ec-b3c8-9f6bdeced846"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        (TRACE, TRACE),
        (UUID4, UUID4.replace("-", "")),
        (UUID1, UUID1.replace("-", "")),
        (UUID4.upper(), UUID4.replace("-", "")),
        ("conversation 7", sha("conversation 7")[:32]),
        (TRACE.upper(), TRACE),
        ("", sha("")[:32]),
        ("0" * 32, "0" * 31 + "1"),
        ("00000000-0000-0000-0000-000000000000", "0" * 31 + "1"),
        (SPAN, sha(SPAN)[:32]),
    ],
)
def test_trace_ids_are_hexadecimal(text: str, digits: str) -> None:
    """otlp:I1, I3."""
    assert trace_hex(text) == digits


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        (SPAN, SPAN),
        (UUID4, "a5670e02b2c3d479"),
        (UUID7, "bcceb302099a8057"),
        (UUID1, sha(UUID1)[:16]),
        ("step 1", sha("step 1")[:16]),
        ("0" * 16, "0" * 15 + "1"),
        (SPAN.upper(), sha(SPAN.upper())[:16]),
    ],
)
def test_span_ids_are_hexadecimal(text: str, digits: str) -> None:
    """otlp:I2, I3."""
    assert span_hex(text) == digits


@given(st.text() | st.uuids().map(str) | st.from_regex(r"[0-9a-f]{16,32}", fullmatch=True))
@example("\ud800")
@example("{" + UUID4[:-2] + "}")
def test_any_text_has_valid_hexadecimal_ids(text: str) -> None:
    """otlp:I1-I3."""
    for digits, length in ((trace_hex(text), 32), (span_hex(text), 16)):
        assert len(digits) == length
        assert set(digits) <= set(HEX)
        assert digits.strip("0")


def test_hexadecimal_ids_of_random_uuids_do_not_collide() -> None:
    """otlp:I2."""
    texts = [str(uuid.uuid4()) for _ in range(20_000)]
    assert len({span_hex(text) for text in texts}) == len(texts)


# -- what is written


@given(st.text(max_size=80) | st.uuids().map(str), st.text(max_size=80) | st.uuids().map(str))
@example(TRACE, SPAN)
@example(UUID4, UUID7)
@example("\ud800", "\ud800")
@example("x" * 100, "y" * 100)
@example("0" * 32, "0" * 16)
def test_what_is_written_is_read_back_by_us_and_by_opentelemetry(trace_id: str, id: str) -> None:
    """otlp:W5: ids that are no hexadecimal travel beside it, as far as they fit."""
    headers = format_headers(RemoteParent(trace_id=trace_id, id=id))
    expected = theirs(headers)
    assert expected is not None
    assert expected[:3] == (trace_hex(trace_id), span_hex(id), "01")
    parent = parse_headers(headers)
    assert parent is not None
    if "everyspan=" in parent.tracestate and "\ud800" not in trace_id + id and trace_id and id:
        assert (parent.trace_id, parent.id) == (trace_id, id)
    else:
        assert (parent.trace_id, parent.id) == expected[:2]
    assert format_headers(parent)["traceparent"] == headers["traceparent"]


def test_plain_hexadecimal_needs_no_state() -> None:
    """otlp:W5."""
    assert format_headers(RemoteParent(trace_id=TRACE, id=SPAN)) == {"traceparent": VALID}


@pytest.mark.parametrize(
    "state",
    [
        "everyspan=t.Y29udmVyc2F0aW9uIDc~s.c3RlcCAx",
        "everyspan=t.~s.",
        "everyspan=t.!~s.!",
        "everyspan=t.gA~s.gA",
        "everyspan=nonsense",
        "everyspan=",
    ],
)
def test_a_state_that_does_not_agree_is_not_believed(state: str) -> None:
    """otlp:W5: a middle hop that knows nothing of us changes the ids and keeps the text."""
    found = parse_headers({"traceparent": VALID, "tracestate": state})
    assert found is not None
    assert (found.trace_id, found.id) == (TRACE, SPAN)


def test_our_state_comes_first_and_once() -> None:
    """otlp:W4."""
    full = ",".join(f"k{number}=v" for number in range(STATE_MEMBERS_MAX))
    first = RemoteParent(trace_id=UUID4, id=UUID7, flags="00", tracestate=full)
    headers = format_headers(first)
    members = headers["tracestate"].split(",")
    assert headers["traceparent"].endswith("-00")
    assert len(members) == STATE_MEMBERS_MAX
    assert members[0].startswith("everyspan=")
    received = parse_headers(headers)
    assert received is not None
    again = format_headers(received)["tracestate"].split(",")
    assert again == members


def test_text_that_does_not_fit_is_left_out() -> None:
    """otlp:W5: at most 256 characters."""
    headers = format_headers(RemoteParent(trace_id="x" * 300, id=UUID4, tracestate="a=b"))
    assert headers["tracestate"] == "a=b"
