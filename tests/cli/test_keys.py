"""`everyspan keys`, over a store's file and over a server that runs on it."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
from click.testing import CliRunner, Result

from everyspan.cli.app import app
from tests.serving import ServerProcess
from tests.waiting import wait_until


def keys(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments, "--store", str(path)])


def status(server: ServerProcess, key: str, method: str = "GET") -> int:
    headers = {"x-api-key": key, "x-selected-account-id": "team"}
    url = f"{server.base_url}/v5/spans/nope"
    return httpx2.request(method, url, headers=headers).status_code


def test_a_running_server_takes_notice_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    server = ServerProcess(path)
    assert status(server, "any") == 404
    made = keys(path, "create", "--account", "team", "--scope", "read", "--json")
    key = json.loads(made.stdout)
    wait_until(lambda: status(server, "any") == 401)
    assert status(server, key["key"]) == 404
    assert status(server, key["key"], "PATCH") == 403
    assert keys(path, "revoke", key["id"]).exit_code == 0
    wait_until(lambda: status(server, key["key"]) == 401)
    server.stop()


def test_a_key_is_shown_once_and_listed_without_its_secret(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    assert "No keys" in keys(path, "list").stderr
    made = keys(path, "create", "--name", "ci\x1b[31m", "--account", "a", "--account", "*")
    key = made.stdout.strip()
    assert key.startswith("esk_")
    assert len(made.stdout.splitlines()) == 1
    keys(path, "create", "--expires", "30d")
    listed = keys(path, "list")
    first, second = listed.stdout.splitlines()
    assert key.split("_")[1] in first
    assert key.split("_")[2] not in listed.stdout
    assert "\x1b" not in first
    assert "every account" in first
    assert "read and write" in first
    assert "local" in second
    assert "expires 20" in second
    # The whole key names itself.
    assert keys(path, "revoke", key).exit_code == 0
    assert "revoked 20" in keys(path, "list").stdout
    rows = json.loads(keys(path, "list", "--json").stdout)
    assert [bool(row["revoked"]) for row in rows] == [True, False]
    assert key.split("_")[2].encode() not in path.read_bytes()


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    for arguments, named in [
        (["create", "--expires", "soon"], "24h"),
        (["create", "--scope", "admin"], "read,write"),
        (["create", "--name", "x" * 101], "name"),
        (["create", "--account", ""], "account"),
        (["revoke", "nope"], "nope"),
    ]:
        result = keys(path, *arguments)
        assert (result.exit_code, named in result.stderr) == (2, True), result.stderr
