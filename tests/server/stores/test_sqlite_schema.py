"""`everyspan.server.stores.sqlite_schema`: files of older, of newer and of foreign makers."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from everyspan.errors import StoreError
from everyspan.server.stores.base import ListQuery, SearchQuery
from everyspan.server.stores.sqlite import SqliteStore
from everyspan.server.stores.sqlite_file import SCHEMA_VERSION
from everyspan.server.stores.sqlite_rows import ROW_COLUMNS, to_body, to_values
from tests.server.rows import make_row

# As the releases of then wrote it.
VERSION_2 = """
CREATE TABLE spans (
    seq INTEGER PRIMARY KEY, account TEXT NOT NULL, trace_id TEXT NOT NULL, id TEXT NOT NULL,
    name TEXT NOT NULL, start_ns INTEGER NOT NULL, end_ns INTEGER, parent_id TEXT, task_id TEXT,
    type TEXT, status TEXT, group_id TEXT, application_interaction_id TEXT,
    application_variant_id TEXT, obs_trace_id TEXT, obs_span_id TEXT, input_tokens INTEGER,
    output_tokens INTEGER, rev INTEGER NOT NULL, older TEXT, written_ns INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX spans_by_id ON spans (account, id, trace_id);
CREATE INDEX spans_by_trace ON spans (account, trace_id, start_ns, id);
CREATE INDEX spans_by_start ON spans (account, start_ns, trace_id, id);
CREATE INDEX spans_by_task ON spans (account, task_id) WHERE task_id IS NOT NULL;
CREATE TABLE payloads (seq INTEGER PRIMARY KEY, codec INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
"""
VERSION_1 = VERSION_2.replace(" task_id TEXT,", "").replace("CREATE INDEX spans_by_task", "-- ")

ROWS = [
    make_row(id="s", trace_id="t1", metadata=b'{"__task_id__":"k","model":"m"}', task_id="k"),
    make_row(id="array", metadata=b'[{"__task_id__":"k"}]'),
    make_row(id="s", trace_id="t2", input=b'{"i":1}', older={"input": (False, 0, -1)}, rev=3),
    make_row(id="none"),
]
WRITTEN_NS = [40, 10, 20, 20]


def make_old(path: Path, version: int) -> None:
    """Write ROWS as an older everyspan did."""
    with closing(apsw.Connection(str(path))) as connection:
        connection.pragma("journal_mode", "wal")
        connection.execute(VERSION_1 if version == 1 else VERSION_2)
        connection.pragma("user_version", version)
        for seq, (row, written_ns) in enumerate(zip(ROWS, WRITTEN_NS, strict=True), 1):
            values = dict(zip(ROW_COLUMNS, to_values(row), strict=False))
            values |= {"seq": seq, "written_ns": written_ns}
            if version == 1:
                del values["task_id"]
            marks = ", ".join("?" * len(values))
            connection.execute(
                f"INSERT INTO spans ({', '.join(values)}) VALUES ({marks})", tuple(values.values())
            )
            connection.execute("INSERT INTO payloads VALUES (?, 0, ?)", (seq, to_body(row)))


def schema_of(path: Path) -> list[tuple[str, str]]:
    with closing(apsw.Connection(str(path))) as connection:
        sql = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name"
        return [(name, "".join(text.split())) for name, text in connection.execute(sql)]


def dump(path: Path) -> list[object]:
    with closing(apsw.Connection(str(path))) as connection:
        return [
            connection.pragma("user_version"),
            *connection.execute("SELECT * FROM spans JOIN payloads USING (seq) ORDER BY seq"),
        ]


@pytest.mark.parametrize("version", [1, 2])
async def test_an_older_file_is_brought_up_to_date(
    tmp_path: Path, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "spans.db"
    make_old(path, version)
    for _ in range(2):
        store = SqliteStore(path)
        assert await store.list_spans(ListQuery(account="a")) == ROWS
        assert await store.list_spans(ListQuery(account="a", task_id="k")) == ROWS[:1]
        latest = await store.get("a", "s")
        assert latest is not None
        assert latest.trace_id == "t1"
        assert (await store.health()).spans == 4
        await store.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"{path}.before-v3" in caplog.text

    await SqliteStore(tmp_path / "new.db").close()
    assert schema_of(path) == schema_of(tmp_path / "new.db")
    with closing(apsw.Connection(str(path))) as connection:
        facts = connection.execute("SELECT change, model, hex(otel_trace_id) FROM spans").fetchall()
        assert connection.pragma("integrity_check") == "ok"
    assert [change for change, *_ in facts] == [3, 1, 2, 2]
    assert [model for _, model, _ in facts] == ["m", None, None, None]
    assert all(len(str(digits)) == 32 for *_, digits in facts)


async def test_numbers_go_on_where_an_older_file_ended(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    make_old(path, 2)
    store = SqliteStore(path)
    await store.upsert([make_row(id="s", trace_id="t3")])
    latest = await store.get("a", "s")
    assert latest is not None
    assert latest.trace_id == "t3"
    assert len((await store.search(SearchQuery(account="a"))).rows) == 5
    await store.close()


async def test_a_copy_is_kept_for_the_owner_as_the_old_one_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    make_old(path, 2)
    before = dump(path)
    await SqliteStore(path).close()
    copy = tmp_path / "spans.db.before-v3"
    assert dump(copy) == before
    assert copy.stat().st_mode & 0o777 == 0o600
    assert {file.name for file in tmp_path.iterdir()} - {"spans.db-text"} == {"spans.db", copy.name}


def test_without_a_copy_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    make_old(path, 2)
    before = path.read_bytes()
    (tmp_path / "spans.db.before-v3").mkdir()
    with pytest.raises(StoreError, match=r"cannot be copied to .*before-v3"):
        SqliteStore(path)
    assert path.read_bytes() == before
    assert not (tmp_path / "spans.db.before-v3.partial").exists()


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    make_old(path, 2)
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("UPDATE payloads SET codec = 99 WHERE seq = 3")
    before = path.read_bytes()
    with pytest.raises(StoreError):
        SqliteStore(path)
    assert path.read_bytes() == before


def test_other_databases_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    for version in (0, SCHEMA_VERSION):
        with closing(apsw.Connection(str(path))) as connection:
            connection.pragma("user_version", version)
            before = path.read_bytes()
        with pytest.raises(StoreError, match="not one of everyspan"):
            SqliteStore(path)
        assert path.read_bytes() == before


async def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    await SqliteStore(path).close()
    with closing(apsw.Connection(str(path))) as connection:
        connection.pragma("user_version", 99)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"newer everyspan \(schema 99; .* upgrade everyspan"):
        SqliteStore(path)
    assert path.read_bytes() == before
