"""Copies and checks of a store's file, whether or not a server runs on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw

from everyspan.errors import StoreError
from everyspan.server.stores.sqlite_file import (
    SCHEMA_VERSION,
    copy_to,
    open_reader,
    read_version,
)
from everyspan.server.stores.sqlite_rows import read_payloads

PROBLEMS_MAX = 20

_ONE_BODY_SQL = "SELECT unpack(codec, body) FROM payloads WHERE seq = ?"
_SEQS_SQL = "SELECT s.seq, p.seq FROM spans s LEFT JOIN payloads p USING (seq)"


def back_up(path: Path, target: Path) -> int:
    """Copy a store as it is at this moment, in one file that can be served; return its bytes.

    Writes go on meanwhile; the log of the store grows until the copy is made.

    Raises:
        StoreError: There is no such store, or it cannot be copied; `target` is as it was.
    """
    if target.exists():
        raise StoreError(f"{target} is there already; choose another name")
    with _opened(path) as connection:
        try:
            copy_to(connection, target)
        except (apsw.Error, OSError) as error:
            raise StoreError(f"{path} cannot be copied to {target}: {error}") from error
    return target.stat().st_size


def check(path: Path) -> tuple[int, list[str]]:
    """Look at all of a store: its pages and indexes, and whether each payload can be read.

    Returns:
        How many spans there are, and up to PROBLEMS_MAX problems.

    Raises:
        StoreError: There is no such store, or it cannot be read at all.
    """
    with _opened(path) as connection:
        try:
            found = connection.execute(f"PRAGMA integrity_check({PROBLEMS_MAX})").fetchall()
            problems = [str(text) for (text,) in found if text != "ok"]
            spans = 0
            for seq, packed in connection.execute(_SEQS_SQL):
                spans += 1
                if len(problems) >= PROBLEMS_MAX:
                    break
                if packed is None:
                    problems.append(f"span {seq} has no payloads")
                    continue
                try:
                    read_payloads(connection.execute(_ONE_BODY_SQL, (seq,)).get)
                except StoreError as error:
                    problems.append(f"span {seq}: {error}")
        except apsw.Error as error:
            raise StoreError(f"{path} cannot be read: {error}") from error
    return spans, problems


@contextmanager
def _opened(path: Path) -> Iterator[apsw.Connection]:
    if not path.is_file():
        raise StoreError(f"there is no store {path}")
    try:
        connection = open_reader(str(path))
    except apsw.Error as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    with closing(connection):
        try:
            version = read_version(connection, str(path))
        except apsw.Error as error:
            raise StoreError(f"{path} cannot be read: {error}") from error
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{path} has schema {version}, not {SCHEMA_VERSION}: serve it once, "
                "which brings it up to date"
            )
        yield connection
