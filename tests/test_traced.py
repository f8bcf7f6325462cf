"""`everyspan.traced` on every kind of function; generators above all."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import threading
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest

import everyspan
from everyspan import SettingsError, SpanStatus, traced
from everyspan.model.span import Span
from tests.recording import Recording, recorded


@pytest.fixture
def recording() -> Iterator[Recording]:
    with recorded() as recording:
        yield recording


def here() -> str | None:
    """The current span's name, without its enclosing functions."""
    span = everyspan.current_span()
    return None if span is None else span.name


@traced(name="gen")
def numbers(count: int, seen: list[str | None] | None = None) -> Generator[int, Any, str]:
    try:
        for number in range(count):
            if seen is not None:
                seen.append(here())
            yield number
    finally:
        if seen is not None:
            seen.append(here())
    return "done"


@traced(name="agen")
async def anumbers(count: int, seen: list[str | None] | None = None) -> AsyncIterator[int]:
    try:
        for number in range(count):
            if seen is not None:
                seen.append(here())
            await asyncio.sleep(0)
            yield number
    finally:
        if seen is not None:
            seen.append(here())


# -- functions and coroutines


def test_a_call_is_a_span_with_arguments_and_result(recording: Recording) -> None:
    @traced
    def add(a: int, b: int, *more: int, c: int = 0) -> int:
        assert everyspan.current_span() is not None
        return a + b + c + sum(more)

    assert add(1, 2, 3, c=4) == 10
    (kept,) = recording.spans
    assert kept.name.endswith("add")
    assert kept.input == {"a": 1, "b": 2, "args": [3], "c": 4}
    assert kept.output == 10
    assert everyspan.current_span() is None


async def test_a_coroutine_is_a_span_until_it_returns(recording: Recording) -> None:
    @traced(name="work", type="CUSTOM")
    async def work(value: str) -> str:
        await asyncio.sleep(0)
        with everyspan.span("inner"):
            return value.upper()

    assert await work("a") == "A"
    kept = recording.one("work")
    assert (kept.input, kept.output, kept.type) == ({"value": "a"}, "A", "CUSTOM")
    assert recording.parents == {"work": None, "inner": "work"}


def test_an_error_is_recorded_and_raised_again(recording: Recording) -> None:
    error = ValueError("bad")

    @traced(name="x")
    def fail() -> None:
        raise error

    with pytest.raises(ValueError, match="bad") as caught:
        fail()
    assert caught.value is error
    assert recording.one("x").status == SpanStatus.ERROR


async def test_a_cancelled_coroutine_is_canceled(recording: Recording) -> None:
    @traced(name="x")
    async def work() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recording.one("x").status == SpanStatus.CANCELED


def test_a_bad_call_raises_what_it_would(recording: Recording) -> None:
    @traced(name="x")
    def work(a: int) -> None: ...

    with pytest.raises(TypeError, match="missing 1 required"):
        work()  # type: ignore[call-arg]
    assert recording.one("x").status == SpanStatus.ERROR


@pytest.mark.parametrize("decorate", [traced, traced(), traced(name="x")])
def test_every_kind_of_function_stays_of_its_kind(decorate: Callable[[Any], Any]) -> None:
    """Frameworks look before they call."""

    def plain() -> None:
        """Text."""

    async def coroutine() -> None: ...

    def generator() -> Iterator[int]:
        yield 1

    async def async_generator() -> AsyncIterator[int]:
        yield 1

    looks = (
        inspect.isfunction,
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
    )
    for function in (plain, coroutine, generator, async_generator):
        wrapper = decorate(function)
        assert [look(wrapper) for look in looks] == [look(function) for look in looks]
        assert wrapper.__name__ == function.__name__
        assert wrapper.__doc__ == function.__doc__
        assert inspect.signature(wrapper) == inspect.signature(function)


def test_methods_are_recorded_without_self(recording: Recording) -> None:
    class Agent:
        @traced(name="method")
        def method(self, a: int) -> int:
            return a

        @traced(name="static")
        @staticmethod
        def static(a: int) -> int:
            return a

        @classmethod
        @traced(name="inside")
        def inside(cls, a: int) -> int:
            return a

        @traced(name="around")
        @classmethod
        def around(cls, a: int) -> type[Agent]:
            return cls

    agent = Agent()
    assert agent.method(1) == agent.static(1) == agent.inside(1) == Agent.static(1) == 1
    assert agent.around(1) is Agent.around(1) is Agent
    assert {str(span.input) for span in recording.spans} == {"{'a': 1}"}


def test_a_partial_and_a_callable_object_have_a_name(recording: Recording) -> None:
    class Tool:
        def __call__(self, a: int) -> int:
            return a

    assert traced(functools.partial(max, 1))(2) == 2
    assert traced(Tool())(3) == 3
    assert [name.rsplit(".", 1)[-1] for name in recording.names] == ["partial", "Tool"]


