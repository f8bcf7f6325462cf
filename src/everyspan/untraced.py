"""Sending spans makes none: neither ours nor OpenTelemetry's.

U1  A span that is opened while a batch is exported, by the destination, by what it calls or by a
    task that it starts, is not recorded, since it would be exported in turn, without an end. It is
    counted.
U2  A request of our destinations is none to OpenTelemetry's instrumentations, whichever HTTP client
    they watch. OpenTelemetry is told where somebody else has loaded it; it is never loaded for it.

A thread that an exporting destination hands work to is not seen: spans opened there are recorded.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any

is_exporting: ContextVar[bool] = ContextVar("everyspan.is_exporting", default=False)

SUPPRESSED = "suppress_instrumentation"
"""OpenTelemetry's word in a context for "this is my own export"; `opentelemetry.context` has it a
second time, as a key without a fixed text."""


class untraced:
    """While the block runs, the running task and those it starts export.

    Args:
        requests_too: Whether OpenTelemetry is to look away (U2). What a user's processor does is
            its author's affair: it may be what brings spans to OpenTelemetry.
    """

    __slots__ = ("_context", "_requests_too", "_token", "_token_of_context")

    def __init__(self, *, requests_too: bool) -> None:
        self._requests_too = requests_too
        self._context: Any = None
        self._token: Token[bool]
        self._token_of_context: Any = None

    def __enter__(self) -> None:
        self._token = is_exporting.set(True)
        if self._requests_too:
            self._context = sys.modules.get("opentelemetry.context")
        if self._context is not None:
            self._token_of_context = _suppress(self._context)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is GeneratorExit:
            # The collector closes the coroutine of a loop that is gone, in whatever context.
            return
        is_exporting.reset(self._token)
        if self._token_of_context is not None:
            self._context.detach(self._token_of_context)


def _suppress(context: Any) -> Any:
    try:
        suppressed = context.set_value(SUPPRESSED, True)
        second = getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", SUPPRESSED)
        return context.attach(context.set_value(second, True, suppressed))
    except Exception:
        # Half imported by another thread, or another version: spans matter more.
        return None
