"""How payload bodies are packed in the SQLite store.

`codec` 0 is plain text, 1 is zstd, and from 2 on zstd with the dictionary of that number in
`dictionaries`. In SQL, `unpack(codec, body)` is the text again, on every connection of the store.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import apsw

from everyspan.errors import StoreError

if TYPE_CHECKING or sys.version_info < (3, 14):
    from backports import zstd
else:
    from compression import zstd

PLAIN = 0
ZSTD = 1
FIRST_DICTIONARY = 2

# Measured on chats of 4 KB. Without a dictionary level 3 is no smaller than level 1, but dearer;
# with one it is a fifth smaller, and cheaper than level 1 without one.
_LEVEL = 1
_LEVEL_WITH_DICTIONARY = 3
_FRAME_BYTES_MIN = 64
"""Shorter bodies are not worth a frame."""
_UNPACKED_BYTES_MAX = 1_000_000_000
"""As SQLite's bound on one value: a frame that claims more is damaged."""

_DICTIONARY_SQL = "SELECT body FROM dictionaries WHERE codec = ?"
_NEWEST_SQL = "SELECT codec, body FROM dictionaries ORDER BY codec DESC LIMIT 1"


class Packer:
    """Packs bodies, on one thread; the compressor is made once, not for each."""

    def __init__(self) -> None:
        self._codec = ZSTD
        self._compressor = zstd.ZstdCompressor(level=_LEVEL)

    def use_newest_dictionary(self, connection: apsw.Connection) -> None:
        """Pack with the newest of the store's dictionaries from now on, if there is one."""
        newest = connection.execute(_NEWEST_SQL).fetchone()
        if newest is not None and newest[0] != self._codec:
            self._codec, body = newest
            self._compressor = zstd.ZstdCompressor(
                level=_LEVEL_WITH_DICTIONARY, zstd_dict=zstd.ZstdDict(body)
            )

    def pack(self, body: bytes) -> tuple[int, bytes]:
        """Return the codec and the packed body."""
        if len(body) < _FRAME_BYTES_MIN:
            return PLAIN, body
        packed = self._compressor.compress(body, zstd.ZstdCompressor.FLUSH_FRAME)
        return (self._codec, packed) if len(packed) < len(body) else (PLAIN, body)


def add_unpack(connection: apsw.Connection) -> None:
    """Let SQL on this connection say `unpack(codec, body)`."""
    connection.create_scalar_function(
        "unpack", _Unpacker(connection), numargs=2, deterministic=True
    )


class _Unpacker:
    """Unpacks bodies; keeps the dictionaries that it has met."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._dictionaries: dict[int, zstd.ZstdDict | None] = {ZSTD: None}

    def __call__(self, *values: Any) -> bytes:
        codec: int = values[0]
        body: bytes = values[1]
        if codec == PLAIN:
            return body
        try:
            if codec not in self._dictionaries:
                self._dictionaries[codec] = self._read(codec)
            size = zstd.get_frame_info(body).decompressed_size
            if size is None or size > _UNPACKED_BYTES_MAX:
                raise StoreError("a stored payload is damaged")
            decompressor = zstd.ZstdDecompressor(zstd_dict=self._dictionaries[codec])
            unpacked = decompressor.decompress(body, max_length=size)
        except zstd.ZstdError:
            raise StoreError("a stored payload is damaged") from None
        if not decompressor.eof:
            raise StoreError("a stored payload is damaged")
        return unpacked

    def _read(self, codec: int) -> zstd.ZstdDict:
        body = self._connection.execute(_DICTIONARY_SQL, (codec,)).get
        if body is None:
            raise StoreError(f"a stored payload needs dictionary {codec}, which is not there")
        return zstd.ZstdDict(body)
