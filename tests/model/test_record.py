"""Frozen spans (`freeze_span`): what is taken of a span, and that nothing in it can do harm."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any

import pytest

from everyspan import Span, SpanStatus, SpanType, set_span_error
from everyspan.model.record import (
    NAME_LENGTH_MAX,
    NS_MAX,
    RECORD_BYTES_FIXED,
    SpanRecord,
    freeze_span,
    text_ids,
)
from tests.records import T0_NS, make_span


def frozen(span: Span, *, is_end: bool = True) -> SpanRecord:
    return freeze_span(span, is_end=is_end, offered_s=1.5)


class Hostile:
    """Raises whatever one does with it."""

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__

    def __hash__(self) -> int:
        raise RuntimeError

    def __eq__(self, other: object) -> bool:
        raise RuntimeError


class HostileDict(dict[str, Any]):
    def get(self, *_: Any) -> Any:
        raise RuntimeError

    def __contains__(self, _: object) -> bool:
        raise RuntimeError


def test_an_end_holds_all_of_the_span() -> None:
    span = make_span(
        "a",
        parent_id="p",
        input={"i": 1},
        output=[2],
        data={"k": 3},
        task_id="t",
        group_id="g",
        type=SpanType.TRACER,
        status="CANCELED",
    )
    record = frozen(span)
    assert (record.is_end, record.revision, record.offered_s) == (True, 1, 1.5)
    assert (record.input, record.output, record.data) == (b'{"i":1}', b"[2]", b'{"k":3}')
    assert record.size_bytes == RECORD_BYTES_FIXED + 7 + 3 + 7
    twin = record.to_span()
    assert twin.model_dump() == span.model_dump()
    assert (twin.group_id, twin.type, twin.status) == ("g", "TRACER", "CANCELED")


def test_a_start_has_no_end_and_no_output() -> None:
    record = frozen(make_span(input=1, output=2), is_end=False)
    assert (record.is_end, record.revision) == (False, 0)
    assert (record.input, record.output, record.end_ns) == (b"1", None, None)


def test_nothing_done_later_shows() -> None:
    """R1."""
    payload = {"n": [1]}
    span = make_span(input=payload)
    record = frozen(span)
    payload["n"].append(2)
    span.name = "other"
    assert record.input == b'{"n":[1]}'
    assert record.name == "step"


@pytest.mark.parametrize(
    ("own", "data", "type_"),
    [
        (None, None, None),
        ("TRACER", {"__span_type__": "CUSTOM"}, "TRACER"),
        (None, {"__span_type__": "CUSTOM"}, "CUSTOM"),
        (None, OrderedDict(__span_type__="CUSTOM"), "CUSTOM"),
        (None, HostileDict(__span_type__="CUSTOM"), "CUSTOM"),
        (None, {"__span_type__": 5}, "5"),
        (None, [{"__span_type__": "CUSTOM"}], None),
        (7, None, "7"),
    ],
)
def test_a_type_is_the_spans_own_else_that_of_its_data(own: Any, data: Any, type_: Any) -> None:
    """trace:S9."""
    assert frozen(make_span(type=own, data=data)).type == type_


def test_an_error_is_read_from_the_data() -> None:
    """trace:E2."""
    span = make_span(data=defaultdict(list))
    set_span_error(span, ValueError("bad"), category="platform")
    record = frozen(span)
    assert record.error == ("ValueError", "bad", "platform")
    assert record.status == SpanStatus.ERROR


def test_an_error_in_the_data_alone_is_a_failure() -> None:
    """trace:E2: the original knows no status."""
    record = frozen(make_span(data={"__error__": {"type": "E", "message": "m"}}))
    assert (record.status, record.error) == ("ERROR", ("E", "m", "unknown"))


@pytest.mark.parametrize("entry", ["text", 5, [], None])
def test_an_entry_that_is_no_error_is_none(entry: Any) -> None:
    record = frozen(make_span(data={"__error__": entry}))
    assert (record.status, record.error) == ("SUCCESS", None)


@pytest.mark.parametrize(
    ("status", "taken"),
    [
        ("ERROR", "ERROR"),
        ("canceled", "CANCELED"),
        ("done", "SUCCESS"),
        (None, "SUCCESS"),
        (5, "SUCCESS"),
    ],
)
def test_a_status_is_one_that_backends_take(status: Any, taken: str) -> None:
    """P5: another text would have the span refused."""
    assert frozen(make_span(status=status)).status == taken


def test_names_and_error_texts_are_bounded() -> None:
    """P4."""
    span = make_span(name="n" * 10_000)
    set_span_error(span, ValueError("e" * 10_000))
    record = frozen(span)
    assert record.error is not None
    for text in (record.name, record.error[1]):
        assert len(text) == NAME_LENGTH_MAX
        assert text.endswith("…")


@pytest.mark.parametrize(
    ("ns", "written"),
    [
        (-1, 0),
        (NS_MAX + 1, NS_MAX),
        (1.5, 1),
        (float("inf"), NS_MAX),
        (float("-inf"), 0),
        (float("nan"), T0_NS),
        ("soon", T0_NS),
        (Hostile(), T0_NS),
    ],
)
def test_a_time_that_cannot_be_written_becomes_the_nearest_that_can(ns: Any, written: int) -> None:
    """P5."""
    assert frozen(make_span(start_ns=ns, end_ns=T0_NS)).start_ns == written
    assert frozen(make_span(start_ns=T0_NS, end_ns=ns)).end_ns == written


def test_ids_that_are_no_text_become_text() -> None:
    """P5: they are keys of ours, and must be the same at start and end."""
    span = make_span(trace_id=["t"])
    span.id = {}  # type: ignore[assignment]
    record = frozen(span)
    assert (record.id, record.trace_id) == text_ids(span) == ("{}", "['t']")
    span.id = Hostile()  # type: ignore[assignment]
    assert frozen(span).id == "<Hostile>"


ANYTHING: list[Any] = [
    None,
    "",
    "\ud800",
    -1,
    10**400,
    1e400,
    b"\xff",
    object(),
    Hostile(),
    HostileDict(a=1, __error__={"type": Hostile()}),
    {"__error__": {"type": "E", "message": Hostile()}, "__span_type__": Hostile()},
    [Hostile()],
]


# The times as datetimes are `start_ns` and `end_ns` again, and check what they are given.
FIELDS = [
    name
    for name in Span.__struct_fields__
    if name not in ("start_time", "end_time", "_frozen_input", "_remote")
]


@pytest.mark.parametrize("field", [*FIELDS, "all"])
@pytest.mark.parametrize("value", ANYTHING, ids=map(str, range(len(ANYTHING))))
def test_any_span_freezes(field: str, value: Any) -> None:
    """P2, P5: every field may be anything at all."""
    span = make_span(data={"__error__": {"type": "E"}})
    for name in FIELDS if field == "all" else [field]:
        setattr(span, name, value)
    for is_end in (True, False):
        record = frozen(span, is_end=is_end)
        assert type(record.id) is type(record.trace_id) is type(record.name) is str
        assert 0 <= record.start_ns <= NS_MAX
        assert isinstance(record.status, SpanStatus)
        for text in (record.type, record.parent_id, record.task_id, record.group_id):
            assert text is None or isinstance(text, str)
