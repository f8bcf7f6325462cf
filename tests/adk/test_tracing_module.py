"""`adk.tracing`: the original's calls, whom they are handed to, and what becomes of them.

What the original's module does inside a Temporal workflow (`trace:K3`, and the activities of
`trace:K7`) is left out, see docs/rules.toml.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock, MagicMock, call

import pytest

import everyspan
from everyspan import AsyncTracer, SettingsError, Span, SpanStatus, adk
from everyspan.adk import TracingModule, TracingService
from tests.peers import PYTHON
from tests.recording import Recording
from tests.sources import parse

Function = ast.FunctionDef | ast.AsyncFunctionDef
NO_DEFAULT = inspect.Parameter.empty

ARGUMENTS: dict[str, Any] = {
    "trace_id": "t",
    "name": "x",
    "input": ["i"],
    "parent_id": "p",
    "data": {"k": object()},
    "task_id": "task",
}


def make_span(**fields: Any) -> Span:
    return Span(**{"name": "x", "trace_id": "t", "start_ns": 1, **fields})


def with_service(span: Any) -> tuple[AsyncMock, TracingModule]:
    """A module over a service that starts and ends this span, whatever it is asked for."""
    service = AsyncMock(spec=TracingService)
    service.start_span.return_value = service.end_span.return_value = span
    return service, TracingModule(tracing_service=service)


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits, without any event loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise AssertionError("it waits")


# -- whom the calls are handed to


async def test_arguments_reach_the_service_and_its_result_comes_back() -> None:
    """trace:K1: the same objects, also those that the default service would refuse."""
    span = make_span(task_id="task")
    service, tracing = with_service(span)
    assert await tracing.start_span(**ARGUMENTS) is span
    service.start_span.assert_called_once_with(**ARGUMENTS)
    assert await tracing.end_span("t", span) is span
    service.end_span.assert_called_once_with(trace_id="t", span=span)
    assert await tracing.start_span(trace_id=5, name=None) is span  # type: ignore[arg-type]


async def test_what_was_not_given_reaches_the_service_as_none() -> None:
    """trace:K1: also inside of a span of the same trace, which the service may look up itself."""
    service, tracing = with_service(make_span())
    with everyspan.span("outer", trace_id="t"):
        await tracing.start_span("t", "x")
    service.start_span.assert_called_once_with(
        trace_id="t", name="x", input=None, parent_id=None, data=None, task_id=None
    )


async def test_a_block_hands_everything_on_and_ends_what_it_was_given() -> None:
    """trace:K1: the task's id too."""
    span = make_span(task_id="task")
    service, tracing = with_service(span)
    async with tracing.span(**ARGUMENTS) as opened:
        assert opened is span
        service.end_span.assert_not_called()
    service.start_span.assert_called_once_with(**ARGUMENTS)
    service.end_span.assert_called_once_with(trace_id="t", span=span)


@pytest.mark.parametrize("nothing", ["", None])
async def test_without_a_trace_id_a_block_calls_nobody(nothing: Any) -> None:
    """trace:K2."""
    service, tracing = with_service(make_span())
    async with tracing.span(nothing, "x") as span:
        assert span is None
    async with tracing.turn_span(nothing, "x") as turn:
        assert turn.span is None
    assert service.mock_calls == []


async def test_a_span_that_was_not_started_is_not_ended() -> None:
    """trace:K4: the block runs, its exception passes."""
    service, tracing = with_service(None)
    async with tracing.span("t", "x") as span:
        assert span is None
    async with tracing.turn_span("t", "x") as turn:
        turn.output = 1
    with pytest.raises(KeyError):
        async with tracing.span("t", "x"):
            raise KeyError
    service.end_span.assert_not_called()


