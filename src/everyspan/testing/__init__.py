"""For tests of code that everyspan traces: what it recorded, a clock and a backend that obey.

Loaded when first used: the pytest plugin stands beside these and is imported by every pytest run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everyspan.testing.capturing import Capture, capture
    from everyspan.testing.fake_clock import FakeClock
    from everyspan.testing.fault_server import FaultServer

_HOME_OF = {
    "Capture": "everyspan.testing.capturing",
    "FakeClock": "everyspan.testing.fake_clock",
    "FaultServer": "everyspan.testing.fault_server",
    "capture": "everyspan.testing.capturing",
}

__all__ = ["Capture", "FakeClock", "FaultServer", "capture"]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'everyspan.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
