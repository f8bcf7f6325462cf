"""The page's files as the server sends them; what the page does is tested in a browser."""

from __future__ import annotations

import gzip
from pathlib import Path

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from everyspan.server.page import is_page, page_routes


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html>")
    script = tmp_path / "assets" / "page-ABC.js"
    script.write_text("go()")
    (tmp_path / "assets" / "page-ABC.js.gz").write_bytes(gzip.compress(b"go()"))
    return tmp_path


@pytest.fixture
def client(bundle: Path) -> TestClient:
    return TestClient(Starlette(routes=page_routes(bundle)))


@pytest.mark.parametrize("path", ["/", "/health", "/traces/a%2Fb", "/conversations/x", "/compare"])
def test_every_address_of_the_page_is_the_same_document(client: TestClient, path: str) -> None:
    reply = client.get(path)
    assert (reply.status_code, reply.text) == (200, "<!doctype html>")
    assert reply.headers["content-type"].startswith("text/html")
    assert reply.headers["cache-control"] == "no-cache"


def test_a_file_may_be_kept_for_ever_the_document_only_while_it_is_the_same(
    client: TestClient,
) -> None:
    assert "immutable" in client.get("/assets/page-ABC.js").headers["cache-control"]
    tag = client.get("/").headers["etag"]
    assert client.get("/", headers={"if-none-match": tag}).status_code == 304


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("gzip, deflate, br", "gzip"), ("identity", None), ("gzip;q=0", None), ("", None)],
)
def test_a_file_is_sent_as_small_as_the_browser_takes_it(
    client: TestClient, accepted: str, encoding: str | None
) -> None:
    reply = client.get("/assets/page-ABC.js", headers={"accept-encoding": accepted})
    assert reply.headers.get("content-encoding") == encoding
    assert reply.text == "go()"


@pytest.mark.parametrize("name", ["other.js", "page-ABC.js.gz", "..%2Findex.html", "made-from"])
def test_nothing_but_the_files_that_a_browser_asks_for_is_sent(
    client: TestClient, name: str
) -> None:
    assert client.get(f"/assets/{name}").status_code == 404


def test_a_checkout_without_the_page_says_how_to_build_it(tmp_path: Path) -> None:
    client = TestClient(Starlette(routes=page_routes(tmp_path / "none")))
    reply = client.get("/")
    assert reply.status_code == 503
    assert "make web" in reply.text


def test_only_the_page_needs_no_key() -> None:
    assert all(map(is_page, ["/", "/traces/x", "/assets/a.js", "/health"]))
    assert not any(map(is_page, ["/api/traces", "/v5/spans", "/spans", "/traces", "/metrics"]))


def test_the_page_comes_with_its_policy(base_url: str) -> None:
    reply = httpx2.get(base_url)
    policy = reply.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    again = httpx2.get(base_url, headers={"if-none-match": reply.headers["etag"]})
    assert (again.status_code, again.headers["content-security-policy"]) == (304, policy)
