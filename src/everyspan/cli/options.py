"""Options and output that several commands share."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from everyspan.config import load_environment
from everyspan.model.completeness import timestamp_s

if TYPE_CHECKING:
    from rich.text import Text

    from everyspan.cli.reader import SpanReader

_F = TypeVar("_F", bound=Callable[..., Any])

_SIZE = re.compile(r"([1-9][0-9]{0,5})([MGT]B)", re.ASCII)
_UNITS_BYTES = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
_DURATION = re.compile(r"\d{1,9}[smhd]")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def server_options(command: _F) -> _F:
    """Add `--url` and `--json` to a command that reads a server."""
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(
        command
    )
    return url_option(command)


def url_option(command: _F) -> _F:
    """Add `--url` to a command that talks to a server."""
    return click.option(
        "--url",
        metavar="URL",
        help="Any server of the SGP spans API. Default: EVERYSPAN_ENDPOINT, "
        "else http://127.0.0.1:5003. EVERYSPAN_API_KEY and EVERYSPAN_ACCOUNT are sent if set, else "
        "SGP_API_KEY and SGP_ACCOUNT_ID.",
    )(command)


def open_reader(url: str | None) -> SpanReader:
    """Return a reader of the server that `--url` or else the environment names."""
    from everyspan.cli.connection import DEFAULT_URL
    from everyspan.cli.reader import SpanReader

    environment = load_environment()
    if url is None:
        url = environment.endpoint or DEFAULT_URL
    api_key, account_id = environment.for_commands()
    return SpanReader(url, api_key=api_key, account_id=account_id)


def parse_since(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """Return a point in time as Unix seconds; None where none is given.

    Args:
        text: So long ago (`90s`, `15m`, `24h`, `7d`), or ISO-8601, naive meaning UTC.

    Raises:
        BadParameter: It is neither.
    """
    if text is None:
        return None
    if _DURATION.fullmatch(text):
        return max(0.0, time.time() - _seconds_of(text))
    moment_s = timestamp_s(text)
    if moment_s is None:
        raise click.BadParameter(
            f"{text!r} is no time; allowed: 90s, 15m, 24h, 7d, 2026-01-02T03:04:05Z"
        )
    return moment_s


def parse_duration(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """Return a duration such as `12h` in seconds, None where none is given.

    Raises:
        BadParameter: It is none.
    """
    if text is None:
        return None
    if not _DURATION.fullmatch(text):
        raise click.BadParameter(f"{text!r} is no duration; allowed: 90s, 15m, 24h, 7d")
    return _seconds_of(text)


def _seconds_of(duration: str) -> float:
    """Return the seconds of a duration that is known to be one."""
    return float(int(duration[:-1]) * _UNITS_S[duration[-1]])


def parse_size(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    """Return a size such as `10GB` in bytes, None where none is given.

    Raises:
        BadParameter: It is none.
    """
    if text is None:
        return None
    found = _SIZE.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no size; allowed: 500MB, 10GB, 2TB")
    return int(found[1]) * _UNITS_BYTES[found[2]]


def iso(moment_s: float) -> str:
    """Return Unix seconds as the spans API writes a timestamp."""
    return datetime.fromtimestamp(moment_s, UTC).isoformat().replace("+00:00", "Z")


def print_json(value: object) -> None:
    """Print a JSON document in ASCII, which no terminal acts upon."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=True)
    sys.stdout.write("\n")


def print_text(text: Text) -> None:
    """Print text, in colour where the terminal has it, never broken into lines."""
    from rich.console import Console

    Console(soft_wrap=True, highlight=False, markup=False, emoji=False).print(text)
