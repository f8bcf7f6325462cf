"""One trace in one row: a pure function of its spans and the time.

T1  The order in which spans are given changes nothing.
T2  Verdict and totals are those of `model`, which the command line asks, too.
T3  Whatever producers wrote, a summary has a bounded size.
T4  Until `recheck_ns` time alone changes nothing in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from everyspan.model.completeness import Tally, parse_record
from everyspan.model.report import PartLosses
from everyspan.model.usage import COUNT_END, NO_TOKENS, UsageTotal
from everyspan.server.preview import preview_input, preview_output
from everyspan.server.row import DEFAULT_STATUS, DEFAULT_TYPE

MODELS_MAX = 20
FACET_VALUES_MAX = 1_000
"""Values of one facet that a trace can be found by; beyond, the most frequent ones."""
REASONS_MAX = 20
TEXT_MAX = 256
SESSION_MAX = 4_096
"""As for trace ids: many agents take the one for the other."""

TraceSort = Literal["start", "duration", "tokens", "cost", "errors"]
Facet = Literal[
    "agent", "error", "has_error", "model", "name", "session", "state", "status", "type", "user"
]
"""What a trace can be found by, of which it may have several values: those of its spans, but for
session, state, status and user. `error` is an error's type; `has_error` has the value `true`."""


class SpanFacts(msgspec.Struct, gc=False):
    """What is to be known of a span for the summary of its trace; see `SpanRow`."""

    id: str
    trace_id: str
    name: str
    start_ns: int
    end_ns: int | None = None
    parent_id: str | None = None
    task_id: str | None = None
    group_id: str | None = None
    type: str | None = None
    status: str | None = None
    agent: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    usage_kind: int = 0
    error_type: str | None = None
    error_message: str | None = None
    record: str | None = None


class RootPayloads(msgspec.Struct, frozen=True):
    """What is read of a root's payloads."""

    input: bytes | None = None
    output: bytes | None = None
    user: str | None = None


class TraceSummary(msgspec.Struct, kw_only=True):
    """One trace.

    `root_id` is the first span without a parent; where none is stored (`root_stored` false), the
    first whose parent is not stored. Name, type and status are its own. `end_ns` is None while a
    span is open; `duration_ns` runs to the newest start or end. Of tokens and costs `other` is
    what another rule makes of them, where the two disagree. `session` is a task's id, else a
    group's.
    """

    trace_id: str
    root_id: str
    root_stored: bool
    name: str
    type: str
    status: str
    start_ns: int
    end_ns: int | None
    duration_ns: int
    state: str
    sign: str
    words: str
    stalled: bool
    spans: int
    counted: int
    expected: int
    dropped: dict[str, int]
    late: int
    unaccounted: int
    open: int
    parents_missing: int
    errors: int
    error_type: str | None
    error_message: str | None
    input_tokens: int | None
    output_tokens: int | None
    tokens_rule: str | None
    other_input_tokens: int | None
    other_output_tokens: int | None
    other_tokens_rule: str | None
    cost_usd: float | None
    cost_rule: str | None
    other_cost_usd: float | None
    other_cost_rule: str | None
    agent: str | None
    models: list[str]
    session: str | None
    user: str | None
    input: str | None
    output: str | None
    recheck_ns: int | None

    def sort_value(self, sort: TraceSort) -> int | float:
        """Return what the trace is sorted by, 0 where it has none."""
        match sort:
            case "start":
                return self.start_ns
            case "duration":
                return self.duration_ns
            case "tokens":
                return self.tokens
            case "cost":
                return self.cost_usd or 0.0
            case "errors":
                return self.errors

    @property
    def tokens(self) -> int:
        """In and out together, 0 where none was reported."""
        return (self.input_tokens or 0) + (self.output_tokens or 0)


