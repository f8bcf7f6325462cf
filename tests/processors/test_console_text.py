"""How spans read on a console."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everyspan.model.record import SpanRecord, freeze_span
from everyspan.model.span_error import set_span_error
from everyspan.processors.console_text import Drawing
from tests.records import T0_NS, end, make_span, start


@pytest.fixture(autouse=True, scope="module")
def _utc() -> Iterator[None]:
    """The clock on the wall is that of Greenwich."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def draw(*records: SpanRecord, is_colored: bool = False, payload_chars: int = 160) -> str:
    """All of the text, in its order."""
    drawing = Drawing(is_colored=is_colored, payload_chars=payload_chars)
    return "".join(text for _, text in drawing.draw(records))


def failed(id: str, **fields: Any) -> SpanRecord:
    """An END of a span that failed."""
    span = make_span(id, **fields)
    set_span_error(span, TimeoutError("no answer"))
    return freeze_span(span, is_end=True, offered_s=0.0)


def test_spans_that_end_together_are_a_tree() -> None:
    """C1: children come first as they end, and are drawn below their parent as they began."""
    usage = {"usage": {"input_tokens": 812, "output_tokens": 93}}
    s = 1_000_000_000
    records = [
        end("id-call", parent_id="id-turn", name="call", type="COMPLETION", data=usage),
        end("id-deep", parent_id="id-tool", name="deep", start_ns=T0_NS + 3, end_ns=T0_NS + 3),
        failed("id-tool", parent_id="id-turn", name="tool", start_ns=T0_NS + 2, end_ns=T0_NS + s),
        end(
            "id-turn",
            name="turn",
            start_ns=T0_NS - s // 2,
            input={"q": "Rome?"},
            output="sunny",
            end_ns=T0_NS + s + 1_000_000,
        ),
    ]
    assert draw(*records) == (
        "08:53:21.001    1.50s  ✓ turn  #d-turn  trace trace-1\n"
        '                         in   {"q":"Rome?"}\n'
        '                         out  "sunny"\n'
        "08:53:21.000    1.00s  ✓ ├─ call  COMPLETION  812→93 tok  #d-call\n"
        "08:53:21.000    1.00s  ✕ └─ tool  #d-tool\n"
        "                         err  TimeoutError: no answer\n"
        "08:53:20.000      0ms  ✓    └─ deep  #d-deep\n"
    )


def test_a_span_whose_parent_still_runs_says_where_it_belongs() -> None:
    """C1: by the end of the id that will be printed."""
    heading = draw(end("0000-aaaaaa", parent_id="0000-bbbbbb")).splitlines()[0]
    assert heading.endswith("✓ step  #aaaaaa in #bbbbbb")


def test_two_traces_are_two_trees() -> None:
    """C1: ids are those of a trace."""
    text = draw(
        end("a", trace_id="t1"),
        end("b", trace_id="t2"),
        end("c", parent_id="a", trace_id="t2"),
    )
    assert [line.split("✓ ")[1] for line in text.splitlines()] == [
        "step  #a  trace t1",
        "step  #b  trace t2",
        "step  #c in #a",
    ]


def test_an_open_span_has_no_duration() -> None:
    """`start_delay_ms`: its line comes again when it has ended."""
    assert "08:53:20.000        …  ◐ step  #a  trace" in draw(start("a"))
    left = start("a")
    left.abandoned = True
    assert "◐ step  abandoned  #a" in draw(left)


def test_a_cancelled_span_is_no_failure() -> None:
    """Its own sign."""
    assert "⊘ step" in draw(end("a", status="CANCELED"))


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"output": {"usage": {"prompt_tokens": 1204, "completion_tokens": 8}}}, "1,204→8 tok"),
        ({"data": {"usage": {"output_tokens": 8}}}, "–→8 tok"),
        ({"data": {"usage": "much"}}, None),
        ({"output": '"usage"'}, None),
        ({"output": ["usage", {"usage": {"input_tokens": 5}}]}, None),
        ({"data": {"other": {"usage": {"input_tokens": 5}}}}, None),
    ],
)
def test_tokens_are_shown_where_usage_is(fields: dict[str, Any], tokens: str | None) -> None:
    """trace §5: the same places as everywhere."""
    heading = draw(end("a", **fields)).splitlines()[0]
    assert ("tok" in heading) is (tokens is not None)
    assert tokens is None or f"  {tokens}  " in heading


def test_payloads_can_be_left_out() -> None:
    """`payload_chars=0`."""
    assert draw(end("a", input="secret", output="x"), payload_chars=0).count("\n") == 1


def test_a_million_characters_are_a_line() -> None:
    """T1: of every field, in bytes of any length."""
    for huge in ("x" * 1_000_000, "🙂" * 100_000, "\x1b" * 100_000):
        fields = dict.fromkeys(("name", "parent_id", "type", "input", "output"), huge)
        span = make_span(huge, trace_id=huge, **fields)
        set_span_error(span, ValueError(huge))
        text = draw(freeze_span(span, is_end=True, offered_s=0.0))
        assert text.count("\n") == 4
        assert max(map(len, text.splitlines())) < 5_000


@given(st.text(st.characters(codec=None), min_size=1))
def test_nothing_a_terminal_acts_on_gets_through(text: str) -> None:
    """T1: any text in any place; the line ends are ours."""
    fields = dict.fromkeys(("name", "parent_id", "type", "input", "output"), text)
    span = make_span(text, trace_id=text, **fields)
    set_span_error(span, ValueError(text))
    drawn = draw(freeze_span(span, is_end=True, offered_s=0.0))
    assert drawn.count("\n") == 4
    unseen = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert not [c for c in drawn if c != "\n" and unicodedata.category(c) in unseen]


@given(st.lists(st.tuples(st.integers(0, 6), st.one_of(st.none(), st.integers(0, 6)))))
def test_every_record_is_drawn_once(family: list[tuple[int, int | None]]) -> None:
    """T2: repeated ids, parents that form a loop, parents that are not there."""
    records = [
        end(f"{id}", parent_id=None if parent is None else f"{parent}") for id, parent in family
    ]
    drawing = Drawing(is_colored=False, payload_chars=0)
    assert sorted(p for p, _ in drawing.draw(records)) == [*range(len(records))]


def test_a_chain_of_any_depth_stays_narrow() -> None:
    """T1: no recursion either."""
    records = [end(f"{n}", parent_id=f"{n - 1}" if n else None) for n in range(3_000)]
    text = draw(*records)
    assert text.count("\n") == 3_000
    assert max(map(len, text.splitlines())) < 150


def test_colours_are_all_that_is_added() -> None:
    """C2: the words are the same, and each colour ends."""
    records = [failed("a", input=1), end("b", type="CUSTOM")]
    colored = draw(*records, is_colored=True)
    assert re.sub(r"\x1b\[\d+m", "", colored) == draw(*records)
    assert len(re.findall(r"\x1b\[[1-9]\d*m[^\x1b]+\x1b\[0m", colored)) == colored.count("\x1b[0m")
    assert "\x1b[31m✕\x1b[0m" in colored