@pytest.mark.parametrize("error", [asyncio.CancelledError(), RuntimeError("no")])
@pytest.mark.parametrize("method", ["start_span", "end_span"])
async def test_what_the_service_raises_passes(
    error: BaseException, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """trace:K5: by hand and out of a block; nothing is logged."""
    service, tracing = with_service(make_span())
    getattr(service, method).side_effect = error
    last = {"span": make_span()} if method == "end_span" else {"name": "x"}
    with pytest.raises(type(error)) as caught:
        await getattr(tracing, method)("t", **last)
    assert caught.value is error
    with pytest.raises(type(error)):
        async with tracing.span("t", "x"):
            pass
    assert caplog.records == []


async def test_a_span_of_some_other_kind_passes_through_a_block() -> None:
    """trace:K1: a service in somebody's tests answers with what it likes."""
    other = MagicMock()
    service, tracing = with_service(other)
    async with tracing.span("t", "x") as span:
        assert span is other
        assert everyspan.current_span() is None
    with pytest.raises(KeyError):
        async with tracing.span("t", "x"):
            raise KeyError
    assert service.end_span.call_args_list == [call(trace_id="t", span=other)] * 2


async def test_the_service_asks_for_a_trace_at_every_call() -> None:
    """trace:K6, K1: and gives it an empty input where there is none."""
    tracer = MagicMock(spec=AsyncTracer)
    traces = [AsyncMock(), AsyncMock()]
    tracer.trace.side_effect = traces
    service = TracingService(tracer=tracer)
    span = await service.start_span("t", "x", task_id="task")
    assert span is traces[0].start_span.return_value
    traces[0].start_span.assert_called_once_with(
        name="x", parent_id=None, input={}, data=None, task_id="task"
    )
    await service.end_span("t", span)
    traces[1].end_span.assert_called_once_with(span)
    assert [called.args for called in tracer.trace.call_args_list] == [("t",), ("t",)]


# -- what is recorded


async def test_a_block_is_recorded_with_what_it_was_given(recording: Recording) -> None:
    async with adk.tracing.span("t", "x", {"q": 1}, {"k": 2}, "p", "task") as span:
        assert span is not None
        span.output = {"a": 3}
    kept = recording.one("x")
    assert (kept.trace_id, kept.parent_id, kept.task_id) == ("t", "p", "task")
    assert (kept.input, kept.data, kept.output) == ({"q": 1}, {"k": 2}, {"a": 3})
    assert (kept.status, kept.id) == (SpanStatus.SUCCESS, span.id)


async def test_a_span_by_hand_is_recorded_wherever_it_ends(recording: Recording) -> None:
    """trace:K1, K6: here on another loop and through another module."""
    span = await adk.tracing.start_span("t", "x", input=None, task_id="task")
    assert span is not None
    assert everyspan.current_span() is None
    span.output = 1
    ended = await asyncio.to_thread(asyncio.run, TracingModule().end_span("t", span))
    assert ended is span
    kept = recording.one("x")
    assert (kept.input, kept.output, kept.task_id) == ({}, 1, "task")


@pytest.mark.parametrize("empty", [[], {}, "", 0])
async def test_an_empty_input_stays_what_it_is(recording: Recording, empty: Any) -> None:
    """trace:D20."""
    async with adk.tracing.span("t", "x", input=empty):
        pass
    assert recording.one("x").input == empty


async def test_array_data_raises_nothing(recording: Recording) -> None:
    """trace:D16: in a span of the same trace, which the original would write into the data."""
    with everyspan.span("outer", trace_id="t"):
        async with adk.tracing.span("t", "x", data=[1, 2]):
            pass
    assert recording.one("x").data == [1, 2]


@pytest.mark.parametrize(
    ("error", "status", "named"),
    [
        (ValueError("no such order"), SpanStatus.ERROR, "ValueError"),
        (asyncio.CancelledError(), SpanStatus.CANCELED, "CancelledError"),
        (KeyboardInterrupt(), SpanStatus.ERROR, "KeyboardInterrupt"),
        (StopAsyncIteration(), SpanStatus.ERROR, "StopAsyncIteration"),
    ],
)
@pytest.mark.parametrize("method", ["span", "turn_span"])
async def test_what_leaves_a_block_is_recorded_and_raised_again(
    recording: Recording, method: str, error: BaseException, status: SpanStatus, named: str
) -> None:
    """trace:D17, T6, E3: the original's facade shows such a step as a success."""
    with pytest.raises(type(error)) as caught:
        async with getattr(adk.tracing, method)("t", "x", data={"k": 1}):
            raise error
    assert caught.value is error
    kept = recording.one("x")
    assert (kept.status, kept.end_ns is None) == (status, False)
    assert kept.data["__error__"]["type"] == named
    assert kept.data["k"] == 1
    assert everyspan.current_span() is None


async def test_a_cancelled_task_leaves_a_canceled_span(recording: Recording) -> None:
    """trace:E3: by asyncio, in the middle of the block; the cancellation passes on."""
    inside = asyncio.Event()

    async def turn() -> None:
        async with adk.tracing.span("t", "x"):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(turn())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recording.one("x").status == SpanStatus.CANCELED


def test_a_block_that_is_abandoned_ends_without_an_error(recording: Recording) -> None:
    """trace:T6: its coroutine is closed, as that of a client that went away."""

    class Pause:
        def __await__(self) -> Any:
            yield

    async def turn() -> None:
        async with adk.tracing.span("t", "x"):
            await Pause()

    coroutine = turn()
    coroutine.send(None)
    coroutine.close()
    kept = recording.one("x")
    assert (kept.status, kept.data) == (SpanStatus.SUCCESS, None)


def test_no_call_waits(recording: Recording) -> None:
    """P2: each is over at its first step, so it needs no loop, and no timeout could bound it."""

    async def turn() -> None:
        async with adk.tracing.turn_span("t", "turn", retry_policy=object()) as turn:
            turn.output = 1
            async with adk.tracing.span("t", "step", heartbeat_timeout=timedelta(0)):
                pass

    at_once(turn())
    span = at_once(adk.tracing.start_span("t", "by hand", start_to_close_timeout=timedelta(0)))
    at_once(adk.tracing.end_span("t", span))
    assert sorted(recording.names) == ["by hand", "step", "turn"]


# -- the tree


async def test_a_block_is_the_current_span(recording: Recording) -> None:
    """ARCHITECTURE.md: whatever records inside hangs from it, however it got there."""
    async with adk.tracing.span("t", "turn") as turn:
        assert everyspan.current_span() is turn
        async with everyspan.span("ours"), adk.tracing.span("t", "facade"):
            await asyncio.to_thread(step)
        child = await adk.tracing.start_span("t", "by hand")
        assert child is not None
        assert everyspan.current_span() is turn
        with everyspan.use_span(child):
            step("below by hand")
        await adk.tracing.end_span("t", child)
    assert everyspan.current_span() is None
    assert recording.parents == {
        "turn": None,
        "ours": "turn",
        "facade": "ours",
        "step": "facade",
        "by hand": "turn",
        "below by hand": "by hand",
    }


def step(name: str = "step") -> None:
    with everyspan.span(name):
        pass


async def test_a_parent_that_is_named_comes_first(recording: Recording) -> None:
    async with adk.tracing.span("t", "root") as root:
        assert root is not None
        async with adk.tracing.span("t", "turn"), adk.tracing.span("t", "x", parent_id=root.id):
            pass
    assert recording.parents == {"root": None, "turn": "root", "x": "root"}


@pytest.mark.parametrize("nothing", ["", None])
async def test_a_parent_without_an_id_names_none(recording: Recording, nothing: Any) -> None:
    """Agents pass on what a request may have lacked."""
    root = adk.tracing.span("t", "root", parent_id=nothing)
    async with root, adk.tracing.span("t", "x", parent_id=nothing):
        step()
    assert recording.parents == {"root": None, "x": "root", "step": "x"}


async def test_a_span_of_another_trace_is_no_parent(recording: Recording) -> None:
    async with adk.tracing.span("a", "outer"), adk.tracing.span("b", "inner") as inner:
        assert everyspan.current_span() is inner
    assert recording.one("inner").parent_id is None


async def test_tasks_side_by_side_do_not_mix(recording: Recording) -> None:
    async def branch(name: str) -> None:
        async with adk.tracing.span("t", name):
            await asyncio.sleep(0)
            async with adk.tracing.span("t", f"in {name}"):
                await asyncio.sleep(0)

    async with adk.tracing.span("t", "root"):
        await asyncio.gather(*(branch(f"branch {number}") for number in range(5)))
    parents = recording.parents
    for number in range(5):
        assert parents[f"branch {number}"] == "root"
        assert parents[f"in branch {number}"] == f"branch {number}"


async def test_a_handler_that_streams_keeps_its_span_to_itself(recording: Recording) -> None:
    """P3: its reader goes away in the middle, and its turn ends in another task's context."""

    async def handler() -> AsyncIterator[int]:
        async with adk.tracing.turn_span("t", "turn"):
            step("before")
            yield 1
            yield 2

    stream = handler()
    assert await anext(stream) == 1
    await asyncio.create_task(stream.aclose())  # type: ignore[attr-defined]
    assert everyspan.current_span() is None
    async with adk.tracing.span("t", "next"):
        step("after")
    assert recording.parents == {"before": "turn", "turn": None, "after": "next", "next": None}


# -- mistakes


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"trace_id": 5}, "trace_id must be text, got 5"),
        ({"name": None}, "name must be text, got None"),
        ({"parent_id": 5}, "parent_id must be text, got 5"),
        ({"task_id": b"x"}, "task_id must be text, got b'x'"),
    ],
)
async def test_a_bad_argument_is_named(
    recording: Recording, arguments: dict[str, Any], text: str
) -> None:
    given = {"trace_id": "t", "name": "x"} | arguments
    with pytest.raises(SettingsError) as by_hand:
        await adk.tracing.start_span(**given)
    with pytest.raises(SettingsError) as in_block:
        async with adk.tracing.span(**given):
            pass
    assert str(by_hand.value) == str(in_block.value) == text
    assert recording.spans == []


