"""`adk.tracing.turn_span`: the turn, and what it used, where readers add it up once."""

from __future__ import annotations

import dataclasses
import logging
from decimal import Decimal
from typing import Any

import pydantic
import pytest

import everyspan
from everyspan import SettingsError, Span, adk
from everyspan.adk import TurnSpan, TurnUsage
from everyspan.model.usage import Tokens, UsageTotal
from everyspan.testing import FaultServer
from tests.recording import Recording

NOT_BILLED = "it is recorded, not billed"
MAKES_WAY = "makes way for its usage"
SECRET = "sk-0123"


def turn(data: Any = None) -> TurnSpan:
    """A turn whose span is not recorded anywhere."""
    return TurnSpan(Span(name="turn", trace_id="t", start_ns=1, data=data))


def data_of(turn: TurnSpan) -> Any:
    assert turn.span is not None
    return turn.span.data


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert {record.levelno for record in caplog.records} <= {logging.WARNING}
    return [record.getMessage() for record in caplog.records]


async def test_usage_goes_to_data_and_the_output_stays_as_it_was_set(recording: Recording) -> None:
    """trace:U1."""
    async with adk.tracing.turn_span("t", "turn", {"q": 1}, {"k": 2}, "p", "task") as turn:
        turn.output = {"response": "hello"}
        turn.record_usage({"input_tokens": 100, "output_tokens": 40}, cost_usd=0.0125)
        assert turn.output == {"response": "hello"}
        assert everyspan.current_span() is turn.span
    kept = recording.one("turn")
    assert kept.output == {"response": "hello"}
    assert kept.data == {
        "k": 2,
        "usage": {"input_tokens": 100, "output_tokens": 40},
        "cost_usd": 0.0125,
    }
    assert (kept.parent_id, kept.task_id, kept.input) == ("p", "task", {"q": 1})


async def test_on_the_wire_usage_is_metadata_and_counted_once() -> None:
    """trace:U1, U8: what the backend gets; per-call details below the turn are not added."""
    with FaultServer() as backend:
        everyspan.configure(everyspan.SGPTracingProcessorConfig("key", "account", backend.base_url))
        try:
            async with adk.tracing.turn_span("t", "turn") as turn:
                with everyspan.span("llm") as llm:
                    llm.output = {"usage": {"input_tokens": 7, "output_tokens": 3}}
                turn.output = {"response": "hello"}
                turn.record_usage(TurnUsage(input_tokens=7, output_tokens=3, cost_usd=0.5))
            assert everyspan.flush(20)
        finally:
            everyspan.shutdown(5)
            everyspan.set_tracing_processor_configs([])
    rows = {versions[-1]["name"]: versions[-1] for versions in backend.rows.values()}
    sent = rows["turn"]
    assert sent["output"] == {"response": "hello"}
    assert sent["metadata"]["cost_usd"] == 0.5
    assert sent["metadata"]["usage"] == {
        "input_tokens": 7,
        "output_tokens": 3,
        "num_tool_calls": 0,
        "num_reasoning_blocks": 0,
    }
    total = UsageTotal()
    for row in rows.values():
        total.add(row)
    assert (total.tokens.value, total.tokens.rule) == (Tokens(7, 3), "aggregates")
    assert (total.cost_usd.value, total.cost_usd.rule) == (0.5, "aggregates")


class Model(pydantic.BaseModel):
    """A usage as model APIs answer it."""

    prompt_tokens: int
    completion_tokens: int | None = None
    cost_usd: float | None = None


@dataclasses.dataclass
class Plain:
    """A usage as agent frameworks sum it up."""

    input_tokens: int
    output_tokens: int | None = None
    cost_usd: float | None = None