class Summarizer:
    """Gathers the spans of one trace; holds a few columns of each, never payloads."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._usage = UsageTotal()
        self._spans: list[SpanFacts] = []

    def add(self, span: SpanFacts) -> None:
        """Take one span, once."""
        self._spans.append(span)
        end_ns = span.end_ns
        self._tally.take(
            span.id,
            span.parent_id,
            start_s=span.start_ns / 1e9,
            end_s=None if end_ns is None else end_ns / 1e9,
            is_end=end_ns is not None,
            record=None if span.record is None else parse_record(span.record),
        )
        self._usage.take(
            span.id,
            span.parent_id,
            span.usage_kind,
            span.input_tokens,
            span.output_tokens,
            span.cost_usd,
        )

    def add_losses(self, losses: PartLosses, told_ns: int) -> None:
        """Take what a producer reported of a part of the trace beside its spans."""
        self._tally.take_report(losses.part, losses.lost, total=losses.total, told_s=told_ns / 1e9)

    def summary(
        self, *, now_ns: int, read: Callable[[SpanFacts], RootPayloads]
    ) -> tuple[TraceSummary, dict[Facet, list[str]]]:
        """Return the summary of the spans taken, at least one, and what it can be found by.

        Args:
            read: Gives the payloads of a span; asked for at most two.
        """
        spans = self._spans
        roots = self._roots()
        root = roots[0]
        payloads = read(root)
        last = next((span for span in reversed(roots) if span.end_ns is not None), root)
        output = payloads.output if last is root else read(last).output
        verdict = self._tally.verdict(now_s=now_ns / 1e9)
        tokens, cost = self._usage.tokens, self._usage.cost_usd
        used, other = tokens.value or NO_TOKENS, tokens.other or NO_TOKENS
        failed = [span for span in spans if span.status == "ERROR"]
        error = min(failed, key=_by_end, default=None)
        models = Counter(span.model for span in spans if span.model)
        agents = Counter(span.agent for span in spans if span.agent)
        session = (_session(root, spans) or "")[:SESSION_MAX] or None
        start_ns = min(span.start_ns for span in spans)
        newest_ns = max(max(span.start_ns, span.end_ns or 0) for span in spans)
        is_open = any(span.end_ns is None for span in spans)
        summary = TraceSummary(
            trace_id=min((span.trace_id for span in spans), key=_is_derived_and_text),
            root_id=root.id,
            root_stored=not root.parent_id,
            name=root.name[:TEXT_MAX],
            type=root.type or DEFAULT_TYPE,
            status=root.status or DEFAULT_STATUS,
            start_ns=start_ns,
            end_ns=None if is_open else newest_ns,
            duration_ns=newest_ns - start_ns,
            state=verdict.state,
            sign=verdict.sign,
            words=verdict.words[:TEXT_MAX],
            stalled=verdict.stalled,
            spans=verdict.stored,
            counted=verdict.counted,
            expected=verdict.expected,
            dropped={
                reason[:TEXT_MAX]: count
                for reason, count in sorted(verdict.dropped.items(), key=_by_count)[:REASONS_MAX]
            },
            late=verdict.late,
            unaccounted=verdict.unaccounted,
            open=verdict.open,
            parents_missing=verdict.parents_missing,
            errors=len(failed),
            error_type=None if error is None else error.error_type,
            error_message=None if error is None else error.error_message,
            input_tokens=_bounded(used.input),
            output_tokens=_bounded(used.output),
            tokens_rule=tokens.rule,
            other_input_tokens=_bounded(other.input),
            other_output_tokens=_bounded(other.output),
            other_tokens_rule=tokens.other_rule,
            cost_usd=cost.value,
            cost_rule=cost.rule,
            other_cost_usd=cost.other,
            other_cost_rule=cost.other_rule,
            agent=root.agent or min(agents.items(), key=_by_count, default=(None, 0))[0],
            models=_frequent(models, MODELS_MAX),
            session=session,
            user=payloads.user,
            input=preview_input(payloads.input),
            output=preview_output(output),
            recheck_ns=None if verdict.recheck_s is None else int(verdict.recheck_s * 1e9),
        )
        facets: dict[Facet, list[str]] = {
            "agent": _frequent(agents, FACET_VALUES_MAX),
            "error": _frequent(
                Counter(span.error_type for span in failed if span.error_type), FACET_VALUES_MAX
            ),
            "has_error": ["true"] if failed else [],
            "model": _frequent(models, FACET_VALUES_MAX),
            "name": _frequent(Counter(span.name[:TEXT_MAX] for span in spans), FACET_VALUES_MAX),
            "session": [] if session is None else [session],
            "state": [summary.state],
            "status": [summary.status],
            "type": _frequent(Counter(span.type or DEFAULT_TYPE for span in spans), 100),
            "user": [] if payloads.user is None else [payloads.user],
        }
        return summary, facets

    def _roots(self) -> list[SpanFacts]:
        """Return the roots by start; without any, the first span whose parent is not stored."""
        spans = sorted(self._spans, key=_by_start)
        roots = [span for span in spans if not span.parent_id]
        if roots:
            return roots
        # Parents are looked for by id alone: a parent by another name is still a parent, but this
        # only chooses what stands for a trace whose root is missing.
        ids = {span.id for span in spans}
        return [next((span for span in spans if span.parent_id not in ids), spans[0])]


def _session(root: SpanFacts, spans: Iterable[SpanFacts]) -> str | None:
    if root.task_id:
        return root.task_id
    tasks = Counter(span.task_id for span in spans if span.task_id)
    if tasks:
        return _frequent(tasks, 1)[0]
    if root.group_id:
        return root.group_id
    groups = Counter(span.group_id for span in spans if span.group_id)
    return _frequent(groups, 1)[0] if groups else None


def _frequent(counts: Counter[str], limit: int) -> list[str]:
    return [value for value, _ in sorted(counts.items(), key=_by_count)[:limit]]


def _by_count(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _by_start(span: SpanFacts) -> tuple[int, str, str]:
    return span.start_ns, span.id, span.trace_id


def _by_end(span: SpanFacts) -> tuple[int, str, str]:
    return span.end_ns or span.start_ns, span.id, span.trace_id


def _is_derived_and_text(trace_id: str) -> tuple[bool, str]:
    # Where one producer wrote `order 7` and another what OpenTelemetry derives of it, the first.
    is_hex = len(trace_id) == 32 and not trace_id.strip("0123456789abcdef")
    return is_hex, trace_id


def _bounded(count: int | None) -> int | None:
    return None if count is None else min(count, COUNT_END)
