"""Request bodies, read as streams and counted.

B1  A body over BODY_BYTES_MAX is 413, whether or not it says so beforehand; up to four times that
    is read and thrown away first, because a client that is still sending may never see the reply.
B2  All bodies held at once stay under HELD_BYTES_MAX; beyond, 503: memory is bounded (P4).
B3  A body that takes longer than BODY_TIME_MAX_S is 408.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from everyspan.errors import RequestError, StoreBusyError

BODY_BYTES_MAX = 64 * 1024 * 1024
HELD_BYTES_MAX = 256 * 1024 * 1024
BODY_TIME_MAX_S = 60.0
_THROWN_AWAY_MAX = 4 * BODY_BYTES_MAX


class Bodies:
    """The memory that bodies of one server take."""

    def __init__(self) -> None:
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the body; it counts as held until the block is left.

        Raises:
            RequestError: 408, 413 or 415.
            StoreBusyError: Too many bodies are held already.
        """
        if "content-encoding" in request.headers:
            raise RequestError(415, "UNSUPPORTED_ENCODING", "compressed bodies are not supported")
        held = 0
        parts: list[bytes] = []
        declared = request.headers.get("content-length", "0")
        try:
            async with asyncio.timeout(BODY_TIME_MAX_S):
                if int(declared) > BODY_BYTES_MAX:
                    await self._refuse(request, 0)
                async for part in request.stream():
                    held += len(part)
                    self._held += len(part)
                    if held > BODY_BYTES_MAX or self._held > HELD_BYTES_MAX:
                        parts.clear()
                        self._held -= held
                        size, held = held, 0
                        await self._refuse(request, size)
                    parts.append(part)
            body = b"".join(parts)
            parts.clear()
            yield body
        except TimeoutError:
            raise RequestError(408, "BODY_TOO_SLOW", "the body took too long") from None
        finally:
            self._held -= held

    async def _refuse(self, request: Request, size: int) -> None:
        is_too_large = size > BODY_BYTES_MAX
        async for part in request.stream():
            size += len(part)
            is_too_large = is_too_large or size > BODY_BYTES_MAX
            if size > _THROWN_AWAY_MAX:
                break
        if is_too_large:
            raise RequestError(
                413, "BODY_TOO_LARGE", f"the body is larger than {BODY_BYTES_MAX} bytes"
            )
        raise StoreBusyError("too many requests at once", retry_after_s=1.0)
