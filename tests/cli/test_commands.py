"""The commands as people run them, against the real server (`everyspan serve`)."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx2
import pytest
from click.testing import CliRunner, Result

from everyspan.cli.app import COMMANDS, app
from tests.cli.spans import T0_S, Span, make_span, make_trace
from tests.serving import serving

SIGNS = "✓◐◔✕?–"


class Server:
    """A real server with its store, and what a test does to both."""

    def __init__(self, url: str, store: Path) -> None:
        self.url = url
        self.store = store

    def put(self, spans: list[Span], *, account: str = "local") -> None:
        for at in range(0, len(spans), 1000):
            reply = httpx2.put(
                f"{self.url}/v5/spans/batch",
                json={"items": spans[at : at + 1000]},
                headers={"x-selected-account-id": account},
            )
            assert reply.status_code == 200, reply.text

    def delete(self, span_id: str) -> None:
        """Take a row away behind the server's back."""
        with sqlite3.connect(self.store, timeout=10) as connection:
            done = connection.execute("DELETE FROM spans WHERE id = ?", (span_id,))
            assert done.rowcount == 1
        connection.close()

    def run(self, *words: str) -> Result:
        return run(*words, "--url", self.url)

    def run_json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)


def run(*words: str) -> Result:
    """Run a command in this process; an unexpected exception fails the test."""
    result = CliRunner().invoke(app, list(words), prog_name="everyspan")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVERYSPAN_ENDPOINT", "SGP_API_KEY", "SGP_ACCOUNT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    store = tmp_path / "traces.sqlite"
    with serving(store) as url:
        yield Server(url, store)


# traces list -----------------------------------------------------------------------------------


def test_list_shows_the_newest_traces_first(server: Server) -> None:
    """Command line: name, status, duration, spans, tokens, completeness, age."""
    server.put(make_trace("old"))
    server.put(make_trace("new", began_s=T0_S + 60, dropped={"queue full": 1}, gone=(2,)))
    lines = server.run("traces", "list").stdout.splitlines()
    heading = "TRACE AGE DURATION SPANS TOKENS STATUS COMPLETENESS NAME"
    assert " ".join(lines[0].split()) == heading
    assert re.fullmatch(
        r"new +\d+d +1\.00s +4 +36  SUCCESS  ✕ 4 of 5, 1 dropped: queue full  turn", lines[1]
    )
    assert re.fullmatch(r"old +\d+d +1\.00s +5 +48  SUCCESS  ✓ 5 of 5 +turn", lines[2])


def test_list_shows_a_trace_whose_root_is_not_stored(server: Server) -> None:
    """P11: a lost root hides nothing."""
    server.put(make_trace("t1"))
    server.delete("t1-root")
    assert "▨ root not stored" in server.run("traces", "list").stdout


def test_list_stops_at_the_limit_and_sees_past_a_large_trace(server: Server) -> None:
    """A trace of many pages does not hide those behind it."""
    for at in range(5):
        server.put(make_trace(f"small{at}", began_s=T0_S + at))
    server.put(make_trace("large", children=1500, began_s=T0_S + 100))
    listed = server.run_json("traces", "list", "--limit", "3")
    assert [row["trace_id"] for row in listed] == ["large", "small4", "small3"]
    assert [row["spans"] for row in listed] == [1501, 5, 5]
    assert len(server.run_json("traces", "list")) == 6


