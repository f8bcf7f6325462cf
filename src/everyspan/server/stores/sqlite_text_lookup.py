"""What the text index of the SQLite store says of a search: which spans are worth reading.

A term is turned into words that each span with it must have, if it has any such. Its first letters
may be the end of a longer word, and say nothing; its last ones begin a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import apsw

from everyspan.server.terms import WORD_BYTES_MAX, Term, Texts

NAMES_MAX = 50_000
"""Different names that are told apart; spans with others are looked at wherever names count."""
NAMES_NARROW_MAX = 500
"""Names that one term may stand in; with more it narrows nothing down."""
CANDIDATES_MAX = 5_000
"""Up to as many are looked at by themselves; beyond, spans are gone through in order."""
MANY_MAX = 250_000
"""Up to as many are held in memory where spans are gone through in another order."""
WIDTH_MAX = 50_000
"""Numbers of a block of spans may lie as far apart to be asked for by themselves."""
FRESH_MAX = 50_000
"""Spans that the index does not know yet; with more it is of no use."""

# Words of our own in the index, beside those of the text.
LONG = "evsplongtext"
NAME = "evspname"
OTHER_NAME = "evspothername"

_FRESH_SQL = "SELECT seq FROM spans INDEXED BY spans_by_change WHERE (change, seq) > (?, ?) LIMIT ?"
_PIECE = re.compile(rb"[a-z0-9]+")


class Candidates:
    """Where a text search has to look, within one read of the index.

    Attributes:
        seqs: The numbers of all spans to look at; None where they are too many, or not known.
    """

    def __init__(self, seqs: set[int] | None, index: Lookup | None, fresh: set[int]) -> None:
        self.seqs = seqs
        self._index = index
        self._fresh = fresh
        self._all: set[int] | None = None
        self._read_all = False

    def among(self, seqs: list[int]) -> set[int]:
        """Return those of `seqs` that have to be looked at."""
        if self._index is None:
            return set(seqs)
        found: set[int] | None
        first, last = min(seqs), max(seqs)
        if last - first <= WIDTH_MAX:
            found = self._index.between(first, last)
        else:
            # In an order that is not that of arrival, each block would be nearly everything.
            if not self._read_all:
                self._all = self._index.all_(MANY_MAX)
                self._read_all = True
            found = self._all
        if found is None:
            return set(seqs)
        return {seq for seq in seqs if seq in found or seq in self._fresh}


class Lookup:
    """One expression of FTS5, within a transaction that reads."""

    def __init__(self, connection: apsw.Connection, expression: str) -> None:
        self._connection = connection
        self._expression = expression

    def all_(self, count: int) -> set[int] | None:
        """Return all documents, None if there are over `count`."""
        sql = "SELECT rowid FROM words WHERE words MATCH ? LIMIT ?"
        found = to_set(self._connection.execute(sql, (self._expression, count + 1)))
        return None if len(found) > count else found

    def between(self, first: int, last: int) -> set[int]:
        """Return the documents in a range, both ends included."""
        sql = "SELECT rowid FROM words WHERE words MATCH ? AND rowid BETWEEN ? AND ?"
        return to_set(self._connection.execute(sql, (self._expression, first, last)))


def to_set(rows: Iterable[tuple[Any, ...]]) -> set[int]:
    """Return the numbers that a statement's rows hold."""
    return {seq for (seq,) in rows}


def find_candidates(
    connection: apsw.Connection, store: apsw.Connection, texts: Texts, place: tuple[int, int]
) -> Candidates:
    """Return where to look for what has all terms of `texts`, whatever its trace.

    Args:
        connection: The index's, in a transaction.
        store: The store's, in a transaction that began later.
        place: The change and the number up to which the index has come.
    """
    fresh = to_set(store.execute(_FRESH_SQL, (*place, FRESH_MAX + 1)))
    parts = [_expression(connection, term) for term in texts.terms]
    known = [part for part in parts if part is not None]
    if len(fresh) > FRESH_MAX or not known:
        return Candidates(None, None, fresh)
    lookup = Lookup(connection, f"({' AND '.join(known)}) OR {LONG}")
    few = lookup.all_(CANDIDATES_MAX)
    return Candidates(None if few is None else few | fresh, lookup, fresh)


def _expression(connection: apsw.Connection, term: Term) -> str | None:
    """Return what every document with the term holds, None where nothing is certain."""
    whole, prefix = _pieces(term)
    words = [f'"{word.decode()}"' for word in whole]
    if prefix is not None:
        words.append(f'"{prefix.decode()}"*')
    if not words:
        return None
    expression = f"({' AND '.join(words)})"
    if term.kind == "phrase":
        return expression
    # Words and other text may stand in the name as well, and there in part.
    named = connection.execute(
        "SELECT number FROM names WHERE instr(name, ?) LIMIT ?", (term.text, NAMES_NARROW_MAX + 1)
    ).fetchall()
    if len(named) > NAMES_NARROW_MAX:
        return None
    names = [f"{NAME}{number}" for (number,) in named]
    if connection.execute("SELECT coalesce(max(number), 0) FROM names").get >= NAMES_MAX:
        names.append(OTHER_NAME)
    return f"({' OR '.join([expression, *names])})"


def _pieces(term: Term) -> tuple[list[bytes], bytes | None]:
    """Return words that text with the term holds whole, and letters that one of its begins with."""
    if term.words:
        return [*term.words], None
    whole: list[bytes] = []
    prefix = None
    for found in _PIECE.finditer(term.text):
        if found.start() == 0 or len(found[0]) > WORD_BYTES_MAX:
            continue  # Perhaps the end of a longer word.
        if found.end() < len(term.text):
            whole.append(found[0])
        else:
            prefix = found[0]
    return list(dict.fromkeys(whole))[:64], prefix
