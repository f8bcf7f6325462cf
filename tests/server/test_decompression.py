"""Compressed bodies, as streams."""

from __future__ import annotations

import gzip
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterable

import pytest

from everyspan.errors import RequestError
from everyspan.server.decompression import SLICE_BYTES, decompressor

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = b"everyspan " * 1_000


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("zstd", zstd.compress),
]
every_encoding = pytest.mark.parametrize(("encoding", "pack"), PACKERS)


def inflate(encoding: str, parts: Iterable[bytes]) -> bytes:
    inflater = decompressor([encoding])
    assert inflater is not None
    slices = [piece for part in parts for piece in inflater.feed(part)]
    inflater.finish()
    assert all(0 < len(piece) <= SLICE_BYTES for piece in slices)
    return b"".join(slices)


@every_encoding
@pytest.mark.parametrize("data", [b"", b"x", TEXT, bytes(3 * SLICE_BYTES)])
def test_every_encoding_in_parts_of_any_size(
    encoding: str, pack: Callable[[bytes], bytes], data: bytes
) -> None:
    """D1."""
    packed = pack(data)
    for size in (1, 7, len(packed)):
        parts = (packed[at : at + size] for at in range(0, len(packed), size))
        assert inflate(encoding, parts) == data


@pytest.mark.parametrize(("encoding", "pack"), [PACKERS[0], PACKERS[3]])
def test_streams_may_follow_one_another(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    """As the formats allow; an empty one among them."""
    packed = pack(b"one ") + pack(b"") + pack(b"two")
    assert inflate(encoding, [packed]) == b"one two"
    assert inflate(encoding, (bytes([byte]) for byte in packed)) == b"one two"


@every_encoding
@pytest.mark.parametrize("spoil", [lambda p: p[:-1], lambda p: p[:1], lambda p: p + b"more"])
def test_what_is_cut_or_has_more_behind_it_is_refused(
    encoding: str, pack: Callable[[bytes], bytes], spoil: Callable[[bytes], bytes]
) -> None:
    """D2."""
    with pytest.raises(RequestError) as raised:
        inflate(encoding, [spoil(pack(TEXT))])
    assert (raised.value.status, raised.value.code) == (400, "INVALID_ENCODING")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("body", [b"nonsense", b"\xff" * 50, b'{"a": 1}', b"\x1f\x8b\x08\x00"])
def test_what_is_not_compressed_is_refused(encoding: str, body: bytes) -> None:
    """D2."""
    with pytest.raises(RequestError) as raised:
        inflate(encoding, [body])
    assert raised.value.status == 400


@every_encoding
def test_a_bomb_costs_only_what_is_taken_of_it(
    encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    """D1, P4."""
    packed = pack(bytes(50 * 1024 * 1024))
    tracemalloc.start()
    try:
        inflater = decompressor([encoding])
        assert inflater is not None
        taken = 0
        for piece in inflater.feed(packed):
            taken += len(piece)
            if taken > 1024 * 1024:
                break
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_zstd_frame_cannot_ask_for_a_huge_window() -> None:
    """P4: the window is memory that a few bytes can demand."""
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 27}
    packer = zstd.ZstdCompressor(options=options)
    packed = packer.compress(bytes(1_000)) + packer.flush()
    with pytest.raises(RequestError) as raised:
        inflate("zstd", [packed])
    assert raised.value.status == 400


@pytest.mark.parametrize("headers", [[], [""], ["identity"], [" Identity , "]])
def test_nothing_is_inflated_unasked(headers: list[str]) -> None:
    assert decompressor(headers) is None


@pytest.mark.parametrize("headers", [["br"], ["gzip, gzip"], ["gzip", "zstd"], ["gzip;q=1"]])
def test_unknown_and_stacked_encodings_are_refused(headers: list[str]) -> None:
    """D2."""
    with pytest.raises(RequestError) as raised:
        decompressor(headers)
    assert raised.value.status == 415


def test_names_are_compared_without_case() -> None:
    assert decompressor(["GZip"]) is not None
    assert decompressor(["x-gzip"]) is not None
