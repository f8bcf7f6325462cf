"""Which span a new one hangs from, where its author named none."""

from __future__ import annotations

from everyspan import current_span


def parent_within(trace_id: str | None, parent_id: str | None) -> str | None:
    """Return the parent that was named, else the current span's id if it is of the same trace.

    An empty text names none, as everywhere here.
    """
    if parent_id not in (None, ""):
        return parent_id
    above = current_span()
    return above.id if above is not None and above.trace_id == trace_id else None
