"""Draw one trace as a tree for a terminal.

T1  Every span given is drawn exactly once; a parent that is not stored is a line of its own, with
    its children below it, and parents that form a loop are drawn, not followed.
T2  Nothing of a span reaches the terminal unescaped (X1).
T3  A chain of any depth costs no recursion and a bounded indent (B2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from everyspan.model.branches import branches
from everyspan.model.completeness import State, Verdict, assess, is_abandoned, timestamp_s
from everyspan.model.span import SPAN_ERROR_KEY
from everyspan.model.text import duration, plural, visible
from everyspan.model.usage import UsageTotal, tokens_of

NAME_CHARS_MAX = 120
ERROR_CHARS_MAX = 160

VERDICT_STYLES: Mapping[State, str] = {
    State.LOST: "bold red",
    State.UNACCOUNTED: "bold red",
    State.LATE: "yellow",
    State.RUNNING: "cyan",
    State.NOT_REPORTED: "dim",
    State.COMPLETE: "green",
}

_Span = Mapping[str, Any]


def render_tree(spans: Sequence[_Span], *, now_s: float, verdict: Verdict | None = None) -> Text:
    """Return one trace as text: a heading with its verdict, then a line for every span.

    Print it with `soft_wrap=True`; its `.plain` is the same without colours.

    Args:
        spans: All spans of one trace as SGP span objects, in any order, at least one.
        now_s: Unix time, for spans still open and the verdict.
        verdict: Of the trace; None for what its spans alone tell.
    """
    verdict = assess(spans, now_s=now_s) if verdict is None else verdict
    text = _heading(spans, verdict, now_s=now_s)
    for line in _Tree(spans, now_s=now_s).lines():
        text.append_text(line).append("\n")
    if verdict.dropped:
        reasons = ", ".join(f"{n:,} dropped: {why}" for why, n in verdict.dropped.items())
        text.append(f"{'–':>8} {'–':>8}  ✕ {visible(reasons)}, names unknown\n", "red")
    text.right_crop(1)
    return text


def render_verdict(verdict: Verdict) -> Text:
    """Return sign and words of a verdict in the colour of its state."""
    return Text(visible(str(verdict)), VERDICT_STYLES[verdict.state])


def error_of(span: _Span) -> str | None:
    """Return type and message of the error a span recorded, None where it recorded none."""
    metadata = span.get("metadata")
    if not isinstance(metadata, Mapping):
        return None
    error = metadata.get(SPAN_ERROR_KEY)
    if isinstance(error, Mapping):
        words = (error.get("type"), error.get("message"))
    else:
        words = (metadata.get("error_type"), metadata.get("error_message"))
    return ": ".join(word for word in words if isinstance(word, str) and word) or None


def _heading(spans: Sequence[_Span], verdict: Verdict, *, now_s: float) -> Text:
    total = UsageTotal()
    for span in spans:
        total.add(span)
    starts = [s for span in spans if (s := timestamp_s(span.get("start_timestamp"))) is not None]
    ends = [s for span in spans if (s := timestamp_s(span.get("end_timestamp"))) is not None]
    began_s = min(starts, default=None)
    ended_s = now_s if verdict.state is State.RUNNING else max([*starts, *ends], default=None)
    facts = []
    if began_s is not None and ended_s is not None:
        facts.append(duration(ended_s - began_s) + ("…" if verdict.state is State.RUNNING else ""))
    facts.append(plural(verdict.stored, "span"))
    if total.tokens.rule:
        facts.append(f"{total.tokens.value} ({total.tokens.rule})")
    began = visible(str(min(spans, key=_order).get("start_timestamp")))
    text = Text("trace ").append(visible(str(spans[0].get("trace_id"))), "bold").append("  ")
    text.append_text(render_verdict(verdict)).append("\n")
    return text.append(f"{began}  {', '.join(facts)}\n\n", "dim")


class _Tree:
    def __init__(self, spans: Sequence[_Span], *, now_s: float) -> None:
        self._now_s = now_s
        starts = [timestamp_s(span.get("start_timestamp")) for span in spans]
        self._began_s = min((s for s in starts if s is not None), default=0.0)
        self._spans = sorted(spans, key=_order)
        self._ids = {str(span.get("id")) for span in spans}
        self._children: dict[str, list[_Span]] = {}
        for span in self._spans:
            parent = span.get("parent_id")
            if parent:
                self._children.setdefault(str(parent), []).append(span)

    def lines(self) -> list[Text]:
        lines: list[Text] = []
        # Spans are told apart by object: an id that was given twice is drawn twice (T1).
        drawn: set[int] = set()
        gaps: set[str] = set()
        for span in self._spans:
            parent = str(span.get("parent_id") or "")
            if not parent:
                self._branch(span, lines, drawn)
            elif parent not in self._ids and parent not in gaps:
                gaps.add(parent)
                lines.append(_gap(f"parent {visible(parent, chars_max=64)} not stored"))
                self._below(self._children[parent], lines, drawn)
        for span in self._spans:
            if id(span) not in drawn:
                lines.append(_gap("parents form a loop"))
                self._below([span], lines, drawn)
        return lines

    def _branch(self, root: _Span, lines: list[Text], drawn: set[int]) -> None:
        drawn.add(id(root))
        lines.append(self._line(root, ""))
        self._below(self._children_of(root), lines, drawn)

    def _below(self, children: list[_Span], lines: list[Text], drawn: set[int]) -> None:
        for span, indent in branches(children, self._children_of, drawn):
            lines.append(self._line(span, indent))

    def _children_of(self, span: _Span) -> list[_Span]:
        return self._children.get(str(span.get("id")), [])

    def _line(self, span: _Span, indent: str) -> Text:
        began_s = timestamp_s(span.get("start_timestamp"))
        ended_s = timestamp_s(span.get("end_timestamp"))
        open_ = span.get("end_timestamp") is None
        offset = "?" if began_s is None else "+" + duration(began_s - self._began_s)
        took = "?"
        if began_s is not None and open_:
            took = duration(max(0.0, self._now_s - began_s)) + "…"
        elif began_s is not None and ended_s is not None:
            took = duration(ended_s - began_s)
        status = str(span.get("status") or "SUCCESS")
        sign, style = _status_sign(status, open_=open_)
        line = Text(f"{offset:>8} {took:>8}  ", "dim")
        line.append(f"{sign} ", style).append(indent, "dim")
        name = visible(str(span.get("name") or "(no name)"), chars_max=NAME_CHARS_MAX)
        line.append(name, style if status == "ERROR" else "bold" if not indent else "")
        line.append("  " + visible(str(span.get("type") or "–"), chars_max=40), "dim")
        if (tokens := tokens_of(span)).total is not None:
            line.append(f"  {tokens}", "cyan")
        if open_:
            line.append("  abandoned" if is_abandoned(span) else "  running", style)
        elif status != "SUCCESS":
            error = error_of(span)
            shown = visible(status if error is None else f"{status} {error}")
            line.append("  " + shown[:ERROR_CHARS_MAX], style)
        return line


def _status_sign(status: str, *, open_: bool) -> tuple[str, str]:
    if open_:
        return "◐", "cyan"
    return {"SUCCESS": ("✓", "green"), "CANCELED": ("⊘", "yellow")}.get(status, ("✕", "red"))


def _gap(words: str) -> Text:
    return Text(f"{'–':>8} {'–':>8}  ▨ {words}", "yellow")


def _order(span: _Span) -> tuple[float, str]:
    began_s = timestamp_s(span.get("start_timestamp"))
    return (float("inf") if began_s is None else began_s, str(span.get("id")))
