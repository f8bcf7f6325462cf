"""The tables of the SQLite store, and how a row goes into them and comes out.

What is filtered or sorted by has a column in `spans`; payloads lie apart in `payloads`, so that a
scan of many spans reads few pages. `codec` says how a payload body is packed: 0 is plain JSON text,
an object with the keys input, output, metadata and expected, each absent where None.
"""

from __future__ import annotations

from typing import Any

import apsw
import msgspec
from msgspec import Raw

from everyspan.errors import StoreError
from everyspan.server.row import SpanRow, VersionKey, read_task_id

SCHEMA_VERSION = 2

# `seq` is the order of first arrival and never changes; `written_ns` is the last write.
_SCHEMA = """
CREATE TABLE spans (
    seq INTEGER PRIMARY KEY,
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
    input_tokens INTEGER,
    output_tokens INTEGER,
    rev INTEGER NOT NULL,
    older TEXT,
    written_ns INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX spans_by_id ON spans (account, id, trace_id);
CREATE INDEX spans_by_trace ON spans (account, trace_id, start_ns, id);
CREATE INDEX spans_by_start ON spans (account, start_ns, trace_id, id);
CREATE INDEX spans_by_task ON spans (account, task_id) WHERE task_id IS NOT NULL;
CREATE TABLE payloads (
    seq INTEGER PRIMARY KEY,
    codec INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
"""

# Version 1 had no tasks.
_TO_VERSION_2 = """
ALTER TABLE spans ADD COLUMN task_id TEXT;
UPDATE spans SET task_id = (SELECT task_id_in(codec, body) FROM payloads p WHERE p.seq = spans.seq);
CREATE INDEX spans_by_task ON spans (account, task_id) WHERE task_id IS NOT NULL;
"""

PLAIN = 0
ROW_BYTES = 512
"""What a row costs beside its payloads, roughly."""

ROW_COLUMNS = (
    "account",
    "trace_id",
    "id",
    "name",
    "start_ns",
    "end_ns",
    "parent_id",
    "task_id",
    "type",
    "status",
    "group_id",
    "application_interaction_id",
    "application_variant_id",
    "obs_trace_id",
    "obs_span_id",
    "input_tokens",
    "output_tokens",
    "rev",
    "older",
)
SELECT_ROW_SQL = (
    "SELECT " + ", ".join(f"s.{column}" for column in ROW_COLUMNS) + ", p.codec, p.body "
    "FROM spans s JOIN payloads p USING (seq) "
)


class Payloads(msgspec.Struct):
    """The stored form of a span's payloads."""

    input: Raw = Raw()
    output: Raw = Raw()
    metadata: Raw = Raw()
    expected: Raw = Raw()


_decode_payloads = msgspec.json.Decoder(Payloads).decode
_encode_older = msgspec.json.Encoder().encode
_decode_older = msgspec.json.Decoder(dict[str, VersionKey]).decode


def prepare(connection: apsw.Connection, path: str) -> None:
    """Create the tables in an empty file, or bring those of an older everyspan up to date.

    Raises:
        StoreError: The file holds something else, or was written by a newer everyspan.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = connection.pragma("user_version")
        if version == 0:
            if connection.execute("SELECT count(*) FROM sqlite_schema").get:
                raise StoreError(f"{path} is a database, but not one of everyspan")
            connection.execute(_SCHEMA)
            connection.pragma("user_version", SCHEMA_VERSION)
        elif version == 1:
            connection.create_scalar_function("task_id_in", _task_id_in, numargs=2)
            connection.execute(_TO_VERSION_2)
            connection.pragma("user_version", SCHEMA_VERSION)
        elif version != SCHEMA_VERSION:
            raise StoreError(
                f"{path} has schema {version}; this everyspan knows {SCHEMA_VERSION} only"
            )
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _task_id_in(*values: Any) -> str | None:
    return read_task_id(read_metadata(*values))


def to_values(row: SpanRow) -> tuple[Any, ...]:
    """Return what goes into ROW_COLUMNS."""
    return (
        row.account,
        row.trace_id,
        row.id,
        row.name,
        row.start_ns,
        row.end_ns,
        row.parent_id,
        row.task_id,
        row.type,
        row.status,
        row.group_id,
        row.application_interaction_id,
        row.application_variant_id,
        row.obs_trace_id,
        row.obs_span_id,
        row.input_tokens,
        row.output_tokens,
        row.rev,
        None if row.older is None else _encode_older(row.older).decode(),
    )


def to_body(row: SpanRow) -> bytes:
    """Return the row's payloads as codec PLAIN."""
    # Joined by hand: the payloads are JSON text already, an encoder would check each again.
    members = [
        b'"%b":%b' % (name, payload)
        for name, payload in (
            (b"input", row.input),
            (b"output", row.output),
            (b"metadata", row.metadata),
            (b"expected", row.expected),
        )
        if payload is not None
    ]
    return b"{" + b",".join(members) + b"}"


def from_values(values: tuple[Any, ...]) -> SpanRow:
    """Return the row behind one result of SELECT_ROW_SQL."""
    *columns, older, codec, body = values
    assert codec == PLAIN
    payloads = _decode_payloads(body)
    return SpanRow(
        **dict(zip(ROW_COLUMNS, columns, strict=False)),
        older=None if older is None else _decode_older(older),
        input=bytes(payloads.input) or None,
        output=bytes(payloads.output) or None,
        metadata=bytes(payloads.metadata) or None,
        expected=bytes(payloads.expected) or None,
    )


def read_metadata(codec: int, body: bytes) -> bytes | None:
    """Return the metadata inside a stored body."""
    assert codec == PLAIN
    return bytes(_decode_payloads(body).metadata) or None
