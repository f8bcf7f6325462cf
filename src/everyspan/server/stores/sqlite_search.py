"""Searches of the SQLite store: keyset pages in SQL.

A page is found in two steps inside one read transaction: first the rows' numbers and sort keys,
from an index where there is one; then the rows themselves, until the byte budget is used up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import apsw
import msgspec

from everyspan.errors import RequestError
from everyspan.model.span import AGENT_NAME_KEY
from everyspan.server.row import DEFAULT_STATUS, DEFAULT_TYPE, NAME_MAX, SpanRow, as_object
from everyspan.server.stores.base import (
    MatchingTraces,
    Position,
    SearchPage,
    SearchQuery,
    SortBy,
    Stopped,
)
from everyspan.server.stores.sqlite_readers import Deadline
from everyspan.server.stores.sqlite_rows import (
    ROW_BYTES,
    SELECT_ROW_SQL,
    from_values,
    otel_span_id,
    otel_trace_id,
    read_metadata,
    read_payloads,
)
from everyspan.server.stores.sqlite_text import TextIndex
from everyspan.server.stores.sqlite_text_lookup import CANDIDATES_MAX, Candidates
from everyspan.server.terms import Answers, readable

ROWS_MAX = 20_000
"""A page that must grow to end on an unambiguous id (`sgp:K3`) grows no further than this."""
AFTERWORK_S = 2.0
"""What finishing a page may take once its search time is used up."""

_SORT_SQL: dict[SortBy, str] = {
    "start_timestamp": "s.start_ns",
    "duration_ms": "coalesce(s.end_ns - s.start_ns, 0)",
    "input_tokens": "coalesce(s.input_tokens, 0)",
    "output_tokens": "coalesce(s.output_tokens, 0)",
}
_ROW_SQL = SELECT_ROW_SQL + "WHERE s.seq = ?"
_TEXT_SQL = (
    "SELECT s.trace_id, s.name, unpack(p.codec, p.body) FROM spans s JOIN payloads p USING (seq) "
    "WHERE s.seq = ?"
)
BLOCK_MIN = 256
BLOCK_MAX = 4_096
"""Spans gone through at once where text is searched; chosen."""

_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_Found = tuple[int, int, str, str]
"""seq, sort value, trace id, id."""


class _TimeIsOver(Exception):
    """No error: a page ends."""


def search(
    connection: apsw.Connection, query: SearchQuery, deadline: Deadline, index: TextIndex
) -> SearchPage:
    """See `Store.search`."""
    with _reading(connection, query, deadline, index) as search_:
        return search_.page()


def search_traces(
    connection: apsw.Connection, query: SearchQuery, deadline: Deadline, index: TextIndex
) -> MatchingTraces:
    """See `Store.search_traces`."""
    with _reading(connection, query, deadline, index) as search_:
        return search_.traces()


@contextmanager
def _reading(
    connection: apsw.Connection, query: SearchQuery, deadline: Deadline, index: TextIndex
) -> Iterator[_Search]:
    """Yield a search within one transaction."""
    if query.texts.terms:
        with index.candidates(connection, query.texts, deadline) as candidates:
            yield _Search(connection, query, deadline, candidates)
    else:
        connection.execute("BEGIN")
        try:
            yield _Search(connection, query, deadline)
        finally:
            connection.execute("ROLLBACK")


class _Search:
    """Finds what a query asks for.

    Where it asks for text, spans that the other filters let pass are read, in order, if the index
    has them as candidates.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        query: SearchQuery,
        deadline: Deadline,
        candidates: Candidates | None = None,
    ) -> None:
        self._connection = connection
        self._query = query
        self._deadline = deadline
        self._candidates = candidates
        self._answers = Answers(query.texts)
        self._through: Position | None = None
        self._one_each: set[str] | None = None
        self._backward = query.before is not None
        self._sort = _SORT_SQL[query.sort_by]
        self._filters = _Filters(query)
        if query.metadata:
            connection.create_scalar_function(
                "has_metadata", _metadata_test(query), numargs=1, deterministic=True
            )

    def page(self) -> SearchPage:
        query = self._query
        cursor = query.before if self._backward else query.after
        position = self._resolve(cursor) if isinstance(cursor, str) else cursor

        found, stopped = self._find(position, query.limit + 1)
        has_more = len(found) > query.limit or stopped is not None
        whole = len(found) <= query.limit
        found = found[: query.limit]
        rows: list[SpanRow] = []
        size = self._read(found, rows, 0)
        if len(rows) < len(found):
            found = found[: len(rows)]
            stopped, has_more, whole = "bytes", True, False

        if has_more and found:
            end = self._last_unique(found)
            if end:
                whole = whole and end == len(rows)
                del rows[end:]
            else:
                has_more, stopped = self._lengthen(found, rows, size, stopped)
        if self._backward:
            rows.reverse()
        through = self._through if stopped == "time" and whole else None
        return SearchPage(rows=rows, has_more=has_more, stopped=stopped, through=through)

    def traces(self) -> MatchingTraces:
        query = self._query
        position = query.after
        assert not isinstance(position, str)
        trace_ids: dict[str, None] = {}
        # Of a trace that is found no further span is read.
        self._one_each = set()
        while True:
            found, stopped = self._find(position, query.limit)
            for _, value, trace_id, id_ in found:
                position = Position(value, trace_id, id_)
                trace_ids[trace_id] = None
                if len(trace_ids) == query.limit:
                    return MatchingTraces(trace_ids=list(trace_ids), through=position)
            if stopped is None and self._deadline.is_over():
                stopped, self._through = "time", position
            if stopped is not None or len(found) < query.limit:
                through = None if stopped is None else self._through or position
                return MatchingTraces(trace_ids=list(trace_ids), through=through, stopped=stopped)

    def _find(self, position: Position | None, count: int) -> tuple[list[_Found], Stopped]:
        """Return up to `count` matches beyond `position`, in the direction of the page."""
        found: list[_Found] = []
        try:
            if self._candidates is None:
                sql, parameters = self._ordered(position, *self._filters.source)
                for values in self._connection.execute(f"{sql} LIMIT ?", [*parameters, count]):
                    found.append(values)
            else:
                self._find_texts(position, count, self._candidates, found)
        except (apsw.InterruptError, _TimeIsOver):
            self._deadline.extend(AFTERWORK_S)
            return found, "time"
        return found, None

    def _ordered(
        self, position: Position | None, source: str, bound: list[Any]
    ) -> tuple[str, list[Any]]:
        """Return SQL for what lies beyond `position` and passes all filters but that of text.

        Args:
            source: What follows FROM.
            bound: Its parameters.
        """
        # Backward pages walk the order in reverse, so that LIMIT keeps the nearest rows.
        falling = self._query.descending != self._backward
        where, parameters = self._filters.sql, [*bound, *self._filters.parameters]
        if position is not None:
            where += f" AND ({self._sort}, s.trace_id, s.id) {'<' if falling else '>'} (?, ?, ?)"
            parameters += [position.value, position.trace_id, position.id]
        way = "DESC" if falling else "ASC"
        sql = (
            f"SELECT s.seq, {self._sort}, s.trace_id, s.id FROM {source} WHERE {where} "
            f"ORDER BY {self._sort} {way}, s.trace_id {way}, s.id {way}"
        )
        return sql, parameters

    def _find_texts(
        self, position: Position | None, count: int, candidates: Candidates, found: list[_Found]
    ) -> None:
        """Append up to `count` matches to `found`."""
        self._through = position
        seqs = self._all_candidates(candidates)
        if seqs is None:
            sql, parameters = self._ordered(position, *self._filters.source)
        else:
            # CROSS: each candidate is looked up; the planner might go through all spans instead.
            source = "json_each(?) c CROSS JOIN spans s ON s.seq = c.value"
            numbers = f"[{','.join(map(str, seqs))}]"
            sql, parameters = self._ordered(position, source, [numbers])
        rows = iter(self._connection.execute(sql, parameters))
        trace_ids = frozenset(self._query.texts.trace_ids)
        size = BLOCK_MIN
        while block := list(islice(rows, size)):
            if seqs is None:
                looked_at = candidates.among([seq for seq, *_ in block])
            for values in block:
                seq, value, trace_id, id_ = values
                if self._deadline.is_over():
                    raise _TimeIsOver
                if (
                    (seqs is not None or seq in looked_at or trace_id in trace_ids)
                    and (self._one_each is None or trace_id not in self._one_each)
                    and self._has_texts(seq)
                ):
                    found.append(values)
                    if self._one_each is not None:
                        self._one_each.add(trace_id)
                    if len(found) == count:
                        return
                self._through = Position(value, trace_id, id_)
            size = min(2 * size, BLOCK_MAX)

    def _all_candidates(self, candidates: Candidates) -> set[int] | None:
        """Return the numbers of all spans to look at, None where they are too many."""
        texts = self._query.texts
        if candidates.seqs is None or self._filters.index != "spans_by_start":
            return None
        if not texts.trace_ids:
            return candidates.seqs
        hexes = [*map(otel_trace_id, texts.trace_ids)]
        sql = (
            "SELECT seq FROM spans s INDEXED BY spans_by_trace WHERE s.account = ? "
            f"AND s.otel_trace_id IN ({', '.join('?' * len(hexes))}) LIMIT ?"
        )
        of_traces: list[Any] = self._connection.execute(
            sql, (self._query.account, *hexes, CANDIDATES_MAX + 1)
        ).fetchall()
        if len(of_traces) > CANDIDATES_MAX:
            return None
        return candidates.seqs.union(seq for (seq,) in of_traces)

    def _has_texts(self, seq: int) -> bool:
        values: Any = self._connection.execute(_TEXT_SQL, (seq,)).fetchone()
        trace_id, name, body = values
        return self._answers.hit(trace_id, name, map(readable, read_payloads(body)))

    def _read(self, found: Iterable[_Found], rows: list[SpanRow], size: int) -> int:
        """Append the rows that fit the byte budget; return their total size."""
        for seq, *_ in found:
            values = self._connection.execute(_ROW_SQL, (seq,)).fetchone()
            assert values is not None
            size += len(values[-1]) + ROW_BYTES
            if size > self._query.bytes_max and rows:
                break
            rows.append(from_values(values))
        return size

    def _last_unique(self, found: list[_Found]) -> int:
        """Return how many rows are left when the page ends on an id that occurs once; 0: none."""
        for end in range(len(found), 0, -1):
            if self._is_unique(found[end - 1][3]):
                return end
        return 0

    def _lengthen(
        self,
        found: list[_Found],
        rows: list[SpanRow],
        size: int,
        stopped: Stopped,
    ) -> tuple[bool, Stopped]:
        """Let the page grow to the next unambiguous id, or to the end of the matches."""
        while stopped is None and len(found) < ROWS_MAX:
            _, value, trace_id, id_ = found[-1]
            more, stopped = self._find(Position(value, trace_id, id_), self._query.limit + 1)
            for n, candidate in enumerate(more[: self._query.limit]):
                size = self._read([candidate], rows, size)
                if len(rows) == len(found):
                    stopped = "bytes"
                    break
                found.append(candidate)
                if self._is_unique(candidate[3]):
                    return n + 1 < len(more), None
            else:
                if len(more) <= self._query.limit and stopped is None:
                    return False, None
        raise RequestError(
            400,
            "SEARCH_RESULT_TOO_LARGE",
            "ids repeat across traces, and no page ends on an id that occurs once;"
            " filter by trace_ids",
        )

    def _is_unique(self, id_: str) -> bool:
        return len(self._occurrences(id_, self._filters.sql, self._filters.parameters)) == 1

    def _resolve(self, id_: str) -> Position:
        """Return where the row lies that a page ended on (`sgp:K1`)."""
        # Pages end on ids that occur once. Where another has come since, it came later: the row
        # meant is the one that arrived first.
        occurrences = self._occurrences(id_, self._filters.sql, self._filters.parameters)
        if not occurrences:
            # The row may match no longer, having been completed since.
            occurrences = self._occurrences(id_, "s.account = ?", [self._query.account])
            if len(occurrences) > 1:
                raise RequestError(
                    400, "INVALID_CURSOR", "the cursor is an id that several spans have"
                )
        if not occurrences:
            raise RequestError(400, "INVALID_CURSOR", "the cursor names no span")
        _, value, trace_id, span_id = occurrences[0]
        return Position(value, trace_id, span_id)

    def _occurrences(self, id_: str, where: str, parameters: list[Any]) -> list[_Found]:
        """Return at most two matches with this id, in order of arrival."""
        sql = (
            f"SELECT s.seq, {self._sort}, s.trace_id, s.id FROM spans s INDEXED BY spans_by_id "
            f"WHERE {where} AND s.otel_span_id = ? AND s.id = ? ORDER BY s.seq"
        )
        parameters = [*parameters, otel_span_id(id_), id_]
        if self._candidates is None:
            return list(self._connection.execute(f"{sql} LIMIT 2", parameters))
        rows = self._connection.execute(sql, parameters)
        return list(islice((values for values in rows if self._has_texts(values[0])), 2))


