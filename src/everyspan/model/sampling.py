"""Which traces are recorded where only a share of them is."""

from __future__ import annotations

from hashlib import blake2b

_WHOLE = 1 << 64


def is_chosen(trace_id: str, share: float) -> bool:
    """Tell whether a trace is one of the recorded: the same in every process, for every span.

    A trace that is chosen for one share is chosen for every larger one.
    """
    digest = blake2b(trace_id.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest) < share * _WHOLE
