"""`traces tail`, and `traces list` by what traces have, against real servers."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner

from everyspan.cli.app import app
from tests.cli.spans import T0_S, make_span, make_trace
from tests.cli.test_transfer import put
from tests.serving import ServerProcess
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("account")


def listed(url: str, *words: str) -> list[str]:
    command = ["traces", "list", "--json", "--url", url, *words]
    result = CliRunner().invoke(app, command, prog_name="everyspan")
    assert result.exit_code == 0, result.output
    return [row["trace_id"] for row in json.loads(result.stdout)]


def test_list_goes_by_what_the_page_goes_by(url: str, account: str) -> None:
    """Command line: the same filters; the newest first."""
    failed = make_span("f", trace_id="failed", began_s=T0_S + 3, status="ERROR", took_s=9.0)
    put(url, make_trace("lost", dropped={"queue full": 1}, gone=(2,)), account)
    put(url, make_trace("whole", began_s=T0_S + 60), account)
    agent = {"__agent_name__": "a1", "model": "m1"}
    put(url, [failed, make_span("x", trace_id="mine", began_s=T0_S, metadata=agent)], account)
    wait_until(lambda: len(listed(url, "--since", "2025-01-01T00:00:00Z")) == 4)
    assert listed(url, "--since", "2025-01-01T00:00:00Z")[0] == "whole"
    assert listed(url, "--state", "incomplete") == ["lost"]
    assert listed(url, "--state", "complete") == ["whole"]
    assert listed(url, "--errors") == ["failed"]
    assert listed(url, "--min-duration", "5s") == ["failed"]
    assert listed(url, "--agent", "a1") == ["mine"]
    assert listed(url, "--name", "step 1", "--limit", "1") == ["whole"]
    assert listed(url, "--type", "guardrail") == []
    assert listed(url, "--until", "2025-01-01T00:00:00Z") == []


def test_tail_goes_on_when_the_server_comes_back(tmp_path: Path, account: str) -> None:
    """L1, acceptance 24: what changed meanwhile is told, and nothing twice."""
    store = tmp_path / "spans.db"
    server = ServerProcess(store)
    port = int(server.base_url.rpartition(":")[2])
    put(server.base_url, make_trace("before"), account)
    command = [sys.executable, "-m", "everyspan", "traces", "tail", "--json"]
    process = subprocess.Popen(
        [*command, "--url", server.base_url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
        # Whoever runs these tests in the background has children that do not hear Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    # Until it is connected nothing is told.
    number = 0
    while not _has_line(process, seconds=0.3):
        number += 1
        put(server.base_url, make_trace(f"first {number}"), account)
    told = [json.loads(process.stdout.readline())["trace_id"]]
    server.kill()
    assert "not live" in process.stderr.readline()
    again = ServerProcess(store, port=port)
    put(again.base_url, make_trace("after"), account)
    while told[-1] != "after":
        told.append(json.loads(process.stdout.readline())["trace_id"])
    assert len(told) == len(set(told))
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    process.stdout.close()
    process.stderr.close()
    again.stop()


def _has_line(process: subprocess.Popen[str], *, seconds: float) -> bool:
    assert process.stdout is not None
    return bool(select.select([process.stdout.fileno()], [], [], seconds)[0])


def test_audit_names_what_a_killed_process_left(url: str, account: str) -> None:
    """P11: which parent is missing, and since when the producer is silent."""
    program = (
        "import everyspan\n"
        f"everyspan.configure(everyspan.SGPTracingProcessorConfig('k', {account!r}, {url!r}),"
        " linger_ms=0)\n"
        "with everyspan.span('turn', trace_id='t') as turn:\n"
        "    with everyspan.span('step'): pass\n"
        "    everyspan.flush(10); print(turn.id, flush=True); input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "AGENT_NAME": "victim"},
    )
    assert process.stdout is not None
    parent = process.stdout.readline().strip()
    headers = {"x-selected-account-id": account}
    wait_until(lambda: httpx2.get(f"{url}/api/producers", headers=headers).json()["items"])
    process.kill()
    process.communicate()
    command = ["audit", "t", "--wait", "0", "--url", url]
    result = CliRunner().invoke(app, command, prog_name="everyspan")
    assert result.exit_code == 1
    assert f"parent not stored: {parent}" in result.stdout
    assert f"victim (pid {process.pid} on " in result.stdout
