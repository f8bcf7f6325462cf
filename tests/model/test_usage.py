"""Totals of tokens and cost: `trace` §5, Rollup, and `otlp:F13`."""

from __future__ import annotations

import random
from typing import Any

import pytest

from everyspan.model.usage import COUNT_END, Rollup, Tokens, UsageTotal, tokens_of

CALL = {"output": {"usage": {"prompt_tokens": 10, "completion_tokens": 2}}}
TURN = {"metadata": {"usage": {"input_tokens": 100, "output_tokens": 20}}}
UUID = "7f0b6a52-8f0e-4f83-9c6d-9a6e4b1f2c3d"
UUID_HEX = "9c6d9a6e4b1f2c3d"


def total(*spans: dict[str, Any]) -> UsageTotal:
    sum_ = UsageTotal()
    for span in spans:
        sum_.add(span)
    return sum_


def tokens(*spans: dict[str, Any]) -> tuple[Tokens | None, str | None]:
    rollup = total(*spans).tokens
    return rollup.value, rollup.rule


def call(id: str, parent: str | None, count: int, **metadata: Any) -> dict[str, Any]:
    usage = {"usage": {"input_tokens": count}}
    return {"id": id, "parent_id": parent, "output": usage, "metadata": metadata}


def agent(id: str, parent: str | None, count: int) -> dict[str, Any]:
    usage = {"aggregated_usage": {"input_tokens": count}}
    return {"id": id, "parent_id": parent, "metadata": usage}


def plain(id: str, parent: str | None) -> dict[str, Any]:
    return {"id": id, "parent_id": parent}


@pytest.mark.parametrize("spans", [(TURN, CALL, CALL), (CALL, TURN, CALL), (CALL, CALL, TURN)])
def test_aggregates_alone_count_where_any_exist(spans: tuple[dict[str, Any], ...]) -> None:
    """`trace` §5: never both, in whatever order they come; the other figure is told."""
    assert total(*spans).tokens == Rollup(
        Tokens(100, 20), "aggregates", other=Tokens(20, 4), other_rule="per call"
    )


def test_rules_that_agree_are_one_figure() -> None:
    """U1: a turn of exactly its calls leaves nothing to tell."""
    turn = {"metadata": {"usage": {"input_tokens": 20, "output_tokens": 4}}}
    assert total(turn, CALL, CALL).tokens == Rollup(Tokens(20, 4), "aggregates")


def test_calls_are_summed_where_no_aggregate_exists() -> None:
    """`trace` §5."""
    assert tokens(CALL, CALL, {}) == (Tokens(20, 4), "per call")


def test_two_turns_are_summed() -> None:
    """`trace:U8`: one aggregate a turn, of its own tokens."""
    assert tokens(TURN, CALL, TURN) == (Tokens(200, 40), "aggregates")


def test_a_call_above_a_call_is_not_counted() -> None:
    """`otlp:F13`: LangChain's model span above OpenAI's, another span between them."""
    spans = [call("chain", None, 10), plain("http", "chain"), call("openai", "http", 10)]
    for order in (spans, spans[::-1]):
        assert tokens(*order, call("other", None, 1)) == (Tokens(11), "per call")


def test_a_parent_is_known_by_its_opentelemetry_id() -> None:
    """`otlp:F2`: a call over OTLP below one that came with a UUID."""
    spans = [call(UUID, None, 10), call("a" * 16, UUID_HEX, 7)]
    for order in (spans, spans[::-1]):
        assert tokens(*order) == (Tokens(7), "per call")


def test_the_outermost_total_counts_where_nothing_else_does() -> None:
    """`otlp:F13`: totals of agents within agents, a span between them."""
    spans = [
        agent("inner", "between", 5),
        plain("between", "outer"),
        agent("outer", "root", 9),
        agent("sibling", "between", 3),
        plain("root", None),
        agent("elsewhere", None, 1),
    ]
    for seed in range(20):
        random.Random(seed).shuffle(spans)
        assert tokens(*spans) == (Tokens(10), "outermost total")
    assert total(*spans, call("c", "inner", 4)).tokens == Rollup(
        Tokens(4), "per call", other=Tokens(10), other_rule="outermost total"
    )


