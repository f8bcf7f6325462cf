"""The text index of the SQLite store: late, capped, damaged or gone, searches answer the same."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from everyspan.server.stores import sqlite_search, sqlite_text
from everyspan.server.stores.base import SearchQuery
from everyspan.server.stores.sqlite import SqliteStore
from everyspan.server.stores.sqlite_file import open_reader
from everyspan.server.stores.sqlite_readers import Deadline
from everyspan.server.stores.sqlite_text import TextIndex
from everyspan.server.terms import parse_texts
from tests.server.rows import make_row
from tests.server.stores.text_index import is_indexed
from tests.waiting import until


def asking(*terms: str, **fields: Any) -> SearchQuery:
    return SearchQuery(account="a", texts=parse_texts(terms), **fields)


async def found(store: SqliteStore, *terms: str) -> list[str]:
    return [row.id for row in (await store.search(asking(*terms))).rows]


def said(text: str, id_: str = "s", **fields: Any) -> Any:
    return make_row(id=id_, input=b'{"said":"%b"}' % text.encode(), **fields)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "spans.db")
    yield store
    await store.close()


async def test_what_was_just_written_is_found(store: SqliteStore, tmp_path: Path) -> None:
    """X2: with each acknowledged write, and as it reads then."""
    for n in range(20):
        await store.upsert([said(f"word{n}", rev=n)])
        assert await found(store, f"word{n}") == ["s"]
        assert await found(store, f"word{n - 1}") == []
        if n == 10:
            await until(lambda: is_indexed(tmp_path / "spans.db"))


@pytest.mark.parametrize("harm", ["lost", "garbage", "damaged", "ahead", "other form"])
async def test_an_index_that_is_of_no_use_is_built_anew(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    """X3."""
    caplog.set_level(logging.ERROR, "everyspan.server.store")
    path, text_path = tmp_path / "spans.db", tmp_path / "spans.db-text"
    store = SqliteStore(path)
    await store.upsert([said(f"word{n}", str(n)) for n in range(50)])
    await until(lambda: is_indexed(path))
    await store.close()
    if harm == "lost":
        text_path.unlink()
    elif harm == "garbage":
        text_path.write_bytes(b"no database" * 1_000)
    elif harm == "damaged":
        content = text_path.read_bytes()
        text_path.write_bytes(content[:4_096] + b"\xaa" * (len(content) - 4_096))
    else:
        with apsw.Connection(str(text_path)) as connection:
            if harm == "ahead":
                connection.execute("UPDATE place SET change = 1000")
            else:
                connection.pragma("user_version", 99)
        connection.close()
    store = SqliteStore(path)
    assert await found(store, "word7") == ["7"]
    await until(lambda: is_indexed(path))
    assert await found(store, "word7") == ["7"]
    assert await found(store, "said", "word8") == ["8"]
    await store.close()
    assert not caplog.records


async def test_an_index_lost_while_in_use_is_built_anew(store: SqliteStore, tmp_path: Path) -> None:
    """X3."""
    await store.upsert([said("before", "1")])
    await until(lambda: is_indexed(tmp_path / "spans.db"))
    assert await found(store, "before") == ["1"]
    for path in tmp_path.glob("spans.db-text*"):
        path.unlink()
    await store.upsert([said("after", "2")])
    assert await found(store, "before") == ["1"]
    await until(lambda: is_indexed(tmp_path / "spans.db"))
    assert await found(store, "after") == ["2"]
    assert await found(store, "said") == ["1", "2"]


async def test_searches_do_without_an_index(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """X1: and the log says so once."""
    (tmp_path / "spans.db-text").mkdir()
    store = SqliteStore(tmp_path / "spans.db")
    await store.upsert([said("word", "1"), said("other", "2")])
    assert await found(store, "word") == ["1"]
    await until(lambda: len(caplog.records) == 1)
    await store.close()


async def test_text_beyond_the_cap_is_found(store: SqliteStore, tmp_path: Path) -> None:
    """X1: in any payload, behind escapes, and where the cap cuts a word in two."""
    long = "\\u00e9" * 20_000 + " " + "x " * 40_000
    rows = [
        make_row(id="1", input=b'{"a":"%b last"}' % long.encode()),
        make_row(id="2", input=b'{"a":"%b"}' % (b"y" * 70_000), metadata=b'{"b":"last"}'),
        make_row(id="3", input=b'{"a":"%b last"}' % (b"y" * (sqlite_text.TEXT_BYTES_MAX - 9))),
        make_row(
            id="4",
            input=b'{"a":"%b"}' % (b"y" * (sqlite_text.TEXT_BYTES_MAX - 8)),
            output=b'{"last":1}',
        ),
        make_row(id="5", input=b'{"a":"short"}'),
    ]
    await store.upsert(rows)
    for _ in range(2):
        assert await found(store, "last") == ["1", "2", "3", "4"]
        await until(lambda: is_indexed(tmp_path / "spans.db"))


async def test_a_search_stops_when_its_time_is_over(store: SqliteStore, tmp_path: Path) -> None:
    """S5: and tells how far it looked."""
    await store.upsert([said("x y", f"{n:03}") for n in range(600)])
    await until(lambda: is_indexed(tmp_path / "spans.db"))
    for terms in (["x y"], ["said"], ["日本"]):
        page = await store.search(asking(*terms, time_max_s=0.0))
        assert (page.rows, page.has_more, page.stopped) == ([], True, "time")
        traces = await store.search_traces(asking(*terms, time_max_s=0.0))
        assert (traces.trace_ids, traces.stopped) == ([], "time")


class Looks(Deadline):
    """Over after so many looks."""

    def __init__(self, count: int) -> None:
        super().__init__(float("inf"))
        self._left = count

    def is_over(self) -> bool:
        self._left -= 1
        return self._left < 0


async def test_a_search_goes_on_where_its_time_was_over(store: SqliteStore, tmp_path: Path) -> None:
    """S5: though nothing was found so far, and whatever the direction."""
    path = tmp_path / "spans.db"
    await store.upsert([said("x", f"{n:03}") for n in range(600)])
    await store.upsert([said("日本", "300")])
    await until(lambda: is_indexed(path))
    connection = open_reader(str(path))
    index = TextIndex(str(path))
    for descending in (False, True):
        query, pages = asking("日本", descending=descending), 0
        while not (page := sqlite_search.search(connection, query, Looks(100), index)).rows:
            assert (page.stopped, page.has_more) == ("time", True)
            assert page.through is not None
            query = msgspec.structs.replace(query, after=page.through)
            pages += 1
        assert [row.id for row in page.rows] == ["300"]
        assert 2 <= pages <= 4
    await index.close()
    connection.close()


async def test_what_the_store_deleted_leaves_the_index(tmp_path: Path) -> None:
    """X3."""
    path = tmp_path / "spans.db"
    store = SqliteStore(path)
    await store.upsert([said("word", f"{n:03}") for n in range(300)])
    await until(lambda: is_indexed(path))
    await store.close()
    with apsw.Connection(str(path)) as connection:
        connection.execute("DELETE FROM spans WHERE seq % 3 = 0")
        connection.execute("DELETE FROM payloads WHERE seq % 3 = 0")
        connection.execute("UPDATE numbers SET value = 100 WHERE name = 'deleted'")
    connection.close()
    store = SqliteStore(path)
    index = open_reader(f"{path}-text")
    await until(lambda: index.execute("SELECT deleted FROM place").get == 100)
    await until(lambda: is_indexed(path))
    count = index.execute("SELECT count(*) FROM words WHERE words MATCH 'word'").get
    index.close()
    assert count == 200
    assert len(await found(store, "word")) == 100
    await store.close()


async def test_many_searches_while_others_write(store: SqliteStore) -> None:
    """X2: from several threads at once."""

    async def write(n: int) -> None:
        await store.upsert([said(f"unique{n} common", f"{n:03}")])
        assert await found(store, f"unique{n}") == [f"{n:03}"]
        assert f"{n:03}" in await found(store, "common")

    for start in range(0, 90, 30):
        await asyncio.gather(*(write(n) for n in range(start, start + 30)))


async def test_two_servers_share_an_index(store: SqliteStore, tmp_path: Path) -> None:
    """X2: what one acknowledged the other finds."""
    other = SqliteStore(tmp_path / "spans.db")

    async def write(writer: SqliteStore, name: str) -> None:
        for n in range(10):
            await writer.upsert([said(f"{name}{n}", f"{name}{n}")])
            for reader in (store, other):
                assert await found(reader, f"{name}{n}") == [f"{name}{n}"]

    await asyncio.gather(write(store, "mine"), write(other, "theirs"))
    await until(lambda: is_indexed(tmp_path / "spans.db"))
    assert len(await found(other, "said")) == 20
    await other.close()
