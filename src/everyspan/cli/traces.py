"""`everyspan traces`: what is stored, read back, carried elsewhere."""

from __future__ import annotations

from typing import ClassVar

import rich_click as click

from everyspan.cli.lazy import LazyGroup


class _TracesGroup(LazyGroup):
    at: ClassVar = {
        "export": "everyspan.cli.traces_export:export",
        "import": "everyspan.cli.traces_import:import_",
        "list": "everyspan.cli.traces_list:list_",
        "show": "everyspan.cli.traces_show:show",
        "tail": "everyspan.cli.traces_tail:tail",
    }


@click.group(cls=_TracesGroup)
def traces() -> None:
    """List traces, show one as a tree, watch them, write them to a file and read them back.

    \b
    Example:
      everyspan traces list --since 1h --errors
      everyspan traces show TRACE_ID
      everyspan traces tail
      everyspan traces export --since 24h --output spans.jsonl
    """
