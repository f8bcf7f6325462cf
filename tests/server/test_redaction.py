"""No credential is stored, whichever API brings it, and nothing else changes (`sgp` §6, §10.10)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2

from everyspan.model.credentials import REDACTED
from everyspan.server.ingest import Ingest
from everyspan.server.metrics import Metrics
from everyspan.server.patch import SpanPatch
from everyspan.server.redaction import redact_patch, redact_row, redact_rows
from everyspan.server.stores.sqlite import SqliteStore
from tests.server.rows import make_item, make_row
from tests.serving import ServerProcess

CANARY = "c4n4ry4c4n4ry4c4n4ry"
SECRET = {"password": CANARY, "text": f"Authorization: Bearer {CANARY}", "n": 1}
LEFT = {"password": REDACTED, "text": f"Authorization: Bearer {REDACTED}", "n": 1}


def test_a_row_without_a_credential_is_the_same_row() -> None:
    """R2: as are its ids, whatever they look like (R3)."""
    row = make_row(id=f"sk-{CANARY}", input=b'{"big":1e400, "n" : 0.10}', metadata=b"[{}]")
    assert redact_row(row) is row
    patch = SpanPatch(trace_id=f"sk-{CANARY}", output=b"{}")
    assert redact_patch(patch) is patch


def test_rows_looked_at_together_become_what_each_becomes_alone() -> None:
    """R1, R2: wherever among many the credentials are, and whatever stands beside them."""
    filler = json.dumps({"text": "nothing here " * 1_000}).encode()
    rows = [make_row(id=str(n), input=filler, output=b"{}") for n in range(40)]
    rows[3] = make_row(id="3", name=f"sk-{CANARY}", input=filler)
    rows[4] = make_row(id="4", input=b'{"bearer":1}', output=b'{"x":"' + CANARY.encode() + b'"}')
    rows[20] = make_row(id="20", expected=json.dumps(SECRET).encode())
    rows[39] = make_row(id="39", metadata=b'{"p\\u0061ssword":"' + CANARY.encode() + b'"}')
    redacted = redact_rows(rows)
    assert redacted == [redact_row(row) for row in rows]
    changed = [n for n, (old, new) in enumerate(zip(rows, redacted, strict=True)) if old is not new]
    assert changed == [3, 20, 39]
    assert redact_rows([]) == []


async def test_what_is_stored_holds_no_credential(tmp_path: Path) -> None:
    """P9, R1, `sgp` §10.10: every field, arrays too, written and changed; the record survives."""
    record = {"p": "part", "n": 3, "rev": 1, "total": 3}
    usage = {"input_tokens": 3, "output_tokens": 4}
    store = SqliteStore(tmp_path / "spans.db")
    ingest = Ingest(store, Metrics(), "test")
    (row,) = await ingest.upsert(
        [
            make_row(
                id="s",
                name=f"call sk-{CANARY}",
                input=json.dumps([SECRET, {"max_tokens": 5}]).encode(),
                output=json.dumps(SECRET).encode(),
                metadata=json.dumps(
                    {"__everyspan__": record, "usage": usage, "api_key": 1}
                ).encode(),
                expected=json.dumps(SECRET).encode(),
            )
        ]
    )
    assert row.name == f"call {REDACTED}"
    assert [json.loads(payload or b"") for payload in (row.input, row.output, row.expected)] == [
        [LEFT, {"max_tokens": 5}],
        LEFT,
        LEFT,
    ]
    assert json.loads(row.metadata or b"") == {
        "__everyspan__": record,
        "usage": usage,
        "api_key": REDACTED,
    }
    assert await ingest.upsert([row]) == [row]
    patch = SpanPatch(
        name=f"sk-{CANARY}",
        input=json.dumps(SECRET).encode(),
        output=json.dumps([SECRET]).encode(),
        metadata=json.dumps(SECRET).encode(),
        merges_metadata=True,
    )
    changed = await ingest.patch("a", "s", patch)
    assert changed is not None
    assert (changed.name, changed.input) == (REDACTED, row.output)
    assert json.loads(changed.metadata or b"") == json.loads(row.metadata or b"") | LEFT
    assert await store.get("a", "s") == changed
    await store.close()
    for path in tmp_path.iterdir():
        assert CANARY.encode() not in path.read_bytes(), path


def test_no_credential_is_echoed_stored_or_logged_over_either_api(tmp_path: Path) -> None:
    """P9, `sgp` §10.10."""
    server = ServerProcess(tmp_path / "spans.db")
    item: dict[str, Any] = make_item(
        id="s", **dict.fromkeys(("input", "output", "expected"), SECRET)
    )
    agentex = {
        "id": "a",
        "name": "n",
        "trace_id": "t",
        "start_time": "2026-01-02T03:04:05Z",
        "input": [SECRET],
        "data": {"__error__": {"type": "E", "message": f"bad key sk-{CANARY}"}},
    }
    with httpx2.Client(base_url=server.base_url) as http:
        replies = [
            http.put("/v5/spans/batch", json={"items": [item]}),
            http.post("/v5/spans", json=item),
            http.patch("/v5/spans/s", json={"output": SECRET, "name": f"sk-{CANARY}"}),
            http.post("/spans", json=agentex),
            http.patch("/spans/a", json={"output": SECRET}),
            http.get("/spans"),
            http.post("/v5/spans/search", json={}),
        ]
    log = server.stop()
    for reply in replies:
        assert reply.status_code == 200
        assert REDACTED in reply.text
        assert CANARY not in reply.text
    assert CANARY not in log
    for path in tmp_path.iterdir():
        assert CANARY.encode() not in path.read_bytes(), path
