"""`everyspan serve`: run the trace server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from everyspan.cli.options import parse_duration, parse_size
from everyspan.errors import SettingsError

if TYPE_CHECKING:
    from everyspan.server.logs import LogFormat

_F = TypeVar("_F", bound=Callable[..., Any])


def store_options(command: _F) -> _F:
    """Add `--store` to a command that works on a store; see `store_of`."""
    command = click.option("--data-home", envvar="XDG_DATA_HOME", hidden=True)(command)
    return click.option(
        "--store",
        type=click.Path(dir_okay=False, path_type=Path),
        help="SQLite file that keeps the spans. Default: everyspan/traces.sqlite in XDG_DATA_HOME, "
        "else in ~/.local/share.",
    )(command)


_PORTS = click.IntRange(0, 65535)


def _port_or_off(context: click.Context, option: click.Parameter, value: str) -> int | None:
    return None if value == "off" else _PORTS(value, option, context)


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
    "--otlp-port",
    metavar="PORT|off",
    callback=_port_or_off,
    default="4318",
    show_default=True,
    help="A second port to listen on, if it is free: where OpenTelemetry's exporters send unless "
    "told otherwise. The first one takes OTLP as well.",
)
@store_options
@click.option(
    "--allow-host",
    "allow_hosts",
    metavar="NAME",
    multiple=True,
    help="A further name that requests may call the server by, such as that of a proxy in front or "
    "of a container. Repeatable.",
)
@click.option(
    "--keep",
    "keep_s",
    metavar="DURATION",
    callback=parse_duration,
    help="Delete traces so long after their last activity: 12h, 30d. Default: never.",
)
@click.option(
    "--keep-size",
    "keep_bytes",
    metavar="SIZE",
    callback=parse_size,
    help="Delete the oldest traces when the store is larger: 500MB, 10GB. Default: never.",
)
@click.option(
    "--log-format",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="How lines of the log on stderr look.",
)
@click.option(
    "--log-level",
    type=click.Choice(("debug", "info", "warning", "error")),
    default="info",
    show_default=True,
    help="What is logged; debug has a line for every request.",
)
def serve(
    host: str,
    port: int,
    otlp_port: int | None,
    store: Path | None,
    allow_hosts: tuple[str, ...],
    keep_s: float | None,
    keep_bytes: int | None,
    log_format: LogFormat,
    log_level: str,
    data_home: str | None,
) -> None:
    """Run the trace server until Ctrl-C.

    Open to other machines (`--host`), it asks for a key, and one has to be made before. Exit code 2
    if the port is taken, the store cannot be opened, or there is no key and must be one.

    \b
    Example:
      everyspan serve
      everyspan serve --port 5004 --store ./traces.sqlite
      everyspan serve --keep 30d --keep-size 10GB
      everyspan keys create && everyspan serve --host 0.0.0.0 --log-format json
    """
    from everyspan.server import run
    from everyspan.server.logs import configure_logs

    configure_logs(log_format, log_level)
    path = store_of(store, data_home)

    def ready(host: str, port: int, otlp_port: int | None) -> None:
        click.echo(_greeting(host, port, otlp_port, path))

    run(
        host=host,
        port=port,
        otlp_port=otlp_port,
        store_path=path,
        allow_hosts=allow_hosts,
        keep_s=keep_s,
        keep_bytes=keep_bytes,
        ready=ready,
    )


def store_of(store: Path | None, data_home: str | None) -> Path:
    """Return the store's absolute path; the folder of the default one is made."""
    if store is None:
        store = default_store(data_home)
        try:
            store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"cannot make {store.parent}: {error.strerror}; choose another file with --store"
            ) from None
    return store.absolute()


def default_store(data_home: str | None) -> Path:
    """Return where traces are kept if nothing else is said; a relative data home is ignored."""
    home = Path(data_home or "")
    if not home.is_absolute():
        home = Path.home() / ".local" / "share"
    return home / "everyspan" / "traces.sqlite"


_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""What means all addresses of a machine is none that can be asked; this one is on it."""


def _greeting(host: str, port: int, otlp_port: int | None, store: Path) -> str:
    here = _EVERY_ADDRESS.get(host, host)
    url = f"http://{f'[{here}]' if ':' in here else here}:{port}"
    elsewhere = "" if here == host else f"  elsewhere  port {port} of this machine, with a key\n"
    second = f"  or         nothing: it listens on {otlp_port} as well\n" if otlp_port else ""
    option = "" if url == "http://127.0.0.1:5003" else f" --url {url}"
    return (
        f"everyspan serves {url} (Ctrl-C ends it)\n"
        f"  store      {store}\n"
        f'  an agent   everyspan.configure("{url}")\n'
        f"  or         export EVERYSPAN_ENDPOINT={url}\n"
        f"{elsewhere}"
        f"  a browser  {url}\n"
        f"  SGP        export SGP_CLIENT_BASE_URL={url}\n"
        f"  OTLP       export OTEL_EXPORTER_OTLP_ENDPOINT={url}\n"
        f"{second}"
        f"  read       everyspan traces list{option}"
    )
