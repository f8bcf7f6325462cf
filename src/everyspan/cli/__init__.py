"""The command line: `everyspan ...`, also `python -m everyspan`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line of this process and exit: 0 success, 1 a finding, 2 bad usage."""
    try:
        from everyspan.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("rich_click", "click", "rich"):
            raise
        print("everyspan: the command line needs: pip install 'everyspan[cli]'", file=sys.stderr)
        raise SystemExit(2) from None
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a sign gets its escape, not a UnicodeEncodeError.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="everyspan")
