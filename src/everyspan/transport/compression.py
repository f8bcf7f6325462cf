"""Make request bodies smaller."""

from __future__ import annotations

import sys
import threading
import zlib
from collections.abc import Callable
from typing import Final

GZIP_LEVEL: Final = 1
"""The quickest: the sender's CPU is the agent's."""

ZSTD_LEVEL: Final = 1

GZIP_FORMAT: Final = 31
"""What zlib calls its largest window with gzip's head and tail around it."""

COMPRESSIONS: Final = ("gzip", "zstd", "none")
"""Values of `content-encoding`, but for the last."""


def compressor(name: str) -> Callable[[bytes], bytes]:
    """Return what compresses a body in one of the COMPRESSIONS; callable from any thread."""
    if name == "gzip":
        # Nothing is kept for the next body: beginning anew costs 3 µs.
        return lambda body: zlib.compress(body, GZIP_LEVEL, GZIP_FORMAT)
    if name == "zstd":
        return _Zstd().compress
    assert name == "none"
    return bytes


class _Zstd:
    """One compressor, used again for each body: making one costs ten times a small body."""

    def __init__(self) -> None:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        self._compressor = zstd.ZstdCompressor(ZSTD_LEVEL)
        self._lock = threading.Lock()

    def compress(self, body: bytes) -> bytes:
        """Return a frame that holds the body."""
        with self._lock:
            return self._compressor.compress(body, self._compressor.FLUSH_FRAME)