@pytest.mark.parametrize(
    ("usage", "written"),
    [
        (
            TurnUsage(model="m", input_tokens=0, cost_usd=0.5),
            {"model": "m", "input_tokens": 0, "num_tool_calls": 0, "num_reasoning_blocks": 0},
        ),
        (Model(prompt_tokens=1, cost_usd=0.5), {"prompt_tokens": 1}),
        (Plain(1, cost_usd=0.5), {"input_tokens": 1}),
        ({"input_tokens": 1, "output_tokens": None, "cost_usd": 0.5}, {"input_tokens": 1}),
    ],
)
def test_a_usage_is_written_without_nulls_and_its_cost_beside_it(
    usage: Any, written: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """trace:U2: counts that are always there stay at 0."""
    a_turn = turn()
    a_turn.record_usage(usage)
    assert data_of(a_turn) == {"usage": written, "cost_usd": 0.5}
    assert said(caplog) == []


@pytest.mark.parametrize(
    "usage", [TurnUsage(input_tokens=1, cost_usd=0.5), {"input_tokens": 1, "cost_usd": 0.5}]
)
def test_a_cost_that_is_named_beats_the_one_inside(usage: Any) -> None:
    """trace:U3: also one of 0."""
    for cost in (0.25, 0):
        a_turn = turn()
        a_turn.record_usage(usage, cost_usd=cost)
        assert data_of(a_turn)["cost_usd"] == cost
        assert "cost_usd" not in data_of(a_turn)["usage"]


def test_a_usage_that_no_reader_knows_is_kept_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """trace:U4: said once, not for every turn."""
    for _ in range(3):
        a_turn = turn()
        a_turn.record_usage({"tokens": 5})
        assert data_of(a_turn) == {"usage": {"tokens": 5}}
    (line,) = said(caplog)
    assert NOT_BILLED in line


def test_a_turn_of_tools_alone_is_a_usage(caplog: pytest.LogCaptureFixture) -> None:
    """trace:U4: the warning is for names that readers do not know."""
    a_turn = turn()
    a_turn.record_usage(TurnUsage(num_tool_calls=2))
    assert data_of(a_turn) == {"usage": {"num_tool_calls": 2, "num_reasoning_blocks": 0}}
    assert said(caplog) == []


@pytest.mark.parametrize("key", adk.turn.BILLED_KEYS)
def test_every_name_that_readers_know_is_known(key: str, caplog: pytest.LogCaptureFixture) -> None:
    """trace:U4."""
    turn().record_usage({key: 1})
    assert said(caplog) == []


def test_data_that_is_an_object_keeps_its_keys(caplog: pytest.LogCaptureFixture) -> None:
    """trace:U5: and the agent's own object is left alone."""
    own = {"k": 1}
    a_turn = turn(own)
    a_turn.record_usage({"input_tokens": 1})
    assert data_of(a_turn) == {"k": 1, "usage": {"input_tokens": 1}}
    assert own == {"k": 1}
    assert said(caplog) == []


@pytest.mark.parametrize("data", [[{"k": 1}], [], "text"])
def test_data_that_is_no_object_is_replaced_with_a_warning(
    data: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """trace:U5."""
    a_turn = turn(data)
    a_turn.record_usage({"input_tokens": 1})
    assert data_of(a_turn) == {"usage": {"input_tokens": 1}}
    (line,) = said(caplog)
    assert MAKES_WAY in line


@pytest.mark.parametrize("usage", [None, {}, {"cost_usd": 0.5}])
def test_a_cost_alone_makes_no_usage(usage: Any, caplog: pytest.LogCaptureFixture) -> None:
    """trace:U6."""
    a_turn = turn()
    a_turn.record_usage(usage, cost_usd=0.5)
    assert data_of(a_turn) == {"cost_usd": 0.5}
    assert said(caplog) == []


def test_nothing_to_record_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    for usage in (None, {}, {"input_tokens": None}):
        a_turn = turn([1])
        a_turn.record_usage(usage)
        assert data_of(a_turn) == [1]
    assert said(caplog) == []


async def test_without_a_trace_id_all_of_it_does_nothing(recording: Recording) -> None:
    """trace:U7: nor does it complain of anything."""
    async with adk.tracing.turn_span("", "turn") as turn:
        turn.output = {"response": "hello"}
        turn.record_usage({"input_tokens": 1}, cost_usd=0.5)
        turn.record_usage("garbage", cost_usd="garbage")  # type: ignore[arg-type]
        assert turn.span is None
        assert turn.output is None
    assert recording.spans == []


def test_a_later_usage_replaces_the_former() -> None:
    """trace:U8: one sum a turn; what is not named stays."""
    a_turn = turn()
    a_turn.record_usage({"input_tokens": 1, "output_tokens": 2}, cost_usd=0.5)
    a_turn.record_usage({"input_tokens": 5})
    assert data_of(a_turn) == {"usage": {"input_tokens": 5}, "cost_usd": 0.5}


@pytest.mark.parametrize(("cost", "written"), [(Decimal("0.25"), 0.25), (2, 2), (0, 0)])
def test_a_cost_may_be_any_kind_of_number(cost: Any, written: float) -> None:
    a_turn = turn()
    a_turn.record_usage(cost_usd=cost)
    assert data_of(a_turn) == {"cost_usd": written}
    assert type(data_of(a_turn)["cost_usd"]) is type(written)


@pytest.mark.parametrize("cost", ["0.5", True, float("nan"), float("inf"), [], 10**400])
def test_a_cost_that_is_no_number_is_refused_by_name(cost: Any) -> None:
    with pytest.raises(SettingsError, match="cost_usd must be a finite number, got "):
        turn().record_usage(cost_usd=cost)


@pytest.mark.parametrize("usage", ["12", 12, [12], TurnUsage, Model])
def test_what_is_no_usage_is_refused_by_name(usage: Any) -> None:
    a_turn = turn()
    with pytest.raises(SettingsError, match="usage must be a TurnUsage, a mapping"):
        a_turn.record_usage(usage)
    assert data_of(a_turn) is None


def test_a_usage_that_cannot_be_read_costs_only_itself(caplog: pytest.LogCaptureFixture) -> None:
    """P2: somebody else's class; its error's text is not shown."""

    class Broken:
        def model_dump(self, mode: str) -> Any:
            raise RuntimeError(SECRET)

    a_turn = turn({"k": 1})
    a_turn.record_usage(Broken(), cost_usd=0.5)
    assert data_of(a_turn) == {"k": 1, "cost_usd": 0.5}
    (record,) = caplog.records
    assert "could not read the usage" in record.getMessage()
    assert SECRET not in record.getMessage()
