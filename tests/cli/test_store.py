"""`everyspan store`: copies and checks, also while a server writes."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import apsw
import httpx2
import pytest
from click.testing import CliRunner, Result

from everyspan.cli.app import app
from tests.server.rows import make_item
from tests.serving import ServerProcess, serving


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["store", *map(str, arguments)])


def write(base_url: str, count: int) -> None:
    items = [make_item(input={"text": "x" * 500}) for _ in range(count)]
    with httpx2.Client(base_url=base_url, timeout=30) as client:
        assert client.put("/v5/spans/batch", json={"items": items}).status_code == 200


def test_a_backup_made_while_the_server_writes_can_be_served(tmp_path: Path) -> None:
    store, copy = tmp_path / "spans.db", tmp_path / "copy.db"
    server = ServerProcess(store)
    write(server.base_url, 50)
    result = run("backup", copy, "--store", store)
    assert result.exit_code == 0, result.output
    write(server.base_url, 50)
    assert run("check", "--store", store).exit_code == 0
    server.stop()
    assert copy.stat().st_mode & 0o777 == 0o600
    assert "50 spans, nothing wrong" in run("check", "--store", copy).output
    with serving(copy) as base_url, httpx2.Client(base_url=base_url) as client:
        assert len(client.post("/v5/spans/search", json={}).json()["items"]) == 50
    # What is there is not written over.
    assert run("backup", copy, "--store", store).exit_code == 2


def test_check_tells_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    with serving(path) as base_url:
        write(base_url, 5)
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("DELETE FROM payloads WHERE seq = 2")
        connection.execute("UPDATE payloads SET codec = 1, body = x'00' WHERE seq = 3")
    result = run("check", "--store", path)
    assert result.exit_code == 1
    assert "span 2 has no payloads" in result.output
    assert "span 3: a stored payload is damaged" in result.output
    found = json.loads(run("check", "--store", path, "--json").output)
    assert (found["spans"], len(found["problems"])) == (5, 2)


@pytest.mark.parametrize("content", [None, b"no database, but long enough" * 200])
@pytest.mark.parametrize("command", ["check", "backup"])
def test_what_is_no_store_is_one_line_and_exit_2(
    tmp_path: Path, content: bytes | None, command: str
) -> None:
    path = tmp_path / "spans.db"
    if content is not None:
        path.write_bytes(content)
    more = [tmp_path / "copy"] if command == "backup" else []
    result = run(command, *more, "--store", path)
    assert result.exit_code == 2
    assert str(path) in result.output
    assert not (tmp_path / "copy").exists()
