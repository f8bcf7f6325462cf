"""`everyspan store`: copy and check a trace server's file, also while the server runs."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from everyspan.cli.options import print_json
from everyspan.cli.serve import store_of, store_options
from everyspan.model.text import visible


@click.group()
def store() -> None:
    """Copy and check the file that a server keeps its spans in.

    \b
    Example:
      everyspan store backup traces-monday.sqlite
      everyspan store check
    """


@store.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@store_options
def backup(path: Path, store: Path | None, data_home: str | None) -> None:
    """Copy a store to PATH, as it is at this moment; a server may go on writing.

    The copy is one file that can be served. Exit code 2 if there is no such store, or PATH is there
    already.

    \b
    Example:
      everyspan store backup traces-monday.sqlite
      everyspan store backup /backup/traces.sqlite --store ./traces.sqlite
    """
    from everyspan.server.stores.sqlite_care import back_up

    size = back_up(store_of(store, data_home), path)
    click.echo(f"{visible(str(path))}: {size:,} bytes")


@store.command()
@store_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def check(store: Path | None, data_home: str | None, as_json: bool) -> None:
    """Look whether a store is whole: its pages, its indexes, and every payload.

    Reads all of the file. Exit code 1 if something is wrong, 2 if it cannot be read at all.

    \b
    Example:
      everyspan store check
      everyspan store check --store ./traces.sqlite --json
    """
    from everyspan.server.stores.sqlite_care import check as check_store

    path = store_of(store, data_home)
    spans, problems = check_store(path)
    if as_json:
        print_json({"store": str(path), "spans": spans, "problems": problems})
    elif problems:
        for problem in problems:
            click.echo(f"✕ {visible(problem)}")
        click.echo("Copy the file, then serve the last backup of it.")
    else:
        click.echo(f"✓ {visible(str(path))}: {spans:,} spans, nothing wrong")
    if problems:
        raise SystemExit(1)
