"""`everyspan traces show`: one trace as a tree."""

from __future__ import annotations

import time
from typing import Any

import rich_click as click

from everyspan.cli.options import open_reader, print_json, print_text, server_options


@click.command()
@server_options
@click.argument("trace_id")
def show(url: str | None, as_json: bool, trace_id: str) -> None:
    """Show a trace as a tree, and whether all of it is there.

    Exit code 1 if nothing of it is stored.

    \b
    Example:
      everyspan traces show 3f2a9c1e-5b1d-4a6e-9d55-0d4a1f7a2c11
    """
    with open_reader(url) as reader:
        spans = list(reader.search({"trace_ids": [trace_id]}))
        if not spans:
            from everyspan.model.text import visible

            click.echo(f"everyspan: {reader.whose} has no trace {visible(trace_id)}", err=True)
            raise SystemExit(1)
    if as_json:
        print_json(_trace_json(trace_id, spans))
    else:
        from everyspan.cli.tree import render_tree

        print_text(render_tree(spans, now_s=time.time()))


def _trace_json(trace_id: str, spans: list[dict[str, Any]]) -> dict[str, Any]:
    from everyspan.cli.summary import TraceSummary, tokens_json, verdict_json

    summary = TraceSummary(trace_id)
    for span in spans:
        summary.add(span)
    return {
        "trace_id": trace_id,
        "tokens": tokens_json(summary.total),
        "completeness": verdict_json(summary.verdict()),
        "spans": spans,
    }
