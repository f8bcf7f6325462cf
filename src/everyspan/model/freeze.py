"""Turn any value into JSON bytes at the moment a span needs it: snapshot, wire form and measure.

F1  `freeze` never raises, and answers valid JSON of at most `bytes_max` bytes.
F2  The value is only read, and nothing of it is kept.
F3  Values of builtin types take the fast path; what that cannot or must not do is repaired.

The fast path hands the encoder nothing but exact builtin types, and no `enc_hook`: user code that
runs inside msgspec can shrink the list being encoded, and the process crashes
(`docs/decisions/020-freezing.md`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from everyspan.model.repair import DEPTH_MAX, LOOK_NODES_MAX, is_plain, mark, register, repair

__all__ = ["PAYLOAD_BYTES_MAX", "freeze", "register"]

PAYLOAD_BYTES_MAX: Final = 1 << 20
"""Most bytes of one frozen payload, where nobody says otherwise."""

BYTES_MIN: Final = 512
"""A smaller `bytes_max` is raised to this: marks need room."""

_NULL: Final = b"null"
_encode = msgspec.json.Encoder().encode


def freeze(value: object, *, bytes_max: int = PAYLOAD_BYTES_MAX) -> bytes:
    """Return `value` as JSON (F1 to F3).

    NaN and infinity become null. Callable from any thread, re-entrantly too.

    Args:
        value: Anything at all.
        bytes_max: Most bytes of the answer; raised to 512.
    """
    if value is None:
        return _NULL
    try:
        kind = type(value)
        if (kind is dict or kind is list) and is_plain(
            value, bytes_max=bytes_max, nodes_max=LOOK_NODES_MAX, depth_max=DEPTH_MAX
        ):
            try:
                frozen = _encode(value)
                if len(frozen) <= bytes_max:
                    return frozen
            except Exception:  # a lone surrogate, an odd key, an endless integer
                pass
        return repair(value, bytes_max=max(bytes_max, BYTES_MIN))
    except Exception as error:  # out of memory or stack: never the agent's problem (P2)
        return msgspec.json.encode(mark(type(error).__name__))
