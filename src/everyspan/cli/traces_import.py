"""`everyspan traces import`: store what `traces export`, or another tool, wrote to a file.

M1  Every line is stored, or named with the reason why not. Lines may be imported again: the same
    span makes no second row (P6).
M2  One bad line costs only itself: those that the server names are cut out, else halves are tried.
M3  Memory is bounded by a request's share of the file, or by one line.
M4  A server that is busy or restarts is waited for, up to PATIENCE_S.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import msgspec
import rich_click as click

from everyspan.cli.connection import Answer, Connection, NotThereError, ReaderError, words_of
from everyspan.cli.options import open_reader, url_option
from everyspan.model.text import plural, visible

SGP_PATH = "/v5/spans/batch"
OTLP_PATH = "/v1/traces"
BATCH_SPANS = 200
BATCH_BYTES = 4 << 20
LINE_BYTES_MAX = 60 << 20
"""Somewhat less than a server takes in one request."""
PATIENCE_S = 60.0
PAUSE_S = 0.5
PROGRESS_S = 0.5
REFUSALS_SHOWN = 20


@click.command("import")
@url_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print the figures and what was refused as JSON."
)
@click.argument("file", type=click.File("rb"))
def import_(url: str | None, as_json: bool, file: IO[bytes]) -> None:
    """Store the spans of a file: lines of SGP span objects, or of OTLP in JSON.

    FILE is what `traces export` wrote, in either format, or `-` for standard input. Importing it
    again changes nothing. Spans come to the account of SGP_ACCOUNT_ID, else to `local`.

    Exit code 1 if a line was refused; it is named, and the others are stored.

    \b
    Example:
      everyspan traces import spans.jsonl
      everyspan traces export --since 1h | everyspan traces import - --url http://other:5003
    """
    with open_reader(url) as server:
        importer = Importer(server, _Progress())
        importer.take(_lines(file))
        importer.finish()
        whose = server.whose
    refused = importer.refused
    if as_json:
        from everyspan.cli.options import print_json

        print_json(
            {
                "lines": importer.stored_lines,
                "refused": [{"line": line, "reason": reason} for line, reason in refused],
            }
        )
    for line, reason in refused[:REFUSALS_SHOWN]:
        click.echo(f"everyspan: line {line:,}: {visible(reason)}", err=True)
    if len(refused) > REFUSALS_SHOWN:
        click.echo(f"everyspan: and {len(refused) - REFUSALS_SHOWN:,} lines more", err=True)
    if not as_json:
        told = f"{plural(importer.stored_lines, 'line')} stored for {whose}"
        click.echo(told + (f", {len(refused):,} refused" if refused else ""))
    if refused:
        raise SystemExit(1)


class _Progress:
    """One line on a terminal that is written over; nothing anywhere else."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()
        self._due_s = 0.0

    def show(self, lines: int) -> None:
        if self._is_shown and time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + PROGRESS_S
            click.echo(f"\r{lines:,} lines ", nl=False, err=True)

    def end(self) -> None:
        if self._is_shown:
            click.echo("\r", nl=False, err=True)


@dataclass(slots=True)
class Line:
    """A line of the file that is one span object."""

    number: int
    text: bytes


