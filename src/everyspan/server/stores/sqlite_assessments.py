"""Assessments in the SQLite store: rows that hang on a span by its number."""

from __future__ import annotations

from typing import Any

import apsw
import msgspec
from msgspec import Raw

from everyspan.errors import RequestError
from everyspan.model.ids import new_id
from everyspan.server.assessments import (
    LISTED_MAX,
    OF_ONE_SPAN_MAX,
    Assessment,
    AssessmentType,
    Author,
    Change,
    Content,
    Draft,
    changed,
    check_author,
    overwrite_exists,
)
from everyspan.server.stores.sqlite_rows import (
    BY_IDENTITY_SQL,
    by_id,
    by_identity,
    otel_trace_id,
)
from everyspan.server.stores.sqlite_writer import Transaction

_SELECT_SQL = (
    "SELECT a.id, a.account, a.type, s.trace_id, s.id, a.content, a.created_by, a.created_ns, "
    "a.updated_ns FROM "
)
_GET_SQL = _SELECT_SQL + "assessments a JOIN spans s USING (seq) WHERE a.account = ? AND a.id = ?"
_OF_SPANS_SQL = _SELECT_SQL + (
    "spans s INDEXED BY spans_by_id CROSS JOIN assessments a USING (seq) "
    "WHERE s.otel_span_id = ? AND s.account = ? AND s.id = ?"
)
_OF_TRACE_SQL = _SELECT_SQL + (
    "spans s INDEXED BY spans_by_trace CROSS JOIN assessments a USING (seq) "
    "WHERE s.account = ? AND s.otel_trace_id = ? AND s.trace_id = ?"
)
_ROOT_SQL = (
    "SELECT seq, id FROM spans INDEXED BY spans_by_trace WHERE account = ? AND otel_trace_id = ? "
    "AND trace_id = ? AND parent_id IS NULL ORDER BY start_ns, id LIMIT 1"
)
_SPAN_SQL = f"SELECT seq, id FROM {BY_IDENTITY_SQL}"
_COUNT_SQL = "SELECT count(*) FROM assessments WHERE seq = ?"
_INSERT_SQL = (
    "INSERT INTO assessments (account, id, seq, type, content, created_by, created_ns, updated_ns) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_UPDATE_SQL = (
    "UPDATE assessments SET type = ?, content = ?, updated_ns = ? WHERE account = ? AND id = ?"
)
_DELETE_SQL = "DELETE FROM assessments WHERE account = ? AND id = ?"


class _Content(msgspec.Struct):
    """The stored form."""

    comment: str | None = None
    rating: int | None = None
    approval: str | None = None
    rubric: Raw = Raw()
    metadata: Raw = Raw()
    overwrite: Raw = Raw()


_decode_content = msgspec.json.Decoder(_Content).decode


def add(transaction: Transaction, account: str, draft: Draft, author: Author) -> Assessment:
    """See `Store.add_assessment`."""
    connection = transaction.connection
    if draft.span_id is None:
        trace = otel_trace_id(draft.trace_id)
        target: Any = connection.execute(_ROOT_SQL, (account, trace, draft.trace_id)).fetchone()
    else:
        key = by_identity(account, draft.trace_id, draft.span_id)
        target = connection.execute(_SPAN_SQL, key).fetchone()
    if target is None:
        what = "the trace has no root span" if draft.span_id is None else "no span has these ids"
        raise RequestError(404, "SPAN_NOT_FOUND", what)
    seq, span_id = target
    if connection.execute(_COUNT_SQL, (seq,)).get >= OF_ONE_SPAN_MAX:
        raise RequestError(
            422, "TOO_MANY_ASSESSMENTS", f"a span has at most {OF_ONE_SPAN_MAX} assessments"
        )
    assessment = Assessment(
        id=new_id(),
        account=account,
        type=draft.type,
        trace_id=draft.trace_id,
        span_id=span_id,
        content=draft.content,
        created_by=author.id,
        created_ns=transaction.now_ns,
        updated_ns=transaction.now_ns,
    )
    values = (
        account,
        assessment.id,
        seq,
        assessment.type,
        _encode(assessment.content),
        author.id,
        assessment.created_ns,
        assessment.updated_ns,
    )
    _write(connection, _INSERT_SQL, values)
    return assessment


def get(connection: apsw.Connection, account: str, assessment_id: str) -> Assessment | None:
    """See `Store.assessment`."""
    for values in connection.execute(_GET_SQL, (account, assessment_id)):
        return _from_values(values)
    return None


def list_(
    connection: apsw.Connection,
    account: str,
    *,
    span_id: str | None,
    trace_id: str | None,
    kind: AssessmentType | None,
) -> list[Assessment]:
    """See `Store.assessments`."""
    parameters: list[Any]
    if span_id is not None:
        sql, parameters = _OF_SPANS_SQL, [*by_id(account, span_id)]
    else:
        assert trace_id is not None
        sql, parameters = _OF_TRACE_SQL, [account, otel_trace_id(trace_id), trace_id]
    if kind is not None:
        sql += " AND a.type = ?"
        parameters.append(kind)
    sql += " ORDER BY a.created_ns, a.id LIMIT ?"
    found = [
        _from_values(values) for values in connection.execute(sql, [*parameters, LISTED_MAX + 1])
    ]
    if len(found) > LISTED_MAX:
        raise RequestError(
            400, "RESULT_TOO_LARGE", f"there are over {LISTED_MAX} assessments; ask by span_id"
        )
    return found


def update(
    transaction: Transaction, account: str, assessment_id: str, change: Change, author: Author
) -> Assessment | None:
    """See `Store.change_assessment`."""
    old = get(transaction.connection, account, assessment_id)
    if old is None:
        return None
    check_author(old, author)
    new = changed(old, change, transaction.now_ns)
    values = (new.type, _encode(new.content), new.updated_ns, account, assessment_id)
    _write(transaction.connection, _UPDATE_SQL, values)
    return new


def delete(transaction: Transaction, account: str, assessment_id: str, author: Author) -> bool:
    """See `Store.delete_assessment`."""
    old = get(transaction.connection, account, assessment_id)
    if old is None:
        return False
    check_author(old, author)
    transaction.connection.execute(_DELETE_SQL, (account, assessment_id))
    return True


def _write(connection: apsw.Connection, sql: str, values: tuple[Any, ...]) -> None:
    try:
        connection.execute(sql, values)
    except apsw.ConstraintError:
        # The one rule that the table itself holds, beside the key, which is random.
        raise overwrite_exists() from None


def _encode(content: Content) -> str:
    # Text: SQLite takes a blob of JSON for its own binary form.
    return msgspec.json.encode(content.members()).decode()


def _from_values(values: tuple[Any, ...]) -> Assessment:
    id_, account, kind, trace_id, span_id, content, created_by, created_ns, updated_ns = values
    said = _decode_content(content)
    return Assessment(
        id=id_,
        account=account,
        type=kind,
        trace_id=trace_id,
        span_id=span_id,
        content=Content(
            comment=said.comment,
            rating=said.rating,
            approval=said.approval,
            rubric=bytes(said.rubric) or None,
            metadata=bytes(said.metadata) or None,
            overwrite=bytes(said.overwrite) or None,
        ),
        created_by=created_by,
        created_ns=created_ns,
        updated_ns=updated_ns,
    )
