"""Read token counts of spans and add them up without counting any twice (`trace` §5, Rollup)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_INPUT_KEYS = ("input_tokens", "prompt_tokens")
_OUTPUT_KEYS = ("output_tokens", "completion_tokens")


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens in and out; None where nothing was reported, which is not 0."""

    input: int | None = None
    output: int | None = None

    @property
    def total(self) -> int | None:
        """Both together; None where neither was reported."""
        if self.input is None and self.output is None:
            return None
        return (self.input or 0) + (self.output or 0)

    def __str__(self) -> str:
        """Return `1,204→88 tok`; empty where nothing was reported."""
        if self.total is None:
            return ""
        into, out = ("–" if count is None else f"{count:,}" for count in (self.input, self.output))
        return f"{into}→{out} tok"

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(_add(self.input, other.input), _add(self.output, other.output))


NO_TOKENS = Tokens()


class TokenTotal:
    """The token total of a trace: aggregates only, where any exist, else the sum per call."""

    def __init__(self) -> None:
        self._aggregates: Tokens | None = None
        self._calls = NO_TOKENS

    def add(self, span: Mapping[str, Any]) -> None:
        """Take one span, once."""
        aggregate = _usage(span, "metadata")
        if aggregate is not None:
            self._aggregates = (self._aggregates or NO_TOKENS) + aggregate
        else:
            self._calls += tokens_of(span)

    @property
    def tokens(self) -> Tokens:
        """The total by the rule."""
        return self._calls if self._aggregates is None else self._aggregates

    @property
    def rule(self) -> str | None:
        """`aggregates` or `per call`; None where no span reported tokens."""
        if self.tokens.total is None:
            return None
        return "per call" if self._aggregates is None else "aggregates"


def tokens_of(span: Mapping[str, Any]) -> Tokens:
    """Return what one span reports: `metadata.usage`, `output.usage`, or what the server read."""
    return (
        _usage(span, "metadata")
        or _usage(span, "output")
        or Tokens(_count(span, ("input_tokens",)), _count(span, ("output_tokens",)))
    )


def _usage(span: Mapping[str, Any], field: str) -> Tokens | None:
    payload = span.get(field)
    usage = payload.get("usage") if isinstance(payload, Mapping) else None
    if not isinstance(usage, Mapping):
        return None
    tokens = Tokens(_count(usage, _INPUT_KEYS), _count(usage, _OUTPUT_KEYS))
    return None if tokens.total is None else tokens


def _count(usage: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    for key in keys:
        value = usage.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


def _add(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
