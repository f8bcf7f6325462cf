"""What `pip install` brings: the built wheel, not the checkout."""

from __future__ import annotations

import os
import re
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
def test_the_wheel_holds_the_page(wheel: zipfile.ZipFile) -> None:
    names = [name for name in wheel.namelist() if name.startswith("everyspan/server/web/")]
    assert "everyspan/server/web/index.html" in names
    document = wheel.read("everyspan/server/web/index.html").decode()
    for file in re.findall(r'"(/assets/[^"]+)"', document):
        assert f"everyspan/server/web{file}" in names


@pytest.mark.slow
def test_the_wheel_brings_the_command_and_the_pytest_plugin(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    entry_points = wheel.read(name).decode()
    assert "[console_scripts]\neveryspan = everyspan.cli:main" in entry_points
    assert "[pytest11]\neveryspan = everyspan.testing.plugin" in entry_points


_WITHOUT_EXTRAS = """
import re, sys
from importlib import metadata

needed, found = ["everyspan"], set()
while needed:
    name = re.sub(r"[-_.]+", "-", needed.pop()).lower()
    if name in found:
        continue
    try:
        requires = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        continue  # Of another system or Python.
    found.add(name)
    needed += [re.match(r"[\\w.-]+", one)[0] for one in requires if "extra ==" not in one]

absent = {
    module
    for module, names in metadata.packages_distributions().items()
    if not any(re.sub(r"[-_.]+", "-", name).lower() in found for name in names)
}
assert "pytest" in absent and "httpx2" not in absent

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())

import everyspan
from everyspan.testing import FaultServer

with FaultServer() as server:
    everyspan.configure(everyspan.SGPTracingProcessorConfig("key", "account", server.base_url))
    with everyspan.span("turn"):
        pass
    print(everyspan.shutdown(timeout=10).ok, len(server.rows))
"""


def test_what_is_installed_without_extras_sends_spans() -> None:
    """A module that only an extra's packages bring is not there for who installs none."""
    script = subprocess.run(
        [sys.executable, "-c", _WITHOUT_EXTRAS],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (script.returncode, script.stdout, script.stderr) == (0, "True 1\n", "")
