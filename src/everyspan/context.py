"""Which span is the current one, here and across threads and processes.

C1  The current span follows tasks by itself (context variables); `carry` takes it into a thread.
C2  Leaving in another context than the one entered never raises.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar, Token
from typing import Any, ParamSpec, TypeVar

from everyspan.model.span import Span
from everyspan.model.w3c import RemoteParent, format_headers, parse_headers

P = ParamSpec("P")
R = TypeVar("R")

Parent = Span | RemoteParent

current: ContextVar[Parent | None] = ContextVar("everyspan_current", default=None)


def current_span() -> Span | None:
    """Return the span that runs here, None where none does."""
    parent = current.get()
    return parent if isinstance(parent, Span) else None


def restore(token: Token[Parent | None], *, entered: Parent | None) -> None:
    """Make the span before `entered` the current one again (C2)."""
    try:
        current.reset(token)
    except ValueError:
        # Left in another context than the one entered: a task of its own, a collected generator.
        if current.get() is entered:
            current.set(None if token.old_value is Token.MISSING else token.old_value)


def inject(headers: MutableMapping[str, str]) -> MutableMapping[str, str]:
    """Write the current span into headers as `traceparent`, for a request to another process.

    Returns:
        `headers`, unchanged where no span runs.
    """
    parent = current.get()
    if parent is not None:
        if isinstance(parent, Span):
            parent = RemoteParent(trace_id=parent.trace_id, id=parent.id)
        headers.update(format_headers(parent))
    return headers


def extract(headers: Mapping[Any, Any]) -> RemoteParent | None:
    """Return the parent that a request's headers carry, for `span(parent=...)`.

    Names match in any case; values may be text, bytes or lists. Invalid headers are None.
    """
    try:
        return parse_headers(headers)
    except Exception:
        # Headers are the outside world's, their mapping the framework's.
        return None


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` such that it runs under the span that is the current one now.

    For threads and executors: `executor.submit(everyspan.carry(work), ...)`.
    """
    parent = current.get()

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def carried_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            token = current.set(parent)
            try:
                return await function(*args, **kwargs)
            finally:
                restore(token, entered=parent)

        return carried_async  # type: ignore[return-value]

    @functools.wraps(function)
    def carried(*args: P.args, **kwargs: P.kwargs) -> R:
        token = current.set(parent)
        try:
            return function(*args, **kwargs)
        finally:
            restore(token, entered=parent)

    return carried
