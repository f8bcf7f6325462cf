"""`everyspan.server.summary`: one row a trace, whatever its spans and their order."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everyspan.model.completeness import assess
from everyspan.model.usage import UsageTotal, usage_of
from everyspan.server.preview import CHARS_MAX, preview_input, preview_output
from everyspan.server.row import read_facts
from everyspan.server.summary import Facet, RootPayloads, SpanFacts, Summarizer, TraceSummary

T0_NS = 1_760_000_000_000_000_000
SECOND_NS = 1_000_000_000


def summary_of(
    spans: list[SpanFacts], *, now_ns: int = T0_NS + 10**15, **payloads: bytes
) -> tuple[TraceSummary, dict[Facet, list[str]]]:
    summarizer = Summarizer()
    for span in spans:
        summarizer.add(span)
    return summarizer.summary(
        now_ns=now_ns,
        read=lambda span: RootPayloads(payloads.get(f"in_{span.id}"), payloads.get(span.id)),
    )


def fact(id: str, **fields: Any) -> SpanFacts:
    defaults: dict[str, Any] = {
        "trace_id": "t",
        "name": "n",
        "start_ns": T0_NS,
        "end_ns": T0_NS + 1,
    }
    return SpanFacts(id=id, **(defaults | fields))


records = st.sampled_from(
    [
        None,
        "{",
        '{"p":"a","n":1}',
        '{"p":"a","n":2,"total":3}',
        '{"p":"b","n":1,"total":2,"dropped":{"queue full":1}}',
    ]
)
texts = st.none() | st.sampled_from(["x", "y", "7f0b6a52-8f0e-4f83-9c6d-9a6e4b1f2c3d"])
facts = st.builds(
    SpanFacts,
    id=st.sampled_from(["1", "2", "3", "4", "5", "6", "7"]),
    trace_id=st.sampled_from(["t", "0" * 31 + "1"]),
    name=st.sampled_from(["turn", "tool"]),
    start_ns=st.integers(T0_NS - 3, T0_NS + 3),
    end_ns=st.none() | st.integers(T0_NS, T0_NS + 5),
    parent_id=st.none() | st.sampled_from(["1", "2", "gone"]),
    task_id=texts,
    group_id=texts,
    type=texts,
    status=st.sampled_from([None, "ERROR", "CANCELED"]),
    agent=texts,
    model=texts,
    input_tokens=st.none() | st.integers(0, 10**17),
    output_tokens=st.none() | st.integers(0, 9),
    cost_usd=st.none() | st.floats(0, 1e9),
    usage_kind=st.integers(0, 2),
    error_type=texts,
    error_message=texts,
    record=records,
)


@given(st.lists(facts, min_size=1, max_size=9, unique_by=lambda span: span.id), st.randoms())
def test_no_order_changes_a_summary(spans: list[SpanFacts], shuffler: random.Random) -> None:
    """T1, T3: and what it can be found by has a bounded size."""
    first = summary_of(spans)
    shuffler.shuffle(spans)
    assert summary_of(spans) == first
    assert len(msgspec.json.encode(first)) < 8_000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["usage", "input_tokens", "completion_tokens", "cost_usd", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
usages = st.dictionaries(
    st.sampled_from(["input_tokens", "prompt_tokens", "output_tokens", "completion_tokens"]),
    st.integers(-1, 9) | json_values,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "usage": usages | json_values,
            "aggregated_usage": usages | json_values,
            "cost_usd": st.floats(-1, 9) | json_values,
            "__source__": st.sampled_from(["otel", "agentex"]),
        },
    ),
    st.fixed_dictionaries({}, optional={"usage": usages | json_values}),
)
@settings(max_examples=150)
def test_a_row_and_an_object_report_the_same_usage(
    metadata: dict[str, Any], output: dict[str, Any]
) -> None:
    """T2: what the server reads once and what a command reads from the answer."""
    metadata_text, output_text = msgspec.json.encode(metadata), msgspec.json.encode(output)
    facts = read_facts(metadata_text, output_text)
    usage = usage_of(
        {"metadata": msgspec.json.decode(metadata_text), "output": msgspec.json.decode(output_text)}
    )
    assert (facts.input_tokens, facts.output_tokens) == (usage.tokens.input, usage.tokens.output)
    assert facts.cost_usd == usage.cost_usd
    kinds = {"output.usage": 0, "metadata.aggregated_usage": 2, None: 0}
    assert kinds.get(facts.usage_from, 1) == usage.kind


def test_verdict_and_totals_are_those_of_the_command_line() -> None:
    """T2, P11: of the same spans, as values and as objects."""
    objects: list[dict[str, Any]] = [
        {
            "id": str(n),
            "parent_id": "9" if n else None,
            "start_timestamp": "2026-01-02T03:04:05Z",
            "end_timestamp": "2026-01-02T03:04:06Z",
            "metadata": {"__everyspan__": {"p": "a", "n": n + 1, "rev": 1}},
            "output": {"usage": {"input_tokens": n, "output_tokens": 1}},
        }
        for n in range(5)
    ]
    values = []
    for span in objects:
        facts = read_facts(
            msgspec.json.encode(span["metadata"]), msgspec.json.encode(span["output"])
        )
        values.append(
            fact(
                span["id"],
                parent_id=span["parent_id"],
                start_ns=1_767_323_045 * SECOND_NS,
                end_ns=1_767_323_046 * SECOND_NS,
                record=facts.record,
                input_tokens=facts.input_tokens,
                output_tokens=facts.output_tokens,
            )
        )
    now_s = 1_767_323_050
    summary, _ = summary_of(values, now_ns=now_s * SECOND_NS)
    verdict = assess(objects, now_s=now_s)
    assert (summary.state, summary.words) == (verdict.state, verdict.words)
    total = UsageTotal()
    for span in objects:
        total.add(span)
    assert total.tokens.value is not None
    assert summary.tokens == total.tokens.value.total


def test_time_alone_turns_late_into_unaccounted() -> None:
    """T4: at `recheck_ns`, not before."""
    spans = [
        fact("1", record='{"p":"a","n":1}'),
        fact("3", record='{"p":"a","n":3,"total":3}'),
    ]
    first, _ = summary_of(spans, now_ns=T0_NS + SECOND_NS)
    assert first.state == "late"
    assert first.recheck_ns is not None
    before, _ = summary_of(spans, now_ns=first.recheck_ns - SECOND_NS // 100)
    after, _ = summary_of(spans, now_ns=first.recheck_ns)
    assert (before, after.state, after.recheck_ns) == (first, "unaccounted", None)


def test_a_trace_without_its_root_is_named_after_what_is_there() -> None:
    """Issue acceptance: shown with the gap, not hidden."""
    spans = [fact("b", parent_id="gone", name="b"), fact("a", parent_id="b", name="a")]
    summary, _ = summary_of(spans)
    assert (summary.name, summary.root_id, summary.root_stored) == ("b", "b", False)
    loop = [fact("a", parent_id="b", name="a"), fact("b", parent_id="a", name="b")]
    assert summary_of(loop)[0].name == "a"


def test_long_texts_are_cut() -> None:
    """T3: names and ids of any length, thousands of names in one trace."""
    spans = [fact(str(n), name=f"{n} " + "x" * 500, group_id="g" * 9_000) for n in range(2_000)]
    summary, facets = summary_of(spans)
    assert (len(summary.name), len(summary.session or "")) == (256, 4_096)
    assert len(facets["name"]) == 1_000
    assert max(map(len, facets["name"])) == 256


def test_input_is_that_of_the_first_turn_and_output_that_of_the_last() -> None:
    """Several roots: a conversation under one trace id."""
    spans = [fact("1"), fact("2", start_ns=T0_NS + 1), fact("3", start_ns=T0_NS + 2, end_ns=None)]
    payloads: dict[str, Any] = {
        "in_1": b'{"input":"one"}',
        "2": b'{"output":"two"}',
        "3": b'{"output":"three"}',
    }
    summary, _ = summary_of(spans, **payloads)
    assert (summary.input, summary.output) == ("one", "two")


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ('{"messages":[{"role":"system","content":"S"},{"role":"user","content":"U"}]}', "U"),
        ('{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"x":1}]}]}', "a"),
        ('{"messages":[{"role":"user","parts":[{"type":"text","content":"part"}]}]}', "part"),
        ('{"messages":[[{"type":"system","content":"S"},{"type":"human","content":"H"}]]}', "H"),
        ('{"messages":[{"kwargs":{"content":"lc","type":"human"}}]}', "lc"),
        ('{"input":"plain"}', "plain"),
        ('{"question":"Rome?"}', "Rome?"),
        ('{"question":"Rome?","k":3}', "Rome?"),
        ('{"a":1,"b":[2]}', '{"a":1,"b":[2]}'),
        ('{"a":1}', '{"a":1}'),
        ('[{"role":"user","content":"array"}]', "array"),
        ('{"messages":[]}', '{"messages":[]}'),
        ("{}", None),
        ('{"x":"' + "y" * 1_000 + '"}', "y" * (CHARS_MAX - 1) + "…"),
        ('{"x": "a\\n\\n  b"}', "a b"),
    ],
)
def test_what_was_asked_in_one_line(payload: str, text: str | None) -> None:
    assert preview_input(payload.encode()) == text


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ('{"choices":[{"message":{"role":"assistant","content":"A"}}],"usage":{}}', "A"),
        ('{"messages":[{"role":"assistant","content":"1"},{"role":"ai","content":"2"}]}', "2"),
        ('{"messages":[{"role":"assistant","content":"1"},{"role":"tool","content":"t"}]}', "1"),
        ('{"generations":[[{"text":"g","message":{"type":"ai","content":"gm"}}]]}', "gm"),
        ('{"content":"sunny","usage":{"input_tokens":12}}', "sunny"),
        ('{"response":"hello"}', "hello"),
        ('{"content":null,"x":1}', '{"content":null,"x":1}'),
    ],
)
def test_what_was_answered_in_one_line(payload: str, text: str | None) -> None:
    assert preview_output(payload.encode()) == text


@given(
    st.recursive(
        json_values,
        lambda x: st.dictionaries(
            st.sampled_from(["messages", "content", "role", "message", "choices"]), x, max_size=3
        ),
    )
)
def test_any_payload_has_a_short_text(value: Any) -> None:
    """T3."""
    for preview in (preview_input, preview_output):
        text = preview(msgspec.json.encode(value))
        assert text is None or len(text) <= CHARS_MAX


def test_a_deep_and_a_large_payload_are_cut() -> None:
    """T3: neither recursion nor a decode of megabytes."""
    deep = b'{"messages":' * 5_000 + b"1" + b"}" * 5_000
    large = b'{"x":"' + b"\xc3\xa9" * 1_000_000 + b'"}'
    for payload in (deep, large):
        assert 0 < len(preview_input(payload) or "") <= CHARS_MAX
