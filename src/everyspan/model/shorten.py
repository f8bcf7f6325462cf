"""Make frozen payloads fit together into a size, at the cost of their longest texts (`otlp:B6`).

S1  The answer is valid JSON. A text that was cut ends in `…[everyspan: N bytes cut]`; all else is
    as it was, as long as cutting texts is enough.
S2  Texts shorter than a level stay whole, longer ones are cut to it: one huge text does not cost
    the others theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from everyspan.model.freeze import freeze
from everyspan.model.repair import mark

LEVEL_MIN = 256
"""Bytes; shorter texts are not worth a mark."""

_MARK_BYTES = 64

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

Place = tuple[Any, Any, str, int]
"""Container, key or index, the text there, its bytes as JSON."""


def shorten(payloads: Sequence[bytes | None], *, bytes_max: int) -> list[bytes | None]:
    """Return the payloads, None among them untouched, of at most `bytes_max` bytes together.

    Args:
        bytes_max: At least 1,024 for each payload.
    """
    values: list[Any] = [None if payload is None else _read(payload) for payload in payloads]
    places = _texts(values)
    excess = sum(len(payload) for payload in payloads if payload is not None) - bytes_max
    level = _level([size for _, _, _, size in places], excess)
    for container, key, text, size in places:
        if size > level:
            container[key] = _cut(text, size, level)
    shortened = [
        None if payload is None else _encode(value)
        for payload, value in zip(payloads, values, strict=True)
    ]
    return _bounded(shortened, bytes_max)


def _read(payload: bytes) -> Any:
    try:
        return _decode(payload)
    except (msgspec.DecodeError, RecursionError):
        # Nested too deep, or the agent's own text that is none: shown as text.
        return payload.decode("utf-8", "replace")


def _texts(values: list[Any]) -> list[Place]:
    places: list[Place] = []
    containers: list[Any] = [values]
    while containers:
        container = containers.pop()
        pairs = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in pairs:
            if isinstance(value, dict | list):
                containers.append(value)
            elif isinstance(value, str) and len(value) > LEVEL_MIN // 6:
                size = len(_encode(value))
                if size > LEVEL_MIN:
                    places.append((container, key, value, size))
    return places


def _level(sizes: list[int], excess: int) -> int:
    """Return the size to which cutting all longer texts takes away `excess` bytes, marks included.

    LEVEL_MIN where that is not enough.
    """
    sizes.sort(reverse=True)
    above = 0
    for count, size in enumerate(sizes, 1):
        above += size
        below = sizes[count] if count < len(sizes) else LEVEL_MIN
        if above - count * below >= excess:
            return max(LEVEL_MIN, (above - excess) // count)
    return LEVEL_MIN


def _cut(text: str, size: int, level: int) -> str:
    """Return the beginning of a text and a mark, together at most `level` bytes of JSON."""
    whole = text.encode()
    room = level - _MARK_BYTES
    # Escapes are uneven: ask again where more of them stand in front.
    kept = len(whole) * room // size
    while True:
        head = whole[:kept].decode("utf-8", "ignore")
        over = len(_encode(head)) - room
        if over <= 0 or not head:
            return head + mark(f"{len(whole) - len(head.encode())} bytes cut")
        kept -= max(over, 1)


def _bounded(payloads: list[bytes | None], bytes_max: int) -> list[bytes | None]:
    """Cut what is too long without texts of any length: thousands of numbers, for example."""
    sizes = [0 if payload is None else len(payload) for payload in payloads]
    if sum(sizes) <= bytes_max:
        return payloads
    level = _level(sizes.copy(), sum(sizes) - bytes_max)
    return [
        freeze(_read(payload), bytes_max=max(level, 512))
        if payload is not None and len(payload) > level
        else payload
        for payload in payloads
    ]
