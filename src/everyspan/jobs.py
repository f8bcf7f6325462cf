"""Work that ends with nothing under way: a script, a cron job, a lambda, an activity.

J1  At its end spans are drained, at most `timeout` seconds; nothing is shut down, so the next job
    of the process records as well.
J2  What the work returns or raises passes unchanged; nothing of ours is raised (P2).
J3  An event loop is never blocked: where one runs, `async with` awaits, and `with` does not wait.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from types import MappingProxyType, TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from everyspan import pipeline
from everyspan.errors import SettingsError
from everyspan.home import runs_a_loop
from everyspan.ledger import FlushResult
from everyspan.log import complain

P = ParamSpec("P")
R = TypeVar("R")

TIMEOUT_S = 5.0
"""As the grace at the end of a process."""

_FAILED = FlushResult(
    ok=False, safe=False, left=MappingProxyType({"everyspan": MappingProxyType({"defect": 1})})
)


class Job:
    """The work of a block, or of each call of a function; see the module text.

    Attributes:
        result: What became of the spans by its end; None before.
    """

    def __init__(self, timeout: float) -> None:
        self.result: FlushResult | None = None
        self._timeout = pipeline.seconds(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if runs_a_loop():
                # J3: who blocks the loop here blocks everybody on it.
                self._end(pipeline.flush(0), "nobody waited: use `async with everyspan.job()`")
            else:
                self._end(pipeline.flush(self._timeout))
        except Exception as ours:
            self._stumble(ours)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is GeneratorExit:
            # The coroutine is being closed, and may await no more.
            self.__exit__(kind, error, trace)
            return
        try:
            self._end(await pipeline.aflush(self._timeout))
        except Exception as ours:
            self._stumble(ours)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return `function` such that each of its calls is a job.

        Raises:
            SettingsError: It is neither a function nor a coroutine function.
        """
        if (
            not callable(function)
            or inspect.isclass(function)
            or inspect.isgeneratorfunction(function)
            or inspect.isasyncgenfunction(function)
        ):
            raise SettingsError(
                f"job takes a function or a coroutine function, got {function!r}; "
                "a timeout goes by its name: job(timeout=5)"
            )
        timeout = self._timeout

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def async_job(*args: P.args, **kwargs: P.kwargs) -> Any:
                async with Job(timeout):
                    return await function(*args, **kwargs)

            return async_job  # type: ignore[return-value]

        @functools.wraps(function)
        def sync_job(*args: P.args, **kwargs: P.kwargs) -> R:
            with Job(timeout):
                return function(*args, **kwargs)

        return sync_job

    def _end(self, result: FlushResult, advice: str = "") -> None:
        self.result = result
        if result.ok:
            return
        left = {name: dict(reasons) for name, reasons in result.left.items()}
        complain(
            "a job ended before its spans were delivered: %s%s",
            left,
            f"; {advice}" if advice else "",
            level=logging.WARNING,
        )

    def _stumble(self, error: Exception) -> None:
        self.result = _FAILED
        complain("everyspan could not drain at the end of a job", error=error)


@overload
def job(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def job(*, timeout: float = TIMEOUT_S) -> Job: ...
def job(
    function: Callable[..., Any] | None = None, /, *, timeout: float = TIMEOUT_S
) -> Callable[..., Any] | Job:
    """Drain spans at the end of a block or function: `with everyspan.job(timeout=5) as job:`.

    `async with` in a coroutine; `@everyspan.job` and `@everyspan.job(timeout=5)` on functions and
    coroutine functions. Afterwards `job.result` says whether all is delivered, and a warning in
    the log if not. Nothing is shut down; what is left is still sent while the process lives.

    Args:
        timeout: Seconds to wait at most.

    Raises:
        SettingsError: An argument is not allowed.
    """
    new = Job(timeout)
    return new if function is None else new(function)
