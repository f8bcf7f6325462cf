"""Spans as the SGP spans API writes and reads them, for tests of commands."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

Span = dict[str, Any]

T0_S = 1_760_000_000.0


def stamp(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s, UTC).isoformat()


def make_span(
    id: str,
    parent_id: str | None = None,
    *,
    trace_id: str = "t1",
    began_s: float = T0_S,
    took_s: float | None = 1.0,
    **fields: Any,
) -> Span:
    """A span; `took_s` None leaves it open."""
    span: Span = {"id": id, "trace_id": trace_id, "name": id, "type": "CUSTOM"}
    span |= {"start_timestamp": stamp(began_s), "input": {}, "output": {}, "metadata": {}}
    if parent_id is not None:
        span["parent_id"] = parent_id
    if took_s is not None:
        span["end_timestamp"] = stamp(began_s + took_s)
    return span | fields


def make_trace(
    trace_id: str = "t1",
    *,
    children: int = 4,
    began_s: float = T0_S,
    dropped: dict[str, int] | None = None,
    gone: tuple[int, ...] = (),
) -> list[Span]:
    """A closed trace of one producer: a root named `turn` and its children, with their records.

    Args:
        gone: Ordinals that were ended and are not in the list; the root's is `children` + 1.
    """
    root, total = f"{trace_id}-root", children + 1
    spans = []
    for n in range(1, total + 1):
        record: dict[str, Any] = {"p": f"part-{trace_id}", "n": n, "rev": 1}
        if n == total:
            record |= {"total": total} | ({"dropped": dropped} if dropped else {})
        usage = {"usage": {"input_tokens": 10, "output_tokens": 2}} if n < total else {}
        spans.append(
            make_span(
                root if n == total else f"{trace_id}-{n}",
                None if n == total else root,
                trace_id=trace_id,
                name="turn" if n == total else f"step {n}",
                began_s=began_s + (0 if n == total else 0.01 * n),
                took_s=1.0 if n == total else 0.005,
                output=usage,
                metadata={"__everyspan__": record},
            )
        )
    return [span for n, span in enumerate(spans, 1) if n not in gone]
