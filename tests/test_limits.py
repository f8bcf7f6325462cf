"""What a span may hold."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import everyspan

SECONDS_MAX = 20.0


@pytest.fixture
def memory() -> Iterator[everyspan.InMemoryTracingProcessor]:
    yield everyspan.InMemoryTracingProcessor()
    everyspan.shutdown(SECONDS_MAX)
    everyspan.configure(everyspan.InMemoryTracingProcessor())
    everyspan.set_tracing_processor_configs([])


@pytest.mark.parametrize("field", ["input", "output", "data"])
def test_each_field_has_a_limit_of_its_own(
    memory: everyspan.InMemoryTracingProcessor, field: str
) -> None:
    """P4: what is longer is cut, visibly, and the others are not."""
    everyspan.configure(memory, linger_ms=0, **{f"{field}_bytes_max": 600})  # type: ignore[arg-type]
    payload = {"text": "x" * 5000}
    with everyspan.span("turn", input=payload) as span:
        span.output, span.data = payload, payload
    assert everyspan.flush(SECONDS_MAX)
    (kept,) = memory.spans
    cut = getattr(kept, field)
    assert len(str(cut)) < 700
    assert str(cut) != str(payload)
    others = {"input", "output", "data"} - {field}
    assert all(getattr(kept, other) == payload for other in others)
