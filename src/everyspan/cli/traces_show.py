"""`everyspan traces show`: one trace as a tree."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import rich_click as click

from everyspan.cli.options import open_reader, print_json, print_text, server_options
from everyspan.model.w3c import trace_hex

if TYPE_CHECKING:
    from everyspan.cli.summary import TraceSummary


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
    from everyspan.cli.summary import TraceSummary, forms, reported_losses

    summary = TraceSummary(trace_id)
    with open_reader(url) as reader:
        spans = list(reader.search({"trace_ids": forms([trace_id])}))
        if not spans:
            from everyspan.model.text import visible

            click.echo(f"everyspan: {reader.whose} has no trace {visible(trace_id)}", err=True)
            raise SystemExit(1)
        for span in spans:
            summary.add(span)
        for loss in reported_losses(reader, trace_id).get(trace_hex(trace_id), ()):
            summary.add_loss(loss)
    if as_json:
        print_json(_trace_json(summary, spans))
    else:
        from everyspan.cli.tree import render_tree

        print_text(render_tree(spans, now_s=time.time(), verdict=summary.verdict()))


def _trace_json(summary: TraceSummary, spans: list[dict[str, Any]]) -> dict[str, Any]:
    from everyspan.cli.summary import tokens_json, verdict_json

    return {
        "trace_id": summary.trace_id,
        "tokens": tokens_json(summary.total),
        "completeness": verdict_json(summary.verdict()),
        "spans": spans,
    }
