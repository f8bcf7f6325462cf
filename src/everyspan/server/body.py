"""Request bodies, read as streams and counted.

B1  A body over BODY_BYTES_MAX is 413, whether or not it says so beforehand; up to four times that
    is read and thrown away first, because a client that is still sending may never see the reply.
B2  All bodies held at once stay under HELD_BYTES_MAX; beyond, 503: memory is bounded (P4).

How long a body may take is the connection's business (protocol.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

from starlette.requests import Request

from everyspan.errors import RequestError, StoreBusyError

BODY_BYTES_MAX = 64 * 1024 * 1024
HELD_BYTES_MAX = 256 * 1024 * 1024
_THROWN_AWAY_MAX = 4 * BODY_BYTES_MAX


class Bodies:
    """The memory that bodies of one server take."""

    def __init__(self) -> None:
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the body; it counts as held until the block is left.

        Raises:
            RequestError: 413 or 415.
            StoreBusyError: Too many bodies are held already.
        """
        if "content-encoding" in request.headers:
            raise RequestError(415, "UNSUPPORTED_ENCODING", "compressed bodies are not supported")
        parts: list[bytes] = []
        try:
            await self._collect(request, parts)
            parts[:] = [b"".join(parts)]
            yield parts[0]
        finally:
            self._held -= sum(map(len, parts))

    async def _collect(self, request: Request, parts: list[bytes]) -> None:
        stream = request.stream()
        if int(request.headers.get("content-length", "0")) > BODY_BYTES_MAX:
            await _refuse(stream, 0)
        size = 0
        async for part in stream:
            parts.append(part)
            size += len(part)
            self._held += len(part)
            if size > BODY_BYTES_MAX or self._held > HELD_BYTES_MAX:
                parts.clear()
                self._held -= size
                await _refuse(stream, size)


async def _refuse(stream: AsyncIterator[bytes], size: int) -> NoReturn:
    """Throw the rest of a body away, of which `size` bytes have come, and say why."""
    async for part in stream:
        size += len(part)
        if size > _THROWN_AWAY_MAX:
            break
    if size > BODY_BYTES_MAX:
        raise RequestError(413, "BODY_TOO_LARGE", f"the body is over {BODY_BYTES_MAX} bytes")
    raise StoreBusyError("too many requests at once", retry_after_s=1.0)
