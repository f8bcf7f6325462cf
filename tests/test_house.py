"""The repository as a stranger finds it: nothing of one machine, no skipped promise of make."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "benchmarks/requirements.lock", "docs/requirements.lock")
# A home or work folder of somebody's machine. (The group keeps this line from matching itself.)
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:root|home|work|Users|opt)/\w")

BUNDLE = ROOT / "src" / "everyspan" / "server" / "web"


def test_no_file_names_a_path_of_a_machine() -> None:
    """CONTRIBUTING.md: a clone works wherever it lies."""
    named = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in written_by_people()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not named, "\n".join(named)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_hashes_and_no_address(lock: str) -> None:
    """docs/decisions/001: the same files from whatever mirror, or nothing."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert not re.search(r"://|--.*index|--find-links| @ |^-e", text, re.MULTILINE)
    packages = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(packages) > 15
    assert all("--hash=sha256:" in package for package in packages)


@pytest.mark.parametrize(
    ("python", "says"),
    [
        ("exit 127", "does not run"),
        (
            "case $2 in *platform*) echo 3.10.13;; *version_info*) exit 1;; esac",
            "is Python 3.10.13, and",
        ),
        (
            "case $2 in *platform*) echo 3.13.5;; *ensurepip*) exit 1;; esac",
            "apt install python3-venv",
        ),
    ],
)
def test_a_python_that_will_not_do_is_one_line(tmp_path: Path, python: str, says: str) -> None:
    """CONTRIBUTING.md: whoever lacks something reads what, and how to get it."""
    (tmp_path / "python").write_text(f"#!/bin/sh\n{python}\n", encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts" / "venv", tmp_path / "python", tmp_path / "venv", LOCKS[0]],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert says in line
    assert not (tmp_path / "venv").exists()


def written_by_people() -> Iterator[Path]:
    for folder in ("src", "tests", "benchmarks", "docs", "scripts", "web", ".ci"):
        for path in (ROOT / folder).rglob("*"):
            made = {"__pycache__", "node_modules"} & {*path.parts} or BUNDLE in path.parents
            lock = path.suffix == ".lock" or path.name == "package-lock.json"
            if path.is_file() and not made and not lock:
                yield path
    yield from ROOT.glob("*.md")
    yield from (ROOT / "pyproject.toml", ROOT / "zensical.toml", ROOT / "Makefile")
