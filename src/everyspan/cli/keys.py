"""`everyspan keys`: make, list and revoke the keys of a trace server.

They work on the store's file, so whoever can read that needs no key to make one. A server that runs
takes notice within a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from everyspan.cli.options import iso, parse_duration, print_json, print_text
from everyspan.cli.serve import store_of, store_options
from everyspan.errors import EverySpanError
from everyspan.model.text import visible

if TYPE_CHECKING:
    from everyspan.server.keys import Key
    from everyspan.server.stores.base import Store

_T = TypeVar("_T")
_SCOPES = ("read", "write", "read,write")


@click.group()
def keys() -> None:
    """Make, list and revoke the keys of a server.

    A server asks for a key as soon as one was made, and always where it is open to other machines.

    \b
    Example:
      everyspan keys create --name ci --account team-a --scope write
      everyspan keys list
      everyspan keys revoke 3f9c21d04b7e
    """


@keys.command()
@click.option("--name", default="key", show_default=True, help="What it is for, to tell it by.")
@click.option(
    "--account",
    "accounts",
    metavar="ACCOUNT",
    multiple=True,
    default=("local",),
    show_default="local",
    help="An account that it is for, '*' for every one. Repeatable; the first is that of requests "
    "which name none.",
)
@click.option(
    "--scope",
    type=click.Choice(_SCOPES),
    default="read,write",
    show_default=True,
    help="What it may do.",
)
@click.option(
    "--expires",
    "lasts_s",
    metavar="DURATION",
    callback=parse_duration,
    help="When it ends by itself: 12h, 30d. Default: never.",
)
@store_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def create(
    name: str,
    accounts: tuple[str, ...],
    scope: str,
    lasts_s: float | None,
    store: Path | None,
    data_home: str | None,
    as_json: bool,
) -> None:
    """Make a key and show it, this once.

    \b
    Example:
      everyspan keys create
      everyspan keys create --name ci --account team-a --scope write --expires 30d
    """
    from everyspan.server.keys import make_key

    now_ns = time.time_ns()
    key, shown = make_key(
        name=name,
        accounts=accounts,
        scopes=scope.split(","),  # type: ignore[arg-type]  # One of _SCOPES.
        now_ns=now_ns,
        expires_ns=None if lasts_s is None else now_ns + int(lasts_s * 1e9),
    )
    _with_store(store_of(store, data_home), lambda opened: opened.add_key(key))
    if as_json:
        print_json({"key": shown, **_to_json(key)})
        return
    click.echo(shown)
    click.echo(
        f"Key {key.id}, for {_accounts(key)}, to {_scopes(key)}; {_ends(key)}. Shown this once.",
        err=True,
    )


@keys.command("list")
@store_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def list_(store: Path | None, data_home: str | None, as_json: bool) -> None:
    """List the keys that were made, revoked ones too; what they are is not kept.

    \b
    Example:
      everyspan keys list
    """
    from rich.text import Text

    path = store_of(store, data_home)
    made = [key for key in _with_store(path, lambda opened: opened.keys()) if key.parent is None]
    if as_json:
        print_json([_to_json(key) for key in made])
        return
    if not made:
        click.echo(f"No keys in {path}.", err=True)
        return
    rows = [(key.id, visible(key.name), _accounts(key), _scopes(key), _ends(key)) for key in made]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        print_text(Text("  ".join(f"{cell:<{width}}" for cell, width in cells).rstrip()))


@keys.command()
@click.argument("key_id", metavar="ID")
@store_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def revoke(key_id: str, store: Path | None, data_home: str | None, as_json: bool) -> None:
    """End a key, and the browsers that are logged in with it.

    ID is that of `keys list`; the whole key will do. Exit code 2 if there is no such active key.

    \b
    Example:
      everyspan keys revoke 3f9c21d04b7e
    """
    from everyspan.server.keys import id_in

    key_id = id_in(key_id) or key_id
    if not _with_store(store_of(store, data_home), lambda opened: opened.revoke_key(key_id)):
        raise EverySpanError(f"no key that can be revoked has the id {visible(key_id)!r}")
    if as_json:
        print_json({"id": key_id, "revoked": True})
    else:
        click.echo(f"Key {key_id} is revoked.", err=True)


def _with_store(path: Path, work: Callable[[Store], Awaitable[_T]]) -> _T:
    from everyspan.server.stores.sqlite import SqliteStore

    async def run() -> _T:
        opened = SqliteStore(path)
        try:
            return await work(opened)
        finally:
            await opened.close()

    return asyncio.run(run())


def _to_json(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "accounts": list(key.accounts),
        "scopes": list(key.scopes),
        "created": _time(key.created_ns),
        "expires": _time(key.expires_ns),
        "revoked": _time(key.revoked_ns),
    }


def _accounts(key: Key) -> str:
    if "*" in key.accounts:
        return "every account"
    return visible(", ".join(key.accounts))


def _scopes(key: Key) -> str:
    return " and ".join(key.scopes)


def _ends(key: Key) -> str:
    if key.revoked_ns is not None:
        return f"revoked {_time(key.revoked_ns)}"
    if key.expires_ns is None:
        return "never expires"
    return f"expire{'d' if key.expires_ns <= time.time_ns() else 's'} {_time(key.expires_ns)}"


def _time(moment_ns: int | None) -> str | None:
    return None if moment_ns is None else iso(moment_ns // 10**9)
