"""Opens and ends spans around the agent's code.

T1  Nothing here raises into the agent, nor waits (P2); the agent's own errors pass unchanged.
T2  A span ends exactly once, however its block is left: return, error, cancellation, generator
    exhausted, closed, broken out of or collected.
T3  A generator's span is the current one only while the generator's own code runs.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import logging
from collections.abc import Callable
from contextvars import Token
from time import monotonic, time_ns
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

import msgspec

from everyspan import pipeline
from everyspan.context import Parent, current, restore
from everyspan.model.ids import new_id
from everyspan.model.record import freeze_span
from everyspan.model.span import Span
from everyspan.model.span_error import set_span_error

logger = logging.getLogger("everyspan")

P = ParamSpec("P")
R = TypeVar("R")


class _Named(msgspec.Struct, eq=False):
    name: str


class span(_Named, kw_only=True, eq=False):
    """Record the block as a span: `with everyspan.span("plan") as s:`, or `async with`.

    The block's value is the `Span`: set `output`, `data` or `status` on it. An exception is
    recorded and raised again; a cancellation makes the span CANCELED.

    Args:
        name: What the block does.
        input: Anything; frozen when the span ends (when it starts, if STARTs are on).
        data: Further keys for whoever reads the trace.
        type: A `SpanType`; STANDALONE by default.
        trace_id: Trace to record into; by default that of the parent, else a new one.
        parent: A `Span`, or what `extract` returned; by default the current span.
        parent_id: Id of the parent, where only that is known.
        task_id: Task of the agent that this belongs to.
    """

    input: Any = None
    data: Any = None
    type: str | None = None
    trace_id: str | None = None
    parent: Parent | None = None
    parent_id: str | None = None
    task_id: str | None = None
    _span: Span | None = None
    _token: Token[Parent | None] | None = None

    def __enter__(self) -> Span:
        parent = self.parent
        if parent is None:
            parent = current.get()
        trace_id, parent_id = self.trace_id, self.parent_id
        if parent is not None and (trace_id is None or trace_id == parent.trace_id):
            trace_id = parent.trace_id
            if parent_id is None:
                parent_id = parent.id
        opened = self._span = Span(
            name=self.name,
            trace_id=new_id() if trace_id is None else trace_id,
            id=new_id(),
            parent_id=parent_id,
            start_ns=time_ns(),
            input=self.input,
            data=self.data,
            task_id=self.task_id,
            type=self.type,
        )
        begin(opened)
        self._token = current.set(opened)
        return opened

    def __exit__(
        self,
        kind: builtins.type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        opened, token = self._span, self._token
        if opened is None or token is None:
            return
        self._token = None
        restore(token, entered=opened)
        if error is not None and kind is not GeneratorExit:
            set_span_error(opened, error)
        end(opened)

    async def __aenter__(self) -> Span:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: builtins.type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)


def begin(opened: Span) -> None:
    """Note that a span started."""
    try:
        pipe = pipeline.current()
        if pipe.lanes:
            record = None
            if pipe.wants_starts:
                record = freeze_span(opened, is_end=False, offered_s=monotonic())
            pipe.queue.begin(opened, pipe.lanes, record)
    except Exception:
        # A defect of ours must not stop the agent (T1).
        logger.exception("everyspan could not record the start of a span")


def end(opened: Span) -> None:
    """Freeze a span and hand it over; a span that has ended before is sent as a later version."""
    try:
        if opened.end_ns is None:
            # The machine's clock may have been set back meanwhile.
            opened.end_ns = max(time_ns(), opened.start_ns)
        pipe = pipeline.current()
        if not pipe.lanes:
            pipe.note_nowhere()
            return
        record = freeze_span(opened, is_end=True, offered_s=monotonic())
        pipe.queue.offer(record, pipe.lanes, opened)
    except Exception:
        # A defect of ours must not stop the agent (T1).
        logger.exception("everyspan could not record the end of a span")


class Tracer:
    """Makes traces whose spans are opened and ended by hand."""

    def trace(self, trace_id: str | None) -> Trace:
        """Return the trace with this id; with a falsy id, one that records nothing."""
        return Trace(trace_id)


class Trace:
    """One trace; it touches no context, so a span may end on another thread than it started."""

    def __init__(self, trace_id: str | None) -> None:
        self.trace_id = trace_id

    def start_span(
        self,
        name: str,
        parent_id: str | None = None,
        input: Any = None,
        data: Any = None,
        task_id: str | None = None,
        type: str | None = None,
    ) -> Span:
        """Open a span; end it with `end_span`.

        Raises:
            ValueError: The trace has no id (`trace:T1`).
        """
        if not self.trace_id:
            raise ValueError("trace_id must not be empty to start a span")
        opened = Span(
            name=name,
            trace_id=self.trace_id,
            parent_id=parent_id,
            start_ns=time_ns(),
            input=input,
            data=data,
            task_id=task_id,
            type=type,
        )
        begin(opened)
        return opened

    def end_span(self, span: Span) -> Span:
        """End a span and return it; its `end_time` is kept if it has one (`trace:T5`)."""
        end(span)
        return span


@overload
def traced(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def traced(
    *, name: str | None = None, type: str | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def traced(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    type: str | None = None,
) -> Any:
    """Record every call of a function as a span, with its arguments and its result.

    For functions, coroutine functions, generators and async generators. A generator's span runs
    from the first `next` to its end; what it yields is not recorded.

    Args:
        name: Of the span; by default the function's qualified name.
        type: A `SpanType`.
    """
    if function is None:
        return functools.partial(_traced, name=name, type=type)
    return _traced(function, name=name, type=type)


def _traced(function: Callable[..., Any], *, name: str | None, type: str | None) -> Any:
    title = name or function.__qualname__
    positional = _positional_names(function)

    def opening(args: tuple[Any, ...], kwargs: dict[str, Any]) -> span:
        given = dict(zip(positional, args, strict=False))
        if len(args) > len(positional):
            given["args"] = args[len(positional) :]
        given.update(kwargs)
        return span(title, input=given or None, type=type)

    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def traced_async_generator(*args: Any, **kwargs: Any) -> Any:
            turns = _Turns(opening(args, kwargs))
            generator = function(*args, **kwargs)
            try:
                sent: Any = None
                thrown: BaseException | None = None
                while True:
                    try:
                        with turns:
                            if thrown is None:
                                item = await generator.asend(sent)
                            else:
                                item = await generator.athrow(thrown)
                    except StopAsyncIteration:
                        return
                    sent = thrown = None
                    try:
                        sent = yield item
                    except GeneratorExit:
                        with turns:
                            await generator.aclose()
                        raise
                    except BaseException as error:
                        thrown = error
            except BaseException as error:
                turns.failed(error)
                raise
            finally:
                turns.end()

        return traced_async_generator

    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def traced_generator(*args: Any, **kwargs: Any) -> Any:
            turns = _Turns(opening(args, kwargs))
            generator = function(*args, **kwargs)
            try:
                sent: Any = None
                thrown: BaseException | None = None
                while True:
                    try:
                        with turns:
                            if thrown is None:
                                item = generator.send(sent)
                            else:
                                item = generator.throw(thrown)
                    except StopIteration as stop:
                        turns.opened.output = stop.value
                        return stop.value
                    sent = thrown = None
                    try:
                        sent = yield item
                    except GeneratorExit:
                        with turns:
                            generator.close()
                        raise
                    except BaseException as error:
                        thrown = error
            except BaseException as error:
                turns.failed(error)
                raise
            finally:
                turns.end()

        return traced_generator

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def traced_coroutine(*args: Any, **kwargs: Any) -> Any:
            with opening(args, kwargs) as opened:
                opened.output = result = await function(*args, **kwargs)
            return result

        return traced_coroutine

    @functools.wraps(function)
    def traced_function(*args: Any, **kwargs: Any) -> Any:
        with opening(args, kwargs) as opened:
            opened.output = result = function(*args, **kwargs)
        return result

    return traced_function


class _Turns:
    """The span of a generator: the current one during each turn, not between them (T3).

    What the generator's own code made current at a yield is current again at its next turn. If
    the generator is collected without having been closed, the span ends with it (T2).
    """

    def __init__(self, scope: span) -> None:
        outside = current.get()
        self.opened = scope.__enter__()
        self._scope = scope
        self._inside: Parent | None = self.opened
        self._outside: Parent | None = None
        self._error: BaseException | None = None
        current.set(outside)

    def __enter__(self) -> Self:
        self._outside = current.get()
        current.set(self._inside)
        return self

    def __exit__(self, *_: object) -> None:
        self._inside = current.get()
        current.set(self._outside)

    def failed(self, error: BaseException) -> None:
        """Note what left the generator."""
        self._error = error

    def end(self) -> None:
        """End the span, once."""
        outside = current.get()
        error, self._error = self._error, None
        self._scope.__exit__(None if error is None else type(error), error, None)
        current.set(outside)

    def __del__(self) -> None:
        self.end()


def _positional_names(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(parameter.name for parameter in parameters if parameter.kind in kinds)
