"""What `pip install` brings: the built wheel, not the checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.slow
def test_the_wheel_says_that_it_is_typed(wheel: zipfile.ZipFile) -> None:
    """PEP 561: without the mark a type checker sees `Any` everywhere."""
    assert "everyspan/py.typed" in wheel.namelist()


@pytest.mark.slow
def test_the_wheel_holds_every_source(wheel: zipfile.ZipFile) -> None:
    sources = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "everyspan").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources - {*wheel.namelist()} == set()
    assert [name for name in wheel.namelist() if not name.startswith("everyspan")] == []


@pytest.mark.slow
def test_the_wheel_brings_the_command_and_the_pytest_plugin(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    entry_points = wheel.read(name).decode()
    assert "[console_scripts]\neveryspan = everyspan.cli:main" in entry_points
    assert "[pytest11]\neveryspan = everyspan.testing.plugin" in entry_points
