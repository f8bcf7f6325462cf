"""Compressed bodies, inflated in a stream (`otlp` §1).

D1  What comes out comes in slices of at most SLICE_BYTES, so that whoever counts them can stop
    early and let others run in between: a bomb costs no more than its first bytes over the limit.
D2  A body that is corrupt, or ends too early, is 400; an encoding that is unknown or wrapped in
    another is 415.
"""

from __future__ import annotations

import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from everyspan.errors import RequestError

if TYPE_CHECKING:
    from backports.zstd import ZstdDecompressor

SLICE_BYTES = 256 * 1024
_ZSTD_WINDOW_LOG_MAX = 23
"""8 MiB, what RFC 9659 allows for a content encoding: a frame may ask for 2 GiB of memory."""

ENCODINGS = ("gzip", "deflate", "zstd")


class Decompressor(ABC):
    """Inflates one body."""

    @abstractmethod
    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what the next bytes of the body inflate to (D1).

        Raises:
            RequestError: 400; the body is corrupt.
        """

    @abstractmethod
    def finish(self) -> None:
        """Return if the body was complete.

        Raises:
            RequestError: 400; it ended too early.
        """


def decompressor(headers: Sequence[str]) -> Decompressor | None:
    """Return what inflates a body with these `content-encoding` headers, None if nothing has to.

    Raises:
        RequestError: 415.
    """
    names = [name.strip().lower() for header in headers for name in header.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if not names:
        return None
    if len(names) == 1 and names[0] in ("gzip", "x-gzip"):
        return _Zlib(16 + zlib.MAX_WBITS, joins=True)
    if names == ["deflate"]:
        return _Zlib(None, joins=False)
    if names == ["zstd"]:
        return _Zstd()
    raise RequestError(
        415, "UNSUPPORTED_ENCODING", f"content-encoding must be one of {', '.join(ENCODINGS)}"
    )


class _Zlib(Decompressor):
    """gzip and deflate.

    Args:
        wbits: What `zlib` calls so; None: deflate, with or without the wrapping of zlib.
        joins: Whether another stream may follow the first.
    """

    def __init__(self, wbits: int | None, *, joins: bool) -> None:
        self._wbits = wbits
        self._joins = joins
        self._stream: zlib._Decompress | None = None
        self._head = b""
        self._is_complete = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._wbits is None:
            # RFC 9110 means zlib's format; some senders leave its header out. Two bytes tell.
            data = self._head + data
            if len(data) < 2:
                self._head = data
                return
            is_wrapped = data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2]) % 31 == 0
            self._wbits = zlib.MAX_WBITS if is_wrapped else -zlib.MAX_WBITS
        while data:
            if self._stream is None:
                if self._is_complete and not self._joins:
                    raise _corrupt()
                self._stream = zlib.decompressobj(self._wbits)
                self._is_complete = False
            while True:
                try:
                    out = self._stream.decompress(data, SLICE_BYTES)
                except zlib.error:
                    raise _corrupt() from None
                data = self._stream.unconsumed_tail
                if out:
                    yield out
                # A full slice may leave more inside, though every byte was taken in.
                if self._stream.eof or (not data and len(out) < SLICE_BYTES):
                    break
            if self._stream.eof:
                data = self._stream.unused_data
                self._stream = None
                self._is_complete = True

    def finish(self) -> None:
        if not self._is_complete or self._stream is not None:
            raise _truncated()


class _Zstd(Decompressor):
    def __init__(self) -> None:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd

        self._zstd = zstd
        self._stream = self._new()
        self._is_complete = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._is_complete:
                self._stream = self._new()
                self._is_complete = False
            while True:
                try:
                    out = self._stream.decompress(data, SLICE_BYTES)
                except self._zstd.ZstdError:
                    raise _corrupt() from None
                data = b""
                if out:
                    yield out
                if self._stream.eof or self._stream.needs_input:
                    break
            if self._stream.eof:
                data = self._stream.unused_data
                self._is_complete = True

    def finish(self) -> None:
        if not self._is_complete:
            raise _truncated()

    def _new(self) -> ZstdDecompressor:
        window = self._zstd.DecompressionParameter.window_log_max
        return self._zstd.ZstdDecompressor(options={window: _ZSTD_WINDOW_LOG_MAX})


def _corrupt() -> RequestError:
    return RequestError(400, "INVALID_ENCODING", "the body is not what content-encoding says")


def _truncated() -> RequestError:
    return RequestError(400, "INVALID_ENCODING", "the compressed body ends too early")
