"""How versions of one span become one row, whatever the order they arrive in (`sgp:M1`-`M4`, P6).

O1  Every field has the value of the greatest version that says something, where versions compare
    by (completed?, end, revision). Null, absent, `{}` and `[]` say nothing, so they never
    erase.
O2  Name, start and end are the greatest version's, so an end never precedes its start.
O3  The status is that of the greatest version *with the row's completeness*: what an unfinished
    version thought of the status says nothing about the finished span (M2).
O4  For versions with different keys, `merge` is commutative and associative, and repeating a
    version changes nothing. Versions with equal keys (foreign producers send no revision): the
    later arrival wins.

Two keys per row would not do: a field that the newest version left empty must remember which
version filled it, or a third version, older than the first and newer than the second, could not
know whether to replace it. `SpanRow.older` is that memory, empty for nearly every row.
"""

from __future__ import annotations

from everyspan.server.row import NOTHING, SpanRow, VersionKey

_FILLED = (
    "parent_id",
    "task_id",
    "type",
    "status",
    "group_id",
    "application_interaction_id",
    "application_variant_id",
    "obs_trace_id",
    "obs_span_id",
    "input",
    "output",
    "metadata",
    "expected",
)


def merge(old: SpanRow, new: SpanRow) -> SpanRow:
    """Return the row that `old` and the later arrival `new` make together.

    Args:
        old, new: The same identity; neither is changed.
    """
    old_key, new_key = old.key, new.key
    if new_key >= old_key:
        head, tail, head_key, tail_key = new, old, new_key, old_key
    else:
        head, tail, head_key, tail_key = old, new, old_key, new_key
    same_completeness = head_key[0] == tail_key[0]
    head_older = head.older or {}
    tail_older = tail.older or {}

    older: dict[str, VersionKey] = {}
    values: dict[str, str | bytes | None] = {}
    for field in _FILLED:
        value = getattr(head, field)
        other = getattr(tail, field)
        if field == "status" and not same_completeness:
            other = None
        key = head_older.get(field, head_key)
        if other not in NOTHING:
            other_key = tail_older.get(field, tail_key)
            if value in NOTHING or other_key > key or (other_key == key and tail is new):
                value, key = other, other_key
        elif value is None:
            value = other
        if key != head_key and value not in NOTHING:
            older[field] = key
        values[field] = value

    return SpanRow(
        account=head.account,
        trace_id=head.trace_id,
        id=head.id,
        name=head.name,
        start_ns=head.start_ns,
        end_ns=head.end_ns,
        rev=head.rev,
        older=older or None,
        **values,  # type: ignore[arg-type]  # the names and types are those of _FILLED
    )
