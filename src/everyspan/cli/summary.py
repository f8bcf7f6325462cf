"""What `traces list` and `audit` tell of a trace, gathered without keeping its spans."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar
from uuid import UUID

from everyspan.cli.reader import SpanReader
from everyspan.model.completeness import Tally, Verdict, timestamp_s
from everyspan.model.usage import NO_TOKENS, UsageTotal
from everyspan.model.w3c import trace_hex

TRACES_IN_SEARCH_MAX = 50
"""Each by up to three names."""

_T = TypeVar("_T")


class TraceSummary:
    """One trace, span by span; holds ids and ordinals, never payloads."""

    def __init__(self, trace_id: str) -> None:
        self.trace_id = trace_id
        self.root: dict[str, Any] | None = None
        self.errors = 0
        self.began_s: float | None = None
        self.newest_s: float | None = None
        self.total = UsageTotal()
        self._tally = Tally()

    def add(self, span: dict[str, Any]) -> None:
        """Take one span of the trace, each once."""
        self._tally.add(span)
        self.total.add(span)
        began_s = timestamp_s(span.get("start_timestamp"))
        ended_s = timestamp_s(span.get("end_timestamp"))
        if began_s is not None:
            self.began_s = min(began_s, self.began_s or began_s)
            self.newest_s = max(began_s, ended_s or began_s, self.newest_s or began_s)
        self.errors += span.get("status") == "ERROR"
        if not span.get("parent_id") and self.root is None:
            # Spans come by start, so this is the first root. Its payloads are not kept.
            keep = ("name", "status", "start_timestamp", "end_timestamp")
            self.root = {key: span.get(key) for key in keep}

    def add_loss(self, loss: dict[str, Any]) -> None:
        """Take what a producer reported that it lost of the trace, as `/api/losses` has it."""
        self._tally.take_report(
            loss["part"], loss["lost"], total=loss["total"], told_s=int(loss["told_ns"]) / 1e9
        )

    def verdict(self) -> Verdict:
        """Return what is known of the trace now."""
        return self._tally.verdict(now_s=time.time())


def summaries(reader: SpanReader, trace_ids: Iterable[str]) -> Iterator[TraceSummary]:
    """Yield a summary of every trace named, in order; one with nothing stored included."""
    losses: dict[str, list[dict[str, Any]]] | None = None
    for some in batches(trace_ids, TRACES_IN_SEARCH_MAX):
        found = {trace_hex(trace_id): TraceSummary(trace_id) for trace_id in some}
        for span in reader.search({"trace_ids": forms(some)}):
            if (summary := found.get(trace_hex(str(span.get("trace_id"))))) is not None:
                summary.add(span)
        if losses is None:
            losses = reported_losses(reader)
        for key, summary in found.items():
            for loss in losses.get(key, ()):
                summary.add_loss(loss)
        yield from found.values()


def forms(trace_ids: Iterable[str]) -> list[str]:
    """Return every text by which spans of these traces may name them (`otlp:F2`).

    A search goes by the text; one trace may hold spans that came under a UUID, and others that came
    over OTLP under the same 16 bytes in hex.
    """
    names: dict[str, None] = {}
    for trace_id in trace_ids:
        key = trace_hex(trace_id)
        names |= dict.fromkeys((trace_id, key, str(UUID(key))))
    return list(names)


def distinct(trace_ids: Iterable[str]) -> list[str]:
    """Return ids that name different traces, in their order."""
    return list({trace_hex(trace_id): trace_id for trace_id in reversed([*trace_ids])}.values())[
        ::-1
    ]


def reported_losses(
    reader: SpanReader, trace_id: str | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Return what producers reported that they lost, by `trace_hex`; a server may know of none.

    Args:
        trace_id: Of this trace; None for all.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    params: dict[str, str | list[str]] = {"limit": "500"}
    params |= {} if trace_id is None else {"trace_id": trace_id}
    while reader.is_everyspan:
        page = reader.get_json("/api/losses", params)
        for loss in page["items"]:
            found.setdefault(loss["trace"], []).append(loss)
        if not page["next"]:
            break
        params["after"] = page["next"]
    return found


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as JSON values."""
    return {
        "state": str(verdict.state),
        "text": str(verdict),
        "stored": verdict.stored,
        "counted": verdict.counted,
        "expected": verdict.expected,
        "missing": verdict.missing,
        "dropped": dict(verdict.dropped),
        "late": verdict.late,
        "unaccounted": verdict.unaccounted,
        "open": verdict.open,
        "abandoned": verdict.abandoned,
        "uncounted": verdict.uncounted,
        "parents_missing": verdict.parents_missing,
        "reports_due": verdict.reports_due,
        "reports_missing": verdict.reports_missing,
        "silent_s": round(verdict.silent_s, 3),
        "stalled": verdict.stalled,
        "missing_parents": [*verdict.missing_parents],
        "open_parts": [*verdict.open_parts],
        "holes": [
            {"part": hole.part, "first": hole.first, "last": hole.last} for hole in verdict.holes
        ],
    }


def tokens_json(total: UsageTotal) -> dict[str, Any]:
    """Return a token total and the rule it was made by."""
    tokens = total.tokens.value or NO_TOKENS
    return {"input": tokens.input, "output": tokens.output, "rule": total.tokens.rule}


def batches(values: Iterable[_T], size: int) -> Iterator[Sequence[_T]]:
    """Yield values in their order, so many together."""
    remaining = iter(values)
    while batch := list(islice(remaining, size)):
        yield batch
