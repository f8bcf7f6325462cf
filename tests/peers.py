"""The other SDKs that everyspan must get on with, in an environment of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

PYTHON = Path(__file__).parents[1] / ".venv-peers" / "bin" / "python"

needs_peers = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="no other SDKs here: run `make peers`"),
]
"""Marks of tests that run a program with `PYTHON`, on the main Python alone: agentex-sdk pins
versions that .venv has newer."""
