"""What becomes of a batch that was not stored: a plain function of the batch and the error.

V1  Every record of the batch is in exactly one place of the verdict.
V2  One bad span costs only itself: a named offender is cut out, else the batch is bisected (P5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from everyspan.delivery.backlog import Batch
from everyspan.delivery.backoff import wait_s
from everyspan.delivery.circuit import Blame
from everyspan.errors import (
    BatchRefusedError,
    ExportError,
    PermanentExportError,
    RetryableExportError,
)
from everyspan.model.record import SpanRecord


@dataclass(slots=True)
class Verdict:
    """Batches to send again, records the backend refused, records we give up, each with why."""

    again: list[Batch] = field(default_factory=list)
    rejected: list[tuple[SpanRecord, str]] = field(default_factory=list)
    dropped: list[tuple[SpanRecord, str]] = field(default_factory=list)


def judge(
    batch: Batch,
    error: ExportError,
    *,
    now_s: float,
    attempts_max: int | None,
    draw: Callable[[], float],
    refused_by_backend: bool,
    blame: Blame = Blame.SPANS,
    lane_waits: bool = False,
) -> Verdict:
    """Return what to do with `batch`, whose last attempt (already counted) ended in `error`.

    Args:
        attempts_max: Requests a batch may cost, None for any number.
        draw: Returns a number in [0, 1).
        refused_by_backend: False where the error is a processor's own. Where it is, or no answer
            came, nobody refused: what will not be sent again counts as dropped.
        blame: Of a refusal, who is at fault (see `circuit`).
        lane_waits: Nothing at all leaves for a while, which is all the waiting there is to do.
    """
    verdict = Verdict()
    if blame is not Blame.SPANS or isinstance(error, RetryableExportError):
        if attempts_max is not None and batch.attempts >= attempts_max:
            verdict.dropped = [(record, error.reason) for record in batch.records]
        else:
            batch.reason = error.reason
            asked_s = error.retry_after_s if isinstance(error, RetryableExportError) else None
            wait = 0.0 if lane_waits else wait_s(batch.attempts, retry_after_s=asked_s, draw=draw)
            batch.due_s = now_s + wait
            verdict.again = [batch]
    elif isinstance(error, BatchRefusedError) and error.offenders and len(batch) > 1:
        records = batch.records
        named = set(error.offenders) & set(range(len(records)))
        if not named:
            verdict.again = _halves(batch, error.reason)
        for position in named:
            verdict.rejected.append((records[position], error.reason))
        rest = [record for position, record in enumerate(records) if position not in named]
        if named and rest:
            verdict.again = [_part(batch, rest, error.reason)]
    elif not isinstance(error, PermanentExportError) and len(batch) > 1:
        verdict.again = _halves(batch, error.reason)
    else:
        lost = [(record, error.reason) for record in batch.records]
        if refused_by_backend and error.status is not None:
            verdict.rejected = lost
        else:
            verdict.dropped = lost
    return verdict


def _halves(batch: Batch, reason: str) -> list[Batch]:
    records = batch.records
    middle = len(records) // 2
    return [_part(batch, records[:middle], reason), _part(batch, records[middle:], reason)]


def _part(whole: Batch, records: list[SpanRecord], reason: str) -> Batch:
    part = Batch(
        [record for record in records if not record.is_end],
        [record for record in records if record.is_end],
        reason=reason,
    )
    part.suspicion = whole.suspicion.lessened()
    return part
