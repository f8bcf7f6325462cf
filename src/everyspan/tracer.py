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
import sys
from collections.abc import AsyncGenerator, Callable
from time import monotonic, time_ns
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

import msgspec
from uuid_utils import uuid4

from everyspan import pipeline
from everyspan.context import Scope, current, innermost, leave
from everyspan.errors import SettingsError
from everyspan.log import complain
from everyspan.model.record import lost_span, snapshot_span
from everyspan.model.sampling import is_chosen
from everyspan.model.span import Span
from everyspan.model.span_error import set_span_error
from everyspan.model.w3c import RemoteParent
from everyspan.obs import note_surroundings
from everyspan.queue.intake import SAMPLED_OUT, UNTRACED
from everyspan.untraced import is_exporting

P = ParamSpec("P")
R = TypeVar("R")

Parent = Span | RemoteParent


class _Named(msgspec.Struct, eq=False):
    name: str


class span(_Named, kw_only=True, eq=False):
    """Record the block as a span: `with everyspan.span("plan") as s:`, or `async with`.

    The block's value is the `Span`: set `output`, `data` or `status` on it. An exception is
    recorded and raised again; a cancellation makes the span CANCELED. May be entered again, also
    while it runs: each time is a span of its own.

    Args:
        name: What the block does.
        input: Anything; frozen when the span ends (when it starts, if STARTs are on).
        data: Further keys for whoever reads the trace.
        type: A `SpanType`; STANDALONE by default.
        trace_id: Trace to record into; by default that of the parent, else a new one.
        parent: A `Span`, or what `extract` returned; by default the current span. It counts only
            within its trace: another `trace_id` begins at a root.
        parent_id: Id of the parent, where only that is known.
        task_id: Task of the agent that this belongs to.

    Raises:
        SettingsError: On entering, if an argument is of the wrong type.
    """

    input: Any = None
    data: Any = None
    type: str | None = None
    trace_id: str | None = None
    parent: Parent | None = None
    parent_id: str | None = None
    task_id: str | None = None
    _scope: Scope | None = None
    _outer: list[Scope] | None = None

    def __enter__(self) -> Span:
        before = current.get()
        if before is not None and before.is_lost:
            before = innermost()
        opened = self._open(before)
        if self._scope is not None:
            self._outer = [*(self._outer or ()), self._scope]
        scope = self._scope = Scope(opened, before)
        scope.token = current.set(scope)
        return opened

    def _open(self, before: Scope | None) -> Span:
        """Begin the span without making it the current one."""
        parent = self.parent
        trace_id, parent_id = self.trace_id, self.parent_id
        is_plain = type(self.name) is str and (self.type is None or type(self.type) is str)
        if (
            not is_plain
            or parent is not None
            or not (trace_id is parent_id is self.task_id is None)
        ):
            self._check()
        if parent is None and before is not None:
            parent = before.span
        remote = None
        if parent is not None and (not trace_id or trace_id == parent.trace_id):
            # As they are, whatever the agent put there: the queue makes text of them.
            trace_id = parent.trace_id
            remote = parent if isinstance(parent, RemoteParent) else parent._remote
            parent_id = parent_id or parent.id
        else:
            trace_id = trace_id or str(uuid4())
            parent_id = parent_id or None
        opened = Span(
            name=self.name,
            trace_id=trace_id,
            id=str(uuid4()),
            parent_id=parent_id,
            start_ns=time_ns(),
            input=self.input,
            data=self.data,
            task_id=self.task_id,
            type=self.type,
            _remote=remote,
        )
        begin(opened)
        return opened

    def _check(self) -> None:
        check_text(
            name=self.name,
            type=self.type,
            trace_id=self.trace_id,
            parent_id=self.parent_id,
            task_id=self.task_id,
        )
        if self.parent is not None and not isinstance(self.parent, Span | RemoteParent):
            raise SettingsError(
                f"parent must be a Span or what extract returned, got {self.parent!r}"
            )

    def __exit__(
        self,
        kind: builtins.type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        scope = self._scope
        if scope is None:
            return
        if self._outer:
            # Entered several times: by nesting, or by tasks that run at once.
            here = current.get()
            entered = [*self._outer, scope]
            scope = here if here is not None and here in entered else scope
            entered.remove(scope)
            *self._outer, self._scope = entered
        else:
            self._scope = None
        try:
            leave(scope)
            if error is not None and kind is not GeneratorExit:
                set_span_error(scope.span, error)
        finally:
            # Ctrl-C may come at any line of ours.
            self._end(scope.span)

    def _end(self, opened: Span) -> None:
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


def check_text(**arguments: object) -> None:
    """Raise a `SettingsError` that names the argument which is neither text nor None."""
    for name, value in arguments.items():
        if not isinstance(value, str) and (value is not None or name == "name"):
            raise SettingsError(f"{name} must be text, got {value!r}")


def begin(opened: Span) -> None:
    """Note that a span started."""
    try:
        pipe = pipeline.current()
        if pipe.lanes:
            if is_exporting.get():
                opened._lanes = None
                return
            if pipe.sample is not None and not _is_sampled(opened, pipe.sample):
                return
            if "opentelemetry.trace" in sys.modules or "ddtrace" in sys.modules:
                note_surroundings(opened, pipe.obs_mode)
            record = None
            if pipe.wants_starts:
                record = snapshot_span(
                    opened, is_end=False, offered_s=monotonic(), limits=pipe.limits
                )
                if pipe.keeps_inputs:
                    opened._frozen_input = (opened.input, record.input)
            pipe.queue.begin(opened, pipe.lanes, record)
    except Exception as error:
        # A defect of ours must not stop the agent (T1).
        complain("everyspan could not record the start of a span", error=error)


def end(opened: Span) -> None:
    """Freeze a span and hand it over; a span that has ended before is sent as a later version."""
    try:
        set_end_time(opened)
        pipe = pipeline.current()
        if not pipe.lanes:
            pipe.note_nowhere()
            return
        if opened._lanes is None:
            pipe.queue.leave_out(UNTRACED)
            return
        if pipe.sample is not None and not _is_sampled(opened, pipe.sample):
            pipe.queue.leave_out(SAMPLED_OUT)
            return
        try:
            record = snapshot_span(opened, is_end=True, offered_s=monotonic(), limits=pipe.limits)
        except Exception as error:
            # A defect of ours must not stop the agent (T1); the span counts as dropped (P1).
            complain("everyspan could not record the end of a span", error=error)
            record = lost_span(opened, offered_s=monotonic())
        pipe.queue.offer(record, pipe.lanes, opened)
    except Exception as error:
        complain("everyspan could not hand over a span", error=error)


def _is_sampled(span: Span, share: float) -> bool:
    """Tell whether a span's trace is recorded; decided once a span, the same in all of a trace."""
    decision = span._is_sampled
    if decision is None:
        above = innermost()
        if above is not None and above.span.trace_id == span.trace_id:
            decision = above.span._is_sampled
        if decision is None:
            remote = span._remote
            decision = remote.is_sampled if remote else is_chosen(str(span.trace_id), share)
        span._is_sampled = decision
    return decision


def set_end_time(opened: Span) -> None:
    """Set the end of a span to now, unless it has one (`trace:T5`)."""
    if opened.end_ns is None:
        now_ns, start_ns = time_ns(), opened.start_ns
        # The machine's clock may have been set back meanwhile.
        is_back = type(start_ns) is int and start_ns > now_ns
        opened.end_ns = start_ns if is_back else now_ns


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
    from the first `next` to its end; what it yields is not recorded. A method's `self` is not
    recorded either.

    Args:
        name: Of the span; by default the function's qualified name.
        type: A `SpanType`.

    Raises:
        SettingsError: What is decorated is no function, or an argument is no text.
    """
    if name is not None or type is not None:
        check_text(name=name or "", type=type)
    if function is None:
        return functools.partial(_traced, name=name, type=type)
    return _traced(function, name=name, type=type)


def _traced(function: Callable[..., Any], *, name: str | None, type: str | None) -> Any:
    if isinstance(function, staticmethod | classmethod):
        kind = builtins.type(function)
        return kind(_traced(function.__func__, name=name, type=type))
    if not callable(function) or inspect.isclass(function):
        raise SettingsError(f"traced takes a function, got {function!r}")
    title = name or str(getattr(function, "__qualname__", builtins.type(function).__qualname__))
    positional = _positional_names(function)

    def opening(args: tuple[Any, ...], kwargs: dict[str, Any]) -> span:
        given = dict(zip(positional, args, strict=False))
        if positional and positional[0] in ("self", "cls"):
            given.pop(positional[0], None)
        if len(args) > len(positional):
            given["args"] = args[len(positional) :]
        given.update(kwargs)
        return span(title, input=given or None, type=type)

    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def traced_async_generator(*args: Any, **kwargs: Any) -> Any:
            turns = _Turns(opening(args, kwargs))
            try:
                generator = function(*args, **kwargs)
                first = _unhooked(generator)
                sent: Any = None
                thrown: BaseException | None = None
                while True:
                    try:
                        with turns:
                            if first is not None:
                                turn, first = first, None
                                item = await turn
                            elif thrown is None:
                                item = await generator.asend(sent)
                            else:
                                item = await generator.athrow(thrown)
                    except StopAsyncIteration:
                        return
                    sent = thrown = None
                    try:
                        sent = yield item
                    except BaseException as error:
                        # GeneratorExit too: what the generator makes of it is its own affair.
                        thrown = error
            except BaseException as error:
                turns.fail(error)
                raise
            finally:
                # The error's traceback holds this frame: without a cycle both go at once.
                thrown = None
                turns.end()

        return traced_async_generator

    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def traced_generator(*args: Any, **kwargs: Any) -> Any:
            turns = _Turns(opening(args, kwargs))
            try:
                generator = function(*args, **kwargs)
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
                    except BaseException as error:
                        # GeneratorExit too: what the generator makes of it is its own affair.
                        thrown = error
            except BaseException as error:
                turns.fail(error)
                raise
            finally:
                # The error's traceback holds this frame: without a cycle both go at once.
                thrown = None
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

    _has_ended = True

    def __init__(self, opening: span) -> None:
        self.opened = opening._open(innermost())
        self._inside: Scope | None = Scope(self.opened)
        self._outside: Scope | None = None
        self._has_ended = False

    def __enter__(self) -> Self:
        self._outside = current.get()
        current.set(self._inside)
        return self

    def __exit__(self, *_: object) -> None:
        self._inside = current.get()
        current.set(self._outside)
        # Not kept between turns: the consumer's span is none of ours.
        self._outside = None

    def fail(self, error: BaseException) -> None:
        """Note what left the generator."""
        if not isinstance(error, GeneratorExit):
            set_span_error(self.opened, error)

    def end(self) -> None:
        """End the span, once."""
        if not self._has_ended:
            self._has_ended = True
            end(self.opened)

    def __del__(self) -> None:
        self.end()


def _unhooked(generator: AsyncGenerator[Any, Any]) -> Any:
    """Return the first turn of an async generator that its loop shall not know of.

    The loop closes the wrapper, and that the generator; it would close both at once.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return generator.asend(None)
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _positional_names(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(parameter.name for parameter in parameters if parameter.kind in kinds)
