"""`everyspan traces export`: spans as they are stored, or as OTLP, JSON objects in lines.

E1  What is written is complete, or the exit code is 1 and the reason is told. A file has its name
    only once it is complete.
E2  An SGP span object is the server's own text: no number and no byte of a payload changes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec
import rich_click as click

from everyspan.cli.connection import ReaderError
from everyspan.cli.options import open_reader, url_option
from everyspan.cli.reader import SpanReader
from everyspan.cli.selection import Selection, select, selection_options
from everyspan.cli.summary import TRACES_IN_SEARCH_MAX, batches, distinct, forms
from everyspan.model.text import visible
from everyspan.model.w3c import trace_hex


@click.command()
@url_option
@selection_options
@click.option(
    "--format",
    "format_",
    type=click.Choice(["sgp", "otlp"]),
    default="sgp",
    show_default=True,
    help="A line is a span as it is stored, or an OTLP request of some.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write there instead of to standard output; it is replaced once all is written.",
)
@click.argument("trace_ids", metavar="[TRACE_ID]...", nargs=-1)
def export(
    url: str | None,
    selection: Selection,
    format_: str,
    output: Path | None,
    trace_ids: tuple[str, ...],
) -> None:
    """Write the spans of traces as lines of JSON: of those named, or that match, or of all.

    A trace that matches is written whole. `traces import` reads both formats back; in OTLP, which
    other tools read too, texts of a span of more than 1 MiB are cut.

    Exit code 1 if it is not complete: a trace that was named is not stored, or the server broke
    off in the middle.

    \b
    Example:
      everyspan traces export --since 24h --errors --output failed.jsonl
      everyspan traces export TRACE_ID --format otlp
      everyspan traces export | jq -r .name | sort | uniq -c
    """
    if trace_ids and selection:
        raise click.UsageError("name traces, or say which by options, not both")
    written = 0
    with open_reader(url) as reader, _output(output) as file:
        lines = _lines(reader, selection, trace_ids)
        if format_ == "otlp":
            from everyspan.cli.traces_otlp import otlp_lines

            lines = otlp_lines(lines)
        try:
            for line in lines:
                file.write(line + b"\n")
                written += 1
        except ReaderError as error:
            if not written:
                raise
            click.echo(f"everyspan: the export is not complete: {error}", err=True)
            raise SystemExit(1) from None
        except BrokenPipeError:
            # `| head`: whoever reads has enough. Python would complain once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None


class _InTrace(msgspec.Struct):
    trace_id: str = ""


_decode = msgspec.json.Decoder(_InTrace).decode


def _lines(reader: SpanReader, selection: Selection, trace_ids: tuple[str, ...]) -> Iterator[bytes]:
    if not trace_ids and not selection:
        yield from reader.search_lines({})
        return
    wanted: Iterable[str] = distinct(trace_ids) if trace_ids else select(reader, selection)
    missing: list[str] = []
    for some in batches(wanted, TRACES_IN_SEARCH_MAX):
        found: set[str] = set()
        for line in reader.search_lines({"trace_ids": forms(some)}):
            yield line
            if trace_ids:
                found.add(trace_hex(_decode(line).trace_id))
        missing += [trace_id for trace_id in some if trace_ids and trace_hex(trace_id) not in found]
    if missing:
        told = ", ".join(visible(trace_id) for trace_id in missing[:5])
        click.echo(f"everyspan: {reader.whose} has no trace {told}", err=True)
        raise SystemExit(1)


@contextmanager
def _output(path: Path | None) -> Iterator[IO[bytes]]:
    """Yield where to write; the file takes its name when the block ends without an exception."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    partial = path.with_name(path.name + ".partial")
    try:
        # Prompts are private.
        opener: Callable[[str, int], int] = lambda name, flags: os.open(name, flags, 0o600)  # noqa: E731
        with open(partial, "wb", opener=opener) as file:
            yield file
        partial.replace(path)
    except OSError as error:
        raise ReaderError(f"cannot write {visible(str(path))}: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
