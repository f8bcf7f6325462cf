"""Which spans may hold a text: an index of words, in a file beside the store's.

    spans.change -> thread: words of the rows that changed -> <store>-text (FTS5)
    search -> candidates(texts) -> rows to look at

X1  The index narrows down where to look, and nothing more: `terms.Answers` reads what is found. So
    it may be capped, late, or gone.
X2  Rows that changed since the index last looked are candidates, always: a search misses nothing of
    what was acknowledged before it.
X3  It has a file, a thread and locks of its own; no write waits for it. It goes on where it was,
    deletes what the store deleted, and is built anew where its file is lost, damaged, of another
    form, or ahead of the store.

Each span is one document without its text: FTS5 keeps words and the numbers of spans only. Words
are runs of ASCII letters and digits, as in `terms`; beside them stand words of our own: one for the
span's name, whose letters are searched among all names, and one where the text was capped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw

from everyspan.server.stores.sqlite_calls import join
from everyspan.server.stores.sqlite_file import LOCK_WAIT_S, create, open_reader
from everyspan.server.stores.sqlite_readers import Deadline
from everyspan.server.stores.sqlite_rows import read_payloads
from everyspan.server.stores.sqlite_text_lookup import (
    LONG,
    NAME,
    NAMES_MAX,
    OTHER_NAME,
    Candidates,
    find_candidates,
    to_set,
)
from everyspan.server.terms import Texts, readable

FORM = 1
"""Of the file; one of another form is built anew."""
TEXT_BYTES_MAX = 64 * 1024
"""Of a span that are indexed; longer ones are looked at in every search. Chosen."""
BATCH = 1_000
POLL_S = 0.5
BUSY_RESTS = 6
"""Rests, each as long as the work before, while writes wait: a seventh of a processor indexes as
many spans as a small machine takes in, about. Measured (`python -m benchmarks ingest`)."""

_TABLES = """
CREATE VIRTUAL TABLE words USING fts5(
    text, content='', contentless_delete=1, detail=none, tokenize='ascii', prefix='1 2'
);
-- A quarter less work than with pages of 4,000 bytes.
INSERT INTO words (words, rank) VALUES ('pgsz', 16000);
CREATE TABLE names (number INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE) STRICT;
CREATE TABLE place (
    change INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    swept INTEGER
) STRICT;
INSERT INTO place VALUES (0, 0, 0, NULL);
"""
_NEXT_SQL = (
    "SELECT s.change, s.seq, s.name, unpack(p.codec, p.body) "
    "FROM spans s INDEXED BY spans_by_change JOIN payloads p USING (seq) "
    "WHERE (s.change, s.seq) > (?, ?) ORDER BY s.change, s.seq LIMIT ?"
)
_NUMBER_SQL = "SELECT value FROM numbers WHERE name = ?"

_log = logging.getLogger("everyspan.server.store")


class TextIndex:
    """The file and its thread.

    Args:
        store_path: The store's file; it is there.
        is_busy: Whether writes wait: the index then rests longer, and catches up after.
    """

    def __init__(self, store_path: str, *, is_busy: Callable[[], bool] = lambda: False) -> None:
        self._store_path = store_path
        self._is_busy = is_busy
        self._path = Path(f"{store_path}-text")
        self._readers: dict[int, _Reader] = {}
        self._wake = threading.Condition()
        self._closing = False
        self._damaged = False
        self._come_to = (0, 0)
        self._thread = threading.Thread(target=self._run, name="everyspan-text", daemon=True)
        self._thread.start()

    @property
    def come_to(self) -> tuple[int, int]:
        """Change and number of the last span that was seen to be indexed."""
        return self._come_to

    async def close(self) -> None:
        """End the thread, once nobody searches; the next process goes on where it was."""
        for reader in self._readers.values():
            # First: whoever closes last clears the log away, which one that only reads cannot.
            reader.connection.close()
        with self._wake:
            self._closing = True
            self._wake.notify()
        await join(self._thread)

    # -- Looking up, on the threads that search

    @contextlib.contextmanager
    def candidates(
        self, store: apsw.Connection, texts: Texts, deadline: Deadline
    ) -> Iterator[Candidates]:
        """Yield where to look for what has all terms of `texts`, whatever its trace.

        `store` begins its transaction here: the index is read as it was a moment before, so that
        what it does not know yet is seen to have changed since (X2).
        """
        with contextlib.ExitStack() as stack:
            reader = self._reader()
            place = None if reader is None else self._begin(reader, deadline, stack)
            store.execute("BEGIN")
            stack.callback(store.execute, "ROLLBACK")
            found = Candidates(None, None, set())
            if reader is not None and place is not None:
                with contextlib.suppress(apsw.InterruptError):  # The search itself will see that.
                    found = find_candidates(reader.connection, store, texts, place)
            try:
                yield found
            except apsw.CorruptError:
                self._damaged = True
                raise

    def _begin(
        self, reader: _Reader, deadline: Deadline, stack: contextlib.ExitStack
    ) -> tuple[int, int] | None:
        """Begin a transaction that `stack` ends; return how far the index has come."""
        connection = reader.connection
        connection.set_progress_handler(deadline.is_over, 2_000)
        stack.callback(connection.set_progress_handler, None)
        try:
            connection.execute("BEGIN")
            stack.callback(connection.execute, "ROLLBACK")
            place: Any = connection.execute("SELECT change, seq FROM place").fetchone()
        except apsw.Error:
            return None
        return place[0], place[1]

    def _reader(self) -> _Reader | None:
        """Return this thread's connection, None where there is no index to be read."""
        thread = threading.get_ident()
        reader = self._readers.get(thread)
        try:
            inode = self._path.stat().st_ino
            if reader is None or reader.inode != inode:
                if reader is not None:
                    del self._readers[thread]
                    reader.connection.close()
                reader = _Reader(open_reader(str(self._path)), inode)
                if reader.connection.pragma("user_version") != FORM:
                    reader.connection.close()
                    return None
                self._readers[thread] = reader
        except (apsw.Error, OSError):
            return None
        return reader

    # -- Following, on the thread

    def _run(self) -> None:
        # Whoever sends or reads spans comes first. Here a thread has a priority of its own.
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        store: apsw.Connection | None = None
        index: _Index | None = None
        failed = False
        wait_s = 0.0
        while self._go_on(wait_s):
            try:
                if self._damaged:
                    self._damaged = False
                    raise _UnusableError("a search found it damaged")
                store = store or open_reader(self._store_path)
                if index is not None and not index.is_there():
                    index.close()
                    index = None
                index = index or _open(self._path)
                started_s = time.monotonic()
                worked = index.follow(store)
                self._come_to = index.come_to
                wait_s = self._rest_s(time.monotonic() - started_s) if worked else POLL_S
                failed = False
            except (apsw.BusyError, apsw.LockedError):
                wait_s = POLL_S  # Another process is at it.
            except Exception as error:
                if index is not None:
                    index.close()
                    index = None
                wait_s = 10 * POLL_S
                if not failed and isinstance(error, _REBUILT):
                    _log.warning("the text index is built anew: %s", error)
                    _remove(self._path)
                    wait_s = 0.0
                elif not failed:
                    _log.error("the text index failed, and tries again: %s", type(error).__name__)
                failed = True
        for connection in (store, index):
            if connection is not None:
                connection.close()

    def _rest_s(self, worked_s: float) -> float:
        """Return how long to leave the processor to others: half of it at least."""
        return max(worked_s, 0.001) * (BUSY_RESTS if self._is_busy() else 1)

    def _go_on(self, wait_s: float) -> bool:
        with self._wake:
            if not self._closing and wait_s:
                self._wake.wait(wait_s)
            return not self._closing


