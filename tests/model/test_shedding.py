"""What is left of a span whose payloads had to go."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from everyspan.model.record import SpanRecord
from everyspan.model.shedding import may_be_shed, shed
from everyspan.model.span import COMPLETENESS_KEY, SpanStatus
from everyspan.processors.wire import completeness
from everyspan.queue.parts import Parts
from tests.records import make_record

LARGE = "x" * 5_000


def payloads(record: SpanRecord) -> list[Any]:
    """Input, output and data, decoded."""
    fields = (record.input, record.output, record.data)
    return [None if field is None else msgspec.json.decode(field) for field in fields]


def test_large_payloads_become_a_mark_that_tells_their_size() -> None:
    """D2: small ones stay, and nothing comes of nothing."""
    record = make_record(input=LARGE, data={"model": "m"})
    assert may_be_shed(record)
    freed = shed(record)
    assert payloads(record) == ["…[everyspan: 5002 bytes shed]", None, {"model": "m"}]
    assert 4_900 < freed < 5_002
    assert record.held_bytes == record.size_bytes - freed
    assert shed(record) == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"output": {"text": LARGE, "usage": {"input_tokens": 1}}},
        {"output": {"text": LARGE, "usage_metadata": {"input_tokens": 1}}},
        {"input": LARGE, "data": {"aggregated_usage": {}}},
        {"input": LARGE, "data": {"prompt_tokens": 7}},
        {"input": LARGE, "data": {"cost_usd": 0.1}},
        {"input": LARGE, "data": {"__error__": {"type": "E", "message": "m"}}},
        {"input": LARGE, "status": SpanStatus.ERROR},
        {"input": "short", "output": "short"},
    ],
)
def test_errors_usage_and_small_payloads_stay(fields: dict[str, Any]) -> None:
    """D1, DESIGN: usage totals stay exact."""
    record = make_record(**fields)
    before = payloads(record)
    assert shed(record) == 0
    assert payloads(record) == before
    assert record.held_bytes == record.size_bytes


def test_the_span_tells_a_reader_what_it_lacks() -> None:
    """P11: in `__everyspan__`, beside its place in the trace, which is kept."""
    record = make_record(input=LARGE)
    Parts().end(record)
    before = msgspec.json.decode(completeness(record, destination="sgp"))
    freed = shed(record)
    after = msgspec.json.decode(completeness(record, destination="sgp"))
    assert after == before | {"shed": freed}, COMPLETENESS_KEY
