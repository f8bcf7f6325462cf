"""The exporter thread: one for the process, shared by every queue, a new one in a forked child."""

from __future__ import annotations

import threading

from everyspan.home import ThreadHome
from everyspan.queue import exits

_home: ThreadHome | None = None
# Re-entrant: a finalizer may come here while its thread is inside.
_lock = threading.RLock()


def exporter_home() -> ThreadHome:
    """Return the process's exporter thread, not necessarily started."""
    global _home
    with _lock:
        if _home is None or _home.loop.is_closed():
            _home = ThreadHome("everyspan-exporter")
        return _home


def _forget() -> None:
    global _home, _lock
    exits.pin(_home)
    _home = None
    _lock = threading.RLock()


exits.after_fork(_forget)
