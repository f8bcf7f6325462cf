"""The group of commands, each imported when it is named.

A1  Exit code 0 is success, 1 a finding, 2 bad usage or a server that cannot be read.
A2  What went wrong in the world (no server, a taken port, a missing extra) is one line, no
    traceback.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import rich_click as click

from everyspan.cli.lazy import LazyGroup
from everyspan.errors import EverySpanError

COMMANDS = {
    "audit": "everyspan.cli.audit:audit",
    "demo": "everyspan.cli.demo:demo",
    "doctor": "everyspan.cli.doctor:doctor",
    "keys": "everyspan.cli.keys:keys",
    "serve": "everyspan.cli.serve:serve",
    "store": "everyspan.cli.store:store",
    "traces": "everyspan.cli.traces:traces",
}

EXTRAS = {
    "starlette": "server",
    "uvicorn": "server",
    "httptools": "server",
    "apsw": "server",
    "pythonjsonlogger": "server",
    "langchain_core": "demo",
    "langgraph": "demo",
    "scale_gp_beta": "demo",
}


class Commands(LazyGroup):
    """All commands."""

    at = COMMANDS

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn our own errors and a missing extra into one line and exit 2."""
        try:
            return super().invoke(ctx)
        except EverySpanError as error:
            said = str(error)
        except ModuleNotFoundError as error:
            extra = EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            said = f"this command needs: pip install 'everyspan[{extra}]'"
        click.echo(f"everyspan: {said}", err=True)
        raise SystemExit(2)


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"everyspan {version('everyspan')}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Print the version and exit.",
)
def app() -> None:
    """Traces of AI agents, every span accounted for.

    \b
    Example:
      everyspan serve
      everyspan traces list
    """
