"""The attributes of one span, read by the tables of `otlp_tables`; remembers which were used."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from everyspan.server.otlp_span import Attributes
from everyspan.server.otlp_tables import (
    CONTENT_EVENTS,
    EVERYSPAN_DATA,
    INPUT_LLM,
    JSON_KEYS,
    METADATA_PREFIXES,
    MIME_TYPES,
    OUTPUT_LLM,
    SCHEMA_KEY,
)
from everyspan.server.otlp_values import gather, members, parse_json, plain

_INDEX = ".N.*"
_GATHERED = [key.removesuffix(_INDEX) for key in (*INPUT_LLM, *OUTPUT_LLM) if key.endswith(_INDEX)]
_INDEXED = re.compile(
    rf"({'|'.join(map(re.escape, _GATHERED))})\.([0-9]{{1,18}})\.(.+)", re.ASCII | re.DOTALL
)
_PREFIXES = (*(f"{name}." for name in _GATHERED), *METADATA_PREFIXES, EVERYSPAN_DATA)
_COUNT_MAX = 2**53
_NOTHING = (None, "")


class _Path(NamedTuple):
    """Where a number stands: in an attribute, or in members of the object in it."""

    key: str
    member: str = ""
    is_sum: bool = False


class AttributeReader:
    """Finds values by key; what it hands out is used up, the rest is `rest`."""

    def __init__(self, attributes: Attributes) -> None:
        self._values = attributes
        self._used: set[str] = set()
        self._indexed: dict[str, list[tuple[str, int, str, Any]]] = {}
        # Most keys are whole names: they are looked at no further.
        self._prefixed = [key for key in attributes if key.startswith(_PREFIXES)]
        for key in self._prefixed:
            match = _INDEXED.fullmatch(key)
            if match is not None:
                name, index, rest = match.groups()
                found = self._indexed.setdefault(name + _INDEX, [])
                found.append((key, int(index), rest, attributes[key]))
        schema = attributes.get(SCHEMA_KEY)
        self._parsed = _schema_keys(schema) if isinstance(schema, str) else frozenset()

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) not in _NOTHING

    def has_any(self, keys: frozenset[str]) -> bool:
        """Whether one of many keys is there."""
        return not keys.isdisjoint(self._values)

    def peek(self, key: str) -> Any:
        """Return a value as it was sent, without using it."""
        return self._values.get(key)

    def use(self, *keys: str) -> None:
        """Note that what these say is told elsewhere."""
        self._used.update(keys)

    def first(self, keys: Iterable[str], content: Any = None) -> tuple[str, Any]:
        """Return the first key that has a value, itself or indexed, and that; "" and None if none.

        Args:
            content: The value of CONTENT_EVENTS.
        """
        for key in keys:
            if key in self._values:
                value = self._values[key]
                if value not in _NOTHING:
                    self._used.add(key)
                    return key, self._read(key, value)
            elif key in self._indexed:
                indexed = self._indexed[key]
                self._used.update(source for source, *_ in indexed)
                return key, gather((index, rest, value) for _, index, rest, value in indexed)
            elif key == CONTENT_EVENTS and content is not None:
                return key, content
        return "", None

    def object(self, key: str) -> dict[str, Any]:
        """Return the members of an object, or of JSON text with one; {} where it is none."""
        value = self._values.get(key)
        found = members(parse_json(value) if isinstance(value, str) else value)
        if found:
            self._used.add(key)
        return found

    def text(self, keys: Iterable[str], length_max: int | None = None) -> str | None:
        """Return the first that is text (a number will do), and not longer than that."""
        for key in keys:
            value = self._values.get(key)
            if isinstance(value, int) and not isinstance(value, bool):
                value = str(value)
            if not isinstance(value, str) or not value or "\0" in value:
                continue
            if length_max is None or len(value.encode()) <= length_max:
                self._used.add(key)
                return value
        return None

    def count(self, paths: Iterable[str]) -> int | None:
        """Return the first that is a non-negative integer."""
        for path in paths:
            key, member, is_sum = _path(path)
            if key not in self._values:
                continue
            value = self._values[key] if not member else self._member(key, member, is_sum=is_sum)
            found = _to_count(value)
            if found is not None:
                self._used.add(key)
                return found
        return None

    def amount(self, paths: Iterable[str]) -> float | int | None:
        """Return the first that is a finite number, not negative."""
        for path in paths:
            key, member, _ = _path(path)
            if key not in self._values:
                continue
            value = self._values[key] if not member else self._member(key, member)
            if isinstance(value, str):
                try:
                    value = float(value)
                except ValueError:
                    continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if math.isfinite(value) and value >= 0:
                self._used.add(key)
                return value
        return None

    def below(self, prefixes: Sequence[str]) -> dict[str, Any]:
        """Return what stands under these prefixes, by the rest of the key; the first wins.

        Text that begins like an object, an array or a JSON text is JSON, if it can be: everyspan's
        own data is sent so, and Langfuse's metadata.
        """
        found: dict[str, Any] = {}
        starts = tuple(prefixes)
        for key in self._prefixed:
            value = self._values[key]
            if key.startswith(starts) and value is not None:
                prefix = next(start for start in starts if key.startswith(start))
                self._used.add(key)
                is_json = isinstance(value, str) and value[:1] in ("{", "[", '"')
                found.setdefault(key.removeprefix(prefix), parse_json(value) if is_json else value)
        return found

    def rest(self) -> dict[str, Any]:
        """Return the attributes that nothing used."""
        return {
            key: parse_json(value) if key in self._parsed and isinstance(value, str) else value
            for key, value in self._values.items()
            if key not in self._used
        }

    def _read(self, key: str, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        mime_key = MIME_TYPES.get(key)
        if mime_key is not None and self._values.get(mime_key) == "application/json":
            self._used.add(mime_key)
        elif key not in JSON_KEYS and key not in self._parsed:
            return value
        found = parse_json(value)
        if key.startswith("mlflow.") and isinstance(inner := plain(found), str):
            return parse_json(inner)  # Some versions encode twice.
        return found

    def _member(self, key: str, member: str, *, is_sum: bool = False) -> Any:
        value = self._values[key]
        inside: Mapping[str, Any] = members(parse_json(value) if isinstance(value, str) else value)
        if not is_sum:
            return plain(inside.get(member))
        counts = [_to_count(plain(inner)) for name, inner in inside.items() if member in name]
        known = [count for count in counts if count is not None]
        return sum(known) if known else None


@cache
def _path(text: str) -> _Path:
    key, _, member = text.partition(" > ")
    return _Path(key, member.strip("*"), member.startswith("*"))


def _to_count(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < _COUNT_MAX else None


def _schema_keys(schema: str) -> frozenset[str]:
    """Return the attributes that logfire's schema says to be objects or arrays."""
    properties = members(members(parse_json(schema)).get("properties"))
    found = set()
    for key, raw in properties.items():
        said = plain(raw)
        if isinstance(said, dict) and said.get("type") in ("object", "array"):
            found.add(key)
    return frozenset(found)
