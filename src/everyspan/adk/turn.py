"""One turn of an agent and what it used, written where readers add it up once.

A turn's tokens and cost are its *aggregate*: they stand in the span's data, never in its output,
where the details of single model calls stand (`trace` §5, Rollup). Who finds an aggregate in a
trace counts the aggregates and nothing else.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

import msgspec

from everyspan import SettingsError, Span
from everyspan.log import complain

BILLED_KEYS = (
    "input_tokens",
    "prompt_tokens",
    "output_tokens",
    "completion_tokens",
    "cached_input_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "total_tokens",
    "cost_usd",
)
"""A usage with none of these is not billed (`trace:U4`)."""


class TurnUsage(msgspec.Struct, kw_only=True):
    """What one turn used, whatever the framework; None where it is not known, which is not 0.

    Tokens and counts are of this turn alone, not a running total (`trace:U8`).
    """

    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    reasoning_tokens: int | None = None
    total_tokens: int | None = None
    cost_usd: float | None = None
    duration_ms: int | None = None
    num_llm_calls: int | None = None
    num_tool_calls: int = 0
    num_reasoning_blocks: int = 0


class TurnSpan:
    """What `adk.tracing.turn_span` yields: the span of a turn.

    `span` is None where the turn is not recorded; everything here then does nothing (`trace:U7`).
    """

    def __init__(self, span: Span | None) -> None:
        self.span = span

    @property
    def output(self) -> Any:
        """What the turn put out, exactly as the agent set it."""
        return None if self.span is None else self.span.output

    @output.setter
    def output(self, value: Any) -> None:
        if self.span is not None:
            self.span.output = value

    def record_usage(self, usage: Any = None, cost_usd: float | None = None) -> None:
        """Write the turn's usage to `data["usage"]`, its cost to `data["cost_usd"]`.

        Another call replaces what it names and leaves the rest. Data that is an object keeps its
        other keys; any other data is replaced, with a warning (`trace:U5`).

        Args:
            usage: A `TurnUsage`, a mapping, a dataclass, or a model with `model_dump`. Written
                without nulls; a `cost_usd` in it is moved out.
            cost_usd: Beats the one in `usage`.

        Raises:
            SettingsError: `usage` is none of these, or `cost_usd` no finite number.
        """
        if self.span is None or (usage is None and cost_usd is None):
            return
        if cost_usd is not None:
            cost_usd = _finite(cost_usd)
        try:
            fields = _fields(usage)
        except SettingsError:
            raise
        except Exception as error:
            # The dump of somebody else's class; it must not cost the turn.
            complain("everyspan could not read the usage of a turn", error=error)
            fields = {}
        if fields and not isinstance(usage, TurnUsage) and fields.keys().isdisjoint(BILLED_KEYS):
            complain(
                "everyspan: the usage of a turn names none of %s: it is recorded, not billed",
                ", ".join(BILLED_KEYS),
                level=logging.WARNING,
            )
        inside = fields.pop("cost_usd", None)
        written: dict[str, Any] = {"usage": fields} if fields else {}
        if cost_usd is not None or inside is not None:
            written["cost_usd"] = inside if cost_usd is None else cost_usd
        if written:
            self.span.data = {**self._data(self.span), **written}

    def _data(self, span: Span) -> dict[str, Any]:
        if isinstance(span.data, dict):
            return span.data
        if span.data is not None:
            complain(
                "everyspan: data of a turn is no object and makes way for its usage",
                level=logging.WARNING,
            )
        return {}


def _fields(usage: Any) -> dict[str, Any]:
    """Return a usage by field, without nulls."""
    if usage is None:
        return {}
    if isinstance(usage, Mapping):
        found = dict(usage)
    elif isinstance(usage, msgspec.Struct) or (is_dataclass(usage) and not isinstance(usage, type)):
        found = {name: getattr(usage, name) for name in _names(usage)}
    elif callable(getattr(usage, "model_dump", None)) and not isinstance(usage, type):
        found = dict(usage.model_dump(mode="json"))
    else:
        raise SettingsError(
            "usage must be a TurnUsage, a mapping, a dataclass or a model with model_dump, "
            f"got {usage!r}"
        )
    return {name: value for name, value in found.items() if value is not None}


def _names(usage: Any) -> tuple[str, ...]:
    if isinstance(usage, msgspec.Struct):
        return usage.__struct_fields__
    return tuple(usage.__dataclass_fields__)


def _finite(value: Any) -> float:
    try:
        if isinstance(value, bool | str | bytes) or not math.isfinite(value):
            raise TypeError
        # Other kinds of number, a Decimal perhaps, would be written as text.
        return value if type(value) is int else float(value)
    except (TypeError, ValueError, OverflowError):
        raise SettingsError(f"cost_usd must be a finite number, got {value!r}") from None
