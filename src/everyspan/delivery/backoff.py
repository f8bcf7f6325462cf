"""How long to wait before the next try: exponential with full jitter, or as the backend asks.

Full jitter (a uniform draw below the growing ceiling) spreads clients that failed together best
of the common schemes. A wait that the backend named is obeyed even when long; up to a tenth is
added, never taken away, so that its clients do not return in one instant.
"""

from __future__ import annotations

from collections.abc import Callable

FIRST_CEILING_S = 0.5
LAST_CEILING_S = 30.0


def wait_s(failures: int, *, retry_after_s: float | None, draw: Callable[[], float]) -> float:
    """Return seconds to wait after `failures` failures in a row (at least 1).

    Args:
        retry_after_s: What the backend asked for, None where it asked for nothing.
        draw: Returns a number in [0, 1).
    """
    # "At once", again and again, would be a loop without a pause: then our own wait holds.
    if retry_after_s is not None and retry_after_s >= FIRST_CEILING_S:
        return retry_after_s * (1 + draw() / 10)
    return draw() * min(LAST_CEILING_S, FIRST_CEILING_S * 2.0 ** min(failures - 1, 16))
