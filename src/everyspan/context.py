"""Which span is the current one, here and across threads and processes.

C1  The current span follows tasks by itself (context variables); `carry` takes it into a thread.
C2  Leaving in another context than the one entered never raises, and in neither context does the
    span that was left stay the current one.
C3  A span left before one that began inside it does not become current again.
C4  What came with a request (`extract`) leaves with every request made under it (`inject`), also
    below spans that were started by hand.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, MutableMapping
from contextvars import ContextVar, Token
from typing import Any, ParamSpec, TypeVar

import msgspec

from everyspan.errors import SettingsError
from everyspan.log import complain
from everyspan.model.span import Span
from everyspan.model.w3c import (
    CONTEXT_HEADERS,
    Headers,
    RemoteParent,
    format_headers,
    parse_headers,
)

P = ParamSpec("P")
R = TypeVar("R")


class Scope(msgspec.Struct, eq=False):
    """A place where a span is the current one, within the place that was current before.

    `is_lost` marks one that was left in another context than the one entered, where it would stay
    the current one for ever: whoever finds it there takes the one before.
    """

    span: Span
    before: Scope | None = None
    is_lost: bool = False
    token: Token[Scope | None] | None = None


current: ContextVar[Scope | None] = ContextVar("everyspan_current", default=None)


def innermost() -> Scope | None:
    """Return the scope that the calling code runs in."""
    scope = current.get()
    while scope is not None and scope.is_lost:
        scope = scope.before
    return scope


def enter(span: Span, before: Scope | None) -> Scope:
    """Make `span` the current one, within `before`."""
    scope = Scope(span, before)
    scope.token = current.set(scope)
    return scope


def leave(scope: Scope) -> None:
    """Make the span before this scope's the current one again (C2, C3)."""
    token, before = scope.token, scope.before
    scope.token = scope.before = None
    here = current.get()
    if here is scope and token is not None:
        try:
            current.reset(token)
            return
        except ValueError:
            current.set(before)
    else:
        while here is not None and here is not scope:
            here = here.before
        if here is scope:
            # Something that began inside was not left, a paused generator perhaps.
            current.set(before)
            return
    while before is not None and before.is_lost:
        # Resolved now, lest such scopes form a chain without end.
        before = before.before
    scope.before = before
    scope.is_lost = True


def current_span() -> Span | None:
    """Return the span that runs here, None where none does."""
    scope = innermost()
    return None if scope is None else scope.span


class use_span:
    """Make a span that was started by hand the current one: `with everyspan.use_span(span):`.

    The block's value is the span. It neither starts nor ends here, and what leaves the block is
    not recorded on it.

    Raises:
        SettingsError: `span` is none.
    """

    __slots__ = ("_scope", "_span")

    def __init__(self, span: Span) -> None:
        if not isinstance(span, Span):
            raise SettingsError(f"span must be a Span, got {span!r}")
        self._span = span

    def __enter__(self) -> Span:
        self._scope = enter(self._span, innermost())
        return self._span

    def __exit__(self, *_: object) -> None:
        leave(self._scope)


def inject(headers: MutableMapping[str, str]) -> MutableMapping[str, str]:
    """Write the current span into headers as `traceparent`, for a request to another process.

    Returns:
        `headers`, unchanged where no span runs.
    """
    scope = innermost()
    if scope is None:
        return headers
    span = scope.span
    try:
        remote = _remote_above(scope)
        parent = RemoteParent(
            trace_id=span.trace_id,
            id=span.id,
            flags="01" if remote is None else remote.flags,
            tracestate="" if remote is None else remote.tracestate,
        )
        if span._is_sampled is not None:
            parent = parent.decided(is_sampled=span._is_sampled)
        ours = format_headers(parent)
        # Whatever their case: a receiver refuses a `traceparent` that comes twice (`otlp:W2`).
        for name in [name for name in headers if name.lower() in CONTEXT_HEADERS]:
            del headers[name]
        headers.update(ours)
    except Exception as error:
        # The mapping is the framework's, and its request matters more than our link.
        complain("everyspan could not write the trace context into headers", error=error)
    return headers


def _remote_above(scope: Scope | None) -> RemoteParent | None:
    """Return the parent in another process that the spans of this trace hang from (C4)."""
    trace_id = None if scope is None else scope.span.trace_id
    while scope is not None and scope.span.trace_id == trace_id:
        remote: RemoteParent | None = scope.span._remote
        if remote is not None:
            return remote
        scope = scope.before
    return None


def extract(headers: Headers | Iterable[tuple[Any, Any]]) -> RemoteParent | None:
    """Return the parent that a request's headers carry, for `span(parent=...)`.

    Names match in any case; names and values may be bytes, values lists. Invalid headers are None.

    Args:
        headers: A mapping or a message, or pairs as in an ASGI scope.
    """
    try:
        return parse_headers(headers)
    except Exception:
        # Headers are the outside world's, their mapping the framework's.
        return None


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` such that it runs under the span that is the current one now.

    For threads and executors: `executor.submit(everyspan.carry(work), ...)`.

    Raises:
        SettingsError: `function` cannot be called.
    """
    if not callable(function):
        raise SettingsError(f"carry takes a function, got {function!r}")
    scope = innermost()

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def carried_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            token = current.set(scope)
            try:
                return await function(*args, **kwargs)
            finally:
                _reset(token)

        return carried_async  # type: ignore[return-value]

    @functools.wraps(function)
    def carried(*args: P.args, **kwargs: P.kwargs) -> R:
        token = current.set(scope)
        try:
            return function(*args, **kwargs)
        finally:
            _reset(token)

    return carried


def _reset(token: Token[Scope | None]) -> None:
    try:
        current.reset(token)
    except ValueError:
        # A coroutine that was closed by the collector, in another context.
        pass
