"""`/healthz`, `/readyz`, `/metrics`: what whoever runs the server sees of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from everyspan.server.app import create_app
from everyspan.server.envelope import Envelope
from everyspan.server.metrics import Metrics
from everyspan.server.stores.sqlite import SqliteStore
from tests.server.rows import make_item
from tests.server.sweep import every_request

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)')


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Envelope]:
    store = SqliteStore(tmp_path / "spans.db")
    yield create_app(store)
    await store.close()


@pytest.fixture
async def client(app: Envelope) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def samples_of(client: httpx2.AsyncClient) -> dict[str, float]:
    """Return the page's samples, having held every line against the text format."""
    reply = await client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    return parse(reply.text)


def parse(page: str) -> dict[str, float]:
    assert page.endswith("\n")
    samples: dict[str, float] = {}
    kinds: dict[str, str] = {}
    for line in page.splitlines():
        if line.startswith("# HELP "):
            assert len(line.split(" ", 3)[3]) > 3
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in kinds
            kinds[name] = kind
        else:
            found = SAMPLE.fullmatch(line)
            assert found, line
            name = re.sub(r"_(bucket|sum|count)$", "", found[1])
            assert kinds[name if kinds.get(name) == "histogram" else found[1]]
            assert line.rpartition(" ")[0] not in samples
            samples[line.rpartition(" ")[0]] = float(found[3].replace("+Inf", "inf"))
    return samples


async def test_requests_are_counted_by_route_method_and_status(client: httpx2.AsyncClient) -> None:
    item = make_item(id="a/b c")
    await client.put("/public/v5/spans/batch", json={"items": [item, make_item()]})
    await client.get("/v5/spans/a/b c")
    await client.get("/v5/spans/another")
    await client.get("/spans/x?secret=canary")
    await client.put("/v5/spans/batch", content=b"{", headers={"x-stainless-retry-count": "2"})
    samples = await samples_of(client)
    requests = {
        re.sub(r'.*route="(.*)",method="(.*)",status="(.*)".*', r"\2 \1 \3", name): count
        for name, count in samples.items()
        if name.startswith("everyspan_http_requests_total")
    }
    assert requests == {
        "PUT /public/v5/spans/batch 2xx": 1,
        "GET /v5/spans/{span_id:path} 2xx": 1,
        "GET /v5/spans/{span_id:path} 4xx": 1,
        "GET /spans/{span_id:path} 4xx": 1,
        "PUT /v5/spans/batch 4xx": 1,
    }
    assert samples['everyspan_http_refused_total{reason="INVALID_JSON"}'] == 1
    assert samples['everyspan_http_retried_total{attempt="2"}'] == 1
    assert samples['everyspan_spans_total{protocol="sgp",outcome="stored"}'] == 2
    assert samples["everyspan_store_write_seconds_count"] == 1
    assert samples["everyspan_store_spans"] == 2
    assert samples["everyspan_store_bytes"] > 0
    assert samples["everyspan_store_free_bytes"] > 0
    assert samples["everyspan_store_up"] == 1
    assert samples["process_resident_memory_bytes"] > 1e6


async def test_what_follows_commits_tells_how_far_behind_it_is(
    client: httpx2.AsyncClient,
) -> None:
    await client.put("/v5/spans/batch", json={"items": [make_item() for _ in range(50)]})

    async def behind() -> float:
        samples = await samples_of(client)
        names = ("everyspan_store_unsummarized_spans", "everyspan_store_unindexed_spans")
        return sum(samples[name] for name in names)

    # Both come to it by themselves.
    for _ in range(2_000):
        if not await behind():
            break
        await asyncio.sleep(0.01)
    else:
        raise AssertionError(await behind())


async def test_nothing_that_a_request_says_becomes_a_label(
    app: Envelope, client: httpx2.AsyncClient
) -> None:
    """M1: whatever is asked, the page stays small."""
    for n in range(200):
        await client.request(
            f"CANARY{n}",
            f"/canary/{n}",
            headers={"x-stainless-retry-count": f"canary{n}", "x-request-id": f"canary{n}"},
        )
    for method, path in every_request(app):
        await client.request(method, path, headers={"origin": "http://canary"})
    page = (await client.get("/metrics")).text
    assert "canary" not in page.lower()
    assert 'route="none",method="other"' in page
    assert len(page) < 100_000


def test_a_histogram_is_cumulative_and_ends_at_its_count() -> None:
    metrics = Metrics()
    for seconds in (0.0, 0.001, 0.0011, 3.0, 99.0):
        metrics.write_seconds.observe(seconds)
    samples = parse(metrics.text({}))
    name = "everyspan_store_write_seconds"
    assert samples[f'{name}_bucket{{le="0.001"}}'] == 2
    assert samples[f'{name}_bucket{{le="0.0025"}}'] == 3
    assert samples[f'{name}_bucket{{le="10"}}'] == 4
    assert samples[f'{name}_bucket{{le="+Inf"}}'] == samples[f"{name}_count"] == 5
    assert samples[f"{name}_sum"] == pytest.approx(102.0021)


def test_label_values_are_escaped() -> None:
    metrics = Metrics()
    metrics.counter("a_total", "About it.", "x").add('"\\\n')
    assert r'a_total{x="\"\\\n"} 1' in metrics.text({})


async def test_it_is_ready_until_it_is_told_to_stop(
    app: Envelope, client: httpx2.AsyncClient
) -> None:
    reply = await client.get("/readyz")
    assert (reply.status_code, reply.json()["status"]) == (200, "ready")
    app.stopping.set()
    reply = await client.get("/readyz")
    assert (reply.status_code, reply.json()["status"]) == (503, "stopping")
    # It lives, all the same.
    assert (await client.get("/healthz")).status_code == 200


async def test_it_is_not_ready_on_a_full_disk(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everyspan.server.health_routes.FREE_BYTES_MIN", 2**62)
    reply = await client.get("/readyz")
    assert (reply.status_code, reply.json()["status"]) == (503, "the disk is full")


async def test_it_is_not_ready_over_a_store_that_fails(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "spans.db")
    transport = httpx2.ASGITransport(create_app(store))
    await store.close()
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        reply = await client.get("/readyz")
        assert (reply.status_code, reply.json()["status"]) == (503, "the store fails")
