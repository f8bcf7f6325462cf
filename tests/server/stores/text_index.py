"""How far the text index of a store has come."""

from __future__ import annotations

from pathlib import Path

import apsw

from everyspan.server.stores.sqlite_file import open_reader


def is_indexed(store_path: Path) -> bool:
    """Whether the index has seen all that is committed."""
    try:
        index = open_reader(f"{store_path}-text")
        store = open_reader(str(store_path))
        seen = index.execute("SELECT change FROM place WHERE swept IS NULL").get
        last = store.execute("SELECT max(change) FROM spans").get
    except apsw.Error:
        return False
    index.close()
    store.close()
    return bool(seen == last)
