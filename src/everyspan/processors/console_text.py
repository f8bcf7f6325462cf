"""How spans read on a console: a line for each, what went in and out of it below.

```
14:03:07.412    1.40s  ✓ turn  AGENT_WORKFLOW  #9c04aa  trace 3f0c6c1e-…
                         in   {"question":"weather in Rome"}
                         out  {"answer":"sunny"}
14:03:07.310    1.21s  ✓ ├─ call  COMPLETION  812→93 tok  #b2f1c0
14:03:07.402   90.1ms  ✕ └─ weather  #77aa10
                         err  TimeoutError: no answer
```

The time is that of the end, here, and the duration what it took; of an open span the start and
`…`. `#77aa10 in #b2f1c0` stands where the parent is not the line that it hangs from.

T1  Nothing of a span is shown unescaped (`X1` of `everyspan.model.text`), and no text at full
    length.
T2  Every record is drawn once, whatever its ids and parents say.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from everyspan.model.branches import branches
from everyspan.model.record import SpanRecord
from everyspan.model.span import SpanStatus
from everyspan.model.text import duration, visible
from everyspan.model.usage import NO_TOKENS, Tokens, tokens_of

NAME_CHARS_MAX = 120
ERROR_CHARS_MAX = 400
TYPE_CHARS_MAX = 40
TRACE_ID_CHARS_MAX = 64

ID_CHARS = 6
"""Of the end of an id: the beginning is the time in many, and so the same for all of a trace."""

_BELOW = " " * 25
_CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}
_SIGNS: Mapping[str, tuple[str, str]] = {
    SpanStatus.SUCCESS: ("✓", "green"),
    SpanStatus.CANCELED: ("⊘", "yellow"),
}


class Drawing:
    """Draws spans, in colours (`is_colored`), with so many characters of input and of output."""

    def __init__(self, *, is_colored: bool, payload_chars: int) -> None:
        self._is_colored = is_colored
        self._payload_chars = payload_chars

    def draw(self, records: Sequence[SpanRecord]) -> Iterator[tuple[int, str]]:
        """Yield the position of each record and its text, parents first, as a tree (T2)."""
        positions = {id(record): position for position, record in enumerate(records)}
        in_order = sorted(records, key=lambda record: record.start_ns)
        children: dict[tuple[str, str | None], list[SpanRecord]] = {}
        for record in in_order:
            children.setdefault((record.trace_id, record.parent_id), []).append(record)

        def children_of(parent: SpanRecord) -> Sequence[SpanRecord]:
            return children.get((parent.trace_id, parent.id), ())

        here = {(record.trace_id, record.id) for record in records}
        tops = [record for record in in_order if (record.trace_id, record.parent_id) not in here]
        drawn: set[int] = set()
        # All of them again: those whose parents form a loop hang from no top.
        for top in (*tops, *in_order):
            if id(top) in drawn:
                continue
            drawn.add(id(top))
            yield positions[id(top)], self._text(top, "")
            for record, indent in branches(children_of(top), children_of, drawn):
                yield positions[id(record)], self._text(record, indent)

    def _text(self, record: SpanRecord, indent: str) -> str:
        lines = [self._heading(record, indent)]
        for label, payload in (("in ", record.input), ("out", record.output)):
            if payload is not None and self._payload_chars:
                lines.append(f"{_BELOW}{self._paint(label, 'dim')}  {self._payload(payload)}")
        if record.error is not None:
            kind, message, _ = record.error
            error = visible(f"{kind}: {message}", chars_max=ERROR_CHARS_MAX)
            lines.append(f"{_BELOW}{self._paint('err', 'dim')}  {self._paint(error, 'red')}")
        return "\n".join(lines) + "\n"

    def _heading(self, record: SpanRecord, indent: str) -> str:
        sign, style = _SIGNS.get(record.status, ("✕", "red"))
        at_ns, took = record.start_ns, "…"
        if record.end_ns is not None:
            at_ns, took = record.end_ns, duration((record.end_ns - record.start_ns) / 1e9)
        else:
            sign, style = "◐", "cyan"
        name = visible(record.name or "(no name)", chars_max=NAME_CHARS_MAX)
        words = [
            self._paint(f"{_clock(at_ns)} {took:>8}", "dim") + f"  {self._paint(sign, style)} "
            f"{self._paint(indent, 'dim')}{self._paint(name, 'bold')}"
        ]
        if record.type is not None:
            words.append(self._paint(visible(record.type, chars_max=TYPE_CHARS_MAX), "dim"))
        if record.abandoned:
            words.append(self._paint("abandoned", "cyan"))
        tokens = _tokens(record)
        if tokens.total is not None:
            words.append(self._paint(str(tokens), "cyan"))
        place = _short(record.id)
        if not indent and record.parent_id:
            place += f" in {_short(record.parent_id)}"
        elif not indent:
            place += f"  trace {visible(record.trace_id, chars_max=TRACE_ID_CHARS_MAX)}"
        words.append(self._paint(place, "dim"))
        return "  ".join(words)

    def _payload(self, frozen: bytes) -> str:
        # No character is longer than four bytes, and one more shows that there are more.
        head = frozen[: 4 * (self._payload_chars + 1)].decode(errors="ignore")
        return visible(head, chars_max=self._payload_chars)

    def _paint(self, text: str, style: str) -> str:
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self._is_colored and text else text


def _clock(ns: int) -> str:
    seconds, ns = divmod(ns, 1_000_000_000)
    return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{ns // 1_000_000:03d}"


def _short(id: str) -> str:
    return "#" + visible(id[-ID_CHARS:])


class _Reported(msgspec.Struct):
    usage: Any = None


_decode_reported = msgspec.json.Decoder(_Reported).decode


def _tokens(record: SpanRecord) -> Tokens:
    reported = {}
    for field, payload in (("metadata", record.data), ("output", record.output)):
        # A look for the name's bytes rules out most payloads without decoding them.
        if payload is not None and b'"usage"' in payload:
            try:
                reported[field] = {"usage": _decode_reported(payload).usage}
            except (msgspec.MsgspecError, RecursionError):
                # No object, or nested too deep to be read here.
                continue
    return tokens_of(reported) if reported else NO_TOKENS