def test_parents_that_form_a_loop_end() -> None:
    """Parents are whatever producers wrote."""
    loop = [plain("a", "b"), plain("b", "a")]
    assert tokens(*loop, call("x", "a", 3), agent("y", "b", 9)) == (Tokens(3), "per call")
    assert tokens(*loop, agent("y", "b", 9), agent("z", "z", 1))[0] == Tokens(9)
    assert total(call("a", "b", 1), call("b", "a", 1)).tokens.rule == "per call"


def test_cost_is_rolled_up_alike() -> None:
    """U2, `trace:U6`: a turn may state its cost alone."""
    turn = {"id": "turn", "metadata": {"cost_usd": 0.5}}
    calls = [call(str(n), "turn", 1, cost_usd=0.1, __source__="otel") for n in range(3)]
    assert total(turn, *calls).cost_usd == Rollup(0.5, "aggregates", 0.1 * 3, "per call")
    assert total(*calls).cost_usd == Rollup(0.1 * 3, "per call")
    assert total(turn, *calls).tokens == Rollup(Tokens(3), "per call")


def test_a_cost_over_otlp_without_usage_is_of_a_call() -> None:
    """U1: it takes nothing away from the other calls."""
    embedding = {"id": "e", "metadata": {"cost_usd": 1, "__source__": "otel"}}
    assert total(embedding, call("c", None, 1, cost_usd=2)).cost_usd == Rollup(3.0, "per call")


def test_no_order_changes_a_cost() -> None:
    """U3: additions of floating point numbers do depend on order."""
    calls = [call(str(n), None, 1, cost_usd=cost) for n, cost in enumerate([1e16, 1.0, 1.0, 0.1])]
    expected = total(*calls).cost_usd
    for seed in range(10):
        random.Random(seed).shuffle(calls)
        assert total(*calls).cost_usd == expected


def test_a_wide_and_a_deep_trace_are_rolled_up_in_one_pass_each() -> None:
    """U1 at size: 20,000 calls in a chain, 20,000 totals below a chain; quadratic would hang."""
    chain = [call(str(n), str(n - 1) if n else None, 1) for n in range(20_000)]
    assert tokens(*chain)[0] == Tokens(1)
    deep = [plain(str(n), str(n - 1)) for n in range(20_000)]
    totals = [agent(f"t{n}", "19999", 1) for n in range(20_000)]
    assert tokens(*deep, *totals)[0] == Tokens(20_000)


def test_nothing_reported_is_not_zero() -> None:
    """`sgp` §6: absent is not 0."""
    assert total({}, {"output": {"usage": {}}}).tokens == Rollup()
    assert tokens({"output": {"usage": {"input_tokens": 0}}}) == (Tokens(0, None), "per call")


@pytest.mark.parametrize("count", [-1, True, "7", 1.5, None, [1], COUNT_END])
def test_what_is_no_count_is_not_counted(count: object) -> None:
    """`sgp` §6: non-negative integers only."""
    assert tokens_of({"output": {"usage": {"input_tokens": count}}}) == Tokens()


@pytest.mark.parametrize("cost", [-1, True, "7", float("nan"), float("inf"), None, [1]])
def test_what_is_no_cost_is_not_counted(cost: object) -> None:
    """U2: a cost is a number of dollars, 0 or more."""
    assert total({"metadata": {"cost_usd": cost}}).cost_usd == Rollup()


def test_a_span_shows_what_the_server_read_where_its_payload_says_nothing() -> None:
    """`sgp` §3: input_tokens and output_tokens of a foreign server."""
    assert tokens_of({"input_tokens": 3, "output_tokens": 4}) == Tokens(3, 4)
    assert tokens_of({**TURN, "input_tokens": 3}) == Tokens(100, 20)
