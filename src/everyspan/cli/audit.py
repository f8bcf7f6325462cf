"""`everyspan audit`: is everything there that agents recorded?"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import rich_click as click

from everyspan.cli.options import (
    iso,
    open_reader,
    parse_since,
    print_json,
    print_text,
    server_options,
)
from everyspan.model.completeness import LATE_S_MAX, Hole, State, Verdict
from everyspan.model.w3c import trace_hex

if TYPE_CHECKING:
    from rich.text import Text

    from everyspan.cli.reader import SpanReader
    from everyspan.cli.summary import TraceSummary

WAIT_POLL_S = 0.5
HOLES_SHOWN_MAX = 8
PRODUCERS_ASKED_MAX = 50


@click.command()
@server_options
@click.option(
    "--since",
    metavar="TIME",
    callback=parse_since,
    default="24h",
    show_default=True,
    help="Traces with a span started since: 90s, 15m, 24h, 7d, or an ISO-8601 time.",
)
@click.option("--all", "everything", is_flag=True, help="Every trace, however old.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, 3600),
    default=5,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait for spans that may still be on their way.",
)
@click.option("--live", is_flag=True, help="No finding: traces that still run, or may be late.")
@click.argument("trace_ids", metavar="[TRACE_ID]...", nargs=-1)
def audit(
    url: str | None,
    as_json: bool,
    since: float,
    everything: bool,
    wait_s: float,
    live: bool,
    trace_ids: tuple[str, ...],
) -> None:
    """Hold every trace against what its producers say they recorded.

    Exit code 0 if every span is accounted for, 1 on a finding: spans that are lost, missing
    without a reason, or still not there when the wait is over. A sender that keeps no count
    cannot be audited; that is told, and is no finding.

    \b
    Example:
      everyspan audit --since 15m
      everyspan audit TRACE_ID --json
      everyspan audit --all --live
    """
    with open_reader(url) as reader:
        if trace_ids:
            from everyspan.cli.summary import distinct

            wanted: Iterable[str] = distinct(trace_ids)
            scope = "the traces named"
        elif everything:
            wanted = _traces_since(reader, None)
            scope = "all traces"
        else:
            wanted = _traces_since(reader, since)
            scope = f"traces with a span started since {iso(since)[:19]}Z"
        rows = _settle(reader, _rows(reader, wanted), wait_s=wait_s)
        silent = _silent(reader, rows)
        whose = reader.whose
    findings = [row for row in rows if _is_finding(row, live=live)]
    if as_json:
        print_json(_report_json(rows, findings, scope=scope))
    else:
        shown = rows if trace_ids else [row for row in rows if not _is_settled(row.verdict)]
        print_text(_report(rows, shown, silent, scope=scope, whose=whose))
    if findings:
        raise SystemExit(1)


class _Row:
    __slots__ = ("name", "trace_id", "verdict")

    def __init__(self, summary: TraceSummary) -> None:
        self.trace_id = summary.trace_id
        self.name = None if summary.root is None else str(summary.root["name"] or "(no name)")
        self.verdict = summary.verdict()


def _rows(reader: SpanReader, trace_ids: Iterable[str]) -> list[_Row]:
    from everyspan.cli.summary import summaries

    return [_Row(summary) for summary in summaries(reader, trace_ids)]


def _traces_since(reader: SpanReader, since_s: float | None) -> Iterator[str]:
    """Yield the id of every trace with a span started since, each once.

    Goes by spans and not by roots: the root may be what is missing. What a trace holds is then
    read by its id, whole, so that a window never cuts through it.
    """
    seen: set[str] = set()
    for span in reader.search({}, from_ts=None if since_s is None else iso(since_s)):
        trace_id = str(span.get("trace_id"))
        key = trace_hex(trace_id)
        if key not in seen:
            seen.add(key)
            yield trace_id


def _settle(reader: SpanReader, rows: list[_Row], *, wait_s: float) -> list[_Row]:
    """Read young unsettled traces again until they are settled or the wait is over."""
    deadline_s = time.monotonic() + wait_s
    while True:
        waiting = {
            row.trace_id: at
            for at, row in enumerate(rows)
            if row.verdict.state in (State.LATE, State.RUNNING)
            and row.verdict.silent_s < LATE_S_MAX
            and not row.verdict.stalled
        }
        left_s = deadline_s - time.monotonic()
        if not waiting or left_s <= 0:
            return rows
        time.sleep(min(WAIT_POLL_S, left_s))
        for row in _rows(reader, waiting):
            rows[waiting[row.trace_id]] = row


def _is_settled(verdict: Verdict) -> bool:
    return verdict.state in (State.COMPLETE, State.NOT_REPORTED) and verdict.stored > 0


def _is_finding(row: _Row, *, live: bool) -> bool:
    verdict = row.verdict
    if live and verdict.state in (State.LATE, State.RUNNING):
        return verdict.stalled
    return not _is_settled(verdict)


def _silent(reader: SpanReader, rows: list[_Row]) -> dict[str, str]:
    """Return when each producer with a part that has not closed was heard of last."""
    producers = {
        part.rpartition("-")[0]
        for row in rows
        if not _is_settled(row.verdict)
        for part in row.verdict.open_parts
    }
    seen: dict[str, str] = {}
    for producer in sorted(producers)[:PRODUCERS_ASKED_MAX] if reader.is_everyspan else ():
        answer = reader.request("GET", f"/api/producers/{quote(producer, safe='')}")
        if answer.status == 200:
            found = answer.json()["producer"]
            ended = ", when it ended" if found["ended"] else ""
            who = f"{found['service']} (pid {found['pid']} on {found['host']})"
            seen[producer] = f"{who} was heard of last at {found['seen'][:19]}Z{ended}"
    return seen


def _report(
    rows: list[_Row], shown: list[_Row], silent: dict[str, str], *, scope: str, whose: str
) -> Text:
    from rich.text import Text

    from everyspan.cli.tree import render_verdict
    from everyspan.model.text import plural, visible

    text = Text()
    worst_first = list(State)
    for row in sorted(shown, key=lambda row: worst_first.index(row.verdict.state)):
        text.append(visible(row.trace_id), "bold").append("  ")
        if row.verdict.stored:
            text.append_text(render_verdict(row.verdict))
        else:
            text.append("? nothing stored", "bold red")
        text.append("  " + ("▨ root not stored" if row.name is None else visible(row.name)) + "\n")
        if row.verdict.holes:
            text.append(f"    not stored: {visible(_holes_text(row.verdict))}\n", "dim")
        for parent in row.verdict.missing_parents:
            text.append(f"    parent not stored: {visible(parent, chars_max=64)}\n", "dim")
        for producer in dict.fromkeys(part.rpartition("-")[0] for part in row.verdict.open_parts):
            if producer in silent:
                text.append(f"    {visible(silent[producer])}\n", "dim")
    states = Counter(str(row.verdict.state) for row in rows)
    told = ", ".join(f"{states[state]:,} {state}" for state in reversed(State) if states[state])
    text.append(f"{plural(len(rows), 'trace')}" + (f": {told}" if told else ""), "bold")
    counted = sum(row.verdict.counted for row in rows)
    expected = sum(row.verdict.expected for row in rows)
    text.append(f"; {counted:,} of {expected:,} spans that were counted are stored")
    for words, spans in _missing(rows).items():
        text.append(f", {spans:,} {visible(words)}", "bold red")
    return text.append(f"\nAudited: {scope} of {whose}.", "dim")


def _missing(rows: list[_Row]) -> dict[str, int]:
    """Return what is missing by what is known of it, without what is none."""
    dropped: Counter[str] = Counter()
    for row in rows:
        dropped.update(row.verdict.dropped)
    missing = {f"dropped: {reason}": dropped[reason] for reason in sorted(dropped)}
    missing["on the way"] = sum(row.verdict.late for row in rows)
    missing["missing, nobody reported why"] = sum(row.verdict.unaccounted for row in rows)
    return {words: spans for words, spans in missing.items() if spans}


def _holes_text(verdict: Verdict) -> str:
    """Return `a1b2 3, 5–7; c3d4 1`: the ordinals that are missing, by part."""
    parts: dict[str, list[Hole]] = {}
    for hole in verdict.holes[:HOLES_SHOWN_MAX]:
        parts.setdefault(hole.part, []).append(hole)
    text = "; ".join(
        f"part {part} span "
        + ", ".join(f"{h.first}" if h.first == h.last else f"{h.first}–{h.last}" for h in holes)
        for part, holes in parts.items()
    )
    return text + (", …" if len(verdict.holes) > HOLES_SHOWN_MAX else "")


def _report_json(rows: list[_Row], findings: list[_Row], *, scope: str) -> dict[str, Any]:
    from everyspan.cli.summary import verdict_json

    found = {id(row) for row in findings}
    states = Counter(str(row.verdict.state) for row in rows)
    return {
        "scope": scope,
        "traces": [
            {
                "trace_id": row.trace_id,
                "name": row.name,
                "finding": id(row) in found,
                **verdict_json(row.verdict),
            }
            for row in rows
        ],
        "summary": {
            "traces": len(rows),
            "findings": len(findings),
            "states": {str(state): states[state] for state in State},
            "stored": sum(row.verdict.stored for row in rows),
            "counted": sum(row.verdict.counted for row in rows),
            "expected": sum(row.verdict.expected for row in rows),
            "missing": _missing(rows),
        },
    }
