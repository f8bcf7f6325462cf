"""Request bodies, read as streams and counted.

B1  A body over BODY_BYTES_MAX, before or after decompression, is 413, whether or not it says so
    beforehand; up to four times that is read and thrown away first, because a client that is still
    sending may never see the reply.
B2  All bodies held at once, inflated, stay under HELD_BYTES_MAX; beyond, 503: memory is bounded
    (P4).

How long a body may take is the connection's business (protocol.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from everyspan.errors import RequestError, StoreBusyError
from everyspan.server.decompression import Decompressor, decompressor

BODY_BYTES_MAX = 64 * 1024 * 1024
HELD_BYTES_MAX = 256 * 1024 * 1024
_THROWN_AWAY_MAX = 4 * BODY_BYTES_MAX


class Bodies:
    """The memory that bodies of one server take."""

    def __init__(self) -> None:
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the body, inflated; it counts as held until the block is left.

        Raises:
            RequestError: 400, 413 or 415.
            StoreBusyError: Too many bodies are held already.
        """
        inflate = decompressor(request.headers.getlist("content-encoding"))
        parts: list[bytes] = []
        try:
            await self._collect(request, inflate, parts)
            parts[:] = [b"".join(parts)]
            yield parts[0]
        finally:
            self._held -= sum(map(len, parts))

    async def _collect(
        self, request: Request, inflate: Decompressor | None, parts: list[bytes]
    ) -> None:
        stream = request.stream()
        too_large = RequestError(413, "BODY_TOO_LARGE", f"the body is over {BODY_BYTES_MAX} bytes")
        if int(request.headers.get("content-length", "0")) > BODY_BYTES_MAX:
            await _discard(stream, 0)
            raise too_large
        received = size = 0
        try:
            async for part in stream:
                received += len(part)
                if received > BODY_BYTES_MAX:
                    raise too_large
                for piece in (part,) if inflate is None else inflate.feed(part):
                    parts.append(piece)
                    size += len(piece)
                    self._held += len(piece)
                    if size > BODY_BYTES_MAX:
                        raise too_large
                    if self._held > HELD_BYTES_MAX:
                        raise StoreBusyError("too many requests at once", retry_after_s=1.0)
                    if inflate is not None:
                        await asyncio.sleep(0)  # A little part may inflate to much.
            if inflate is not None and received:
                inflate.finish()
        except (RequestError, StoreBusyError):
            parts.clear()
            self._held -= size
            await _discard(stream, received)
            raise


async def _discard(stream: AsyncIterator[bytes], received: int) -> None:
    """Throw the rest of a body away, within bounds, so that its sender gets to read the reply."""
    async for part in stream:
        received += len(part)
        if received > _THROWN_AWAY_MAX:
            break
