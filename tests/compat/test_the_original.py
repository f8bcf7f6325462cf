"""The tests of this folder, run with the original's names: what it holds, and what it does not."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import everyspan
from tests.compat import test_defects
from tests.peers import PYTHON, needs_peers

ROOT = Path(__file__).parents[2]

pytestmark = needs_peers


def test_the_original_holds_what_we_hold_for_it() -> None:
    """Its rules are read rightly: the same tests pass there."""
    assert {name: error for name, error in outcomes("test_originals_rules").items() if error} == {}


def test_the_original_has_the_defects() -> None:
    """A test of a defect that passes there would show nothing; each docstring says what it saw."""
    found = outcomes("test_defects")
    assert [name for name, error in found.items() if error is None] == []
    for name, error in found.items():
        assert seen(getattr(test_defects, name)) in str(error), (name, error)


def test_every_signature_takes_what_the_originals_takes() -> None:
    """By name and by position; further parameters of ours come after, or by name alone."""
    for name, parameters in run().items():
        owner, _, method = name.partition(".")
        function: Any = getattr(everyspan, owner)
        if method not in ("", "__init__"):
            function = getattr(function, method)
        accepted = [each for each in inspect.signature(function).parameters if each != "self"]
        assert accepted[: len(parameters)] == parameters, name


def seen(test: Any) -> str:
    """Return what a docstring says the original failed with."""
    (text,) = [
        line.split("Original: ", 1)[1]
        for line in str(test.__doc__).splitlines()
        if "Original: " in line
    ]
    return text.strip("`. ")


def outcomes(module: str) -> dict[str, str | None]:
    """Run a module of this folder with the original's names."""
    return run(f"tests.compat.{module}")


def run(*arguments: str) -> dict[str, Any]:
    """Run `tests.compat.names` in the original's environment."""
    done = subprocess.run(
        [str(PYTHON), "-m", "tests.compat.names", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
