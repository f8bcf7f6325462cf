"""`traces export` and `traces import` against real servers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner, Result

from everyspan.cli import traces_import
from everyspan.cli.app import app
from everyspan.model.ids import new_id
from everyspan.testing import FaultServer, faults
from everyspan.testing.exchange import Request
from everyspan.testing.faults import Answer
from tests.cli.spans import T0_S, Span, make_span, make_trace
from tests.serving import ServerProcess

pytestmark = pytest.mark.usefixtures("account")

ODD: dict[str, Any] = {
    "input": {"big": 2**60 + 1, "exact": 0.1, "text": 'é😀\u2028 \\ " \x7f', "null": None},
    "output": {"items": [[], {}, 1e300, -0.0]},
    "group_id": "g/1",
    "application_variant_id": "v",
}


def run(*words: str, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(app, ["traces", *words], input=stdin, prog_name="everyspan")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def put(url: str, spans: list[Span], account: str) -> None:
    headers = {"x-selected-account-id": account}
    reply = httpx2.put(f"{url}/v5/spans/batch", json={"items": spans}, headers=headers)
    assert reply.status_code == 200, reply.text


def stored(url: str, account: str) -> list[bytes]:
    """The text of all spans of an account as `export` writes it, but for the account's name."""
    result = run("export", "--url", url)
    assert result.exit_code == 0
    return sorted(line.replace(account.encode(), b"") for line in result.stdout_bytes.splitlines())


