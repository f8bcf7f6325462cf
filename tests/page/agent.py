"""An agent in a process of its own, which does with the real SDK what a test tells it."""

from __future__ import annotations

import json
import subprocess
import sys

import httpx2

from tests.waiting import wait_until

_LOOP = """
import json, sys
import everyspan

everyspan.configure(sys.argv[1])
names = {"everyspan": everyspan}
for line in sys.stdin:
    exec(json.loads(line), names)
    everyspan.flush()
    print("done", flush=True)
"""


class Agent:
    """It runs Python source, with `everyspan` configured, and flushes what that recorded."""

    def __init__(self, base_url: str) -> None:
        self._health = f"{base_url}/api/health"
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LOOP, base_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, source: str) -> None:
        """Return once it is done, and the server lists and finds what it recorded."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(source) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"
        wait_until(self._is_settled)

    def stop(self) -> None:
        """End it in order, with its last reports."""
        self.process.communicate(timeout=30)

    def _is_settled(self) -> bool:
        health = httpx2.get(self._health).json()
        return not (health["waiting"] or health["unsummarized"] or health["unindexed"])
