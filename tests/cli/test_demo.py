"""The demo, whole: its server, its agent, its audit."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import apsw
import pytest

import everyspan
from everyspan.cli import demo as demo_module

RUN = demo_module.run


@pytest.fixture(autouse=True)
def stores_go_with_the_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The demo keeps its store for its user; a test has none."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def run_demo(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "everyspan", "demo", "--seconds", "2", "--rate", "10", *options],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


def test_every_span_is_accounted_for() -> None:
    """D1, and what is printed about it."""
    done = run_demo()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "180 counted by the script; scale-gp-beta read back 180 of these ids" in done.stdout
    assert "180 accepted = 180 delivered + 0 dropped + 0 rejected; residual 0" in done.stdout
    assert "OK: all 180 spans accounted for." in done.stdout
    for line in ("request", "city guide", "llm:scripted-1", "tool:forecast", "tool:opening_hours"):
        assert re.search(rf"✓.* {re.escape(line)}  ", done.stdout), line
    for command in ("serve --store", "traces show", "audit"):
        assert re.search(rf"^  \S*everyspan {command}", done.stdout, re.MULTILINE)
    assert done.stderr == ""


def test_json_is_for_programs_and_a_plain_locale_is_enough() -> None:
    done = run_demo("--json", "--seconds=0.5", LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["ok"] is True
    assert (result["spans_counted"], result["spans_read_back"]) == (45, 45)
    assert result["connections"] >= 1
    assert 0 < result["block_us_per_span"] < 10_000
    assert 0 < result["handler_us_per_span"] < 10_000
    assert "delivered" in done.stderr


def test_plain_locale_shows_the_tree_too() -> None:
    done = run_demo("--seconds=0.5", LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tool:forecast" in done.stdout


def damaged(damage: str) -> demo_module.Result:
    """Run a short demo with a store that is changed before it is read back."""

    def change(store: Path) -> None:
        connection = apsw.Connection(str(store))
        connection.set_busy_timeout(5000)
        connection.execute(damage)
        assert connection.changes() == 1
        connection.close()

    try:
        return RUN(seconds=1, rate=5, out=io.StringIO(), before_reading=change)
    finally:
        everyspan.shutdown(timeout=5)


def test_row_deleted_from_the_store_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """D1: one span less than counted is a finding, by id."""
    result = damaged("DELETE FROM spans WHERE rowid = (SELECT min(rowid) FROM spans)")
    (finding,) = result.findings
    read = {span["id"] for span in result.stored}
    (missing,) = set(result.counter.span_ids) - read
    assert finding == f"1 span missing: {missing}"
    assert not result.ok
    result.print()
    assert f"MISSING: {finding}" in capsys.readouterr().out


def test_finding_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    damage = "DELETE FROM spans WHERE rowid = (SELECT max(rowid) FROM spans)"
    monkeypatch.setattr(demo_module, "run", lambda **_: damaged(damage))
    with pytest.raises(SystemExit) as left:
        demo_module.demo.main(["--json"], standalone_mode=False)
    assert left.value.code == 1


def test_server_that_does_not_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """D3"""
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no room >&2\nexit 2\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(demo_module.DemoError, match="did not start; its last words: no room"):
        demo_module.run(seconds=1, rate=5, out=io.StringIO())


@pytest.mark.parametrize("option", ["--seconds=0", "--rate=-1", "--rate=many"])
def test_bad_option_is_exit_code_2(option: str) -> None:
    done = run_demo(option)
    assert done.returncode == 2
    assert option.partition("=")[0] in done.stderr


def test_tracing_switched_off_is_one_line() -> None:
    done = run_demo(EVERYSPAN_DISABLED="1")
    assert done.returncode == 2
    assert done.stderr == (
        "everyspan: the demo needs tracing on; unset EVERYSPAN_DISABLED, DISABLE_SCALE_TRACING "
        "and OTEL_SDK_DISABLED\n"
    )


def test_spans_that_were_dropped_are_named_with_their_reason() -> None:
    """D1: what everyspan says of a loss and what the script counted agree."""
    done = run_demo(
        "--json",
        "--seconds=0.5",
        AGENTEX_SPAN_QUEUE_MAX_SIZE="10",
        AGENTEX_SPAN_QUEUE_LINGER_MS="2000",
    )
    assert done.returncode == 1
    result = json.loads(done.stdout)
    dropped = sum(result["dropped"].values())
    assert 0 < dropped == result["spans_counted"] - result["spans_read_back"]
    _, *reasons = result["findings"]
    assert reasons == [f"{dropped} spans dropped: queue full"]
