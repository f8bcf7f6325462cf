"""README.md tells the truth: what it shows runs, as it stands, against a real server."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(python|sh run)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The port that README.md speaks of; here a free one takes its place.
PORT = "5003"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Port of a running `everyspan serve` with an empty store."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    store = tmp_path_factory.mktemp("store") / "spans.sqlite"
    command = [sys.executable, "-m", "everyspan", "serve", "--port", port, "--store", str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        try:
            wait_until_healthy(port, within_s=30)
            yield port
        finally:
            server.terminate()
            server.communicate(timeout=30)


def test_readme_shows_programs_and_commands() -> None:
    """The guard itself: a fence spelled otherwise would be skipped unseen."""
    kinds = [kind for kind, _ in FENCE.findall(README)]
    assert kinds.count("python") >= 4
    assert kinds.count("sh run") >= 1
    assert len(re.findall("^```python", README, re.MULTILINE)) == kinds.count("python")


def test_what_readme_shows_runs(port: str) -> None:
    """README.md: every program and command, in its order, succeeds and says nothing on stderr."""
    shown = ""
    for kind, text in FENCE.findall(README):
        text = text.replace(PORT, port)
        if kind == "python":
            run(["-c", text], port)
        else:
            for line in text.splitlines():
                shown += run(["-m", *shlex.split(line)], port)
    assert "turn" in shown


def run(arguments: list[str], port: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"EVERYSPAN_ENDPOINT": f"http://127.0.0.1:{port}"},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    assert done.stderr == "", arguments
    return done.stdout


def wait_until_healthy(port: str, *, within_s: float) -> None:
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"http://127.0.0.1:{port}/healthz").status_code == 200:
                return
        time.sleep(0.02)
    pytest.fail(f"no server on port {port} after {within_s} s")
