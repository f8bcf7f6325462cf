"""Spans as their authors see them."""

from __future__ import annotations

import copy
import json
import pickle
import weakref
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everyspan import SettingsError, Span, SpanStatus
from tests.records import T0_NS, make_span

FIELDS = [
    "id",
    "trace_id",
    "parent_id",
    "name",
    "start_time",
    "end_time",
    "input",
    "output",
    "data",
    "task_id",
]
T0 = datetime(2025, 10, 9, 8, 53, 20, tzinfo=UTC)


# -- times


@given(st.integers(0, 253_402_300_799_999_999_999))
def test_times_are_utc_datetimes_over_nanoseconds(ns: int) -> None:
    span = make_span(start_ns=ns, end_ns=ns)
    assert span.start_time.tzinfo is UTC
    assert span.end_time == span.start_time
    span.start_time = span.start_time
    assert span.start_ns == ns // 1000 * 1000


def test_times_can_be_set() -> None:
    """As the original's; a time without a zone is UTC."""
    span = make_span()
    for time in (T0, T0.replace(tzinfo=None), T0.astimezone(timezone(timedelta(hours=5)))):
        span.start_time = span.end_time = time
        assert span.start_ns == span.end_ns == T0_NS
    span.end_time = None
    assert span.end_ns is None
    assert span.end_time is None


@pytest.mark.parametrize("field", ["start_time", "end_time"])
def test_a_bad_time_is_named(field: str) -> None:
    with pytest.raises(SettingsError, match=f"{field} must be a datetime, got 5"):
        setattr(make_span(), field, 5)


# -- an object like any other


def test_a_span_prints_without_its_payloads() -> None:
    """P9: spans end up in logs."""
    assert "secret" not in repr(make_span(input="secret", output="secret", data={"k": "secret"}))


def test_a_span_can_be_compared_hashed_and_referred_to_weakly() -> None:
    span = make_span("a")
    assert span != make_span("a")
    assert len({span, span}) == 1
    assert weakref.ref(span)() is span


def pickled(span: Span) -> Any:
    return pickle.loads(pickle.dumps(span))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
def test_a_span_can_be_copied_and_pickled(again: Any) -> None:
    span = make_span(input={"a": [1]}, data={"k": 1}, task_id="t", status="ERROR")
    twin = again(span)
    assert twin.model_dump() == span.model_dump()
    assert twin.status == "ERROR"


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="colour"):
        Span(name="x", trace_id="t", start_ns=0, colour="red")  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        make_span().colour = "red"  # type: ignore[attr-defined]


# -- model_dump


def test_a_dump_has_the_originals_ten_fields() -> None:
    """agentex.types.Span: callers pass dumps on as keyword arguments."""
    dump = make_span("a", input={"q": 1}, type="TRACER", status="ERROR").model_dump()
    assert list(dump) == FIELDS
    assert dump["start_time"] == T0
    assert dump["end_time"] == T0 + timedelta(seconds=1)
    assert (dump["id"], dump["input"], dump["output"]) == ("a", {"q": 1}, None)


def test_a_json_dump_holds_plain_values() -> None:
    span = make_span(input={"when": T0, "who": object(), 1: {2, 3}}, data=[T0])
    dump = span.model_dump(mode="json")
    assert json.loads(json.dumps(dump)) == dump
    assert datetime.fromisoformat(dump["start_time"]) == T0
    assert datetime.fromisoformat(dump["input"]["when"]) == T0


@pytest.mark.parametrize("flag", ["exclude_none", "exclude_unset", "exclude_defaults"])
def test_a_dump_can_leave_out_what_is_none(flag: str) -> None:
    dump = make_span("a", end_ns=None, input={}).model_dump(**{flag: True})  # type: ignore[arg-type]
    assert list(dump) == ["id", "trace_id", "name", "start_time", "input"]


def test_a_dump_can_be_of_some_fields() -> None:
    span = make_span("a")
    assert span.model_dump(include={"id", "name"}) == {"id": "a", "name": "step"}
    assert list(span.model_dump(exclude={"id", "input"})) == [
        f for f in FIELDS if f not in ("id", "input")
    ]


def test_a_bad_mode_is_named() -> None:
    with pytest.raises(SettingsError, match="mode must be python or json, got 'xml'"):
        make_span().model_dump(mode="xml")  # type: ignore[arg-type]


# -- model_copy


def test_a_copy_is_another_span_with_the_same_payloads() -> None:
    span = make_span(input={"a": [1]})
    twin = span.model_copy()
    twin.name = "other"
    assert span.name == "step"
    assert twin.input is span.input