@dataclass(slots=True)
class Importer:
    """Sends lines to a server; `refused` has (line, reason), in the order they were found."""

    server: Connection
    progress: _Progress | None = None
    stored_lines: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)
    _waiting: list[Line] = field(default_factory=list)
    _waiting_bytes: int = 0
    _is_there: bool = False

    def take(self, lines: Iterable[tuple[int, bytes]]) -> None:
        """Send numbered lines, batch by batch; call `finish` after the last.

        Raises:
            ReaderError: The server cannot be reached, or takes nothing; the text says how far the
                import has come.
        """
        for number, text in lines:
            try:
                self._take_line(number, text)
            except ReaderError as error:
                raise ReaderError(
                    f"{error}; {self.stored_lines:,} lines are stored: import again, which "
                    "changes nothing that is"
                ) from None
            if self.progress is not None:
                self.progress.show(self.stored_lines)

    def finish(self) -> None:
        """Send what waits."""
        self.take([])
        self._flush()
        if self.progress is not None:
            self.progress.end()

    def _take_line(self, number: int, text: bytes) -> None:
        text = text.strip()
        if not text:
            return
        if len(text) > LINE_BYTES_MAX:
            self._refuse(number, f"longer than {LINE_BYTES_MAX >> 20} MiB")
            return
        try:
            kind = _decode_kind(text)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            self._refuse(number, f"no JSON object: {error}")
            return
        if kind.resourceSpans:
            # In the order of the file, as far as refusals go.
            self._flush()
            self._send_otlp(number, text)
        elif kind.trace_id:
            if self._waiting_bytes + len(text) > BATCH_BYTES or len(self._waiting) >= BATCH_SPANS:
                self._flush()
            self._waiting.append(Line(number, text))
            self._waiting_bytes += len(text)
        else:
            self._refuse(number, "neither an SGP span object (trace_id) nor OTLP (resourceSpans)")

    def _flush(self) -> None:
        batch, self._waiting, self._waiting_bytes = self._waiting, [], 0
        todo = [batch] if batch else []
        while todo:
            lines = todo.pop()
            body = b'{"items":[' + b",".join(line.text for line in lines) + b"]}"
            answer = self._request("PUT", SGP_PATH, body, {"prefer": "return=minimal"})
            if answer.status < 300:
                self.stored_lines += len(lines)
                continue
            self._check_it_is_the_spans(answer, SGP_PATH)
            named = _offenders(answer, len(lines))
            if len(lines) == 1 and not named:
                named = {0: words_of(answer.body) or f"status {answer.status}"}
            for position, reason in named.items():
                self._refuse(lines[position].number, reason)
            rest = [line for at, line in enumerate(lines) if at not in named]
            if named:
                todo += [rest] if rest else []
            else:
                half = len(lines) // 2
                todo += [lines[half:], lines[:half]]

    def _send_otlp(self, number: int, text: bytes) -> None:
        answer = self._request("POST", OTLP_PATH, text, {})
        if answer.status >= 300:
            self._check_it_is_the_spans(answer, OTLP_PATH)
            self._refuse(number, words_of(answer.body) or f"status {answer.status}")
            return
        partial = (answer.json() or {}).get("partialSuccess") or {}
        rejected = int(partial.get("rejectedSpans") or 0)
        if rejected:
            why = partial.get("errorMessage") or "no reason given"
            self._refuse(number, f"{plural(rejected, 'span')} of it refused: {why}")
        else:
            self.stored_lines += 1

    def _check_it_is_the_spans(self, answer: Answer, path: str) -> None:
        if answer.status not in (400, 409, 413, 422):
            raise self.server.refusal(answer, path)

    def _refuse(self, number: int, reason: str) -> None:
        self.refused.append((number, reason[:300]))

    def _request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = self.server.request(method, path, body=body, headers=headers)
                self._is_there = True
                if answer.status not in (408, 429, 502, 503, 504):
                    return answer
                failure = NotThereError(str(self.server.refusal(answer, path)))
                pause_s = _retry_after_s(answer)
            except NotThereError as error:
                failure, pause_s = error, PAUSE_S
            # Where nobody ever answered nobody is restarting.
            if not self._is_there or time.monotonic() + pause_s > until_s:
                raise failure
            time.sleep(pause_s)


class _Kind(msgspec.Struct):
    resourceSpans: list[msgspec.Raw] = []  # OTLP's name.
    trace_id: str = ""


class _Entry(msgspec.Struct):
    loc: list[str | int] = []
    msg: str = ""


class _Refusal(msgspec.Struct):
    detail: Any = None


_decode_kind = msgspec.json.Decoder(_Kind).decode


def _offenders(answer: Answer, count: int) -> dict[int, str]:
    """Return the positions that a refusal names (`sgp:E4`), each with its reason."""
    named: dict[int, str] = {}
    try:
        detail = msgspec.json.decode(answer.body, type=_Refusal).detail
        entries = msgspec.convert(detail, list[_Entry])
    except (msgspec.MsgspecError, RecursionError):
        return {}
    for entry in entries:
        loc = entry.loc
        if len(loc) > 2 and loc[:2] == ["body", "items"] and isinstance(loc[2], int):
            place = ".".join(map(str, loc[3:]))
            if 0 <= loc[2] < count:
                named.setdefault(loc[2], f"{place}: {entry.msg}" if place else entry.msg)
    return named


def _retry_after_s(answer: Answer) -> float:
    try:
        return min(10.0, max(PAUSE_S, float(answer.headers.get("retry-after", PAUSE_S))))
    except ValueError:
        return PAUSE_S


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file, numbered; of one JSON document over many lines, its objects."""
    first = file.readline(LINE_BYTES_MAX + 1)
    if first.strip() in (b"{", b"["):
        yield from _document(first + file.read(4 * LINE_BYTES_MAX))
        return
    number = 0
    line = first
    while line:
        number += 1
        yield number, line
        while len(line) > LINE_BYTES_MAX and not line.endswith(b"\n"):
            # The rest of a line that is too long for a request.
            line = file.readline(LINE_BYTES_MAX + 1)
        line = file.readline(LINE_BYTES_MAX + 1)


def _document(text: bytes) -> Iterator[tuple[int, bytes]]:
    try:
        objects = json.loads(text)
    except (ValueError, RecursionError):
        yield 1, text
        return
    for number, value in enumerate(objects if isinstance(objects, list) else [objects], 1):
        yield number, json.dumps(value).encode()
