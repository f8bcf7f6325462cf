"""Rows and items for tests."""

from __future__ import annotations

from typing import Any

from everyspan.model.ids import new_id
from everyspan.server.row import SpanRow

START = "2026-01-02T03:04:05.123456Z"
END = "2026-01-02T03:04:06Z"
START_NS = 1_767_323_045_123_456_000
END_NS = 1_767_323_046_000_000_000


def make_row(**fields: Any) -> SpanRow:
    """Return a completed root span; any field can be given."""
    defaults: dict[str, Any] = {
        "account": "a",
        "trace_id": "t",
        "id": new_id(),
        "name": "n",
        "start_ns": START_NS,
        "end_ns": END_NS,
    }
    return SpanRow(**(defaults | fields))


def make_item(**fields: Any) -> dict[str, Any]:
    """Return a SpanCreate of a completed root span; a field given as `...` is left out."""
    defaults: dict[str, Any] = {
        "id": new_id(),
        "trace_id": "t",
        "name": "n",
        "start_timestamp": START,
        "end_timestamp": END,
    }
    return {name: value for name, value in (defaults | fields).items() if value is not ...}
