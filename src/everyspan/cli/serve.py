"""`everyspan serve`: run the trace server."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from everyspan.errors import SettingsError

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=5003,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--store",
    type=click.Path(dir_okay=False, path_type=Path),
    help="SQLite file that keeps the spans. Default: everyspan/traces.sqlite in XDG_DATA_HOME, "
    "else in ~/.local/share.",
)
@click.option(
    "--allow-host",
    "allow_hosts",
    metavar="NAME",
    multiple=True,
    help="A further name that requests may call the server by, such as that of a proxy in front or "
    "of a container. Repeatable.",
)
@click.option("--data-home", envvar="XDG_DATA_HOME", hidden=True)
def serve(
    host: str,
    port: int,
    store: Path | None,
    allow_hosts: tuple[str, ...],
    data_home: str | None,
) -> None:
    """Run the trace server until Ctrl-C.

    Exit code 2 if the port is taken or the store cannot be opened.

    \b
    Example:
      everyspan serve
      everyspan serve --port 5004 --store ./traces.sqlite
    """
    from everyspan.server import run

    if store is None:
        store = default_store(data_home)
        try:
            store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"cannot make {store.parent}: {error.strerror}; choose another file with --store"
            ) from None
    path = store.absolute()

    def ready(host: str, port: int) -> None:
        click.echo(_greeting(host, port, path))
        if host not in LOOPBACK_HOSTS:
            click.echo("everyspan: open to other machines, and no key is asked", err=True)

    run(host=host, port=port, store_path=path, allow_hosts=allow_hosts, ready=ready)


def default_store(data_home: str | None) -> Path:
    """Return where traces are kept if nothing else is said; a relative data home is ignored."""
    home = Path(data_home or "")
    if not home.is_absolute():
        home = Path.home() / ".local" / "share"
    return home / "everyspan" / "traces.sqlite"


def _greeting(host: str, port: int, store: Path) -> str:
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    option = "" if port == 5003 else f" --url {url}"
    return (
        f"everyspan serves {url} (Ctrl-C ends it)\n"
        f"  store      {store}\n"
        f'  an agent   everyspan.configure("{url}")\n'
        f"  or         export EVERYSPAN_ENDPOINT={url}\n"
        f"  SGP        export SGP_CLIENT_BASE_URL={url}\n"
        f"  read       everyspan traces list{option}"
    )
