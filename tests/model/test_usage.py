"""Token totals: `trace` §5, Rollup."""

from __future__ import annotations

from typing import Any

import pytest

from everyspan.model.usage import Tokens, TokenTotal, tokens_of

CALL = {"output": {"usage": {"prompt_tokens": 10, "completion_tokens": 2}}}
TURN = {"metadata": {"usage": {"input_tokens": 100, "output_tokens": 20}}}


def total(*spans: dict[str, Any]) -> tuple[Tokens, str | None]:
    sum_ = TokenTotal()
    for span in spans:
        sum_.add(span)
    return sum_.tokens, sum_.rule


@pytest.mark.parametrize("spans", [(TURN, CALL, CALL), (CALL, TURN, CALL), (CALL, CALL, TURN)])
def test_aggregates_alone_count_where_any_exist(spans: tuple[dict[str, Any], ...]) -> None:
    """`trace` §5: never both, in whatever order they come."""
    assert total(*spans) == (Tokens(100, 20), "aggregates")


def test_calls_are_summed_where_no_aggregate_exists() -> None:
    """`trace` §5."""
    assert total(CALL, CALL, {}) == (Tokens(20, 4), "per call")


def test_two_turns_are_summed() -> None:
    """`trace:U8`: one aggregate a turn, of its own tokens."""
    assert total(TURN, CALL, TURN) == (Tokens(200, 40), "aggregates")


def test_nothing_reported_is_not_zero() -> None:
    """`sgp` §6: absent is not 0."""
    assert total({}, {"output": {"usage": {}}}) == (Tokens(None, None), None)
    assert total({"output": {"usage": {"input_tokens": 0}}}) == (Tokens(0, None), "per call")


@pytest.mark.parametrize("count", [-1, True, "7", 1.5, None, [1]])
def test_what_is_no_count_is_not_counted(count: object) -> None:
    """`sgp` §6: non-negative integers only."""
    assert tokens_of({"output": {"usage": {"input_tokens": count}}}) == Tokens()


def test_a_span_shows_what_the_server_read_where_its_payload_says_nothing() -> None:
    """`sgp` §3: input_tokens and output_tokens of a foreign server."""
    assert tokens_of({"input_tokens": 3, "output_tokens": 4}) == Tokens(3, 4)
    assert tokens_of({**TURN, "input_tokens": 3}) == Tokens(100, 20)