@pytest.mark.parametrize(
    ("decorate", "text"),
    [
        (lambda: traced(5), "traced takes a function, got 5"),  # type: ignore[call-overload]
        (lambda: traced(name="x")(5), "traced takes a function, got 5"),  # type: ignore[arg-type]
        (lambda: traced(Span), "traced takes a function, got <class"),
        (lambda: traced(name=5), "name must be text, got 5"),  # type: ignore[call-overload]
        (lambda: traced(type=5), "type must be text, got 5"),  # type: ignore[call-overload]
    ],
)
def test_bad_use_raises_where_it_stands(decorate: Callable[[], Any], text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        decorate()
    assert str(caught.value).startswith(text)


# -- generators


def test_the_generators_span_is_current_only_inside_it(recording: Recording) -> None:
    """T3: a consumer's spans between yields are not its children."""
    seen: list[str | None] = []
    with everyspan.span("consumer"):
        for number in numbers(2, seen):
            assert here() == "consumer"
            with everyspan.span(f"between {number}"):
                pass
    assert seen == ["gen"] * 3
    assert recording.parents == {
        "consumer": None,
        "gen": "consumer",
        "between 0": "consumer",
        "between 1": "consumer",
    }
    assert recording.one("gen").output == "done"


def test_a_generators_value_is_returned(recording: Recording) -> None:
    def outer() -> Generator[int, Any, None]:
        assert (yield from numbers(2)) == "done"

    assert list(outer()) == [0, 1]
    assert recording.names == ["gen"]


def test_what_is_sent_and_thrown_passes_through(recording: Recording) -> None:
    @traced(name="echo")
    def echo() -> Generator[Any, Any, str]:
        got: Any = None
        while got != "stop":
            try:
                got = yield (here(), got)
            except KeyError as error:
                got = error
        return "stopped"

    generator = echo()
    error = KeyError("k")
    assert next(generator) == ("echo", None)
    assert generator.send(1) == ("echo", 1)
    assert generator.throw(error) == ("echo", error)
    assert generator.send(2) == ("echo", 2)
    with pytest.raises(StopIteration) as stop:
        generator.send("stop")
    assert stop.value.value == "stopped"
    kept = recording.one("echo")
    assert (kept.status, kept.output) == (SpanStatus.SUCCESS, "stopped")


def test_a_generator_that_fails_is_an_error(recording: Recording) -> None:
    @traced(name="x")
    def fail() -> Iterator[int]:
        yield 1
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        list(fail())
    assert recording.one("x").status == SpanStatus.ERROR


def test_an_error_thrown_in_and_not_caught_is_recorded(recording: Recording) -> None:
    generator = numbers(2)
    next(generator)
    with pytest.raises(ValueError, match="bad"):
        generator.throw(ValueError("bad"))
    assert recording.one("gen").status == SpanStatus.ERROR


@pytest.mark.parametrize("error", [StopIteration, RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_throwing_does_what_it_does_undecorated(
    recording: Recording, error: type[BaseException]
) -> None:
    outcomes = []
    for function in (numbers, numbers.__wrapped__):  # type: ignore[attr-defined]
        generator = function(2)
        next(generator)
        with pytest.raises(BaseException) as caught:  # noqa: PT011
            generator.throw(error("x"))
        outcomes.append((caught.type, str(caught.value)))
    assert outcomes[0] == outcomes[1]


def test_closing_ends_the_span_without_an_error(recording: Recording) -> None:
    seen: list[str | None] = []
    generator = numbers(5, seen)
    next(generator)
    generator.close()
    generator.close()
    assert seen == ["gen", "gen"]
    assert here() is None
    assert recording.one("gen").status == SpanStatus.SUCCESS


def test_breaking_out_ends_the_span(recording: Recording) -> None:
    for _ in numbers(5):
        break
    gc.collect()
    assert recording.names == ["gen"]


def test_a_collected_generator_ends_its_span(recording: Recording) -> None:
    """T2, also in a cycle that only the collector finds, on whatever thread."""
    cycle: list[Any] = [numbers(5)]
    next(cycle[0])
    cycle.append(cycle)
    del cycle
    with everyspan.span("outer"):
        thread = threading.Thread(target=gc.collect)
        thread.start()
        thread.join()
        assert here() == "outer"
    assert sorted(recording.names) == ["gen", "outer"]


def test_a_generator_that_never_started_is_no_span(recording: Recording) -> None:
    generator = numbers(5)
    generator.close()
    del generator
    assert recording.names == []


def test_a_generator_that_ignores_its_close_raises_what_it_would(recording: Recording) -> None:
    @traced(name="x")
    def stubborn() -> Iterator[int]:
        while True:
            try:
                yield 1
            except GeneratorExit:
                yield 2
                return

    generator = stubborn()
    next(generator)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        generator.close()  # type: ignore[attr-defined]
    assert list(generator) == []
    assert recording.names == ["x"]


def test_close_returns_what_it_would_undecorated(recording: Recording) -> None:
    """Since Python 3.13 the generator's value."""

    def work() -> Generator[int, Any, str]:
        try:
            yield 1
        except GeneratorExit:
            return "closed"
        return "done"

    outcomes: list[object] = []
    for function in (work, traced(work)):
        generator: Any = function()
        next(generator)
        outcomes.append(generator.close())
    assert outcomes[0] == outcomes[1]


def test_bad_arguments_of_a_generator_are_an_error(recording: Recording) -> None:
    with pytest.raises(TypeError, match="missing 1 required"):
        next(numbers())  # type: ignore[call-arg]
    assert recording.one("gen").status == SpanStatus.ERROR


def test_spans_inside_a_generator_keep_their_parents_across_yields(recording: Recording) -> None:
    """T3: what was current inside at a yield is current again at the next turn."""

    @traced(name="gen")
    def work() -> Iterator[str | None]:
        with everyspan.span("step"):
            yield here()
            with everyspan.span("substep"):
                yield here()
            yield here()
        yield here()

    turns = []
    with everyspan.span("consumer"):
        for number, turn in enumerate(work()):
            turns.append(turn)
            with everyspan.span(f"between {number}"):
                pass
        assert here() == "consumer"
    assert turns == ["step", "substep", "step", "gen"]
    parents = recording.parents
    assert {n: p for n, p in parents.items() if not n.startswith("between")} == {
        "consumer": None,
        "gen": "consumer",
        "step": "gen",
        "substep": "step",
    }
    assert {parents[f"between {number}"] for number in range(4)} == {"consumer"}


def test_generators_read_in_turn_do_not_mix(recording: Recording) -> None:
    with everyspan.span("consumer"):
        for _ in zip(numbers(3), numbers(2), strict=False):
            assert here() == "consumer"
    assert recording.edges == {(None, "consumer"): 1, ("consumer", "gen"): 2}


def test_a_generator_passed_between_threads_goes_on(recording: Recording) -> None:
    seen: list[str | None] = []
    generator = numbers(3, seen)
    for _ in range(3):
        thread = threading.Thread(target=next, args=(generator,))
        thread.start()
        thread.join()
    assert list(generator) == []
    assert seen == ["gen"] * 4
    assert recording.names == ["gen"]


def test_a_generators_frame_goes_with_its_error(recording: Recording) -> None:
    """P4: no cycle is left for the collector."""

    class Held:
        pass

    @traced
    def fail(held: Held) -> Iterator[int]:
        yield 1

    gc.collect()
    gc.disable()
    try:
        generator = fail(Held())
        next(generator)
        with pytest.raises(ValueError, match="bad"):
            generator.throw(ValueError("bad"))  # type: ignore[attr-defined]
        del generator
        assert recording.names != []
        assert not [o for o in gc.get_objects() if isinstance(o, Held)]
    finally:
        gc.enable()


# -- async generators


async def test_the_async_generators_span_is_current_only_inside_it(recording: Recording) -> None:
    """T3."""
    seen: list[str | None] = []
    async with everyspan.span("consumer"):
        async for number in anumbers(2, seen):
            assert here() == "consumer"
            with everyspan.span(f"between {number}"):
                pass
    assert seen == ["agen"] * 3
    assert recording.parents == {
        "consumer": None,
        "agen": "consumer",
        "between 0": "consumer",
        "between 1": "consumer",
    }


async def test_what_is_sent_and_thrown_passes_through_an_async_generator(
    recording: Recording,
) -> None:
    @traced(name="echo")
    async def echo() -> Any:
        got: Any = None
        while got != "stop":
            try:
                got = yield (here(), got)
            except KeyError as error:
                got = error

    generator = echo()
    error = KeyError("k")
    assert await anext(generator) == ("echo", None)
    assert await generator.asend(1) == ("echo", 1)
    assert await generator.athrow(error) == ("echo", error)
    with pytest.raises(StopAsyncIteration):
        await generator.asend("stop")
    assert recording.one("echo").status == SpanStatus.SUCCESS


@pytest.mark.parametrize("error", [StopAsyncIteration, RuntimeError, KeyError, GeneratorExit])
async def test_async_throwing_does_what_it_does_undecorated(
    recording: Recording, error: type[BaseException]
) -> None:
    outcomes = []
    for function in (anumbers, anumbers.__wrapped__):  # type: ignore[attr-defined]
        generator: Any = function(2)
        await anext(generator)
        with pytest.raises(BaseException) as caught:  # noqa: PT011
            await generator.athrow(error("x"))
        outcomes.append((caught.type, str(caught.value)))
    assert outcomes[0] == outcomes[1]


async def test_aclose_ends_the_span_without_an_error(recording: Recording) -> None:
    seen: list[str | None] = []
    generator: Any = anumbers(5, seen)
    await anext(generator)
    await generator.aclose()
    await generator.aclose()
    assert seen == ["agen", "agen"]
    assert recording.one("agen").status == SpanStatus.SUCCESS


async def test_breaking_out_of_an_async_generator_ends_the_span(recording: Recording) -> None:
    """The loop closes it once it is collected."""
    seen: list[str | None] = []
    async with everyspan.span("consumer"):
        async for _ in anumbers(5, seen):
            break
    gc.collect()
    while len(seen) < 2:
        await asyncio.sleep(0)
    assert seen == ["agen", "agen"]
    await asyncio.sleep(0)
    assert recording.parents == {"consumer": None, "agen": "consumer"}


async def test_a_cancelled_async_generator_is_canceled(recording: Recording) -> None:
    """trace:E3."""
    waiting = asyncio.Event()

    @traced(name="x")
    async def forever() -> AsyncIterator[int]:
        yield 1
        waiting.set()
        await asyncio.Event().wait()

    async def consume() -> None:
        async for _ in forever():
            pass

    task = asyncio.create_task(consume())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recording.one("x").status == SpanStatus.CANCELED


def test_async_generators_that_their_loop_leaves_behind_end(recording: Recording) -> None:
    """`asyncio.run` closes them all at once, in tasks of their own, hence in other contexts."""
    held: list[Any] = []
    closed: list[str | None] = []

    @traced(name="agen")
    async def work() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append(here())

    async def main() -> None:
        for _ in range(20):
            held.append(work())
            await anext(held[-1])

    asyncio.run(main())
    assert closed == ["agen"] * 20
    assert [(span.name, span.status) for span in recording.spans] == [("agen", "SUCCESS")] * 20


def test_an_async_generator_collected_after_its_loop_ends(recording: Recording) -> None:
    """T2: nobody can close it any more; its span ends with it."""
    loop = asyncio.new_event_loop()
    generator: Any = anumbers(5)
    loop.run_until_complete(anext(generator))
    loop.close()
    with everyspan.span("outer"):
        del generator
        gc.collect()
        assert here() == "outer"
    assert recording.parents == {"agen": None, "outer": None}


def test_an_async_generator_on_a_loop_that_never_finishes_ends(recording: Recording) -> None:
    """T2: the loop is stopped, never closed, and collected together with the generator."""
    loop = asyncio.new_event_loop()
    generator: Any = anumbers(5)
    loop.run_until_complete(anext(generator))
    del generator
    with warnings.catch_warnings():
        # The loop is left open on purpose.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
        # The loop's own hook has scheduled the close; the loop never runs it.
        del loop
        gc.collect()
    assert recording.names == ["agen"]


async def test_a_span_inside_an_async_generator_survives_other_tasks(recording: Recording) -> None:
    """C2: each turn runs in a task of its own, and so does the close."""

    @traced(name="agen")
    async def work() -> AsyncIterator[str | None]:
        with everyspan.span("step"):
            yield here()
            yield here()
        yield here()

    generator: Any = work()

    async def turn() -> str | None:
        found: str | None = await anext(generator)
        return found

    turns = [await asyncio.create_task(turn()) for _ in range(3)]
    await asyncio.create_task(generator.aclose())
    assert turns == ["step", "step", "agen"]
    assert here() is None
    assert recording.parents == {"agen": None, "step": "agen"}


async def test_async_generators_read_at_once_do_not_mix(recording: Recording) -> None:
    async def consume(name: str) -> None:
        async with everyspan.span(name):
            async for _ in anumbers(3):
                assert here() == name
                await asyncio.sleep(0)

    async with everyspan.span("root"):
        await asyncio.gather(*(consume(f"consumer {n}") for n in range(5)))
    consumers = [f"consumer {n}" for n in range(5)]
    edges = [(None, "root"), *(("root", name) for name in consumers)]
    assert recording.edges == Counter([*edges, *((name, "agen") for name in consumers)])


def test_an_error_does_not_hide_what_the_generator_left_open(recording: Recording) -> None:
    """T2: the span of a block that the collector unwinds ends too."""

    def plain() -> Iterator[int]:
        with everyspan.span("inner"):
            yield 1

    @traced(name="gen")
    def work() -> Iterator[int]:
        yield from plain()

    for _ in work():
        break
    gc.collect()
    assert recording.parents == {"gen": None, "inner": "gen"}
    assert everyspan.stats().open_spans == 0
