"""Ids of spans and traces: random UUID4 text (`trace:T2`).

uuid-utils makes one in 0.2 µs where the standard library takes 2.5, and shares none after `fork`.
"""

from __future__ import annotations

from uuid_utils import uuid4 as _uuid4


def new_id() -> str:
    """Return a fresh UUID4 in its usual text form."""
    return str(_uuid4())
