"""One trace as a tree on a terminal."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from everyspan.cli.tree import render_tree
from everyspan.model.branches import INDENT_LEVELS_MAX
from tests.cli.spans import T0_S, Span, make_span, make_trace

NOW_S = T0_S + 10_000


def rows(spans: list[Span], now_s: float = NOW_S) -> list[str]:
    """The lines of the tree, below the heading."""
    return render_tree(spans, now_s=now_s).plain.split("\n")[3:]


def test_a_trace_is_drawn_with_times_types_status_and_tokens() -> None:
    """Issue's command line: a tree with times, types, status, tokens."""
    usage = {"usage": {"input_tokens": 8001, "output_tokens": 99}}
    call = {"usage": {"prompt_tokens": 120, "completion_tokens": 30}}
    failed = {"error": True, "error_type": "ValueError", "error_message": "lost"}
    left = {"__everyspan__": {"p": "a", "rev": 1, "abandoned": True}}
    spans = [
        make_span("turn", took_s=4.21, type="AGENT_WORKFLOW", metadata=usage),
        make_span("model", "turn", began_s=T0_S + 0.5, type="COMPLETION", output=call),
        make_span("tool", "model", began_s=T0_S + 0.75, status="ERROR", metadata=failed),
        make_span("stop", "model", began_s=T0_S + 1, status="CANCELED"),
        make_span("now", "turn", began_s=T0_S + 2, took_s=None),
        make_span("left", "turn", began_s=T0_S + 3, took_s=None, metadata=left),
    ]
    text = render_tree(spans, now_s=T0_S + 33).plain
    assert text == (
        "trace t1  ◐ 6 so far, 1 abandoned\n"
        "2025-10-09T08:53:20+00:00  33.0s…, 6 spans, 8,001→99 tok (aggregates)\n"
        "\n"
        "    +0ms    4.21s  ✓ turn  AGENT_WORKFLOW  8,001→99 tok\n"
        "  +500ms    1.00s  ✓ ├─ model  COMPLETION  120→30 tok\n"
        "  +750ms    1.00s  ✕ │  ├─ tool  CUSTOM  ERROR ValueError: lost\n"
        "  +1.00s    1.00s  ⊘ │  └─ stop  CUSTOM  CANCELED\n"
        "  +2.00s   31.0s…  ◐ ├─ now  CUSTOM  running\n"
        "  +3.00s   30.0s…  ◐ └─ left  CUSTOM  abandoned"
    )


def test_a_missing_parent_is_a_line_above_its_children() -> None:
    """T1: shown with the gap, never hidden."""
    spans = [
        make_span("root"),
        make_span("a", "gone", began_s=T0_S + 1),
        make_span("b", "gone", began_s=T0_S + 2),
    ]
    assert [line[20:] for line in rows(spans)][1:] == [
        " parent gone not stored",
        " ├─ a  CUSTOM",
        " └─ b  CUSTOM",
    ]


def test_drops_end_the_tree_with_their_reason() -> None:
    """P11: what is lost has a line, though its name is unknown."""
    spans = make_trace(children=5, dropped={"queue full": 2}, gone=(2, 3))
    text = render_tree(spans, now_s=NOW_S).plain
    assert text.startswith("trace t1  ✕ 4 of 6, 2 dropped: queue full\n")
    assert text.endswith("✕ 2 dropped: queue full, names unknown")


def test_parents_in_a_loop_are_drawn_once() -> None:
    """T1: a foreign store may hold what ours refuses."""
    spans = [make_span("a", "b"), make_span("b", "a"), make_span("own", "own")]
    text = "\n".join(rows(spans))
    assert text.count("parents form a loop") == 2
    for name in ("a", "b", "own"):
        assert len(re.findall(rf" {name}  CUSTOM", text)) == 1


def test_a_deep_chain_stays_narrow() -> None:
    """T3: neither recursion nor an indent that grows for ever."""
    spans = [make_span("s0")]
    spans += [make_span(f"s{n}", f"s{n - 1}", began_s=T0_S + n / 1e6) for n in range(1, 5_000)]
    lines = rows(spans)
    assert len(lines) == 5_000
    assert max(map(len, lines)) < 60 + 3 * INDENT_LEVELS_MAX
    assert "⋯4999 └─ s4999" in lines[-1]


HOSTILE = [
    "\x1b[31mred",
    "\x9b2J",
    "a\nb",
    "\u202eevil",
    "\u2066x",
    "[bold]x[/bold]",
    "\x07",
    "\ud800",
]


def test_nothing_hostile_reaches_the_terminal() -> None:
    """T2: in every field that is shown, on a terminal that has colours."""
    spans = [
        make_span(
            f"id{text}",
            f"parent{text}",
            trace_id=f"trace{text}",
            name=f"name{text}",
            type=f"type{text}",
            status=f"status{text}",
            metadata={
                "error_type": f"error{text}",
                "__everyspan__": {"p": text, "n": 2, "total": 2, "dropped": {f"why{text}": 1}},
            },
        )
        for text in HOSTILE
    ]
    spans[0]["start_timestamp"] = "\x1b[0m\n"
    console = Console(force_terminal=True, color_system=None, soft_wrap=True, width=500)
    with console.capture() as captured:
        console.print(render_tree(spans, now_s=NOW_S), markup=False, highlight=False)
    shown = captured.get()
    unseen = {c for c in shown if unicodedata.category(c) in {"Cc", "Cf", "Cs"} and c != "\n"}
    assert unseen == set()
    assert len(shown.splitlines()) == len(render_tree(spans, now_s=NOW_S).plain.split("\n"))
    assert "[bold]x[/bold]" in shown


ids = st.sampled_from([f"s{n}" for n in range(7)])


@given(st.lists(st.tuples(ids, st.none() | ids | st.just("gone"), st.integers(0, 3)), min_size=1))
def test_every_span_is_drawn_exactly_once(edges: list[tuple[str, str | None, int]]) -> None:
    """T1: any parents at all: missing, loops, an id that is there twice."""
    spans = [
        make_span(id, parent, began_s=T0_S + began, name=f"<{at}>")
        for at, (id, parent, began) in enumerate(edges)
    ]
    drawn = Counter(re.findall(r"<\d+>", "\n".join(rows(spans))))
    assert drawn == Counter(f"<{at}>" for at in range(len(edges)))


json_values = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())


@given(
    st.dictionaries(
        st.sampled_from(
            ["name", "type", "status", "parent_id", "start_timestamp", "end_timestamp", "metadata"]
        ),
        json_values,
    )
)
def test_a_span_of_any_shape_is_drawn(fields: Span) -> None:
    """T1: a foreign server's span may lack anything but its id."""
    assert render_tree([{"id": "x", "trace_id": "t"} | fields], now_s=NOW_S).plain
