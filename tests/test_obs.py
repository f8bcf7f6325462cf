"""The observability span around ours: its ids reach the backend, and nothing else happens."""

from __future__ import annotations

import subprocess
import sys
import types
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

import everyspan
from everyspan.testing import FaultServer
from tests.peers import PYTHON, needs_peers

SECONDS_MAX = 20.0
FOUND = {"obs_trace_id": "0" * 24 + "000000ff", "obs_span_id": "0" * 14 + "0a"}


@pytest.fixture
def ddtrace(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """What ddtrace would be, with an active span; the real one is tried by the last test."""
    context = types.SimpleNamespace(trace_id=255, span_id=10)
    tracer = types.SimpleNamespace(context=context)
    tracer.current_trace_context = lambda: tracer.context
    module = types.ModuleType("ddtrace.trace")
    module.tracer = tracer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ddtrace", types.ModuleType("ddtrace"))
    monkeypatch.setitem(sys.modules, "ddtrace.trace", module)
    return tracer


def recorded(**fields: Any) -> everyspan.Span:
    """One span, as a destination got it."""
    with everyspan.testing.capture() as captured, everyspan.span("turn", **fields):
        pass
    return captured.one("turn")


@pytest.mark.parametrize("data", [None, {}, {"k": 1}])
def test_the_ids_stand_in_object_data(ddtrace: types.SimpleNamespace, data: Any) -> None:
    """trace:D26: under the underscore keys, in an object of ours."""
    before = None if data is None else dict(data)
    assert recorded(data=data).data == {**(data or {}), **FOUND}
    assert data == before


def test_array_data_is_left_alone(ddtrace: types.SimpleNamespace) -> None:
    """trace:D16: it used to raise into the agent."""
    assert recorded(data=[1, 2]).data == [1, 2]


@pytest.mark.parametrize("data", [None, [1]])
def test_the_ids_reach_the_fields_of_the_sgp_api(ddtrace: types.SimpleNamespace, data: Any) -> None:
    """trace:D26: also where data has no room for them, and on START and END alike."""
    with FaultServer() as backend:
        config = everyspan.SGPTracingProcessorConfig("key", "account", backend.base_url)
        everyspan.configure(config, linger_ms=0, start_delay_ms=0)
        with everyspan.span("turn", data=data):
            assert everyspan.flush(SECONDS_MAX)
        trace_ = everyspan.Tracer().trace("t")
        trace_.end_span(trace_.start_span("by hand"))
        everyspan.shutdown(SECONDS_MAX)
        everyspan.set_tracing_processor_configs([])
    items = [item for request in backend.batches for item in request.spans]
    assert len(items) >= 3
    assert all({key: item[key] for key in FOUND} == FOUND for item in items)


@pytest.mark.parametrize(
    ("mode", "otel", "dd"),
    [
        (None, False, True),
        ("dd_only", False, True),
        ("nonsense", False, True),
        ("lgtm", True, False),
        ("dual", True, True),
    ],
)
def test_the_mode_says_whose_ids_count(
    mode: str | None,
    otel: bool,
    dd: bool,
    ddtrace: types.SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`trace` §6: `dual` asks OpenTelemetry first; the business trace id is untouched."""
    if mode is not None:
        monkeypatch.setenv("SGP_OBS_MODE", mode)
    provider = TracerProvider()
    with provider.get_tracer("t").start_as_current_span("around") as around:
        seen = recorded(trace_id="mine")
    context = around.get_span_context()
    theirs = {
        "obs_trace_id": f"{context.trace_id:032x}",
        "obs_span_id": f"{context.span_id:016x}",
    }
    assert seen.data == (theirs if otel else FOUND)
    assert seen.trace_id == "mine"
    assert recorded().data == (FOUND if dd else None)


@pytest.mark.parametrize("context", [None, types.SimpleNamespace(trace_id=0, span_id=0), 5])
def test_without_an_active_span_there_are_no_keys(
    ddtrace: types.SimpleNamespace, context: Any
) -> None:
    """O1, O2: ids are never invented, and what cannot be read is nobody's failure."""
    ddtrace.context = context
    assert recorded().data is None


def test_no_tool_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """O2, P10."""
    program = (
        "import sys, everyspan\n"
        "everyspan.configure(everyspan.InMemoryTracingProcessor())\n"
        "with everyspan.span('x'): pass\n"
        "everyspan.flush(5)\n"
        "print([m for m in sys.modules if m.startswith(('ddtrace', 'opentelemetry'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


class TestWithTheRealOne:
    """ddtrace itself, from the other SDKs' environment."""

    pytestmark = needs_peers

    def test_its_active_span_is_found(self) -> None:
        """trace:D26."""
        program = (
            "from ddtrace.trace import tracer\n"
            "import everyspan\n"
            "tracer.enabled = False\n"
            "with everyspan.testing.capture() as captured:\n"
            "    with tracer.trace('around') as around:\n"
            "        with everyspan.span('turn'): pass\n"
            "found = captured.one('turn').data\n"
            "assert found == {'obs_trace_id': f'{around.trace_id:032x}',\n"
            "    'obs_span_id': f'{around.span_id:016x}'}, found\n"
        )
        done = subprocess.run(
            [PYTHON, "-c", program], capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