class _UnusableError(Exception):
    """The index is of no use to this store."""


_REBUILT = (_UnusableError, apsw.CorruptError, apsw.NotADBError)


class _Reader:
    def __init__(self, connection: apsw.Connection, inode: int) -> None:
        self.connection = connection
        self.inode = inode


def _open(path: Path) -> _Index:
    create(path)
    connection = apsw.Connection(str(path))
    try:
        connection.set_busy_timeout(int(LOCK_WAIT_S * 1000))
        connection.pragma("journal_mode", "wal")
        # A power cut may take the last words along; their rows are read once more then.
        connection.pragma("synchronous", "NORMAL")
        connection.pragma("cache_size", -16 * 1024)
        connection.pragma("journal_size_limit", 16 * 1024 * 1024)
        connection.execute("BEGIN IMMEDIATE")
        form = connection.pragma("user_version")
        if form == 0:
            connection.execute(_TABLES)
            connection.pragma("user_version", FORM)
        connection.execute("COMMIT")
        if form not in (0, FORM):
            raise _UnusableError(f"it is of form {form}")
    except BaseException:
        connection.close()
        raise
    return _Index(connection, path)


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


class _Index:
    """The file, open to be written."""

    def __init__(self, connection: apsw.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._inode = path.stat().st_ino
        self._names: dict[bytes, int] = {}
        self._swept_s = 0.0
        self.come_to = (0, 0)

    def close(self) -> None:
        self._connection.close()

    def is_there(self) -> bool:
        """Whether the path still leads to this file."""
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    def follow(self, store: apsw.Connection) -> bool:
        """Take in the next rows that changed; return whether there may be more."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            place: Any = connection.execute("SELECT * FROM place").fetchone()
            change, seq, deleted, swept = place
            if change > store.execute(_NUMBER_SQL, ("change",)).get:
                raise _UnusableError("it is ahead of the store")
            rows: list[Any] = store.execute(_NEXT_SQL, (change, seq, BATCH)).fetchall()
            for values in rows:
                change, seq, name, body = values
                text = f"{self._name_word(name)} {_text(body)}"
                connection.execute(
                    "INSERT OR REPLACE INTO words (rowid, text) VALUES (?, ?)", (seq, text)
                )
            if not rows:
                swept, deleted = self._sweep(store, swept, deleted)
            connection.execute(
                "UPDATE place SET change = ?, seq = ?, deleted = ?, swept = ?",
                (change, seq, deleted, swept),
            )
            connection.execute("COMMIT")
            self.come_to = (change, seq)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
                self._names.clear()
        return bool(rows) or swept is not None

    def _name_word(self, name: str) -> str:
        lowered = name.encode().lower()
        number = self._names.get(lowered)
        if number is None:
            connection = self._connection
            find = "SELECT number FROM names WHERE name = ?"
            number = connection.execute(find, (lowered,)).get
            if number is None:
                last = connection.execute("SELECT coalesce(max(number), 0) FROM names").get
                if last >= NAMES_MAX:
                    return OTHER_NAME
                number = last + 1
                connection.execute("INSERT INTO names VALUES (?, ?)", (number, lowered))
            if len(self._names) >= 10_000:
                self._names.clear()
            self._names[lowered] = number
        return f"{NAME}{number}"

    def _sweep(
        self, store: apsw.Connection, swept: int | None, deleted: int
    ) -> tuple[int | None, int]:
        """Take out some of what the store deleted; return how far that came, None for the end."""
        if swept is None:
            count = store.execute(_NUMBER_SQL, ("deleted",)).get or 0
            if count == deleted or time.monotonic() < self._swept_s + 60:
                return None, deleted
            self._swept_s = time.monotonic()
            swept, deleted = 0, count
        connection = self._connection
        seqs = [
            seq
            for (seq,) in connection.execute(
                "SELECT id FROM words_docsize WHERE id > ? ORDER BY id LIMIT ?", (swept, BATCH)
            )
        ]
        if not seqs:
            return None, deleted
        there = to_set(
            store.execute("SELECT seq FROM spans WHERE seq BETWEEN ? AND ?", (seqs[0], seqs[-1]))
        )
        for seq in seqs:
            if seq not in there:
                connection.execute("DELETE FROM words WHERE rowid = ?", (seq,))
        return seqs[-1], deleted


def _text(body: bytes) -> str:
    """Return what is indexed of a row's payloads."""
    parts: list[bytes] = []
    room = TEXT_BYTES_MAX
    for payload in read_payloads(body):
        # An escape takes at most six bytes for one.
        part = readable(payload[: 6 * room + 12])
        if len(part) > room:
            parts += [part[:room], LONG.encode()]
            break
        parts.append(part)
        room -= len(part)
    text = b" ".join(parts)
    if not text.isascii():
        text = text.decode("utf-8", "replace").encode("ascii", "replace")
    return text.decode("ascii")
