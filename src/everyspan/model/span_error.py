"""Errors on a span: `data["__error__"]` and the status (`trace` §6)."""

from __future__ import annotations

import sys
from typing import Any

from everyspan.model.span import SPAN_ERROR_KEY, Span, SpanStatus

CATEGORIES = frozenset({"application", "platform", "unknown"})


def set_span_error(span: Span, error: BaseException, *, category: str | None = None) -> None:
    """Note on a span that its work failed; a cancellation makes it CANCELED (`trace:E3`).

    Object data keeps its other keys, in a new object; array data is left untouched (`trace:E1`).

    Args:
        category: `application`, `platform` or `unknown`; by default what the error says of itself
            in `error_category`, else `unknown`.
    """
    cancelled = is_cancellation(error)
    span.status = SpanStatus.CANCELED if cancelled else SpanStatus.ERROR
    entry = {
        "type": "CancelledError" if cancelled else type(error).__name__,
        "message": _message(error),
        "category": _category(error) if category is None else _known(category),
    }
    if span.data is None:
        span.data = {SPAN_ERROR_KEY: entry}
    elif isinstance(span.data, dict):
        # A new object: the agent may use its own for something else. By the class's own methods: a
        # subclass may do anything in its, and the agent's error must not be lost in that.
        data = dict(dict.items(span.data))
        data[SPAN_ERROR_KEY] = entry
        span.data = data


def get_span_error(span: Span) -> dict[str, Any] | None:
    """Return `{"type", "message", "category"}` of a failed span, None where nothing failed."""
    entry = dict.get(span.data, SPAN_ERROR_KEY) if isinstance(span.data, dict) else None
    return entry if isinstance(entry, dict) else None


def is_cancellation(error: BaseException) -> bool:
    """True if the error is asyncio's cancellation; does not load asyncio."""
    exceptions = sys.modules.get("asyncio.exceptions")
    return exceptions is not None and isinstance(error, exceptions.CancelledError)


def _category(error: BaseException) -> str:
    try:
        return _known(getattr(error, "error_category", None))
    except Exception:
        # The agent's own class; what it says of itself must not hide the error.
        return "unknown"


def _known(category: object) -> str:
    # `str.__str__`, since an enumeration that is text prints its own name.
    text = str.__str__(category) if isinstance(category, str) else ""
    return text if text in CATEGORIES else "unknown"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        # The agent's own class; its text must not cost the span.
        return f"<{type(error).__name__}>"
