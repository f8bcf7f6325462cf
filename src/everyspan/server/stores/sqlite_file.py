"""The SQLite store's file: made for its owner only, opened to write or to read, copied."""

from __future__ import annotations

import os
from pathlib import Path

import apsw

from everyspan.errors import StoreError
from everyspan.server.stores.sqlite_codec import add_unpack

APPLICATION_ID = 0x65767370
"""`evsp` in the file's header says that it is ours."""
SCHEMA_VERSION = 3
LOCK_WAIT_S = 5.0
_COPY_PAGES = 1_000


def create(path: Path) -> None:
    """Make the file and its folders where missing: for their owner only, and on the disk."""
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        # SQLite syncs the file's own folder; that this folder is in its parent is our business.
        _sync_folder(folder.parent)
    # Prompts and answers are in here. SQLite gives its other files the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    _sync_folder(path.parent)


def open_writer(path: str, *, vfs: str | None = None) -> apsw.Connection:
    """Open the connection that writes: WAL, every commit on the disk before it returns.

    Args:
        vfs: SQLite's name for the layer that reads and writes files; None is the system's.

    Raises:
        StoreError: The file is not ours, or was written by a newer everyspan; it is left as it is.
    """
    connection = apsw.Connection(path, vfs=vfs)
    try:
        _prepare(connection)
        connection.set_busy_timeout(int(LOCK_WAIT_S * 1000))
        # Before the first change: the mode stays in the file.
        read_version(connection, path)
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "FULL")
        connection.pragma("cache_size", -64 * 1024)
        connection.pragma("wal_autocheckpoint", 4000)
        # What undoes a savepoint; in files it would be written to the disk for nothing.
        connection.pragma("temp_store", "memory")
        connection.pragma("journal_size_limit", 64 * 1024 * 1024)
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: str) -> apsw.Connection:
    """Open a connection that cannot write."""
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(int(LOCK_WAIT_S * 1000))
    connection.pragma("cache_size", -16 * 1024)
    _prepare(connection)
    return connection


def measure(path: Path) -> tuple[int, int]:
    """Return the bytes that the store's files take, and those that its disk has left."""
    files = path.parent.glob(f"{path.name}*")
    size = sum(file.stat().st_size for file in files if file.exists())
    disk = os.statvfs(path)
    return size, disk.f_bavail * disk.f_frsize


def _prepare(connection: apsw.Connection) -> None:
    # Plans do not depend on the values bound, since indexes are named. Otherwise SQLite would plan
    # a statement anew for every row that it reads by: 17 us, ten times what the rest of it takes.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    add_unpack(connection)


def read_version(connection: apsw.Connection, path: str) -> int:
    """Return the version of the file's schema, 0 for an empty file.

    Raises:
        StoreError: The file is not ours, or was written by a newer everyspan.
    """
    version: int = connection.pragma("user_version")
    if version == 0:
        if connection.execute("SELECT count(*) FROM sqlite_schema").get:
            raise StoreError(f"{path} is a database, but not one of everyspan")
    elif version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} was written by a newer everyspan (schema {version}; this one knows "
            f"{SCHEMA_VERSION} and below): upgrade everyspan, or use another file"
        )
    elif version == SCHEMA_VERSION and connection.pragma("application_id") != APPLICATION_ID:
        raise StoreError(f"{path} is a database, but not one of everyspan")
    return version


def copy_to(source: apsw.Connection, target: Path) -> None:
    """Copy all that is committed into a new file, which appears only once it is whole.

    Args:
        source: No other work may go on in it; other connections may write meanwhile.
        target: A file that is there is replaced.

    Raises:
        apsw.Error, OSError: There is no copy; what was there before still is.
    """
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    create(partial)
    try:
        copy = apsw.Connection(str(partial))
        # One read transaction around all steps: otherwise each write of another connection would
        # make the copy begin anew.
        source.execute("BEGIN")
        try:
            source.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            with copy.backup("main", source, "main") as backup:
                while not backup.done:
                    backup.step(_COPY_PAGES)
        finally:
            source.execute("ROLLBACK")
            copy.close()
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
