"""`everyspan traces tail`: traces as they change, from the live feed of an everyspan server.

L1  A stream that breaks is taken up again by number: nothing is missed, nothing told twice.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import rich_click as click

from everyspan.cli.connection import Connection, NotThereError, ReaderError
from everyspan.cli.options import open_reader, server_options
from everyspan.model.text import duration, visible

EVENTS_PATH = "/api/events"
SILENCE_S_MAX = 45.0
"""The server says something every 15 s."""
PAUSE_S = 1.0


@click.command()
@server_options
def tail(url: str | None, as_json: bool) -> None:
    """Print a line for every trace that changes, until Ctrl-C.

    When the server goes away, it is waited for, and what changed meanwhile is told then. With
    --json each line is the trace as `/api/traces` has it.

    \b
    Example:
      everyspan traces tail
      everyspan traces tail --json | jq -r 'select(.errors.count > 0) | .id'
    """
    with open_reader(url) as server:
        if not server.is_everyspan:
            raise ReaderError(f"{server.shown_url} is no everyspan server: it has no live feed")
        try:
            for trace in changes(server):
                line = json.dumps(trace) if as_json else _line(trace)
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
        except KeyboardInterrupt:
            return


def changes(server: Connection, *, after: str = "") -> Iterator[dict[str, Any]]:
    """Yield every trace that changes, as it is then, for as long as somebody asks.

    Raises:
        ReaderError: The server refuses, or never answered.
    """
    is_open = is_told = False
    while True:
        try:
            for kind, data, number in _events(server, after):
                after = number or after
                is_open, is_told = True, False
                if kind == "open" and json.loads(data)["is_lost"]:
                    click.echo("everyspan: another store: going on from now", err=True)
                elif kind == "traces":
                    yield from json.loads(data)["items"]
        except NotThereError as error:
            if not is_open:
                raise
            if not is_told:
                is_told = True
                click.echo(f"everyspan: not live: {error}; waiting", err=True)
        time.sleep(PAUSE_S)


def _events(server: Connection, after: str) -> Iterator[tuple[str, str, str]]:
    """Yield kind, data and number (empty where it has none) of every event of one stream."""
    params = {"after": after} if after else {}
    kind = data = number = ""
    for line in server.lines(EVENTS_PATH, params=params, silence_s_max=SILENCE_S_MAX):
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            data = value
        elif name == "id":
            number = value
        elif not line and data:
            yield kind, data, number
            kind = data = number = ""


def _line(trace: dict[str, Any]) -> str:
    completeness, tokens = trace["completeness"], trace["tokens"]
    used = (tokens["input"] or 0) + (tokens["output"] or 0)
    took = duration(int(trace["duration_ns"]) / 1e9) + ("…" if trace["end"] is None else "")
    failed = f"  {trace['errors']['count']:,} failed" if trace["errors"]["count"] else ""
    words = (
        f"{time.strftime('%H:%M:%S')}  {completeness['sign']} {completeness['words']}",
        took,
        f"{used:,} tok" if used else "–",
        visible(str(trace["name"]), chars_max=60),
        visible(str(trace["trace_id"]), chars_max=64),
    )
    return visible("  ".join(words) + failed)