def test_a_deep_copy_shares_no_payload() -> None:
    """trace:Q29."""
    span = make_span(input={"a": [1]}, output=[{}], data={"k": {}})
    twin = span.model_copy(deep=True)
    assert twin.model_dump() == span.model_dump()
    twin.input["a"].append(2)
    twin.data["k"]["x"] = 1
    assert span.input == {"a": [1]}
    assert span.data == {"k": {}}


def test_a_copy_can_differ() -> None:
    twin = make_span().model_copy(update={"output": 1, "end_time": T0, "status": "ERROR"})
    assert (twin.output, twin.end_ns, twin.status) == (1, T0_NS, "ERROR")
    with pytest.raises(SettingsError, match="a span has no field 'colour'; known: id, "):
        make_span().model_copy(update={"colour": "red"})


# -- model_validate


@pytest.mark.parametrize("mode", ["python", "json"])
@pytest.mark.parametrize("exclude_none", [False, True])
def test_a_dump_validates_to_the_span_it_came_from(mode: Any, exclude_none: bool) -> None:
    span = make_span("a", parent_id="p", input={"q": 1}, output=[1], data={"k": 1}, task_id="t")
    dump = span.model_dump(mode=mode, exclude_none=exclude_none)
    twin = Span.model_validate(dump)
    assert twin is not span
    assert twin.model_dump() == span.model_dump()


def test_a_span_validates_to_itself() -> None:
    span = make_span()
    assert Span.model_validate(span) is span


def test_a_failed_span_validates_to_a_failed_one() -> None:
    """trace:E2: the original keeps the error in `data` alone."""
    base = {"name": "x", "trace_id": "t", "start_time": "2025-10-09T08:53:20Z"}
    statuses = {
        "ValueError": SpanStatus.ERROR,
        "CancelledError": SpanStatus.CANCELED,
    }
    for kind, status in statuses.items():
        span = Span.model_validate(base | {"data": {"__error__": {"type": kind, "message": ""}}})
        assert span.status == status
    assert Span.model_validate(base | {"status": "CANCELED"}).status == "CANCELED"
    assert Span.model_validate(base | {"unknown": 1}).status == "SUCCESS"


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        (5, "a span is made from a mapping, got 5"),
        ({}, "name is missing: a span needs name, trace_id, start_time"),
        ({"name": "x", "trace_id": "t"}, "start_time is missing"),
        ({"name": 5, "trace_id": "t", "start_time": T0}, "name must be text, got 5"),
        ({"name": "x", "trace_id": "t", "start_time": 5}, "start_time must be a datetime, got 5"),
        (
            {"name": "x", "trace_id": "t", "start_time": "soon"},
            "start_time must be a time in ISO form, got 'soon'",
        ),
        (
            {"name": "x", "trace_id": "t", "start_time": T0, "task_id": 5},
            "task_id must be text, got 5",
        ),
    ],
)
def test_what_is_no_span_is_refused_by_field(obj: Any, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Span.model_validate(obj)
    assert str(caught.value).startswith(text)


def test_a_span_is_made_with_the_originals_fields() -> None:
    """trace:T2: times as datetimes, or as text; `start_time` is what no span is without."""
    at = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
    span = Span(id="s", name="x", start_time=at, trace_id="t")
    assert (span.start_time, span.end_time, span.end_ns) == (at, None, None)
    ended = Span(id="s", name="x", trace_id="t", start_time=at, end_time=at)
    assert (ended.start_ns, ended.end_ns, ended.end_time) == (span.start_ns, span.start_ns, at)
    assert Span(name="x", trace_id="t", start_ns=span.start_ns, end_time=at).end_time == at
    text: Any = at.isoformat()
    assert Span(name="x", trace_id="t", start_time=text, end_time=text).end_time == at
    assert pickle.loads(pickle.dumps(ended)).end_time == at
    with pytest.raises(SettingsError, match="start_time is missing"):
        Span(id="s", name="x", trace_id="t")
    with pytest.raises(SettingsError, match="start_time must be a datetime, got 5"):
        Span(id="s", name="x", trace_id="t", start_time=5)  # type: ignore[arg-type]


def test_a_span_dumps_to_json_text() -> None:
    """trace:T4: as the original's logs do."""
    span = make_span("s", input={"when": datetime.now(UTC)}, output={1, 2})
    for options in ({}, {"exclude_none": True}, {"include": {"id", "start_time"}}):
        dumped = span.model_dump(mode="json", **options)
        assert json.loads(span.model_dump_json(**options)) == dumped
    assert span.model_dump_json(include={"id"}, indent=2) == '{\n  "id": "s"\n}'
