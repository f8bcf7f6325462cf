"""The SGP client that others wrote, unmodified, against this server (`sgp` §10.1)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from scale_gp_beta import (
    APIStatusError,
    AsyncSGPClient,
    BadRequestError,
    ConflictError,
    NotFoundError,
    SGPClient,
    UnprocessableEntityError,
)

from everyspan.model.ids import new_id
from tests.serving import ServerProcess, serving

START = datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)

# `retrieve` is marked deprecated in the client; servers must serve it all the same.
pytestmark = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")


@pytest.fixture
def client(base_url: str, account: str) -> Iterator[SGPClient]:
    with SGPClient(api_key="any", account_id=account, base_url=f"{base_url}/public") as client:
        yield client


def item(n: int, **fields: Any) -> Any:
    return {
        "id": f"s{n:02}",
        "trace_id": "t",
        "name": f"span {n}",
        "start_timestamp": START + timedelta(seconds=n),
        **fields,
    }


def test_creates_and_retrieves_ids_of_any_shape(client: SGPClient, account: str) -> None:
    for id_ in ("plain", "a/b c", "%2F", "ü☃", "/", "?x=1#y", "batch", "search", "a//b"):
        created = client.spans.create(
            name="n",
            start_timestamp=START,
            trace_id="t",
            id=id_,
            input={"q": [1, "é"]},
            metadata={"usage": {"input_tokens": 3, "output_tokens": 4}},
        )
        assert created == client.spans.retrieve(id_)
        assert (created.id, created.account_id, created.input) == (id_, account, {"q": [1, "é"]})
        assert (created.input_tokens, created.output_tokens) == (3, 4)
        assert (created.status, created.type) == ("SUCCESS", "STANDALONE")
        assert created.start_timestamp == START
        assert created.end_timestamp is None


def test_makes_an_id_where_none_is_given(client: SGPClient) -> None:
    created = client.spans.create(name="n", start_timestamp=START, trace_id="t")
    assert len(created.id) == 36
    listed = client.spans.batch(items=[item(0), item(1, id=new_id())]).items
    assert listed
    assert [span.name for span in listed] == ["span 0", "span 1"]


def test_upserts_start_and_end_in_either_order(client: SGPClient) -> None:
    """`sgp` §10.2: END then START leaves a completed row."""
    start = item(0, input={"i": 1}, output={}, status="SUCCESS")
    end = item(0, end_timestamp=START + timedelta(seconds=9), output={"o": 2}, status="ERROR")
    client.spans.upsert_batch(items=[start])
    client.spans.upsert_batch(items=[end])
    stored = client.spans.retrieve("s00")
    client.spans.upsert_batch(items=[start])
    assert client.spans.retrieve("s00") == stored
    assert (stored.status, stored.input, stored.output) == ("ERROR", {"i": 1}, {"o": 2})
    assert stored.end_timestamp == START + timedelta(seconds=9)


def test_the_same_span_twice_in_one_put_is_one_row(client: SGPClient) -> None:
    """`sgp` §10.3, M4."""
    same = item(0, end_timestamp=START + timedelta(seconds=1))
    listed = client.spans.upsert_batch(items=[same, same]).items
    assert listed
    assert len(listed) == len(list(client.spans.search())) == 1


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_searches_forward_and_backward_over_three_pages(client: SGPClient, order: Any) -> None:
    """`sgp` §10.1: the client pages by bare ids."""
    client.spans.upsert_batch(items=[item(n) for n in range(9)])
    names = [f"s{n:02}" for n in range(9)]
    if order == "desc":
        names.reverse()
    first = client.spans.search(limit=3, sort_order=order)
    assert [page_.has_more for page_ in first.iter_pages()] == [True, True, False]
    assert [span.id for span in first] == names
    back = client.spans.search(limit=3, sort_order=order, ending_before=names[-1])
    pages = [[span.id for span in page_.items] for page_ in back.iter_pages()]
    assert pages == [names[5:8], names[2:5], names[0:2]]


def test_goes_on_from_the_servers_own_cursor(client: SGPClient) -> None:
    """`sgp:K1`."""
    client.spans.upsert_batch(items=[item(n) for n in range(9)])
    first: Any = client.spans.search(limit=3)
    rest = client.spans.search(limit=3, starting_after=first.next_cursor)
    assert [span.id for span in rest] == [f"s{n:02}" for n in range(3, 9)]


def test_every_filter_the_client_has_is_taken_or_refused_by_name(client: SGPClient) -> None:
    client.spans.upsert_batch(items=[item(n) for n in range(3)])
    taken: dict[str, Any] = {
        "trace_ids": ["t"],
        "span_ids": ["s00", "s01"],
        "parents_only": True,
        "names": ["span 1"],
        "statuses": ["SUCCESS"],
        "types": ["STANDALONE"],
        "excluded_span_ids": ["s02"],
        "excluded_trace_ids": ["u"],
        "excluded_spans": [{"trace_id": "t", "span_id": "s02"}],
        "spans": [{"trace_id": "t", "span_id": "s01"}],
        "from_ts": START,
        "to_ts": START + timedelta(hours=1),
        "allow_partial_results": True,
        "sort_by": "duration_ms",
        "search_texts": [],
    }
    assert [span.id for span in client.spans.search(**taken)] == ["s01"]
    none: dict[str, Any] = {
        "acp_types": ["x"],
        "agentex_agent_ids": ["x"],
        "agentex_agent_names": ["x"],
        "application_variant_ids": ["x"],
        "extra_metadata": {"k": 1},
        "group_id": "g",
        "max_duration_ms": 5,
        "min_duration_ms": 5,
        "obs_span_ids": ["0" * 16],
        "obs_trace_ids": ["0" * 32],
        "parent_ids": ["x"],
        "search_texts": ["nowhere"],
        "assessment_types": ["comment"],
    }
    for name, value in none.items():
        assert list(client.spans.search(**{name: value})) == [], name
    refused: dict[str, Any] = {
        "search_texts": ["x"],
        "x_project_id": "p",
        "obs_span_ids": ["X"],
    }
    for name, value in refused.items():
        with pytest.raises(UnprocessableEntityError) as error:
            client.spans.search(**{name: value})
        assert name.replace("x_project_id", "x-project-id") in str(error.value)


def test_searches_text(client: SGPClient) -> None:
    """`sgp` §7, text search, with a term of each kind."""
    trace_id = new_id()
    client.spans.upsert_batch(
        items=[
            item(0, input={"q": "The red\nfox"}),
            item(1, output={"a": "a red-fox_1"}, metadata={"größe": 1}),
            item(2, trace_id=trace_id, input={"q": "reds"}),
        ]
    )
    for terms, ids in [
        (["RED"], ["s00", "s01"]),
        (["red fox"], ["s00"]),
        (['"d-fox_1"'], ["s01"]),
        (["ed-f", "Größe"], ["s01"]),
        (["pan 2"], ["s02"]),
        (["red fox", trace_id], ["s00", "s02"]),
        (["red", "reds"], []),
    ]:
        assert [span.id for span in client.spans.search(search_texts=terms)] == ids
    pages = client.spans.search(search_texts=["span"], limit=1)
    assert [span.id for span in pages] == ["s00", "s01", "s02"]


def test_assessments_are_made_read_changed_and_deleted(client: SGPClient) -> None:
    """`sgp` §10.1, §8: all calls there are."""
    client.spans.upsert_batch(items=[item(0), item(1, parent_id="s00")])
    assessments = client.span_assessments
    made = [
        assessments.create(assessment_type="comment", trace_id="t", comment="good"),
        assessments.create(assessment_type="rating", trace_id="t", span_id="s01", rating=4),
        assessments.create(assessment_type="approval", trace_id="t", approval="approved"),
        assessments.create(assessment_type="rubric", trace_id="t", rubric={"tone": "kind"}),
        assessments.create(assessment_type="metadata", trace_id="t", metadata={"a": [1]}),
        assessments.create(
            assessment_type="overwrite", trace_id="t", overwrite={"a": 42}, comment="why"
        ),
    ]
    assert [each.span_id for each in made] == ["s00", "s01", *["s00"] * 4]
    assert all(assessments.retrieve(each.assessment_id) == each for each in made)
    assert assessments.list(trace_id="t").items == made
    assert assessments.list(span_id="s01").items == [made[1]]
    assert assessments.list(trace_id="t", assessment_type="rubric").items == [made[3]]
    found = client.spans.search(assessment_types=["rating", "approval"])
    assert [span.id for span in found] == ["s00", "s01"]

    changed = assessments.update(made[1].assessment_id, rating=5, comment="better")
    assert (changed.rating, changed.comment, changed.span_id) == (5, "better", "s01")
    assert assessments.retrieve(changed.assessment_id) == changed
    with pytest.raises(UnprocessableEntityError):
        assessments.update(changed.assessment_id, approval="rejected")
    with pytest.raises(ConflictError) as conflict:
        assessments.create(assessment_type="overwrite", trace_id="t", overwrite={"a": 43})
    assert conflict.value.response.request.headers["x-stainless-retry-count"] == "0"
    with pytest.raises(BadRequestError):
        assessments.list()
    with pytest.raises(NotFoundError):
        assessments.create(assessment_type="comment", trace_id="nowhere", comment="x")

    deleted = assessments.delete(made[5].assessment_id)
    assert (deleted.id, deleted.deleted) == (made[5].assessment_id, True)
    with pytest.raises(NotFoundError):
        assessments.retrieve(made[5].assessment_id)
    assert len(assessments.list(trace_id="t").items) == 5


def test_updates_what_is_given(client: SGPClient) -> None:
    client.spans.upsert_batch(items=[item(0, input={"i": 1})])
    updated = client.spans.update("s00", end_timestamp=START, status="CANCELED", name="new")
    assert updated == client.spans.retrieve("s00")
    assert (updated.status, updated.name, updated.input) == ("CANCELED", "new", {"i": 1})
    with pytest.raises(UnprocessableEntityError):
        client.spans.update("s00", end_timestamp=START - timedelta(seconds=1))
    with pytest.raises(NotFoundError):
        client.spans.update("unknown", name="x")
    with pytest.raises(NotFoundError):
        client.spans.retrieve("unknown")


def test_conflicts_take_one_request(client: SGPClient) -> None:
    """`sgp` §10.6, E1: the client would send a 409 three times."""
    client.spans.upsert_batch(items=[item(0)])
    before = len(list(client.spans.search()))
    for bad in (item(1, trace_id="u", parent_id="s00"), item(1, parent_id="s01")):
        with pytest.raises(ConflictError) as error:
            client.spans.upsert_batch(items=[item(2), bad])
        assert error.value.response.request.headers["x-stainless-retry-count"] == "0"
    assert len(list(client.spans.search())) == before


def test_an_unknown_parent_may_arrive_later(client: SGPClient) -> None:
    """`sgp` §10.7."""
    client.spans.upsert_batch(items=[item(1, parent_id="s00")])
    client.spans.upsert_batch(items=[item(0)])
    assert [span.id for span in client.spans.search(parent_ids=["s00"])] == ["s01"]


def test_errors_say_where(client: SGPClient) -> None:
    """`sgp:E4`, E5; K4: an unknown cursor."""
    items = [item(n) for n in range(20)]
    items[17]["end_timestamp"] = START - timedelta(days=1)
    with pytest.raises(UnprocessableEntityError) as error:
        client.spans.upsert_batch(items=items)
    assert isinstance(error.value, APIStatusError)
    body: Any = error.value.body
    assert body["detail"][0]["loc"] == ["body", "items", 17, "end_timestamp"]
    assert list(client.spans.search()) == []
    with pytest.raises(BadRequestError):
        list(client.spans.search(starting_after="nowhere"))


async def test_the_asynchronous_client_works_too(base_url: str, account: str) -> None:
    async with AsyncSGPClient(
        api_key="any", account_id=account, base_url=base_url, _strict_response_validation=True
    ) as client:
        await client.spans.create(**item(0))
        await client.spans.batch(items=[item(1)])
        await client.spans.upsert_batch(items=[item(n) for n in range(9)])
        assert (await client.spans.retrieve("s03")).name == "span 3"
        page = client.spans.search(limit=3)
        assert [span.id async for span in page] == [f"s{n:02}" for n in range(9)]
        back = client.spans.search(limit=3, ending_before="s08")
        ids = [[span.id for span in each.items] async for each in (await back).iter_pages()]
        assert ids == [["s05", "s06", "s07"], ["s02", "s03", "s04"], ["s00", "s01"]]


def test_a_thousand_items_and_no_more(client: SGPClient) -> None:
    """`sgp` §10.4."""
    items = [item(n % 100, id=f"s{n:04}") for n in range(1_001)]
    with pytest.raises(UnprocessableEntityError):
        client.spans.upsert_batch(items=items)
    assert list(client.spans.search(limit=1_000)) == []
    listed = client.spans.upsert_batch(items=items[:1_000]).items
    assert listed
    assert len(listed) == len(list(client.spans.search(limit=1_000))) == 1_000


def test_an_end_before_its_start_is_refused(client: SGPClient) -> None:
    """`sgp` §10.5, by each way to write: nothing is stored."""
    bad = item(0, end_timestamp=START - timedelta(microseconds=1))
    for write in (
        lambda: client.spans.create(**bad),
        lambda: client.spans.batch(items=[item(1), bad]),
        lambda: client.spans.upsert_batch(items=[item(1), bad]),
    ):
        with pytest.raises(UnprocessableEntityError):
            write()
    assert list(client.spans.search()) == []


def test_long_ids_and_nul(client: SGPClient) -> None:
    """`sgp` §10.8, §10.9."""
    for fields, error in [
        ({"id": "x" * 257}, UnprocessableEntityError),
        ({"id": "😀" * 256}, BadRequestError),
        ({"id": "a\0b"}, BadRequestError),
        ({"trace_id": "a\0b"}, BadRequestError),
        ({"parent_id": "a\0b"}, BadRequestError),
        ({"group_id": "a\0b"}, BadRequestError),
    ]:
        with pytest.raises(error) as refused:
            client.spans.upsert_batch(items=[item(0, **fields)])
        assert next(iter(fields)) in str(refused.value)
    for id_ in ("x" * 256, "😀" * 64):
        made = client.spans.create(**item(0, id=id_, input={"a\0": "\0b"}))
        assert made == client.spans.retrieve(id_)
        assert made.input == {"a\ufffd": "\ufffdb"}


def test_secrets_are_neither_stored_nor_echoed(client: SGPClient) -> None:
    """`sgp` §10.10, P9: whatever call brings them or shows them; token counts stay."""
    secret = "c4n4ryc4n4ryc4n4ry"
    payload = {"password": secret, "note": [f"Bearer {secret}"], "max_tokens": 5}
    left = {
        "password": "[REDACTED:credential]",
        "note": ["Bearer [REDACTED:credential]"],
        "max_tokens": 5,
    }
    fields: dict[str, Any] = dict.fromkeys(("input", "output", "metadata", "expected"), payload)
    named = f"call a://u:{secret}@h"
    made = client.spans.create(**item(0, **fields) | {"name": named})
    listed = client.spans.upsert_batch(items=[item(0, **fields) | {"name": named}]).items
    assert listed == [made]
    assert client.spans.update("s00", output=payload, name=named) == made
    assert client.spans.retrieve("s00") == made
    assert list(client.spans.search()) == [made]
    assert made.name == "call a://u:[REDACTED:credential]@h"
    assert [getattr(made, field) for field in fields] == [left] * 4
    assert list(client.spans.search(search_texts=[secret])) == []


@pytest.mark.parametrize("sort_by", ["start_timestamp", "duration_ms", "input_tokens"])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_paging_neither_loops_nor_skips(client: SGPClient, sort_by: Any, order: Any) -> None:
    """`sgp` §10.11, `sgp:K3`: equal sort keys, and each id in several traces."""
    items = [
        item(n // 20, id=f"s{n % 10}" if n % 3 else f"only {n}", trace_id=f"t{n // 10}")
        for n in range(60)
    ]
    client.spans.upsert_batch(items=items)
    everything = {(each["trace_id"], each["id"]) for each in items}
    whole = list(client.spans.search(limit=1_000, sort_by=sort_by, sort_order=order))
    assert {(span.trace_id, span.id) for span in whole} == everything
    for limit in (1, 4, 7):
        page = client.spans.search(limit=limit, sort_by=sort_by, sort_order=order)
        seen = []
        for each in page.iter_pages():
            assert isinstance(each.has_more, bool)
            seen += each.items
        assert seen == whole


def test_what_was_answered_outlives_a_kill(tmp_path: Path) -> None:
    """`sgp` §10.12, P8; `test_kill` does it under load."""
    server = ServerProcess(tmp_path / "spans.db")
    with SGPClient(api_key="any", account_id="local", base_url=server.base_url) as client:
        stored = client.spans.upsert_batch(items=[item(n) for n in range(50)]).items
        assessed = client.span_assessments.create(
            assessment_type="comment", trace_id="t", comment="kept"
        )
        server.kill()
    with (
        serving(tmp_path / "spans.db") as base_url,
        SGPClient(api_key="any", account_id="local", base_url=base_url) as client,
    ):
        assert list(client.spans.search(search_texts=["span"])) == stored
        assert client.span_assessments.list(trace_id="t").items == [assessed]
