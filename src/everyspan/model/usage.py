"""Read token counts and costs of spans and add them up without counting any twice.

What a span reports is one of three kinds (`trace` §5, Rollup; `otlp:F13`):

    CALL       what one model call used: `output.usage`, and `metadata.cost_usd` beside it
    AGGREGATE  a turn's own total: `metadata.usage`, and `metadata.cost_usd` beside it or alone
    TOTAL      what an agent says of all below it: `metadata.aggregated_usage`

U1  Where a trace holds any aggregate, aggregates alone count. Else calls are summed, but a call
    above another call that reports is not counted. Totals count only where nothing else does, the
    outermost ones.
U2  Tokens and cost are rolled up alike, each over the spans that report it.
U3  The order of spans changes nothing, to the last bit of a cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Generic, TypeVar

from everyspan.model.span import SOURCE_KEY
from everyspan.model.w3c import by_span_hex, span_hex

_T = TypeVar("_T")

_INPUT_KEYS = ("input_tokens", "prompt_tokens")
_OUTPUT_KEYS = ("output_tokens", "completion_tokens")

COUNT_END = 10**18
"""No count and no cost; a store has 64 bits for it."""


class Kind(IntEnum):
    """What a span's figures are of."""

    CALL = 0
    AGGREGATE = 1
    TOTAL = 2

    @property
    def rule(self) -> str:
        """What a sum over spans of this kind is called."""
        return _RULES[self]


_RULES = {Kind.CALL: "per call", Kind.AGGREGATE: "aggregates", Kind.TOTAL: "outermost total"}


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


@dataclass(frozen=True, slots=True)
class Usage:
    """What one span reports; `cost_usd` is None where it names none, which is not 0."""

    kind: Kind = Kind.CALL
    tokens: Tokens = NO_TOKENS
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Rollup(Generic[_T]):
    """A total and the rule it was made by; None and None where no span reported.

    `other` is what the next rule would have made of the other spans, where there are such and the
    two disagree.
    """

    value: _T | None = None
    rule: str | None = None
    other: _T | None = None
    other_rule: str | None = None


class UsageTotal:
    """The tokens and the cost of a trace; holds ids and figures, never payloads."""

    def __init__(self) -> None:
        self._parents: dict[str, str | None] = {}
        self._by_hex: dict[str, str] | None = None
        self._tokens: tuple[dict[str, Tokens], ...] = ({}, {}, {})
        self._costs: tuple[dict[str, float], ...] = ({}, {}, {})

    def add(self, span: Mapping[str, Any]) -> None:
        """Take one span, once."""
        usage, span_id, parent_id = usage_of(span), span.get("id"), span.get("parent_id")
        self.take(
            # What has no id is a span of its own that nobody is below.
            span_id if isinstance(span_id, str) else f"\0{len(self._parents)}",
            parent_id if isinstance(parent_id, str) else None,
            usage.kind,
            usage.tokens.input,
            usage.tokens.output,
            usage.cost_usd,
        )

    def take(
        self,
        span_id: str,
        parent_id: str | None,
        kind: int,
        input_tokens: int | None,
        output_tokens: int | None,
        cost_usd: float | None,
    ) -> None:
        """Take one span, once, as the values a store has of it."""
        self._parents[span_id] = parent_id
        self._by_hex = None
        if input_tokens is not None or output_tokens is not None:
            self._tokens[kind][span_id] = Tokens(input_tokens, output_tokens)
        if cost_usd is not None:
            self._costs[kind][span_id] = cost_usd

    @property
    def tokens(self) -> Rollup[Tokens]:
        """The tokens by the rule (U1)."""
        return self._rollup(self._tokens, _sum_tokens)

    @property
    def cost_usd(self) -> Rollup[float]:
        """The cost by the rule (U1)."""
        return self._rollup(self._costs, math.fsum)  # Rounds once: no order shows (U3).

    def _rollup(
        self, reported: tuple[dict[str, _T], ...], add_up: Callable[[Iterable[_T]], _T]
    ) -> Rollup[_T]:
        calls, aggregates, totals = reported
        found = []
        if aggregates:
            found.append((Kind.AGGREGATE.rule, add_up(aggregates.values())))
        if calls:
            above = self._above(calls)
            found.append((Kind.CALL.rule, add_up(calls[id] for id in calls if id not in above)))
        if totals:
            inner = self._inner(totals)
            found.append((Kind.TOTAL.rule, add_up(totals[id] for id in totals if id not in inner)))
        if not found:
            return Rollup()
        (rule, value), *others = found
        for other_rule, other in others:
            if other != value:
                return Rollup(value, rule, other, other_rule)
        return Rollup(value, rule)

    def _above(self, span_ids: Iterable[str]) -> set[str]:
        """Return all that stand above one of `span_ids`; what is in a loop stands above itself."""
        above: set[str] = set()
        for span_id in span_ids:
            node = self._parent_of(span_id)
            # Whatever is in here has its ancestors in here, or gets them in this walk.
            while node is not None and node not in above:
                above.add(node)
                node = self._parent_of(node)
        return above

    def _inner(self, span_ids: Mapping[str, object]) -> set[str]:
        """Return those of `span_ids` that stand below one of them."""
        inner: set[str] = set()
        is_below: dict[str, bool] = {}
        for span_id in span_ids:
            path: list[str] = []
            node = self._parent_of(span_id)
            while node is not None and node not in span_ids and node not in is_below:
                path.append(node)
                is_below[node] = False  # For now; it ends loops.
                node = self._parent_of(node)
            found = node is not None and (node in span_ids or is_below[node])
            is_below.update(dict.fromkeys(path, found))
            if found:
                inner.add(span_id)
        return inner

    def _parent_of(self, span_id: str) -> str | None:
        parent_id = self._parents[span_id]
        if parent_id is None or parent_id in self._parents:
            return parent_id
        if self._by_hex is None:
            self._by_hex = by_span_hex(self._parents)
        return self._by_hex.get(span_hex(parent_id))


