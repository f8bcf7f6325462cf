"""What every store must do with producers' reports; part of the contract in `contract.py`."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import msgspec
import pytest

from everyspan.model.report import REASONS_MAX, DestinationReport, PartLosses, ProducerReport
from everyspan.model.w3c import trace_hex
from everyspan.server.producers import LossQuery
from everyspan.server.stores.base import Store


def make_report(**fields: Any) -> ProducerReport:
    """A report of a process that lost two of ten spans."""
    books = DestinationReport(
        name="sgp",
        accepted=10,
        adopted=0,
        delivered=7,
        dropped={"queue full": 1},
        rejected={"http 422": 1},
        queued=1,
        in_flight=0,
        spooled=0,
        oldest_age_s=0.5,
    )
    defaults: dict[str, Any] = {
        "seq": 1,
        "time_ns": 2,
        "started_ns": 1,
        "pid": 42,
        "host": "h",
        "service": "agent",
        "python": "3.13.1",
        "everyspan": "0.1.0",
        "destination": "sgp",
        "open_spans": 3,
        "destinations": [books],
    }
    return ProducerReport(**(defaults | fields))


def lost(
    trace_id: str = "t", part: str = "p-1", total: int | None = None, **reasons: int
) -> PartLosses:
    return PartLosses(trace_id=trace_id, part=part, lost=reasons, total=total)


async def told(store: Store, **fields: Any) -> list[PartLosses]:
    query = LossQuery(**({"account": "a"} | fields))
    return [loss.losses for loss in await store.losses(query)]


class ProducersContract:
    """The promises of `stores.base` about producers."""

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    async def test_reasons_of_a_part_stay_bounded_however_many_reports_bring_others(
        self, store: Store
    ) -> None:
        """P4."""
        for seq in range(1, 4):
            reasons = {f"{seq} {n}": n + 1 for n in range(REASONS_MAX - 40)}
            report = make_report(
                seq=seq, losses=[PartLosses(trace_id="t", part="p-1", lost=reasons)]
            )
            assert await store.put_report("a", "p", report) is True
        (losses,) = await told(store)
        assert len(losses.lost) == REASONS_MAX
        assert losses.lost["1 7"] == 8

    async def test_a_report_comes_back_whole(self, store: Store) -> None:
        """P11: without its losses, which are asked for by trace."""
        report = make_report(losses=[lost(expired=2)], ended=True, losses_untold=4)
        assert await store.put_report("a", "p", report) is True
        found = await store.producer("a", "p")
        assert found is not None
        assert found.report == msgspec.structs.replace(report, losses=[])
        assert (found.id, found.seen_ns > 0) == ("p", True)
        assert await store.producers("a", limit=10) == [found]
        assert await told(store, trace_id="t") == [lost(expired=2)]

    async def test_an_older_report_never_wins(self, store: Store) -> None:
        """P6: but its losses are told nowhere else."""
        newer, older = make_report(seq=2, open_spans=0), make_report(losses=[lost(expired=1)])
        assert await store.put_report("a", "p", newer) is True
        assert await store.put_report("a", "p", older) is False
        assert await store.put_report("a", "p", newer) is False
        found = await store.producer("a", "p")
        assert found is not None
        assert found.report == newer
        assert await told(store) == [lost(expired=1)]

    async def test_losses_of_a_part_meet_in_any_order(self, store: Store) -> None:
        """P6, P11: the greater figure is the later one."""
        versions = [
            lost(expired=1),
            lost(expired=3, total=9),
            lost(expired=2, rejected=1, total=8),
        ]
        for n, order in enumerate(permutations(versions)):
            for seq, losses in enumerate(order, 1):
                await store.put_report(f"order {n}", "p", make_report(seq=seq, losses=[losses]))
            found = await told(store, account=f"order {n}", trace_id="t")
            assert found == [lost(expired=3, rejected=1, total=9)]

    async def test_losses_are_found_by_trace_producer_and_reason(self, store: Store) -> None:
        """P11: "reasons link to traces"; a trace by any form of its id."""
        mine, other = lost("t1", "p-1", expired=1), lost("t2", "p-2", shutdown=1)
        theirs = lost("t1", "q-1", **{'it\'s "odd"': 1})
        await store.put_report("a", "p", make_report(losses=[mine, other]))
        await store.put_report("a", "q", make_report(losses=[theirs]))
        assert await told(store, trace_id="t2") == [other]
        assert await told(store, trace_id=trace_hex("t2")) == [other]
        assert await told(store, producer="q") == [theirs]
        assert await told(store, reason="expired") == [mine]
        assert await told(store, reason='it\'s "odd"') == [theirs]
        assert await told(store, reason="exp") == []
        assert await told(store, account="b") == []

    async def test_pages_of_producers_and_losses_miss_nothing(self, store: Store) -> None:
        """S4: keyset, the last seen first."""
        for n in range(7):
            losses = [lost(f"t{n}", f"p{n}-{part}", expired=1) for part in range(3)]
            await store.put_report("a", f"p{n}", make_report(losses=losses))
        seen, place = [], None
        while page := await store.producers("a", limit=2, after=place):
            seen += [one.id for one in page]
            place = (page[-1].seen_ns, page[-1].id)
        assert seen == [f"p{n}" for n in reversed(range(7))]
        parts: list[str] = []
        end = None
        while page_of := await store.losses(LossQuery(account="a", limit=2, after=end)):
            parts += [loss.losses.part for loss in page_of]
            last = page_of[-1]
            end = (last.told_ns, trace_hex(last.losses.trace_id), last.losses.part)
        assert len(parts) == len(set(parts)) == 21

    async def test_producers_of_accounts_are_apart(self, store: Store) -> None:
        await store.put_report("a", "p", make_report(pid=1))
        await store.put_report("b", "p", make_report(pid=2))
        found = await store.producer("a", "p")
        assert found is not None
        assert found.report.pid == 1
        assert await store.producer("c", "p") is None
        assert await store.producers("c", limit=10) == []
