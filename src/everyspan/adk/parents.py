"""Which span a new one hangs from, where its author named none."""

from __future__ import annotations

from everyspan import current_span


def parent_within(trace_id: str | None, parent_id: str | None) -> str | None:
    """Return the parent that was named, else the current span's id if it is of the same trace."""
    if parent_id is None:
        above = current_span()
        if above is not None and above.trace_id == trace_id:
            return above.id
    return parent_id
