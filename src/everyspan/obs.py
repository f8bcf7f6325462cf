"""The span of an observability tool around ours, so that the two can be found from one another.

O1  Ids are read, never invented: where no tool is loaded or none of its spans is active, none.
O2  No tool is imported, no failure of one is anybody's, and nothing of it is changed.

What is looked at says `SGP_OBS_MODE` (`trace` §6): `dd_only` ddtrace, `lgtm` OpenTelemetry, `dual`
the one, then the other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from everyspan.model.span import Span

OBS_TRACE_KEY = "obs_trace_id"
OBS_SPAN_KEY = "obs_span_id"

DEFAULT_MODE = "dd_only"

Ids = tuple[str, str]
"""A trace id of 32 lower-case hexadecimal digits, and a span id of 16."""


def note_surroundings(span: Span, mode: str) -> None:
    """Write down, on a span that starts, which observability span is active."""
    for read in _READERS.get(mode, _READERS[DEFAULT_MODE]):
        ids = _read(read)
        if ids is not None:
            span._obs = ids
            # Array data stays as it is (`trace:D16`).
            if span.data is None or type(span.data) is dict:
                # A new object: the agent may use its own for something else.
                found = {OBS_TRACE_KEY: ids[0], OBS_SPAN_KEY: ids[1]}
                span.data = {**(span.data or {}), **found}
            return


def _read(read: Callable[[], Ids | None]) -> Ids | None:
    try:
        return read()
    except Exception:
        # The tool's affair, and it has a log of its own (O2).
        return None


def _ddtrace() -> Ids | None:
    module = sys.modules.get("ddtrace.trace") or sys.modules.get("ddtrace")
    context = None if module is None else module.tracer.current_trace_context()
    return None if context is None else _hex(context.trace_id, context.span_id)


def _opentelemetry() -> Ids | None:
    module = sys.modules.get("opentelemetry.trace")
    if module is None:
        return None
    context = module.get_current_span().get_span_context()
    return _hex(context.trace_id, context.span_id)


def _hex(trace_id: int | None, span_id: int | None) -> Ids | None:
    # 0 is how both tools write that there is none.
    return (f"{trace_id:032x}", f"{span_id:016x}") if trace_id and span_id else None


_READERS: dict[str, Sequence[Callable[[], Ids | None]]] = {
    "dd_only": (_ddtrace,),
    "lgtm": (_opentelemetry,),
    "dual": (_opentelemetry, _ddtrace),
}
