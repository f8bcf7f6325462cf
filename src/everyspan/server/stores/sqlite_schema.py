"""The tables of the SQLite store, and what brings an older file up to date.

What is filtered or sorted by has a column in `spans`; payloads lie apart in `payloads`, so that a
scan of many spans reads few pages.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import apsw

from everyspan.errors import StoreError
from everyspan.server.row import read_task_id
from everyspan.server.stores import sqlite_traces
from everyspan.server.stores.sqlite_file import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    copy_to,
    open_reader,
    read_version,
)
from everyspan.server.stores.sqlite_rows import (
    DERIVED_COLUMNS,
    ROW_COLUMNS,
    from_values,
    read_metadata,
    to_values,
)

# `seq` is the order of first arrival and never changes. `change` is the number of the transaction
# that wrote the row last. `aggregated`: the token counts are 0 the call's own, 1 those of
# `metadata.usage`, 2 of `metadata.aggregated_usage` (`model.usage.Kind`). A dictionary's `seq` is
# how far the spans went when it was trained.
#
# `numbers` has the last `change` and `seq` given out, and how many spans were `deleted`: not to be
# had from the spans, since the last of them may have been deleted. What follows commits keeps here
# up to which change it has come.
_TABLES = """
CREATE TABLE numbers (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO numbers VALUES ('change', 0), ('seq', 0), ('deleted', 0);
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL,
    name TEXT NOT NULL,
    accounts TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_ns INTEGER NOT NULL,
    expires_ns INTEGER,
    revoked_ns INTEGER,
    parent TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE spans (
    seq INTEGER PRIMARY KEY,
    change INTEGER NOT NULL,
    account TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    start_ns INTEGER NOT NULL,
    end_ns INTEGER,
    parent_id TEXT,
    task_id TEXT,
    type TEXT,
    status TEXT,
    group_id TEXT,
    application_interaction_id TEXT,
    application_variant_id TEXT,
    obs_trace_id TEXT,
    obs_span_id TEXT,
    rev INTEGER NOT NULL,
    older TEXT,
    otel_trace_id BLOB NOT NULL,
    otel_span_id BLOB NOT NULL,
    payload_bytes INTEGER NOT NULL,
    record TEXT,
    model TEXT,
    agent TEXT,
    cost_usd REAL,
    input_tokens INTEGER,
    output_tokens INTEGER,
    aggregated INTEGER NOT NULL,
    error_type TEXT,
    error_message TEXT,
    input_bytes INTEGER NOT NULL,
    output_bytes INTEGER NOT NULL
) STRICT;
CREATE TABLE assessments (
    account TEXT NOT NULL,
    id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    type TEXT NOT NULL,
    content TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_ns INTEGER NOT NULL,
    updated_ns INTEGER NOT NULL,
    PRIMARY KEY (account, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX assessments_by_span ON assessments (seq, type);
CREATE INDEX assessments_by_type ON assessments (account, type, seq);
CREATE UNIQUE INDEX one_overwrite ON assessments (seq) WHERE type = 'overwrite';
CREATE TRIGGER assessments_go_with_spans AFTER DELETE ON spans BEGIN
    DELETE FROM assessments WHERE seq = old.seq;
END;
CREATE TABLE dictionaries (
    codec INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS payloads (
    seq INTEGER PRIMARY KEY,
    codec INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE producers (
    account TEXT NOT NULL,
    id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    seen_ns INTEGER NOT NULL,
    report TEXT NOT NULL,
    PRIMARY KEY (account, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE losses (
    account TEXT NOT NULL,
    otel_trace_id BLOB NOT NULL,
    part TEXT NOT NULL,
    producer TEXT NOT NULL,
    told_ns INTEGER NOT NULL,
    losses TEXT NOT NULL,
    PRIMARY KEY (account, otel_trace_id, part)
) STRICT, WITHOUT ROWID;
"""
# Ids are random: each one written is a page of its index to write. `spans_by_id` has them in their
# short form, of 8 and 16 bytes, for a quarter of the pages; nothing has to be unique there, since
# one transaction at a time looks before it inserts.
_INDEXES = """
CREATE INDEX spans_by_id ON spans (otel_span_id, otel_trace_id);
CREATE INDEX spans_by_trace ON spans (account, otel_trace_id, start_ns, id);
CREATE INDEX spans_by_start ON spans (account, start_ns);
CREATE INDEX spans_by_task ON spans (account, task_id) WHERE task_id IS NOT NULL;
CREATE INDEX spans_by_change ON spans (change);
CREATE INDEX producers_by_seen ON producers (account, seen_ns, id);
CREATE INDEX losses_by_time ON losses (account, told_ns, otel_trace_id, part);
"""

# Version 1 had no tasks.
_TO_VERSION_2 = """
ALTER TABLE spans ADD COLUMN task_id TEXT;
UPDATE spans SET task_id = (SELECT task_id_in(body) FROM payloads p WHERE p.seq = spans.seq);
"""

# Version 2 had the time of the last write instead of a number, and nothing derived but tokens.
_TO_VERSION_3 = """
ALTER TABLE spans RENAME TO old_spans;
DROP INDEX spans_by_id;
DROP INDEX spans_by_trace;
DROP INDEX spans_by_start;
DROP INDEX IF EXISTS spans_by_task;
CREATE TEMP TABLE changes (seq INTEGER PRIMARY KEY, change INTEGER NOT NULL);
INSERT INTO changes SELECT seq, dense_rank() OVER (ORDER BY written_ns) FROM old_spans;
"""
_READ_VERSION_2 = (
    f"SELECT seq, change, {', '.join(ROW_COLUMNS)}, unpack(codec, body) "
    "FROM old_spans JOIN payloads USING (seq) JOIN changes USING (seq) ORDER BY seq"
)
_FROM_VERSION_2 = """
UPDATE numbers SET value = (SELECT coalesce(max(seq), 0) FROM spans) WHERE name = 'seq';
UPDATE numbers SET value = (SELECT coalesce(max(change), 0) FROM spans) WHERE name = 'change';
DROP TABLE old_spans;
DROP TABLE changes;
"""

_INSERT_COLUMNS = ("seq", "change", *ROW_COLUMNS, *DERIVED_COLUMNS)
INSERT_SQL = (
    f"INSERT INTO spans ({', '.join(_INSERT_COLUMNS)}) "
    f"VALUES ({', '.join('?' * len(_INSERT_COLUMNS))})"
)

_log = logging.getLogger("everyspan.server.store")


def prepare(connection: apsw.Connection, path: str) -> None:
    """Create the tables in an empty file, or bring those of an older everyspan up to date.

    Before an older file is changed it is copied, to `<path>.before-v3`, and the log says so.

    Raises:
        StoreError: The file holds something else, or was written by a newer everyspan.
        apsw.Error, OSError: It could not be done; the file is as it was.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = read_version(connection, path)
        if version == 0:
            _create_tables(connection)
            _create_indexes(connection)
        elif version < SCHEMA_VERSION:
            _keep_copy(path, version)
            _migrate(connection, version)
        if version != SCHEMA_VERSION:
            connection.pragma("application_id", APPLICATION_ID)
            connection.pragma("user_version", SCHEMA_VERSION)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _create_tables(connection: apsw.Connection) -> None:
    connection.execute(_TABLES)
    connection.execute(sqlite_traces.TABLES)


def _create_indexes(connection: apsw.Connection) -> None:
    connection.execute(_INDEXES)
    connection.execute(sqlite_traces.INDEXES)


def _keep_copy(path: str, version: int) -> None:
    copy = Path(f"{path}.before-v{SCHEMA_VERSION}")
    # A connection of its own sees what is committed: the file before any change.
    source = open_reader(path)
    try:
        copy_to(source, copy)
    except (apsw.Error, OSError) as error:
        raise StoreError(
            f"{path} has schema {version} and must be brought to {SCHEMA_VERSION}, but cannot be "
            f"copied to {copy} before: {error}"
        ) from error
    finally:
        source.close()
    _log.warning(
        "%s is brought from schema %d to %d; as it was, it is kept in %s",
        path,
        version,
        SCHEMA_VERSION,
        copy,
    )


def _migrate(connection: apsw.Connection, version: int) -> None:
    if version == 1:
        connection.create_scalar_function("task_id_in", _task_id_in, numargs=1)
        connection.execute(_TO_VERSION_2)
    connection.execute(_TO_VERSION_3)
    _create_tables(connection)
    for seq, change, *values in connection.execute(_READ_VERSION_2):
        connection.execute(INSERT_SQL, (seq, change, *to_values(from_values(tuple(values)))))
    connection.execute(_FROM_VERSION_2)
    _create_indexes(connection)


def _task_id_in(*values: Any) -> str | None:
    return read_task_id(read_metadata(*values))