class _Filters:
    """A query's filters as one SQL condition, its parameters, and the index to start from."""

    def __init__(self, query: SearchQuery) -> None:
        self.sql = "s.account = ?"
        self.parameters: list[Any] = [query.account]
        # Asked for by text, and by nothing else there: a filter like any other.
        named_in_texts = () if query.texts.terms else query.texts.trace_ids
        # Named, not left to the planner: it has no statistics, and one bad guess scans the file.
        if query.span_ids or query.spans:
            self.index = "spans_by_id"
        elif query.trace_ids or named_in_texts:
            self.index = "spans_by_trace"
        elif query.task_ids:
            self.index = "spans_by_task"
        else:
            self.index = "spans_by_start"

        # A trace is one in whatever form its id was sent (`otlp:F2`).
        for trace_ids in (query.trace_ids, named_in_texts):
            self._any_of("s.otel_trace_id", tuple(map(otel_trace_id, trace_ids)))
        self._any_of("s.task_id", query.task_ids)
        for ids in (query.span_ids, tuple(id_ for _, id_ in query.spans)):
            self._any_of("s.otel_span_id", tuple(map(otel_span_id, ids)))
        self._any_of("s.id", query.span_ids)
        self._any_of("s.parent_id", query.parent_ids)
        self._any_of("s.name", query.names)
        self._any_of(f"coalesce(s.status, '{DEFAULT_STATUS}')", query.statuses)
        self._any_of(f"coalesce(s.type, '{DEFAULT_TYPE}')", query.types)
        self._any_of("s.application_variant_id", query.application_variant_ids)
        self._any_of("s.obs_trace_id", query.obs_trace_ids)
        self._any_of("s.obs_span_id", query.obs_span_ids)
        self._pairs("IN", query.spans)
        self._none_of("s.trace_id", query.excluded_trace_ids)
        if query.excluded_spans:
            self._pairs("NOT IN", query.excluded_spans)
        else:
            self._none_of("s.id", query.excluded_span_ids)
        if query.parents_only:
            self.sql += " AND s.parent_id IS NULL"
        self._compare("s.group_id = ?", query.group_id)
        self._compare("s.start_ns >= ?", query.from_ns)
        self._compare("s.start_ns <= ?", query.to_ns)
        self._compare("s.end_ns - s.start_ns >= ?", query.min_duration_ns)
        self._compare("s.end_ns - s.start_ns <= ?", query.max_duration_ns)
        for key, values in query.metadata:
            if key == AGENT_NAME_KEY and all(map(_is_short_text, values)):
                # Its column says so, too, and need not be unpacked.
                self._any_of("s.agent", values)
        if query.metadata:
            self.sql += (
                " AND (SELECT has_metadata(unpack(codec, body)) FROM payloads WHERE seq = s.seq)"
            )
        types = query.assessment_types
        if types:
            marks = ", ".join("?" * len(types))
            self.sql += (
                f" AND EXISTS (SELECT 1 FROM assessments WHERE seq = s.seq AND type IN ({marks}))"
            )
            self.parameters += types
        self.source: tuple[str, list[Any]] = f"spans s INDEXED BY {self.index}", []
        """What follows FROM, and its parameters."""
        if types and self.index == "spans_by_start":
            # Few spans are assessed: those are looked up, not looked for.
            self.source = (
                "(SELECT DISTINCT seq FROM assessments INDEXED BY assessments_by_type "
                f"WHERE account = ? AND type IN ({marks})) c CROSS JOIN spans s ON s.seq = c.seq",
                [query.account, *types],
            )

    def _compare(self, condition: str, value: object) -> None:
        if value is not None:
            self.sql += f" AND {condition}"
            self.parameters.append(value)

    def _any_of(self, column: str, values: tuple[str | bytes, ...]) -> None:
        if len(values) == 1:
            # Equality, not IN: only then does the index also give the order.
            self._compare(f"{column} = ?", values[0])
        elif values:
            self.sql += f" AND {column} IN ({', '.join('?' * len(values))})"
            self.parameters += values

    def _none_of(self, column: str, values: tuple[str, ...]) -> None:
        if values:
            self.sql += f" AND {column} NOT IN ({', '.join('?' * len(values))})"
            self.parameters += values

    def _pairs(self, operator: str, pairs: tuple[tuple[str, str], ...]) -> None:
        if pairs:
            marks = ", ".join(["(?, ?)"] * len(pairs))
            self.sql += f" AND (s.trace_id, s.id) {operator} (VALUES {marks})"
            for pair in pairs:
                self.parameters += pair


def _is_short_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) < NAME_MAX


def _metadata_test(query: SearchQuery) -> Any:
    wanted = query.metadata

    def has_metadata(body: bytes) -> bool:
        metadata = read_metadata(body)
        if metadata is None:
            return False
        members = _decode_members(as_object(metadata))
        for key, values in wanted:
            raw = members.get(key)
            if raw is None:
                return False
            try:
                value = msgspec.json.decode(raw)
            except msgspec.DecodeError:
                return False  # A number beyond what Python takes equals nothing one can ask for.
            if not any(_same(value, one) for one in values):
                return False
        return True

    return has_metadata


def _same(a: object, b: object) -> bool:
    """Whether two decoded JSON values are equal; `True` is not 1, 1 is 1.0."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return a == b
