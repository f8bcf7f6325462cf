"""Notices a loop that does not come round while spans wait for it, and says where it is stuck.

W1  Whoever ends a span, reads the books or waits for a flush looks, at most once a second. There is
    no thread for it: where nobody does any of these, nobody could be told in time either.
W2  What is said names the thread, how long, and places in code; no values (P9).
W3  A look waits for nothing and changes nothing.
"""

from __future__ import annotations

import logging
import selectors
import sys
from collections.abc import Iterable

from everyspan.delivery.lane import Lane
from everyspan.home import Home
from everyspan.log import complain

LOOK_EVERY_S = 1.0

STUCK_S = 3.0
"""Longer than any step of ours; below `grace_s`, so that the end of a process can tell."""

CALLS_SHOWN = 3
"""The innermost alone is often a library's, such as `ssl.py`'s `read`."""


def look_after(lanes: Iterable[Lane], now_s: float) -> None:
    """Say which of the lanes' loops are stuck; ask those that ought to be at work to come round."""
    for lane in lanes:
        home = lane.home
        if home is None or home.is_here or not home.is_running or not lane.is_at_work(now_s):
            continue
        silent_s = home.ask(now_s)
        if silent_s >= STUCK_S:
            _say(home, silent_s)


def _say(home: Home, silent_s: float) -> None:
    place = _place(home.thread_id)
    if place is not None:
        complain(
            "spans wait: %s has been stuck for %.0f s in %s",
            home.name,
            silent_s,
            place,
            cause=f"stuck {home.name}",
            level=logging.WARNING,
        )


def _place(thread_id: int) -> str | None:
    """Return what a thread executes, innermost first; None if it waits for work after all."""
    frame = sys._current_frames().get(thread_id)
    if frame is None or frame.f_code.co_filename == selectors.__file__:
        # The whole process was stopped for a while, and this thread is not running again yet.
        return None
    calls: list[str] = []
    while frame is not None and len(calls) < CALLS_SHOWN:
        code = frame.f_code
        calls.append(f"{code.co_filename}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return ", called by ".join(calls)
