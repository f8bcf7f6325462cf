"""Errors on a span (`trace` §6)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import enum
import subprocess
import sys
from typing import Any

import pytest

from everyspan import SPAN_ERROR_KEY, SpanStatus, get_span_error, set_span_error
from tests.records import make_span


class Category(enum.Enum):
    PLATFORM = "platform"


class TextCategory(str, enum.Enum):  # noqa: UP042 - prints its own name
    PLATFORM = "platform"


def failing(category: Any) -> Exception:
    error = ValueError("bad")
    error.error_category = category  # type: ignore[attr-defined]
    return error


def test_an_error_on_no_data_makes_an_object() -> None:
    """trace:E1."""
    span = make_span()
    assert get_span_error(span) is None
    set_span_error(span, ValueError("bad"))
    entry = {"type": "ValueError", "message": "bad", "category": "unknown"}
    assert span.data == {SPAN_ERROR_KEY: entry}
    assert get_span_error(span) == entry
    assert span.status == SpanStatus.ERROR


def test_other_keys_survive_and_the_agents_object_is_not_touched() -> None:
    """trace:E1."""
    data = {"k": 1}
    span = make_span(data=data)
    set_span_error(span, ValueError("bad"))
    assert data == {"k": 1}
    assert span.data["k"] == 1
    assert get_span_error(span) is not None


@pytest.mark.parametrize("data", [[{"k": 1}], "text", 5])
def test_data_that_is_no_object_stays_untouched(data: Any) -> None:
    """trace:E1."""
    span = make_span(data=data)
    set_span_error(span, ValueError("bad"))
    assert span.data is data
    assert get_span_error(span) is None
    assert span.status == SpanStatus.ERROR


@pytest.mark.parametrize("entry", [None, "text", 5, []])
def test_an_entry_that_is_no_object_is_no_error(entry: Any) -> None:
    assert get_span_error(make_span(data={SPAN_ERROR_KEY: entry})) is None


def test_the_last_error_stays() -> None:
    span = make_span()
    set_span_error(span, ValueError("first"))
    set_span_error(span, KeyError("second"))
    error = get_span_error(span)
    assert error is not None
    assert (error["type"], error["message"]) == ("KeyError", "'second'")


@pytest.mark.parametrize(
    ("explicit", "own", "category"),
    [
        (None, None, "unknown"),
        (None, "application", "application"),
        ("platform", "application", "platform"),
        ("bogus", "application", "unknown"),
        (None, "bogus", "unknown"),
        (None, [], "unknown"),
        (None, Category.PLATFORM, "unknown"),
        (None, TextCategory.PLATFORM, "platform"),
    ],
)
def test_a_category_is_explicit_then_the_errors_own_then_unknown(
    explicit: str | None, own: Any, category: str
) -> None:
    span = make_span()
    set_span_error(span, failing(own), category=explicit)
    error = get_span_error(span)
    assert error is not None
    assert error["category"] == category
    assert type(error["category"]) is str


def test_an_error_that_breaks_when_looked_at_is_recorded() -> None:
    """P2."""

    class Broken(Exception):
        def __str__(self) -> str:
            raise RecursionError

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    span = make_span()
    set_span_error(span, Broken())
    assert get_span_error(span) == {"type": "Broken", "message": "<Broken>", "category": "unknown"}


class _Stopped(asyncio.CancelledError):
    pass


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (asyncio.CancelledError(), "CANCELED", "CancelledError"),
        (_Stopped(), "CANCELED", "CancelledError"),
        (concurrent.futures.CancelledError(), "ERROR", "CancelledError"),
        (TimeoutError(), "ERROR", "TimeoutError"),
        (KeyboardInterrupt(), "ERROR", "KeyboardInterrupt"),
        (ExceptionGroup("g", [ValueError()]), "ERROR", "ExceptionGroup"),
    ],
)
def test_only_asyncios_cancellation_cancels(error: BaseException, status: str, kind: str) -> None:
    """trace:E3."""
    span = make_span()
    set_span_error(span, error)
    assert span.status == status
    recorded = get_span_error(span)
    assert recorded is not None
    assert recorded["type"] == kind


def test_an_error_loads_no_asyncio() -> None:
    """P10."""
    script = (
        "import sys; from everyspan import Span, set_span_error; "
        "set_span_error(Span(name='x', trace_id='t', start_ns=0), ValueError()); "
        "sys.exit('asyncio' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
