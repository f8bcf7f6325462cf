"""A share of the traces, whole ones, and every span that is not recorded is counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from uuid import uuid4

import pytest

import everyspan
from everyspan.model.sampling import is_chosen

SECONDS_MAX = 20.0


@pytest.fixture
def memory() -> Iterator[everyspan.InMemoryTracingProcessor]:
    yield everyspan.InMemoryTracingProcessor()
    everyspan.shutdown(SECONDS_MAX)
    everyspan.configure(everyspan.InMemoryTracingProcessor())
    everyspan.set_tracing_processor_configs([])


def test_a_trace_is_recorded_whole_or_not_at_all(
    memory: everyspan.InMemoryTracingProcessor,
) -> None:
    """Also where spans of one trace open on several threads, or by hand; all are counted."""
    everyspan.configure(memory, sample=0.5, linger_ms=0)

    def turn() -> None:
        for _ in range(50):
            with everyspan.span("root") as root:
                with everyspan.span("child"):
                    pass
                trace = everyspan.Tracer().trace(root.trace_id)
                trace.end_span(trace.start_span("by hand", parent_id=root.id))

    threads = [threading.Thread(target=turn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert everyspan.flush(SECONDS_MAX)
    stats = everyspan.stats()
    (destination,) = stats.destinations
    assert destination.accepted + stats.sampled_out_spans == 600
    assert (stats.residual, stats.open_spans) == (0, 0)
    traces = {span.trace_id for span in memory.spans}
    assert len(memory.spans) == 3 * len(traces) == destination.delivered
    assert 0 < len(traces) < 200
    assert all(is_chosen(trace_id, 0.5) for trace_id in traces)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 0.9, 1.0])
def test_the_share_is_kept(share: float) -> None:
    """For ids of any kind, and a larger share keeps what a smaller one kept."""
    for ids in ([str(uuid4()) for _ in range(4000)], [f"trace-{n}" for n in range(4000)]):
        chosen = [id for id in ids if is_chosen(id, share)]
        assert abs(len(chosen) / 4000 - share) < 0.05
        assert all(is_chosen(id, min(1.0, share * 2)) for id in chosen)


@pytest.mark.parametrize(("flags", "share", "is_kept"), [("00", 1.0, False), ("01", 0.0, True)])
def test_the_decision_of_whoever_called_us_is_obeyed(
    memory: everyspan.InMemoryTracingProcessor, flags: str, share: float, is_kept: bool
) -> None:
    """otlp:W5: in spans below it too, however they are opened."""
    everyspan.configure(memory, sample=share, linger_ms=0)
    headers = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-{flags}"}
    with everyspan.span("request", parent=everyspan.extract(headers)) as request:
        trace = everyspan.Tracer().trace(request.trace_id)
        trace.end_span(trace.start_span("by hand"))
        with everyspan.span("inner"):
            onward = everyspan.inject({})
    assert everyspan.flush(SECONDS_MAX)
    assert len(memory.spans) == (3 if is_kept else 0)
    assert everyspan.stats().sampled_out_spans == (0 if is_kept else 3)
    assert onward["traceparent"].endswith(f"-{flags}")


def test_our_own_decision_travels_on(memory: everyspan.InMemoryTracingProcessor) -> None:
    """otlp:W5: the next process need not guess."""
    everyspan.configure(memory, sample=0, linger_ms=0)
    with everyspan.span("request"):
        assert everyspan.inject({})["traceparent"].endswith("-00")
    everyspan.configure(memory, sample=1, linger_ms=0)
    with everyspan.span("request"):
        assert everyspan.inject({})["traceparent"].endswith("-01")


def test_unless_sampling_was_asked_for_everything_is_recorded(
    memory: everyspan.InMemoryTracingProcessor,
) -> None:
    """A proxy that samples its own spans at 1 % must not hide the agent's."""
    everyspan.configure(memory, linger_ms=0)
    headers = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-00"}
    with everyspan.span("request", parent=everyspan.extract(headers)):
        pass
    assert everyspan.flush(SECONDS_MAX)
    assert [span.name for span in memory.spans] == ["request"]
    assert everyspan.stats().sampled_out_spans == 0


def test_a_span_keeps_its_decision_when_sampling_changes_meanwhile(
    memory: everyspan.InMemoryTracingProcessor,
) -> None:
    """A START without its END would run for ever."""
    everyspan.configure(memory, sample=1, linger_ms=0)
    with everyspan.span("long"):
        everyspan.configure(memory, sample=0, linger_ms=0)
    assert everyspan.flush(SECONDS_MAX)
    assert [span.name for span in memory.spans] == ["long"]
