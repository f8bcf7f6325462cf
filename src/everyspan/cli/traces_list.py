"""`everyspan traces list`: a line a trace."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, Any

import rich_click as click

from everyspan.cli.options import open_reader, print_json, print_text, server_options
from everyspan.cli.selection import Selection, select, selection_options

if TYPE_CHECKING:
    from rich.text import Text

    from everyspan.cli.reader import SpanReader
    from everyspan.cli.summary import TraceSummary


@click.command("list")
@server_options
@selection_options
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="Traces to list at most.",
)
def list_(url: str | None, as_json: bool, selection: Selection, limit: int) -> None:
    """List traces, the newest first: all, or those that match.

    \b
    Example:
      everyspan traces list --limit 5
      everyspan traces list --since 1h --state incomplete
      everyspan traces list --errors --model gpt-5 --min-duration 2s
      everyspan traces list --json | jq '.[0].trace_id'
    """
    from everyspan.cli.summary import summaries

    with open_reader(url) as reader:
        if selection:
            chosen = list(islice(select(reader, selection), limit))
        else:
            chosen = newest_traces(reader, limit)
        found = list(summaries(reader, chosen))
        if as_json:
            print_json([_row_json(summary) for summary in found])
        elif found:
            print_text(_table(found))
        elif selection:
            click.echo(f"No trace of {reader.whose} matches.", err=True)
        else:
            click.echo(f"No traces yet of {reader.whose}.", err=True)


def newest_traces(reader: SpanReader, limit: int) -> list[str]:
    """Return the ids of up to `limit` traces, that of the last started span first.

    Goes by spans and not by roots, for a trace whose root is lost, or still runs, has none stored.
    """
    found: dict[str, None] = {}
    while len(found) < limit:
        before = len(found)
        # One page is read of each answer: the next search leaves out what that page showed, so a
        # trace of 100,000 spans is not paged through to see what lies behind it.
        for span in reader.newest({"excluded_trace_ids": list(found)}):
            if len(found) < limit:
                found.setdefault(str(span.get("trace_id")))
        if len(found) == before:
            break
    return list(found)


def _row_json(summary: TraceSummary) -> dict[str, Any]:
    from everyspan.cli.summary import tokens_json, verdict_json

    root = summary.root or {}
    verdict = summary.verdict()
    return {
        "trace_id": summary.trace_id,
        "name": root.get("name"),
        "status": root.get("status"),
        "start_timestamp": root.get("start_timestamp"),
        "duration_s": _duration_s(summary),
        "spans": verdict.stored,
        "errors": summary.errors,
        "tokens": tokens_json(summary.total),
        "completeness": verdict_json(verdict),
    }


def _duration_s(summary: TraceSummary) -> float | None:
    if summary.began_s is None or summary.newest_s is None:
        return None
    return round(summary.newest_s - summary.began_s, 6)


def _table(found: list[TraceSummary]) -> Text:
    from rich.cells import cell_len
    from rich.text import Text

    from everyspan.cli.tree import VERDICT_STYLES
    from everyspan.model.text import age, duration, visible

    now_s = time.time()
    heading = ("TRACE", "AGE", "DURATION", "SPANS", "TOKENS", "STATUS", "COMPLETENESS", "NAME")
    right = (False, True, True, True, True, False, False, False)
    rows: list[tuple[str, ...]] = []
    styles: list[tuple[str, ...]] = []
    for summary in found:
        verdict = summary.verdict()
        root = summary.root
        took_s = _duration_s(summary)
        running = root is not None and root["end_timestamp"] is None
        status = "no root" if root is None else "running" if running else str(root["status"])
        if summary.errors and status != "ERROR":
            status += f", {summary.errors} failed"
        total = summary.total.tokens.value
        tokens = None if total is None else total.total
        rows.append(
            (
                visible(summary.trace_id),
                "?" if summary.newest_s is None else age(now_s - summary.newest_s),
                "?" if took_s is None else duration(took_s),
                f"{verdict.stored:,}",
                "–" if tokens is None else f"{tokens:,}",
                visible(status),
                visible(str(verdict)),
                "▨ root not stored"
                if root is None
                else visible(str(root["name"] or "(no name)"), chars_max=60),
            )
        )
        failed = "red" if summary.errors else ""
        styles.append(("", "", "", "", "", failed, VERDICT_STYLES[verdict.state], "bold"))
    widths = [max(map(cell_len, column)) for column in zip(heading, *rows, strict=True)]
    text = Text()
    for cells, cell_styles in zip([heading, *rows], [("dim",) * 8, *styles], strict=True):
        for at, (cell, style) in enumerate(zip(cells, cell_styles, strict=True)):
            padding = " " * (widths[at] - cell_len(cell))
            if right[at]:
                text.append(padding)
            text.append(cell, style)
            if at < len(cells) - 1:
                text.append("  " if right[at] else padding + "  ")
        text.append("\n")
    text.right_crop(1)
    return text
