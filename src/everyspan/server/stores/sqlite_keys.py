"""Keys in the SQLite store."""

from __future__ import annotations

import apsw
import msgspec

from everyspan.server.keys import Key
from everyspan.server.stores.base import SESSIONS_MAX
from everyspan.server.stores.sqlite_writer import Transaction

_COLUMNS = "id, hash, name, accounts, scopes, created_ns, expires_ns, revoked_ns, parent"
_SELECT_SQL = f"SELECT {_COLUMNS} FROM keys ORDER BY created_ns, id"
_INSERT_SQL = f"INSERT INTO keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DELETE_EXPIRED_SQL = "DELETE FROM keys WHERE parent IS NOT NULL AND expires_ns <= ?"
_DELETE_OLDEST_SQL = (
    "DELETE FROM keys WHERE id IN (SELECT id FROM keys WHERE parent = ? "
    "ORDER BY created_ns DESC, id LIMIT -1 OFFSET ?)"
)
_REVOKE_SQL = (
    "UPDATE keys SET revoked_ns = ? WHERE id = ? AND parent IS NULL AND revoked_ns IS NULL"
)
_DELETE_SESSIONS_SQL = "DELETE FROM keys WHERE parent = ?1 OR (id = ?1 AND parent IS NOT NULL)"


def read_keys(connection: apsw.Connection) -> list[Key]:
    """Return all keys, the oldest first."""
    return [
        Key(
            id=id_,
            hash=hash_,
            name=name,
            accounts=msgspec.json.decode(accounts, type=tuple[str, ...]),
            scopes=tuple(scopes.split(",")),
            created_ns=created_ns,
            expires_ns=expires_ns,
            revoked_ns=revoked_ns,
            parent=parent,
        )
        for (
            id_,
            hash_,
            name,
            accounts,
            scopes,
            created_ns,
            expires_ns,
            revoked_ns,
            parent,
        ) in connection.execute(_SELECT_SQL)
    ]


def add_key(transaction: Transaction, key: Key) -> None:
    """Keep a key."""
    connection = transaction.connection
    values = (
        key.id,
        key.hash,
        key.name,
        msgspec.json.encode(key.accounts).decode(),
        ",".join(key.scopes),
        key.created_ns,
        key.expires_ns,
        key.revoked_ns,
        key.parent,
    )
    connection.execute(_INSERT_SQL, values)
    if key.parent is not None:
        connection.execute(_DELETE_EXPIRED_SQL, (transaction.now_ns,))
        connection.execute(_DELETE_OLDEST_SQL, (key.parent, SESSIONS_MAX))


def revoke_key(transaction: Transaction, key_id: str) -> bool:
    """End a key and its sessions."""
    connection = transaction.connection
    connection.execute(_REVOKE_SQL, (transaction.now_ns, key_id))
    ended = connection.changes()
    connection.execute(_DELETE_SESSIONS_SQL, (key_id,))
    return bool(ended + connection.changes())
