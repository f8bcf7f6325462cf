"""Turn any value into JSON bytes at the moment a span needs it: snapshot, wire form and measure.

F1  `freeze` never raises, and answers valid JSON of at most `bytes_max` bytes. (`msgspec.Raw` is
    taken at its word: it says that it is JSON.)
F2  The value is only read, and nothing of it is kept. The answer takes no more memory than it
    is long.
F3  One pass of the encoder into a buffer that cannot grow; what it refuses, or what does not fit,
    is repaired (`everyspan.model.repair`) and looks the same where the encoder would have known it.

The encoder gets no `enc_hook`: user code that runs inside it can shrink the list being written,
and the process crashes. Why not look first, and what this costs: `docs/decisions/020-freezing.md`.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from everyspan.model.repair import mark, register, registered, repair

__all__ = ["PAYLOAD_BYTES_MAX", "freeze", "register"]

PAYLOAD_BYTES_MAX: Final = 1 << 20
"""Most bytes of one frozen payload, where nobody says otherwise."""

BYTES_MIN: Final = 512
"""A smaller `bytes_max` is raised to this: marks need room."""

_WRITTEN_BYTES_MAX: Final = 1 << 18
"""Most bytes of the fast path: bounds what a value that does not fit costs in vain."""

_NULL: Final = b"null"
_FAILED: Final = msgspec.json.encode(mark("could not be frozen"))
_encode_into: Final = msgspec.json.Encoder().encode_into

# Buffers at rest; whoever freezes takes one out, so threads and re-entrant calls never share.
_buffers: Final[deque[bytearray]] = deque(maxlen=4)


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
        # A huge text that is not ASCII is converted before the encoder sees that it cannot fit.
        if not registered and (type(value) is not str or len(value) <= bytes_max):
            try:
                buffer = _buffers.pop()
            except IndexError:
                buffer = bytearray()
                _encode_into(None, buffer, _WRITTEN_BYTES_MAX)  # sizes it
            view = memoryview(buffer)  # while exported, a bytearray refuses to grow
            try:
                _encode_into(value, buffer)
                frozen = bytes(buffer)
                del view
                _encode_into(None, buffer, _WRITTEN_BYTES_MAX)  # full length; nothing is copied
                _buffers.append(buffer)
                if len(frozen) <= bytes_max:
                    return frozen
            except Exception:  # BufferError: does not fit; TypeError: unknown; a cycle...
                view.release()
                _buffers.append(buffer)
        return repair(value, bytes_max=max(bytes_max, BYTES_MIN))
    except Exception:  # out of memory or stack: never the agent's problem (P2)
        return _FAILED
