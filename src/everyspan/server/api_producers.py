"""Producers over HTTP: they report here, and people read what they reported.

Q1  A report is taken once, whatever is repeated or overtaken: an older one never wins, and the
    losses of every one count.
Q2  A report's size is bounded; what is wrong with one is named, and costs only itself.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from everyspan.errors import RequestError
from everyspan.model.report import (
    PRODUCERS_PATH,
    TEXT_MAX,
    DestinationReport,
    PartLosses,
    ProducerReport,
)
from everyspan.model.w3c import trace_hex
from everyspan.server.account import account_of
from everyspan.server.api_operation import Operation, Param, Values
from everyspan.server.body import Bodies
from everyspan.server.json_body import decode_json
from everyspan.server.json_reply import json_reply
from everyspan.server.paging import AFTER_PARAM, LIMIT_PARAM, Int64, parse_cursor, to_cursor
from everyspan.server.producers import Loss, LossQuery, Producer
from everyspan.server.stores.base import Store
from everyspan.server.timestamps import format_timestamp

REPORT_BYTES_MAX = 4 << 20
"""Some times what 500 losses with long ids take; chosen, not measured."""

LOSSES_SHOWN = 100


class _SeenPlace(msgspec.Struct, frozen=True, array_like=True):
    seen_ns: Int64
    id: str


class _ToldPlace(msgspec.Struct, frozen=True, array_like=True):
    told_ns: Int64
    trace: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    part: str


_decode = msgspec.json.Decoder(ProducerReport).decode


class BooksItem(DestinationReport, kw_only=True, frozen=True):
    """The books of one destination, and what they cannot account for."""

    residual: int


class ProducerItem(msgspec.Struct, kw_only=True, frozen=True):
    """One producer as its newest report has it; `seen` is when that came."""

    id: str
    service: str
    host: str
    pid: int
    python: str
    everyspan: str
    started: str
    started_ns: str
    seen: str
    seen_ns: str
    ended: bool
    destination: str
    open_spans: int
    residual: int
    losses_untold: int
    destinations: list[BooksItem]


class LossItem(msgspec.Struct, kw_only=True, frozen=True):
    """What one part of a trace lost; `total` spans ended in it, None where that is not known."""

    trace_id: str
    trace: str
    """The same as OpenTelemetry has it, for addresses."""
    part: str
    producer: str
    told: str
    told_ns: str
    lost: dict[str, int]
    total: int | None


class ProducerPage(msgspec.Struct, kw_only=True, frozen=True):
    """Producers, those seen last first."""

    items: list[ProducerItem]
    next: str | None


class ProducerDetail(msgspec.Struct, kw_only=True, frozen=True):
    """One producer and what it lost last."""

    producer: ProducerItem
    losses: list[LossItem]


class LossPage(msgspec.Struct, kw_only=True, frozen=True):
    """Losses, those told last first."""

    items: list[LossItem]
    next: str | None


_PRODUCER_ID = Param(
    name="producer_id",
    where="path",
    length_max=64,
    pattern="[A-Za-z0-9._-]+",
    help="The producer: one queue of one process.",
)


def producer_operations(store: Store, bodies: Bodies) -> list[Operation]:
    """Return the operations under `/api/producers` and `/api/losses`."""
    producers = _Producers(store, bodies)
    one = PRODUCERS_PATH + "/{producer_id}"
    return [
        Operation(
            path=PRODUCERS_PATH,
            handler=producers.list_,
            summary="Producers, those seen last first, one page",
            params=(LIMIT_PARAM, AFTER_PARAM),
            answer=ProducerPage,
        ),
        Operation(
            path=one,
            method="POST",
            handler=producers.take_report,
            summary="Take a process's report of its books",
            params=(_PRODUCER_ID,),
            body=ProducerReport,
            answer=None,
            statuses=(413,),
        ),
        Operation(
            path=one,
            handler=producers.show,
            summary="One producer, and the losses it told last",
            params=(_PRODUCER_ID,),
            answer=ProducerDetail,
        ),
        Operation(
            path="/api/losses",
            handler=producers.losses,
            summary="Losses that producers reported, those told last first, one page",
            params=(
                Param(name="reason", length_max=TEXT_MAX, help="Those for this reason."),
                Param(name="producer", help="Those of this producer."),
                Param(name="trace_id", length_max=TEXT_MAX, help="Those of this trace."),
                LIMIT_PARAM,
                AFTER_PARAM,
            ),
            answer=LossPage,
        ),
    ]


class _Producers:
    def __init__(self, store: Store, bodies: Bodies) -> None:
        self._store = store
        self._bodies = bodies

    async def take_report(self, request: Request, values: Values) -> Response:
        async with self._bodies.read(request) as body:
            if len(body) > REPORT_BYTES_MAX:
                raise RequestError(
                    413, "BODY_TOO_LARGE", f"a report is over {REPORT_BYTES_MAX} bytes"
                )
            report = decode_json(_decode, body)
            await self._store.put_report(account_of(request), values["producer_id"], report)
        return Response(status_code=204)

    async def list_(self, request: Request, values: Values) -> Response:
        after = parse_cursor(values["after"], _SeenPlace)
        limit = values["limit"]
        found = await self._store.producers(
            account_of(request),
            limit=limit + 1,
            after=None if after is None else (after.seen_ns, after.id),
        )
        page, more = found[:limit], found[limit:]
        end = page[-1] if more else None
        return json_reply(
            ProducerPage(
                items=[_item(one) for one in page],
                next=None if end is None else to_cursor((end.seen_ns, end.id)),
            )
        )

    async def show(self, request: Request, values: Values) -> Response:
        account, producer_id = account_of(request), values["producer_id"]
        found = await self._store.producer(account, producer_id)
        if found is None:
            raise RequestError(404, "PRODUCER_NOT_FOUND", "no producer has this id")
        query = LossQuery(account=account, producer=producer_id, limit=LOSSES_SHOWN)
        losses = await self._store.losses(query)
        return json_reply(
            ProducerDetail(producer=_item(found), losses=[_loss_item(loss) for loss in losses])
        )

    async def losses(self, request: Request, values: Values) -> Response:
        limit = values["limit"]
        after = parse_cursor(values["after"], _ToldPlace)
        query = LossQuery(
            account=account_of(request),
            trace_id=values["trace_id"],
            producer=values["producer"],
            reason=values["reason"],
            after=None if after is None else (after.told_ns, after.trace, after.part),
            limit=limit + 1,
        )
        found = await self._store.losses(query)
        page, more = found[:limit], found[limit:]
        items = [_loss_item(loss) for loss in page]
        end = items[-1] if more else None
        return json_reply(
            LossPage(
                items=items,
                next=None if end is None else to_cursor((int(end.told_ns), end.trace, end.part)),
            )
        )


def _item(producer: Producer) -> ProducerItem:
    report = producer.report
    return ProducerItem(
        id=producer.id,
        service=report.service,
        host=report.host,
        pid=report.pid,
        python=report.python,
        everyspan=report.everyspan,
        started=format_timestamp(report.started_ns),
        started_ns=str(report.started_ns),
        seen=format_timestamp(producer.seen_ns),
        seen_ns=str(producer.seen_ns),
        ended=report.ended,
        destination=report.destination,
        open_spans=report.open_spans,
        residual=report.residual,
        losses_untold=report.losses_untold,
        destinations=[
            BooksItem(**msgspec.structs.asdict(books), residual=books.residual)
            for books in report.destinations
        ],
    )


def _loss_item(loss: Loss) -> LossItem:
    losses: PartLosses = loss.losses
    return LossItem(
        trace_id=losses.trace_id,
        trace=trace_hex(losses.trace_id),
        part=losses.part,
        producer=loss.producer,
        told=format_timestamp(loss.told_ns),
        told_ns=str(loss.told_ns),
        lost=losses.lost,
        total=losses.total,
    )
