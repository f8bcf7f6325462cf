"""Source files as syntax trees, for tests that read them."""

from __future__ import annotations

import ast
import gc
from pathlib import Path


def parse(path: Path) -> ast.Module:
    """Return the tree of a file.

    Without the garbage collector: what it finds may warn, a warning is told with a traceback,
    which parses as well, and one parse within another raises SystemError (python/cpython#106905,
    mended in 3.11.8 and 3.12.2).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(path.read_text(encoding="utf-8"), str(path))
    finally:
        if was_enabled:
            gc.enable()
