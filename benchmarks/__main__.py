"""`python -m benchmarks`: every benchmark, its target and its verdict."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks import faults, hot_path, import_time, memory, steady, throughput
from benchmarks.report import Row, progress, table

PARTS = ("hot", "throughput", "import")
# By name only: half a minute to ten.
LONG_PARTS = ("memory", "steady", "faults", "ingest", "queries")
EXAMPLES = """examples:
  python -m benchmarks                     all of it, about four minutes
  python -m benchmarks hot --rounds 25     only the hot path, longer
  python -m benchmarks steady              a minute of work for each, four minutes
  python -m benchmarks memory              10,000 spans of 50 KB, nobody there, half a minute
  python -m benchmarks faults              every fault of a backend, ten minutes
  python -m benchmarks ingest              the trace server's upserts, two minutes; 4 GB of disk
  python -m benchmarks queries             the trace server's questions, growing, some minutes
  python -m benchmarks --quick             a look, in under a minute; too noisy to quote
  python -m benchmarks import --json r.json

The table goes to stderr; the JSON goes to FILE, or to stdout when that is not a terminal.
Exit code 1 tells of a missed target."""


def main() -> int:
    options = _parser().parse_args()
    rows: list[Row] = []
    for part in options.parts or PARTS:
        rows.extend(_run(part, options.rounds, quick=options.quick))
    progress("\n" + table(rows))
    document = {"machine": _machine(), "rows": rows}
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    if options.json is not None:
        options.json.write_text(text + "\n")
    elif not sys.stdout.isatty():
        print(text)
    return int(any(row.verdict == "miss" for row in rows))


def _run(part: str, rounds: int | None, *, quick: bool) -> Iterator[Row]:
    match part:
        case "hot":
            return hot_path.run(rounds or (3 if quick else 15))
        case "throughput":
            return throughput.run(
                rounds or (1 if quick else 3), requests=2_000 if quick else 10_000
            )
        case "steady":
            return steady.run(5 if quick else 60)
        case "memory":
            return memory.run(1_000 if quick else 10_000)
        case "faults":
            return faults.run()
        case "ingest":
            # The server's, whose packages .venv-peers lacks: from .venv.
            from benchmarks import ingest

            return ingest.run(
                rounds or (2 if quick else 7),
                batches=20 if quick else 60,
                long_spans=40_000 if quick else 300_000,
            )
        case "queries":
            from benchmarks import queries

            sizes = queries.SIZES[:2] if quick else queries.SIZES
            return queries.run(rounds or 5, sizes=sizes)
        case _:
            return import_time.run(rounds or (5 if quick else 25))


def _machine() -> dict[str, str | int | None]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "parts",
        nargs="*",
        type=_part,
        metavar="PART",
        help=f"one of {', '.join(PARTS + LONG_PARTS)} (default: {', '.join(PARTS)})",
    )
    parser.add_argument("--rounds", type=_positive, help="rounds a part, instead of its own number")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, fewer requests")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text!r}")
    return int(text)


def _part(text: str) -> str:
    # Not `choices`: on Python 3.11 argparse checks the empty default against it too.
    if text not in PARTS + LONG_PARTS:
        known = ", ".join(PARTS + LONG_PARTS)
        raise argparse.ArgumentTypeError(f"must be one of {known}, got {text!r}")
    return text


if __name__ == "__main__":
    sys.exit(main())