def test_list_of_nothing_is_no_error(server: Server) -> None:
    """Exit code 0: there was nothing to find."""
    result = server.run("traces", "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "No traces yet" in result.stderr
    assert server.run_json("traces", "list") == []


def test_the_environment_names_server_and_account(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings: EVERYSPAN_ENDPOINT, SGP_API_KEY and SGP_ACCOUNT_ID, read by config alone."""
    server.put(make_trace("mine"), account="acme")
    server.put(make_trace("theirs"))
    monkeypatch.setenv("EVERYSPAN_ENDPOINT", server.url)
    monkeypatch.setenv("SGP_ACCOUNT_ID", "acme")
    monkeypatch.setenv("SGP_API_KEY", "k")
    listed = json.loads(run("traces", "list", "--json").stdout)
    assert [row["trace_id"] for row in listed] == ["mine"]


# traces show -----------------------------------------------------------------------------------


def test_show_draws_the_tree(server: Server) -> None:
    """Command line: a tree with times, types, status, tokens."""
    server.put(make_trace("t1", children=2))
    result = server.run("traces", "show", "t1")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "trace t1  ✓ 3 of 3",
        "2025-10-09T08:53:20Z  1.00s, 3 spans, 20→4 tok (per call)",
        "",
        "    +0ms    1.00s  ✓ turn  CUSTOM",
        " +10.0ms   5.00ms  ✓ ├─ step 1  CUSTOM  10→2 tok",
        " +20.0ms   5.00ms  ✓ └─ step 2  CUSTOM  10→2 tok",
    ]


def test_show_reads_a_trace_of_many_pages(server: Server) -> None:
    """`sgp` §7 cursors: every span once."""
    server.put(make_trace("t1", children=1200))
    shown = server.run_json("traces", "show", "t1")
    assert len({span["id"] for span in shown["spans"]}) == len(shown["spans"]) == 1201
    assert shown["completeness"]["text"] == "✓ 1,201 of 1,201"
    assert shown["tokens"] == {"input": 12_000, "output": 2_400, "rule": "per call"}


def test_show_of_an_unknown_trace_is_a_finding(server: Server) -> None:
    """Exit code 1, one line."""
    result = server.run("traces", "show", "no\x1bne")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"everyspan: {server.url} has no trace no\\x1bne\n"


def test_hostile_names_reach_the_terminal_escaped(server: Server) -> None:
    """X1: in list, show and audit, as text and as JSON."""
    evil = "\x1b]0;owned\x07\x9b2J\u202eexe.\u2066[red]"
    spans = make_trace("t1", dropped={evil: 1}, gone=(1,))
    for span in spans:
        span["name"] = evil
    server.put(spans)
    for words in (["traces", "list"], ["traces", "show", "t1"], ["audit", "--all", "--wait", "0"]):
        for as_json in ([], ["--json"]):
            shown = server.run(*words, *as_json).stdout
            unseen = {c for c in shown if unicodedata.category(c) in {"Cc", "Cf"}} - {"\n"}
            assert unseen == set(), words
            assert "owned" in shown
            assert "[red]" in shown


# audit -----------------------------------------------------------------------------------------


def test_audit_of_whole_traces_finds_nothing(server: Server) -> None:
    """P11: exit code 0 says that everything is there."""
    for at in range(60):
        server.put(make_trace(f"t{at}", children=3))
    result = server.run("audit", "--all")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == (
        "60 traces: 60 complete; 240 of 240 spans that were counted are stored"
    )


@pytest.mark.parametrize("gone", ["t1-1", "t1-3", "t1-4", "t1-root"])
@pytest.mark.parametrize("age_s", [3.0, 30 * 60.0])
def test_audit_finds_a_row_deleted_from_the_store(server: Server, gone: str, age_s: float) -> None:
    """Done when: exit code 1 whichever row is gone, the closing one too, fresh or old."""
    server.put(make_trace("t1", began_s=time.time() - age_s))
    server.put(make_trace("t2", began_s=time.time() - age_s))
    assert server.run("audit", "--wait", "0").exit_code == 0
    server.delete(gone)
    result = server.run("audit", "--wait", "0")
    assert result.exit_code == 1
    assert result.stdout.startswith("t1  ")
    assert "t2" not in result.stdout


def test_audit_names_reasons_and_holes(server: Server) -> None:
    """Command line: expected against stored, holes by reason."""
    server.put(make_trace("t1", children=9, dropped={"queue full": 2}, gone=(3, 4)))
    server.put(make_trace("t2", children=9, gone=(5,)))
    server.put([make_span("f", trace_id="foreign")])
    result = server.run("audit", "--all")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[:5] == [
        "t1  ✕ 8 of 10, 2 dropped: queue full  turn",
        "    not stored: part part-t1 span 3–4",
        "t2  ? 1 missing, nobody reported why  turn",
        "    not stored: part part-t2 span 5",
        "3 traces: 1 not reported, 1 unaccounted, 1 lost; 17 of 20 spans that were counted are "
        "stored, 2 dropped: queue full, 1 missing, nobody reported why",
    ]


def test_audit_as_json_tells_all_of_it(server: Server) -> None:
    """--json: complete traces too."""
    server.put(make_trace("t1", children=9, gone=(3,)))
    server.put(make_trace("t2"))
    report = server.run_json("audit", "--all")
    assert [(row["trace_id"], row["finding"], row["state"]) for row in report["traces"]] == [
        ("t1", True, "unaccounted"),
        ("t2", False, "complete"),
    ]
    assert report["traces"][0]["holes"] == [{"part": "part-t1", "first": 3, "last": 3}]
    summary = report["summary"]
    assert (summary["traces"], summary["findings"]) == (2, 1)
    assert (summary["counted"], summary["expected"]) == (14, 15)


def test_a_window_never_cuts_through_a_trace(server: Server) -> None:
    """--since picks traces by any span; each is then read whole."""
    now_s = time.time()
    spans = make_trace("long", began_s=now_s - 7200)
    spans[-2]["start_timestamp"] = spans[-2]["end_timestamp"] = make_span("x", began_s=now_s - 600)[
        "start_timestamp"
    ]
    server.put(spans)
    server.put(make_trace("old", began_s=now_s - 7200, gone=(1,)))
    assert server.run("audit", "--since", "15m").exit_code == 0
    assert server.run_json("audit", "--since", "15m")["summary"]["traces"] == 1
    assert server.run("audit", "--since", "3h").exit_code == 1


def test_traces_that_run_are_no_finding_when_the_audit_is_live(server: Server) -> None:
    """--live: running and late pass; lost and unaccounted do not."""
    server.put(make_trace("t1", began_s=time.time() - 2)[:-1])
    server.put(make_trace("t2", began_s=time.time() - 2, gone=(2,)))
    assert server.run("audit", "--wait", "0").exit_code == 1
    assert server.run("audit", "--wait", "0", "--live").exit_code == 0
    server.put(make_trace("t3", gone=(2,)))
    assert server.run("audit", "--wait", "0", "--live", "--all").exit_code == 1


def test_spans_left_open_by_a_process_are_a_finding_at_once(server: Server) -> None:
    """--live: nobody will end them; the producer said so, and waiting would be in vain."""
    record = {"__everyspan__": {"p": "a", "rev": 1, "abandoned": True}}
    server.put([make_span("open", began_s=time.time(), took_s=None, metadata=record)])
    result = server.run("audit", "--live", "--wait", "3600")
    assert result.exit_code == 1
    assert "◐ 1 so far, 1 abandoned" in result.stdout


def test_what_the_sdk_records_is_complete(server: Server) -> None:
    """P11, the whole path: spans of a real producer, audited after its process has ended."""
    program = (
        "import sys, everyspan\n"
        "everyspan.configure(sys.argv[1])\n"
        "for turn in range(3):\n"
        "    with everyspan.span('turn'):\n"
        "        for step in range(4):\n"
        "            with everyspan.span('step'): pass\n"
    )
    subprocess.run([sys.executable, "-c", program, server.url], check=True, timeout=60)
    result = server.run("audit", "--wait", "0")
    assert result.exit_code == 0, result.stdout
    assert result.stdout.startswith("3 traces: 3 complete; 15 of 15 spans")


def test_audit_waits_for_spans_on_their_way(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--wait: a trace that completes meanwhile is no finding."""
    spans = make_trace("t1", began_s=time.time() - 2)
    server.put(spans[:2] + spans[3:])
    # Only meanwhile: it is everybody's `time.sleep`.
    with monkeypatch.context() as patch:
        patch.setattr("everyspan.cli.audit.time.sleep", lambda _: server.put(spans))
        assert server.run("audit", "--wait", "60").exit_code == 0


def test_audit_of_a_trace_that_is_not_there_is_a_finding(server: Server) -> None:
    """A trace that was asked for and has nothing stored is not fine."""
    server.put(make_trace("t1"))
    result = server.run("audit", "t1", "t9", "t1")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[:2] == [
        "t9  ? nothing stored  ▨ root not stored",
        "t1  ✓ 5 of 5  turn",
    ]


# serve -----------------------------------------------------------------------------------------


def start(*words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "everyspan", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def test_serve_says_where_it_is_and_how_to_reach_it(tmp_path: Path) -> None:
    """Command line: address, store path, how to point an agent at it; Ctrl-C is success."""
    process = start("serve", "--port", "0", "--otlp-port", "off", XDG_DATA_HOME=str(tmp_path))
    assert process.stdout is not None
    greeting = [process.stdout.readline() for _ in range(6)]
    url = greeting[0].split()[2]
    store = tmp_path / "everyspan" / "traces.sqlite"
    assert greeting[1].split() == ["store", str(store)]
    assert f'everyspan.configure("{url}")' in greeting[2]
    Server(url, store).put(make_trace("t1"))
    listing = start("traces", "list", EVERYSPAN_ENDPOINT=url)
    listed, _ = listing.communicate(timeout=30)
    assert listing.returncode == 0
    assert "✓ 5 of 5" in listed
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


def test_serve_on_every_address_names_one_that_can_be_asked(tmp_path: Path) -> None:
    """And says what is needed from elsewhere."""
    store = str(tmp_path / "s.sqlite")
    assert run("keys", "create", "--store", store).exit_code == 0
    words = ("--host", "0.0.0.0", "--port", "0", "--otlp-port", "off", "--store", store)
    process = start("serve", *words)
    assert process.stdout is not None
    greeting = [process.stdout.readline() for _ in range(6)]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    found = re.fullmatch(r"everyspan serves (http://127\.0\.0\.1:(\d+)) \(.*\)\n", greeting[0])
    assert found is not None
    assert greeting[4] == f"  elsewhere  port {found[2]} of this machine, with a key\n"
    assert greeting[5] == f"  a browser  {found[1]}\n"


def test_a_taken_port_is_bad_usage_and_names_the_holder(server: Server, tmp_path: Path) -> None:
    """Exit code 2, one line, with the way out."""
    port = server.url.rpartition(":")[2]
    process = start("serve", "--port", port, "--store", str(tmp_path / "other.sqlite"))
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert re.fullmatch(rf"everyspan: port {port} .*taken by .*pid \d+.*--port.*\n", errors)


def test_a_store_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    """Exit code 2, no traceback."""
    (tmp_path / "file").write_text("not a database, and longer than its header" * 9)
    for words in (["--store", str(tmp_path / "file")], ["--data-home", str(tmp_path / "file")]):
        result = run("serve", "--port", "0", "--otlp-port", "off", *words)
        assert result.exit_code == 2
        assert re.fullmatch(r"everyspan: .*\n", result.stderr)


# Bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["traces", "list"], ["traces", "show", "t"], ["audit"]])
def test_without_a_server_one_line_says_how_to_start_one(words: list[str]) -> None:
    """Bad input: exit code 2."""
    result = run(*words, "--url", "http://127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "everyspan: no server at http://127.0.0.1:1: connection refused; "
        "start one with: everyspan serve --port 1\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["traces", "nonsense"],
        ["traces", "show"],
        ["traces", "list", "--limit", "0"],
        ["audit", "--since", "yesterday"],
        ["audit", "--wait", "-1"],
        ["serve", "--port", "65536"],
        ["traces", "list", "--url", "ftp://x"],
    ],
)
def test_bad_usage_exits_2(words: list[str]) -> None:
    """Exit codes: 2 for bad usage."""
    result = run(*words)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize("blocked", ["rich_click", "uvicorn"])
def test_a_missing_extra_is_one_line(blocked: str, tmp_path: Path) -> None:
    """Command line: what to install; the entry point itself needs nothing but Python."""
    extra = {"rich_click": "cli", "uvicorn": "server"}[blocked]
    program = (
        f"import sys; sys.modules[{blocked!r}] = None; sys.argv[1:] = ['serve', '--port', '0'];"
        "from everyspan.cli import main; main()"
    )
    process = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "XDG_DATA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 2
    assert re.fullmatch(rf"everyspan: .*pip install 'everyspan\[{extra}\]'\n", process.stderr), (
        process.stderr
    )


def test_a_terminal_without_the_signs_gets_escapes(server: Server) -> None:
    """No UnicodeEncodeError: a Latin-1 terminal shows what it can."""
    server.put(make_trace("t1"))
    process = start("traces", "show", "t1", "--url", server.url, PYTHONIOENCODING="latin-1")
    shown, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert r"\u2713 5 of 5" in shown


# Help ------------------------------------------------------------------------------------------


def all_commands() -> Iterator[tuple[str, ...]]:
    for name in COMMANDS:
        yield (name,)
        command = app.get_command(click.Context(app), name)
        if isinstance(command, click.Group):
            context = click.Context(command)
            yield from ((name, sub) for sub in command.list_commands(context))


@pytest.mark.parametrize("words", [(), *all_commands()], ids=" ".join)
def test_every_help_shows_an_example(words: tuple[str, ...]) -> None:
    """Command line: every command has --help with an example."""
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert "Example:" in result.stdout
    assert f"everyspan {' '.join(words)}".strip() in result.stdout.partition("Example:")[2]


def test_help_loads_neither_server_nor_http_client() -> None:
    """Lazily: a command imports what it needs, when it runs."""
    program = (
        "import sys; from everyspan.cli.app import app; app(['--help'], standalone_mode=False);"
        "print(*(m for m in sys.modules if m in ('httpx2', 'uvicorn', 'starlette', 'apsw',"
        "'langgraph')), file=sys.stderr)"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert process.stderr.strip() == ""
    assert all(name in process.stdout for name in COMMANDS)