def usage_of(span: Mapping[str, Any]) -> Usage:
    """Return what an SGP span object reports, or what its server read of it."""
    metadata, output = span.get("metadata"), span.get("output")
    usage = read_usage(
        metadata if isinstance(metadata, Mapping) else {},
        output if isinstance(output, Mapping) else {},
    )
    if usage.tokens.total is None:
        count = Tokens(_count(span, ("input_tokens",)), _count(span, ("output_tokens",)))
        kind = usage.kind if count.total is None else Kind.CALL
        return Usage(kind, count, usage.cost_usd)
    return usage


def read_usage(metadata: Mapping[str, Any], output: Mapping[str, Any]) -> Usage:
    """Return what a span's payloads report."""
    cost_usd = _cost(metadata.get("cost_usd"))
    kind: Kind | None = None
    tokens = NO_TOKENS
    for place, reported in (
        (Kind.AGGREGATE, metadata.get("usage")),
        (Kind.CALL, output.get("usage")),
        (Kind.TOTAL, metadata.get("aggregated_usage")),
    ):
        found = _tokens_in(reported)
        if found is not None:
            # Each count is from the first place that has it (`sgp` §6).
            kind = place if kind is None else kind
            tokens = Tokens(
                found.input if tokens.input is None else tokens.input,
                found.output if tokens.output is None else tokens.output,
            )
    return Usage(kind_of(kind, cost_usd, metadata.get(SOURCE_KEY)), tokens, cost_usd)


def kind_of(kind: Kind | None, cost_usd: float | None, source: object) -> Kind:
    """Return what a span's figures are of, where `kind` is what its token counts say."""
    if kind is not None:
        return kind
    # A turn may state its cost alone (`trace:U6`); so may a call that came over OTLP, where turns
    # state their cost beside a total.
    return Kind.AGGREGATE if cost_usd is not None and source != "otel" else Kind.CALL


def tokens_of(span: Mapping[str, Any]) -> Tokens:
    """Return the tokens that one span reports."""
    return usage_of(span).tokens


def _tokens_in(usage: object) -> Tokens | None:
    if not isinstance(usage, Mapping):
        return None
    tokens = Tokens(_count(usage, _INPUT_KEYS), _count(usage, _OUTPUT_KEYS))
    return None if tokens.total is None else tokens


def _count(usage: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    for key in keys:
        value = usage.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < COUNT_END:
            return value
    return None


def _cost(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < COUNT_END:
        return None
    return float(value)


def _sum_tokens(counts: Iterable[Tokens]) -> Tokens:
    return sum(counts, NO_TOKENS)


def _add(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