def test_what_was_exported_and_imported_is_equal(
    url: str, account: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Command line: byte for byte, open and odd spans too; importing again adds nothing."""
    open_span = make_span("open", trace_id="t3", end_timestamp=None)
    put(url, [*make_trace("t1", children=300), make_span("odd", trace_id="t2", **ODD)], account)
    put(url, [open_span], account)
    file = tmp_path / "spans.jsonl"
    assert run("export", "--url", url, "--output", str(file)).exit_code == 0
    before = stored(url, account)
    assert len(before) == 303
    assert file.stat().st_mode & 0o777 == 0o600
    assert [*tmp_path.iterdir()] == [file]
    other = new_id()
    monkeypatch.setenv("SGP_ACCOUNT_ID", other)
    assert stored(url, other) == []
    for _ in range(2):
        result = run("import", str(file), "--url", url)
        assert (result.exit_code, result.stderr) == (0, "")
        assert "303 lines stored" in result.stdout
        assert stored(url, other) == before


def test_what_was_exported_as_otlp_and_imported_is_the_same_spans(
    url: str, account: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`otlp` §4: ids, tree, times, types, statuses, payloads and the count of a trace survive."""
    error = {"type": "ValueError", "message": "no", "category": "unknown"}
    spans = make_trace("t1", children=230)
    spans[3] |= {"status": "ERROR", "metadata": spans[3]["metadata"] | {"__error__": error}}
    # A conversation comes back in the `parts` form that OTLP has for it: here it is in it already.
    parts = [{"type": "text", "content": "é"}]
    spans[4] |= {"type": "COMPLETION", "input": {"messages": [{"role": "user", "parts": parts}]}}
    spans[5] |= {"group_id": "g/1", "input": {"text": '"é\u2028 \\'}, "status": "CANCELED"}
    put(url, spans, account)
    put(url, [make_span("open", trace_id=str(uuid.uuid4()), end_timestamp=None)], account)
    file = tmp_path / "spans.otlp.jsonl"
    assert run("export", "--url", url, "--format", "otlp", "-o", str(file)).exit_code == 0
    assert len(file.read_bytes().splitlines()) == 3
    before = [json.loads(line) for line in stored(url, account)]
    monkeypatch.setenv("SGP_ACCOUNT_ID", other := new_id())
    for _ in range(2):
        result = run("import", str(file), "--url", url)
        assert (result.exit_code, result.stderr) == (0, "")
    after = [json.loads(line) for line in stored(url, other)]
    times = ("start_timestamp", "end_timestamp")
    same = ("id", "trace_id", "parent_id", "name", *times, "type", "status", "group_id", "input")
    by_id = {span["id"]: span for span in after}
    assert len(after) == len(before) == 232
    for span in before:
        twin = by_id[span["id"]]
        assert [twin.get(key) for key in same] == [span.get(key) for key in same]
        assert span["metadata"].items() <= twin["metadata"].items()
    told = json.loads(run("show", "t1", "--json", "--url", url).stdout)["completeness"]
    assert (told["state"], told["counted"]) == ("complete", 231)


def test_a_trace_that_came_under_two_forms_of_its_id_is_one(url: str, account: str) -> None:
    """otlp:F2: show, audit and export gather it by every form, whichever one is asked for."""
    trace_id = str(uuid.uuid4())
    key = trace_id.replace("-", "")
    root, *children = make_trace(trace_id)[::-1]
    put(url, [root, *({**child, "trace_id": key} for child in children)], account)
    for form in (trace_id, key):
        shown = json.loads(run("show", form, "--json", "--url", url).stdout)
        assert (shown["completeness"]["state"], len(shown["spans"])) == ("complete", 5)
        assert len(run("export", form, "--url", url).stdout.splitlines()) == 5
        audited = CliRunner().invoke(app, ["audit", trace_id, form, "--json", "--url", url])
        assert audited.exit_code == 0
        (trace,) = json.loads(audited.stdout)["traces"]
        assert (trace["state"], trace["stored"]) == ("complete", 5)
    assert len(json.loads(run("list", "--json", "--url", url).stdout)) == 1


def test_traces_are_exported_whole_by_id_or_by_what_they_have(url: str, account: str) -> None:
    """Command line: a filter finds traces, and all of each is written."""
    put(url, make_trace("old", began_s=T0_S - 86_400), account)
    failed = make_trace("failed")
    failed[2]["status"] = "ERROR"
    put(url, failed, account)
    put(url, make_trace("slow", began_s=T0_S + 5), account)

    def traces(*words: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for line in run("export", "--url", url, *words).stdout.splitlines():
            trace_id = json.loads(line)["trace_id"]
            found[trace_id] = found.get(trace_id, 0) + 1
        return found

    size = len(failed)
    assert traces("failed", "old") == {"failed": size, "old": size}
    assert traces("--errors") == {"failed": size}
    assert traces("--since", "2025-10-09T00:00:00Z") == {"failed": size, "slow": size}
    assert traces("--until", "2025-10-09T00:00:00Z") == {"old": size}
    assert traces("--name", "no such") == {}


def test_a_trace_that_is_not_there_is_a_finding(url: str, account: str) -> None:
    """Exit code 1: what was asked for is not complete; the rest is written."""
    put(url, make_trace("there"), account)
    result = run("export", "--url", url, "there", "gone")
    assert result.exit_code == 1
    assert "has no trace gone" in result.stderr
    assert len(result.stdout.splitlines()) == 5


def test_an_export_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    """E1: exit code 1 and the reason; what was written before goes to stdout at most."""
    item = {"id": "s", "trace_id": "t"}

    def answer(request: Request) -> Answer:
        if "starting_after" in request.query:
            return faults.status(503, body=b'{"message": "store busy"}')
        return faults.status(200, body=json.dumps({"items": [item], "has_more": True}).encode())

    file = tmp_path / "spans.jsonl"
    file.write_text("the last one")
    with FaultServer(answer) as server:
        result = run("export", "--url", server.base_url, "--output", str(file))
        shown = run("export", "--url", server.base_url)
    for one in (result, shown):
        assert one.exit_code == 1
        assert "not complete: " in one.stderr
        assert "store busy" in one.stderr
    assert file.read_text() == "the last one"
    assert [*tmp_path.iterdir()] == [file]
    assert json.loads(shown.stdout) == item


def test_every_line_that_is_refused_is_named_and_costs_only_itself(url: str, account: str) -> None:
    """M1, M2."""
    lines = [json.dumps(span) for span in make_trace("t", children=20)]
    lines[3] = lines[3].replace('"name": "step', '"name": 7, "was": "step')
    lines[5] = "garbage"
    lines[7] = "[]"
    lines[9] = '{"id": "no trace"}'
    lines[11] = ""
    lines[13] = json.dumps({**json.loads(lines[13]), "start_timestamp": "yesterday"})
    result = run("import", "-", "--url", url, "--json", stdin="\n".join(lines).encode())
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert sorted(one["line"] for one in told["refused"]) == [4, 6, 8, 10, 14]
    reasons = {one["line"]: one["reason"] for one in told["refused"]}
    assert "name" in reasons[4]
    assert "start_timestamp" in reasons[14]
    assert "trace_id" in reasons[10]
    assert told["lines"] == len(stored(url, account)) == len(lines) - 6


def test_an_offender_that_is_not_named_is_found_by_halves(account: str) -> None:
    """M2: some servers refuse without a word on which span it is."""

    def answer(request: Request) -> Answer:
        bad = any(item["name"] == "bad" for item in request.json["items"])
        return faults.status(422 if bad else 200, body=b'{"detail": "no"}' if bad else b"{}")

    spans = [make_span(f"s{n}", trace_id="t", name="bad" if n == 37 else "n") for n in range(100)]
    with FaultServer(answer) as server:
        file = "\n".join(map(json.dumps, spans)).encode()
        result = run("import", "-", "--url", server.base_url, "--json", stdin=file)
    assert json.loads(result.stdout) == {"lines": 99, "refused": [{"line": 38, "reason": "no"}]}


def test_a_document_of_spans_over_many_lines_is_read_too(url: str, account: str) -> None:
    """Command line: what `jq` or a person formatted."""
    spans = make_trace("t")
    result = run("import", "-", "--url", url, stdin=json.dumps(spans, indent=2).encode())
    assert result.exit_code == 0
    assert len(stored(url, account)) == len(spans)


def test_a_server_that_is_not_there_is_bad_usage(tmp_path: Path) -> None:
    """Exit code 2, one line, no waiting."""
    file = tmp_path / "spans.jsonl"
    file.write_text('{"trace_id": "t"}\n')
    for words in (["import", str(file)], ["export"], ["export", "--output", str(file)]):
        result = run(*words, "--url", "http://127.0.0.1:1")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.count("\n") == 1
    assert file.read_text() == '{"trace_id": "t"}\n'
    assert run("import", str(tmp_path / "none")).exit_code == 2
    assert run("export", "t", "--errors").exit_code == 2


def test_an_import_waits_for_a_server_that_restarts(
    tmp_path: Path, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M4: it goes on where it was, and misses nothing."""
    monkeypatch.setattr(traces_import, "BATCH_SPANS", 10)
    monkeypatch.setattr(traces_import, "PAUSE_S", 0.05)
    store = tmp_path / "spans.db"
    server = ServerProcess(store)
    port = int(server.base_url.rpartition(":")[2])
    lines = [(n, json.dumps(make_span(f"s{n}", trace_id="t")).encode()) for n in range(1, 101)]
    restarted: list[ServerProcess] = []

    def restart() -> None:
        server.kill()
        restarted.append(ServerProcess(store, port=port))

    def feed() -> Iterator[tuple[int, bytes]]:
        for n, line in lines:
            if n == 50:
                threading.Thread(target=restart).start()
                server.process.wait()
            yield n, line

    from everyspan.cli.options import open_reader

    with open_reader(server.base_url) as connection:
        importer = traces_import.Importer(connection)
        importer.take(feed())
        importer.finish()
        assert (importer.stored_lines, importer.refused) == (100, [])
        assert len(stored(server.base_url, account)) == 100
    restarted[0].stop(signal.SIGTERM)


def test_a_reader_that_has_enough_ends_the_export_without_a_word(url: str, account: str) -> None:
    """Command line: `| head -1`."""
    put(
        url,
        [make_span(f"s{n}", trace_id="t", input={"x": "x" * 5000}) for n in range(200)],
        account,
    )
    program = [sys.executable, "-m", "everyspan", "traces", "export", "--url", url]
    process = subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["trace_id"] == "t"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 1
    process.stderr.close()