async def test_what_is_no_span_cannot_be_ended() -> None:
    with pytest.raises(SettingsError, match="span must be a Span, got None"):
        await adk.tracing.end_span("t", None)  # type: ignore[arg-type]


@pytest.mark.parametrize("nothing", ["", None])
async def test_by_hand_a_trace_id_is_needed(nothing: Any) -> None:
    """trace:T1."""
    with pytest.raises(ValueError, match="trace_id must not be empty"):
        await adk.tracing.start_span(nothing, "x")


# -- the package


def test_the_facade_is_loaded_when_asked_for_and_is_light() -> None:
    """P10: `import everyspan` does not load it; it loads no HTTP client and no framework."""
    program = (
        "import sys, everyspan; print('everyspan.adk' in sys.modules); "
        "from everyspan import adk; adk.tracing; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    before, after = done.stdout.splitlines()
    assert before == "False"
    assert not {"httpx2", "sqlite3", "pydantic", "starlette", "agentex"} & set(after.split())


@pytest.mark.skipif(not PYTHON.exists(), reason="no other SDKs here: run `make peers`")
def test_signatures_are_the_originals() -> None:
    """trace:K1: names, order and defaults, as its source has them; the retry policy's default is
    an object of Temporal's."""
    found = {
        name: [pair for pair in of_source(function) if pair[0] != "retry_policy"]
        for name, function in originals().items()
    }
    assert found == {
        name: [pair for pair in of_function(function) if pair[0] != "retry_policy"]
        for name, function in {
            "TracingModule": TracingModule.__init__,
            "TracingModule.span": TracingModule.span,
            "TracingModule.start_span": TracingModule.start_span,
            "TracingModule.end_span": TracingModule.end_span,
            "TracingService": TracingService.__init__,
            "TracingService.start_span": TracingService.start_span,
            "TracingService.end_span": TracingService.end_span,
        }.items()
    }


def originals() -> dict[str, Function]:
    """The public functions of the original's two classes, unimported: it loads half a world."""
    (library,) = PYTHON.parents[1].glob("lib/python*/site-packages/agentex/lib")
    functions: dict[str, Function] = {}
    for file in ("adk/_modules/tracing.py", "core/services/adk/tracing.py"):
        for node in ast.walk(parse(library / file)):
            if isinstance(node, ast.ClassDef):
                for item in node.body:
                    if isinstance(item, Function) and not item.name.startswith("_tracing"):
                        name = node.name if item.name == "__init__" else f"{node.name}.{item.name}"
                        functions[name] = item
    return functions


def of_source(function: Function) -> list[tuple[str, Any]]:
    arguments = function.args
    assert arguments.kwonlyargs == arguments.posonlyargs == []
    # Evaluated where `timedelta` is all that a default may need.
    known = {"timedelta": timedelta, "DEFAULT_RETRY_POLICY": None}
    defaults = [eval(ast.unparse(default), known) for default in arguments.defaults]
    required = [NO_DEFAULT] * (len(arguments.args) - len(defaults))
    names = [argument.arg for argument in arguments.args]
    return list(zip(names, [*required, *defaults], strict=True))


def of_function(function: Any) -> list[tuple[str, Any]]:
    return [
        (parameter.name, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
    ]
