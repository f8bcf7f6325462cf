"""`sqlite_codec` and `sqlite_trainer`: payloads come back whole, however they were packed."""

from __future__ import annotations

import random
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest

from everyspan.errors import StoreError
from everyspan.server.row import SpanRow
from everyspan.server.stores import sqlite_trainer
from everyspan.server.stores.base import SearchQuery
from everyspan.server.stores.sqlite import SqliteStore
from everyspan.server.stores.sqlite_codec import PLAIN, ZSTD
from tests.server.rows import make_row
from tests.waiting import until

if TYPE_CHECKING or sys.version_info < (3, 14):
    from backports import zstd
else:
    from compression import zstd

FIRST_AT_SPANS = 200


def chats(count: int, *, start: int = 0) -> list[SpanRow]:
    """Return spans that share their instructions, as an agent's do."""
    rng = random.Random(start)
    words = ["ticket", "refund", "customer", "order", "policy", "answer", "tool", "search"]
    rows = []
    for n in range(start, start + count):
        said = " ".join(rng.choices(words, k=60))
        text = b'{"messages":[{"role":"system","content":"You answer politely, n. %d"},' % (n % 7)
        text += b'{"role":"user","content":"%b %x"}]}' % (said.encode(), rng.getrandbits(400))
        rows.append(make_row(id=f"{n:06}", input=text))
    return rows


def packed(path: Path) -> dict[int, int]:
    """Return how many payloads there are of each codec."""
    with closing(apsw.Connection(str(path))) as connection:
        return dict(connection.execute("SELECT codec, count(*) FROM payloads GROUP BY codec"))


async def read(store: SqliteStore) -> list[SpanRow]:
    return (await store.search(SearchQuery(account="a", limit=10_000))).rows


async def test_bodies_of_every_size_come_back(tmp_path: Path) -> None:
    rng = random.Random(5)
    noise = [bytes(rng.choices(b"0123456789abcdefghijklmnop", k=size)) for size in (1, 40, 90)]
    texts = [None, b"{}", b'{"a":1}', *(b'{"x":"%b"}' % text for text in noise)]
    texts.append(b'{"x":"%b"}' % (b"long" * 200_000))
    rows = [make_row(id=str(n), input=text, expected=text) for n, text in enumerate(texts)]
    store = SqliteStore(tmp_path / "spans.db")
    await store.upsert(rows)
    assert await read(store) == rows
    assert packed(tmp_path / "spans.db").keys() == {PLAIN, ZSTD}
    assert (tmp_path / "spans.db-wal").stat().st_size < 400_000
    await store.close()


async def test_a_dictionary_is_trained_once_there_are_enough_spans_and_again_as_they_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that another dictionary packed, or none, stay readable: here, and by who comes later."""
    monkeypatch.setattr(sqlite_trainer, "FIRST_AT_SPANS", FIRST_AT_SPANS)
    monkeypatch.setattr(sqlite_trainer, "GROWTH", 3)
    monkeypatch.setattr(sqlite_trainer, "DICTIONARY_BYTES", 4_096)
    monkeypatch.setattr(sqlite_trainer, "_POLL_S", 0.01)
    path = tmp_path / "spans.db"
    rows: list[SpanRow] = []
    store, other = SqliteStore(path), SqliteStore(path)

    async def write_until(codec: int) -> None:
        for _ in range(200):
            more = chats(50, start=len(rows))
            rows.extend(more)
            assert await store.upsert(more) == more
            if codec in packed(path):
                return
        raise AssertionError(f"never packed with {codec}: {packed(path)}")

    await write_until(2)
    assert packed(path)[ZSTD] >= FIRST_AT_SPANS
    await write_until(3)
    assert await read(store) == rows
    assert await read(other) == rows
    await other.upsert(chats(1))  # Merged with what another dictionary packed.
    await store.close()
    await other.close()

    again = SqliteStore(path)
    assert await read(again) == rows
    more = chats(50, start=len(rows))
    before = packed(path)[3]
    # Its writer goes on with the newest dictionary.
    await until(lambda: again._packer._codec == 3)
    await again.upsert(more)
    assert packed(path)[3] == before + 50
    with closing(apsw.Connection(str(path))) as connection:
        sizes = dict(
            connection.execute("SELECT codec, avg(length(body)) FROM payloads GROUP BY codec")
        )
    assert sizes[3] < sizes[ZSTD]
    await again.close()


async def test_spans_of_which_no_dictionary_can_be_made_are_packed_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_trainer, "FIRST_AT_SPANS", 10)
    monkeypatch.setattr(sqlite_trainer, "_SAMPLES", 1)
    monkeypatch.setattr(sqlite_trainer, "_POLL_S", 0.01)
    store = SqliteStore(tmp_path / "spans.db")
    trained = []
    run = sqlite_trainer._Training.run

    def note(training: sqlite_trainer._Training) -> None:
        run(training)
        trained.append(training.dictionary)

    monkeypatch.setattr(sqlite_trainer._Training, "run", note)
    await store.upsert([make_row() for _ in range(20)])
    await until(lambda: trained == [None])
    rows = chats(5)
    await store.upsert(rows)
    assert [await store.get("a", row.id) for row in rows] == rows
    await store.close()


@pytest.mark.parametrize(
    ("codec", "body"),
    [
        (ZSTD, b"no frame"),
        (ZSTD, zstd.compress(b'{"input":{}}' * 20)[:-3]),
        # Claims 2^60 bytes.
        (ZSTD, b"\x28\xb5\x2f\xfd\xe0" + (2**60).to_bytes(8, "little") + b"\x01\x00\x00"),
        (ZSTD, zstd.compress(b"no JSON, but as long as it has to be")),
        (PLAIN, b"no JSON"),
        (2, zstd.compress(b'{"input":{}}' * 20)),
    ],
)
async def test_a_damaged_payload_fails_its_reads_and_nothing_else(
    tmp_path: Path, codec: int, body: bytes
) -> None:
    path = tmp_path / "spans.db"
    store = SqliteStore(path)
    rows = chats(2)
    await store.upsert(rows)
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("UPDATE payloads SET codec = ?, body = ? WHERE seq = 1", (codec, body))
    with pytest.raises(StoreError, match="a stored payload"):
        await store.get("a", rows[0].id)
    with pytest.raises(StoreError, match="a stored payload"):
        await store.upsert([rows[0]])
    assert await store.get("a", rows[1].id) == rows[1]
    await store.close()
