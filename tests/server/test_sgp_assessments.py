"""Assessments over plain HTTP (`sgp` §8): what is refused, and what follows a span."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from everyspan.model.credentials import REDACTED
from everyspan.server.app import create_app
from everyspan.server.keys import EVERY_ACCOUNT, make_key
from everyspan.server.stores.sqlite import SqliteStore
from tests.server.rows import make_item, make_row

PATH = "/v5/span-assessments"
CONTENT: dict[str, Any] = {
    "comment": "good",
    "rating": 4,
    "approval": "approved",
    "rubric": {"tone": "kind"},
    "metadata": {"a": [1, None]},
    "overwrite": {"answer": 42},
}


@pytest.fixture
def span(http: httpx2.Client) -> str:
    """A trace `t` whose root is `root`, with a child."""
    items = [make_item(id="root"), make_item(id="child", parent_id="root")]
    assert http.put("/v5/spans/batch", json={"items": items}).status_code == 200
    return "child"


def make(http: httpx2.Client, **fields: Any) -> dict[str, Any]:
    reply = http.post(PATH, json={"trace_id": "t", **fields})
    assert reply.status_code == 200, reply.text
    made: dict[str, Any] = reply.json()
    return made


@pytest.mark.parametrize("kind", CONTENT)
def test_an_assessment_has_the_content_that_its_type_names(
    http: httpx2.Client, span: str, account: str, kind: str
) -> None:
    """`sgp` §8, A1: any other is a 422, a comment may go with all."""
    said = {"assessment_type": kind, kind: CONTENT[kind], "comment": "why"}
    made = make(http, span_id=span, **said)
    assert made == {
        "object": "span.assessment",
        "assessment_id": made["assessment_id"],
        "span_id": span,
        "trace_id": "t",
        "account_id": account,
        "created_by": "local",
        "created_at": made["created_at"],
        "updated_at": made["created_at"],
        **said,
    }
    assert http.get(f"{PATH}/{made['assessment_id']}").json() == made
    bad: list[tuple[dict[str, Any], str]] = [({"assessment_type": kind}, kind)]
    bad += [
        ({"assessment_type": kind, **CONTENT, kind: CONTENT[kind]}, other)
        for other in CONTENT
        if other not in (kind, "comment")
    ]
    for body, field in bad:
        reply = http.post(PATH, json={"trace_id": "t", **body})
        assert reply.status_code == 422
        assert ["body", field] in [detail["loc"] for detail in reply.json()["detail"]]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"assessment_type": "rating", "rating": 0}, "rating"),
        ({"assessment_type": "rating", "rating": 6}, "rating"),
        ({"assessment_type": "rating", "rating": 4.5}, "rating"),
        ({"assessment_type": "rating", "rating": True}, "rating"),
        ({"assessment_type": "approval", "approval": "perhaps"}, "approval"),
        ({"assessment_type": "rubric", "rubric": {"a": 1}}, "rubric"),
        ({"assessment_type": "metadata", "metadata": []}, "metadata"),
        ({"assessment_type": "overwrite", "overwrite": "x"}, "overwrite"),
        ({"assessment_type": "praise", "comment": "x"}, "assessment_type"),
        ({"comment": "x"}, "assessment_type"),
        ({"assessment_type": "comment", "comment": "x", "trace_id": ""}, "trace_id"),
        ({"assessment_type": "comment", "comment": "x", "span_id": "s" * 257}, "span_id"),
    ],
)
def test_a_bad_field_is_named(http: httpx2.Client, body: dict[str, Any], field: str) -> None:
    """`sgp` §8."""
    reply = http.post(PATH, json={"trace_id": "t", **body})
    assert reply.status_code == 422
    assert [detail["loc"][1] for detail in reply.json()["detail"]] == [field]


def test_it_is_about_the_root_where_no_span_is_named(http: httpx2.Client, span: str) -> None:
    """`sgp` §8: 404 where there is none."""
    assert make(http, assessment_type="comment", comment="x")["span_id"] == "root"
    http.post("/v5/spans", json=make_item(id="orphan", trace_id="u", parent_id="gone"))
    for target in (
        {"trace_id": "u"},
        {"trace_id": "nowhere"},
        {"trace_id": "u", "span_id": span},
        {"trace_id": "t", "span_id": "gone"},
    ):
        said = {"assessment_type": "comment", "comment": "x"}
        reply = http.post(PATH, json=said | target)
        assert (reply.status_code, reply.json()["code"]) == (404, "SPAN_NOT_FOUND")


def test_a_span_has_one_overwrite(http: httpx2.Client, span: str) -> None:
    """`sgp:E1` and `sgp` §8: however a second one would come about."""
    said = {"assessment_type": "overwrite", "overwrite": {"a": 1}}
    first = make(http, span_id=span, **said)
    make(http, **said)
    second = http.post(PATH, json={"trace_id": "t", "span_id": span, **said})
    assert (second.status_code, second.json()["code"]) == (409, "OVERWRITE_EXISTS")
    assert second.headers["x-should-retry"] == "false"
    comment = make(http, span_id=span, assessment_type="comment", comment="c")
    turned = http.patch(f"{PATH}/{comment['assessment_id']}", json=said)
    assert turned.status_code == 409
    assert http.get(f"{PATH}/{comment['assessment_id']}").json() == comment
    assert http.delete(f"{PATH}/{first['assessment_id']}").status_code == 200
    assert http.patch(f"{PATH}/{comment['assessment_id']}", json=said).status_code == 200


def test_a_change_is_merged_and_checked_again(http: httpx2.Client, span: str) -> None:
    """`sgp` §8: its span stays."""
    made = make(http, span_id=span, assessment_type="rating", rating=4, comment="c")
    path = f"{PATH}/{made['assessment_id']}"
    changed = http.patch(path, json={"rating": 5, "comment": None, "span_id": "root"}).json()
    assert changed == made | {"rating": 5, "updated_at": changed["updated_at"]}
    assert changed["updated_at"] > made["updated_at"]
    bad: list[dict[str, Any]] = [
        {"rating": 9},
        {"approval": "approved"},
        {"assessment_type": "comment"},
        {"rubric": []},
    ]
    for fields in bad:
        assert http.patch(path, json=fields).status_code == 422
    assert http.get(path).json() == changed
    for method in ("GET", "PATCH", "DELETE"):
        missing = http.request(method, f"{PATH}/a/../b%00", json={})
        assert (missing.status_code, missing.json()["code"]) == (404, "ASSESSMENT_NOT_FOUND")


def test_a_list_is_of_a_span_or_of_a_trace(http: httpx2.Client, span: str) -> None:
    """`sgp` §8: neither, or both, is a 400."""
    http.post("/v5/spans", json=make_item(id=span, trace_id="u"))
    made = [
        make(http, span_id=span, assessment_type="comment", comment="1"),
        make(http, assessment_type="rating", rating=1),
        make(http, span_id=span, trace_id="u", assessment_type="comment", comment="2"),
    ]

    def listed(**query: str) -> list[Any]:
        reply = http.get(PATH, params=query)
        assert reply.json()["object"] == "list"
        items: list[Any] = reply.json()["items"]
        return items

    assert listed(trace_id="t") == made[:2]
    assert listed(span_id=span) == [made[0], made[2]]
    assert listed(trace_id="t", assessment_type="rating") == [made[1]]
    assert listed(trace_id="nowhere") == []
    for query in ({}, {"span_id": span, "trace_id": "t"}):
        assert http.get(PATH, params=query).status_code == 400
    assert http.get(PATH, params={"span_id": "s", "assessment_type": "x"}).status_code == 422
    for path in (PATH + "?span_id=s", f"{PATH}/{made[0]['assessment_id']}"):
        assert http.get(path, headers={"x-project-id": "p"}).status_code == 422


def test_a_search_finds_spans_that_were_assessed(http: httpx2.Client, span: str) -> None:
    """`sgp` §7: any of these types."""
    make(http, span_id=span, assessment_type="comment", comment="1")
    make(http, span_id=span, assessment_type="comment", comment="2")
    make(http, assessment_type="rating", rating=1)

    def found(**filters: Any) -> list[str]:
        reply = http.post("/v5/spans/search", json=filters)
        return [item["id"] for item in reply.json()["items"]]

    assert found(assessment_types=["comment"]) == ["child"]
    assert found(assessment_types=["comment", "rating"]) == ["child", "root"]
    assert found(assessment_types=["comment", "rating"], trace_ids=["t"], names=["n"]) == [
        "child",
        "root",
    ]
    assert found(assessment_types=["rating"], search_texts=["n" * 2]) == []
    assert found(assessment_types=["approval"]) == []
    bad = http.post("/v5/spans/search", json={"assessment_types": ["praise"]})
    assert bad.json()["detail"][0]["loc"] == ["body", "assessment_types", 0]


def test_no_credential_is_kept(http: httpx2.Client, span: str) -> None:
    """P9."""
    secret = "sk-c4n4ryc4n4ryc4n4ryc4n4ry"
    for kind in ("comment", "rubric", "metadata", "overwrite"):
        value = secret if kind == "comment" else {"t": secret}
        made = make(http, assessment_type=kind, **{kind: value})
        assert made[kind] == (REDACTED if kind == "comment" else {"t": REDACTED})
        path = f"{PATH}/{made['assessment_id']}"
        assert secret not in http.patch(path, json={kind: value}).text
        assert secret not in http.get(path).text


def test_text_is_made_safe_and_numbers_keep_their_digits(http: httpx2.Client, span: str) -> None:
    raw = b'{"big":123456789012345678901234567890,"exp":1e400}'
    body = (
        b'{"trace_id":"t","assessment_type":"metadata","comment":"a\\u0000\\ud800","metadata":%b}'
        % raw
    )
    made = http.post(PATH, content=body)
    assert made.json()["comment"] == "a\ufffd\ufffd"
    assert raw in http.get(f"{PATH}/{made.json()['assessment_id']}").content
    deep = json.dumps({"trace_id": "t", "assessment_type": "metadata"})[:-1]
    nested = '{"x":' * 300 + "1" + "}" * 300
    assert http.post(PATH, content=f'{deep},"metadata":{nested}}}').status_code == 422


async def test_only_its_author_may_touch_it_or_who_may_all(tmp_path: Path) -> None:
    """`sgp` §8, A4: 403 for others of the account; nobody else sees it."""
    store = SqliteStore(tmp_path / "spans.db")
    await store.upsert([make_row(account="a", id="s")])
    shown: dict[str, str] = {}
    for name, accounts in (
        ("ann", ["a"]),
        ("bob", ["a"]),
        ("eve", ["b"]),
        ("admin", [EVERY_ACCOUNT]),
    ):
        key, shown[name] = make_key(
            name=name, accounts=accounts, scopes=["read", "write"], now_ns=1
        )
        await store.add_key(key)
    transport = httpx2.ASGITransport(create_app(store))

    async def ask(name: str, method: str, path: str, **said: Any) -> httpx2.Response:
        headers = {"x-api-key": shown[name]}
        if name == "admin":
            headers["x-selected-account-id"] = "a"
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, headers=headers, **said)

    body = {"assessment_type": "comment", "comment": "x", "trace_id": "t"}
    made = (await ask("ann", "POST", PATH, json=body)).json()
    path = f"{PATH}/{made['assessment_id']}"
    for method in ("PATCH", "DELETE"):
        refused = await ask("bob", method, path, json={})
        assert (refused.status_code, refused.json()["code"]) == (403, "NOT_YOURS")
        assert (await ask("eve", method, path, json={})).status_code == 404
    assert (await ask("bob", "GET", path)).json() == made
    assert (await ask("eve", "GET", path)).status_code == 404
    assert (await ask("ann", "PATCH", path, json={"comment": "y"})).status_code == 200
    assert (await ask("admin", "PATCH", path, json={"comment": "z"})).json()["comment"] == "z"
    assert (await ask("ann", "DELETE", path)).json() == {
        "object": "span.assessment",
        "id": made["assessment_id"],
        "deleted": True,
    }
    assert (await ask("ann", "GET", path)).status_code == 404
    await store.close()
