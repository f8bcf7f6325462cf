"""Our own SDK's two ways into this server: a trace reads the same, whichever it took."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

import everyspan
from everyspan.model.completeness import State, assess
from everyspan.model.ids import new_id

STAMPS = ("__source__", "__acp_type__")


@pytest.fixture(params=["0", "1"], ids=["starts and ends", "ends only"])
def trace_id(
    request: pytest.FixtureRequest,
    base_url: str,
    account: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """Record over both APIs, to two accounts; yield a trace's id."""
    monkeypatch.setenv("AGENTEX_BASE_URL", base_url)
    monkeypatch.setenv("AGENTEX_CUSTOM_HEADERS", f"x-selected-account-id: {account} agentex")
    for switch in ("SKIP_AGENTEX_SPAN_START", "SKIP_SPAN_START"):
        monkeypatch.setenv(f"AGENTEX_TRACING_{switch}", request.param)
    everyspan.configure(
        everyspan.AgentexTracingProcessorConfig(),
        everyspan.SGPTracingProcessorConfig("key", f"{account} sgp", base_url),
        linger_ms=5,
    )
    yield new_id()
    everyspan.shutdown(20)
    everyspan.set_tracing_processor_configs([])


def test_a_trace_reads_the_same_whichever_way_it_came(
    trace_id: str, base_url: str, account: str
) -> None:
    """`agx` §7, P11."""
    with everyspan.span("turn", trace_id=trace_id, input={"q": "é"}, task_id="k") as turn:
        with everyspan.span("model", type="COMPLETION", input=[{"role": "user"}]) as model:
            model.output = {"usage": {"input_tokens": 3, "output_tokens": 4}}
        with everyspan.span("novel", type="NOVEL", data={"k": 1}):
            pass
        with pytest.raises(ValueError, match="no"), everyspan.span("failing"):
            raise ValueError("no")
        with pytest.raises(asyncio.CancelledError), everyspan.span("cancelled"):
            raise asyncio.CancelledError
        turn.output = {"a": 1}
    assert everyspan.flush(timeout=20)

    over_agentex = read(base_url, f"{account} agentex", trace_id)
    over_sgp = read(base_url, f"{account} sgp", trace_id)
    for spans in (over_agentex, over_sgp):
        assert len(spans) == 5
        assert assess(spans, now_s=0).state is State.COMPLETE
    for ours, theirs in zip(over_agentex, over_sgp, strict=True):
        assert comparable(ours) == comparable(theirs)


def read(base_url: str, account: str, trace_id: str) -> list[dict[str, Any]]:
    headers = {"x-selected-account-id": account}
    reply = httpx2.post(
        f"{base_url}/v5/spans/search", json={"trace_ids": [trace_id]}, headers=headers
    )
    items: list[dict[str, Any]] = reply.json()["items"]
    return items


def comparable(span: dict[str, Any]) -> dict[str, Any]:
    """Return a span without what its way explains: the account, and the SGP sender's stamps."""
    shown = {name: value for name, value in span.items() if name != "account_id"}
    # The SGP sender writes `{}` for a payload that there is none of.
    for name in ("input", "output"):
        shown[name] = shown.get(name) or {}
    shown["metadata"] = {k: v for k, v in span["metadata"].items() if k not in STAMPS}
    return shown
