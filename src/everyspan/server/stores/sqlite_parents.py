"""Whether new parent links keep every trace a forest (`sgp` §6, parent checks).

A parent that is nowhere is no error: it may arrive later. One that is absent from the span's trace
and present in exactly one other is, where the sender's API says so; so is a cycle, through the
batch, the store or both.
"""

from __future__ import annotations

from collections.abc import Mapping

import apsw
import msgspec

from everyspan.errors import RequestError
from everyspan.server.row import SpanRow
from everyspan.server.stores.sqlite_rows import (
    BY_ID_SQL,
    BY_IDENTITY_SQL,
    by_id,
    by_identity,
    otel_trace_id,
)

HOPS_MAX = 1_000
"""Stored ancestors looked at for one link. A deeper tree is taken as it is: an upper bound on what
one span can cost the writer is worth more than refusing a cycle of a thousand spans."""

_PARENT_SQL = f"SELECT parent_id FROM {BY_IDENTITY_SQL}"
_TRACES_SQL = f"SELECT DISTINCT otel_trace_id FROM {BY_ID_SQL} LIMIT 2"

Identity = tuple[str, str]


def check_parents(
    connection: apsw.Connection,
    account: str,
    versions: dict[Identity, SpanRow],
    moved: Mapping[Identity, int],
    *,
    foreign_parents: bool,
    cut_cycles: bool = False,
) -> None:
    """Return if the links of `moved` are allowed.

    Args:
        versions: All rows of the batch as they would be stored, by (trace, id).
        moved: Those whose parent is new, with their position in the request.
        foreign_parents: A parent in another trace is no error either.
        cut_cycles: A link that closes a cycle is taken out of `versions` instead.

    Raises:
        RequestError: 409, naming the first offender.
    """
    stored: dict[Identity, tuple[str | None] | None] = {}

    def look_up(key: Identity) -> tuple[str | None] | None:
        """Return the stored span's parent in a tuple, None if there is no such span."""
        if key not in stored:
            found = connection.execute(_PARENT_SQL, by_identity(account, *key)).fetchone()
            stored[key] = found
        return stored[key]

    rooted: set[Identity] = set()
    for (trace_id, span_id), position in moved.items():
        parent_id = versions[trace_id, span_id].parent_id
        assert parent_id is not None
        parent = (trace_id, parent_id)
        if parent not in versions and look_up(parent) is None:
            if foreign_parents:
                continue
            # One trace may be known by several forms of its id (`otlp:F2`).
            traces = {otel_trace_id(trace) for trace, id_ in versions if id_ == parent_id}
            traces.update(
                trace for (trace,) in connection.execute(_TRACES_SQL, by_id(account, parent_id))
            )
            if len(traces) == 1 and otel_trace_id(trace_id) not in traces:
                raise _conflict("PARENT_IN_ANOTHER_TRACE", "it is in another trace", position)
            continue

        walked = {(trace_id, span_id)}
        node: Identity | None = parent
        hops = 0
        while node is not None and node not in rooted and hops < HOPS_MAX:
            if node in walked:
                if not cut_cycles:
                    raise _conflict("PARENT_CYCLE", "the parents form a cycle", position)
                start = (trace_id, span_id)
                if node == start:
                    versions[start] = msgspec.structs.replace(versions[start], parent_id=None)
                else:
                    walked.clear()  # A cycle above: its own links are looked at in their turn.
                break
            walked.add(node)
            if node in versions:
                above = versions[node].parent_id
            else:
                hops += 1
                found = look_up(node)
                above = None if found is None else found[0]
            node = None if above is None else (trace_id, above)
        rooted |= walked


def _conflict(code: str, message: str, position: int) -> RequestError:
    return RequestError(409, code, message, loc=(position, "parent_id"))
