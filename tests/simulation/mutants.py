"""Defects to be found: each is put into the real code at run time and breaks some promise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from unittest import mock

from everyspan.delivery import backoff, verdict
from everyspan.delivery.backlog import Backlog, Batch
from everyspan.delivery.circuit import Circuit
from everyspan.delivery.lane import Lane
from everyspan.delivery.limiter import Limiter
from everyspan.model.record import SpanRecord
from everyspan.queue.bodies import Bodies
from everyspan.queue.intake import Intake
from everyspan.queue.waiters import Waiters

_park, _lose, _settle, _start = Backlog.park, Lane._lose, Lane._settle, Lane.start
_settled, _halves, _wait_s = Intake._settled, verdict._halves, backoff.wait_s
_reasons, _take_expired = Lane.reasons, Backlog.take_expired
_add, _shed, _shed_bodies = Waiters.add, Intake._shed, Bodies.shed


def _forget_one(self: Backlog, batch: Batch) -> list[SpanRecord]:
    if len(batch.ends) > 1:
        batch.ends.pop()
    return _park(self, batch)


def _overtake(self: Backlog, record: SpanRecord) -> list[SpanRecord]:
    self._ends.append(record)
    self._bytes += record.size_bytes
    return []


def _impatient(failures: int, *, retry_after_s: float | None, draw: Callable[[], float]) -> float:
    return _wait_s(failures, retry_after_s=None, draw=draw)


def _count_late(self: Lane, batch: Batch, failed: Any, error: Any, sent_s: float) -> None:
    if id(batch) not in self._in_flight and error is None:
        self.account.delivered += len(batch.ends)
    _settle(self, batch, failed, error, sent_s)


def _expire_silently(self: Lane, record: SpanRecord, reason: str, count: Any) -> None:
    if reason.startswith("expired") and record.is_end:
        self._count_loss(record, reason, count)
        return
    _lose(self, record, reason, count)


def _keep_bytes(self: Intake, record: SpanRecord) -> None:
    held = self.bytes_held
    _settled(self, record)
    self.bytes_held = held


def _shed_for_nothing(self: Intake, *rest: Any) -> None:
    held = self.bytes_held
    _shed(self, *rest)
    self.bytes_held = held


def _shed_what_flies(self: Bodies, wanted: int, lane: Any, flying: Any) -> Any:
    return _shed_bodies(self, wanted, lane, ())


def _name_too_few(self: Lane, seq_max: int) -> dict[str, int]:
    return {reason: max(1, spans - 1) for reason, spans in _reasons(self, seq_max).items()}


def _blame_another(self: Backlog, now_s: float) -> list[tuple[SpanRecord, str]]:
    return [(record, why and "http 599") for record, why in _take_expired(self, now_s)]


def _stay_open(self: Circuit) -> bool:
    self.stores += 1
    return False


def _grow(self: Limiter, **_: Any) -> None:
    self.limit += 1


def _drop_the_middle(batch: Batch, *rest: Any) -> list[Batch]:
    halves = _halves(batch, *rest)
    if len(halves[1].ends) > 1:
        halves[1].ends.pop(0)
    return halves


def _answer_early(self: Waiters, waiter: Any) -> None:
    if waiter.remaining:
        waiter.remaining -= 1
    _add(self, waiter)


def _take_wake_ups(self: Lane, epoch: int) -> None:
    if epoch != self._epoch:
        self._wake_up = asyncio.Event()
    _start(self, epoch)


MUTANTS: dict[str, Callable[[], Any]] = {
    "a retry forgets a span": lambda: mock.patch.object(Backlog, "park", _forget_one),
    "an END overtakes its START": lambda: mock.patch.object(Backlog, "add_end", _overtake),
    "Retry-After is ignored": lambda: mock.patch("everyspan.delivery.lane.wait_s", _impatient),
    "a moved lane forgets what is in flight": lambda: mock.patch.object(
        Lane, "_take_back", return_value=None
    ),
    "a late answer counts again": lambda: mock.patch.object(Lane, "_settle", _count_late),
    "what expired is not settled": lambda: mock.patch.object(Lane, "_lose", _expire_silently),
    "bytes are not given back": lambda: mock.patch.object(Intake, "_settled", _keep_bytes),
    "shed bytes are not given back": lambda: mock.patch.object(Intake, "_shed", _shed_for_nothing),
    "what is in a request is shed": lambda: mock.patch.object(Bodies, "shed", _shed_what_flies),
    "a flush names too few": lambda: mock.patch.object(Lane, "reasons", _name_too_few),
    "an expiry has a false cause": lambda: mock.patch.object(
        Backlog, "take_expired", _blame_another
    ),
    "the circuit never closes": lambda: mock.patch.object(Circuit, "stored", _stay_open),
    "the limit passes its ceiling": lambda: mock.patch.object(Limiter, "succeeded", _grow),
    "halves lack the middle": lambda: mock.patch.object(verdict, "_halves", _drop_the_middle),
    "a flush answers early": lambda: mock.patch.object(Waiters, "add", _answer_early),
    "a late runner takes the wake-ups": lambda: mock.patch.object(Lane, "start", _take_wake_ups),
}
"""By what is wrong; each returns the context in which it is."""
