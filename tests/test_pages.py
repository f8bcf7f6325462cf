"""The pages tell the truth: what they show runs, as it stands, and prints what they say it prints.

A page's programs and commands run in its order, against a server of its own. Each program has a
process of its own, so that each is complete; one that defines tests is run by pytest. Links lead
somewhere.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.serving import serving

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])

RUN = ("python", "sh")
NOT_RUN = {
    "shell": "changes the reader's machine, or runs until Ctrl-C",
    "text": "no program: what the one before it prints, which is compared, or a drawing",
    "py": "a signature, on the page that is written from the docstrings",
    "diff": "a change to a program of the reader's, which imports what is not here",
}
FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
DIFFERS = {
    "id": r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b",
    "moment": r"\b\d{4}-\d\d-\d\dT[\d:.]+Z?",
    "time": r"\+?\b\d[\d.]*(?:µs|ms|s)\b|\bnow\b",
}
# The port that the pages speak of; here a free one takes its place.
PORT = "5003"

# What a reader of the pages has not set: it would send spans elsewhere, to a real service perhaps.
OURS = ("EVERYSPAN_", "AGENTEX_", "AGENT_", "ACP_", "SGP_", "DISABLE_SCALE_", "OTEL_")

# Every program is a fork of one process that has imported what takes time: as good as a process
# of its own, exit included, without its start.
RUNNER = """
import asyncio, os, runpy, sys
import everyspan, everyspan.processors.sgp
for path in sys.argv[1:]:
    child = os.fork()
    if not child:
        sys.argv = [path]
        runpy.run_path(path, run_name="__main__")
        sys.exit()
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{path} failed")
    print(end="\\0", flush=True)
"""


class Fence(NamedTuple):
    """A block of a page; `printed` is what the page says that it prints, None if it does not."""

    language: str
    text: str
    line: int
    printed: str | None


def fences(page: str) -> Iterator[Fence]:
    """Yield the blocks of a page, in order."""
    found = [*FENCE.finditer(page)]
    for block, after in zip_longest(found, found[1:]):
        line = page.count("\n", 0, block.start()) + 2
        says = after and after[1] == "text" and not page[block.end() : after.start()].strip()
        yield Fence(block[1], block[2], line, after[2] if after and says else None)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def shown(page: Path) -> list[Fence]:
    return [*fences(page.read_text(encoding="utf-8"))]


def test_every_block_is_run_or_says_why_not() -> None:
    """A block of a language that nobody listed would be skipped unseen."""
    unknown = {
        (name(page), fence.line, fence.language)
        for page in PAGES
        for fence in shown(page)
        if fence.language not in (*RUN, *NOT_RUN)
    }
    assert not unknown
    for page in PAGES:
        marks = re.findall("^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(marks) == 2 * len(shown(page)), f"{name(page)}: a fence that nobody reads"


def test_the_readme_shows_programs_and_commands() -> None:
    """The guard itself: it finds what is there to run."""
    languages = [fence.language for fence in shown(ROOT / "README.md")]
    assert languages.count("python") >= 1
    assert languages.count("sh") >= 1


def test_what_a_page_says_is_printed_must_be(tmp_path: Path) -> None:
    """The guard itself: a program that prints something else, or fails, is found."""
    for text in (
        "print(2)",
        "print(1)\nraise SystemExit(1)",
        "print(1)\nimport sys; print(file=sys.stderr)",
    ):
        page = f"```python\n{text}\n```\n\n```text\n1\n```\n"
        with pytest.raises(AssertionError):
            run(fences(page), tmp_path, {})


@pytest.mark.parametrize(
    "page",
    [
        # CONTRIBUTING.md: seconds, all together; on every Python runs what a newcomer reads.
        pytest.param(page, id=name(page), marks=[] if page.parent == ROOT else pytest.mark.slow)
        for page in PAGES
        if any(fence.language in RUN for fence in shown(page))
    ],
)
def test_what_a_page_shows_runs(page: Path, tmp_path: Path) -> None:
    """README.md and docs: every program and command succeeds and says nothing on stderr."""
    text = page.read_text(encoding="utf-8")
    # Where nobody listens, what needs a server after all fails.
    needs_server = PORT in text or "everyspan.configure()" in text
    with serving() if needs_server else nullcontext("http://127.0.0.1:1") as url:
        text = text.replace(PORT, url.rpartition(":")[2])
        run(fences(text), tmp_path, {"EVERYSPAN_ENDPOINT": url})


def run(blocks: Iterator[Fence], folder: Path, variables: dict[str, str]) -> None:
    """Run programs and commands; what they print is what the page says."""
    environ = {name: text for name, text in os.environ.items() if not name.startswith(OURS)}
    environ["PATH"] = sysconfig.get_path("scripts") + os.pathsep + environ["PATH"]
    environ |= {"COLUMNS": "100"} | variables
    for how, some in groupby([block for block in blocks if block.language in RUN], runner):
        stretch = [*some]
        paths = [str(folder / f"line_{block.line}.py") for block in stretch]
        for path, block in zip(paths, stretch, strict=True):
            Path(path).write_text(block.text, encoding="utf-8")
        if how == "sh":
            outputs = [call(["sh", "-eu", path], folder, environ) for path in paths]
        elif how == "pytest":
            # By name, and no others: installing everyspan is what makes pytest find it by itself.
            by_name = environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
            command = [sys.executable, "-m", "pytest", "-q", "-p", "everyspan.testing.plugin"]
            outputs = [call([*command, *paths], folder, by_name)] * len(paths)
        else:
            printed = call([sys.executable, "-c", RUNNER, *paths], folder, environ)
            outputs = printed.split("\0")[:-1]
        for block, output in zip(stretch, outputs, strict=True):
            if block.printed is not None:
                compare(block, output)


def runner(block: Fence) -> str:
    """Return who runs a block."""
    is_test = block.language == "python" and re.search(r"^(async )?def test_", block.text, re.M)
    return "pytest" if is_test else block.language


def call(command: list[str], folder: Path, environ: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environ, check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert done.stderr == "", command
    return done.stdout


def compare(block: Fence, output: str) -> None:
    """Fail unless a block printed what its page says.

    There, `...` stands for anything, any id for an id, any time for a time, any space for spaces.
    """
    printed = block.printed or ""
    loosely = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    is_same = doctest.OutputChecker().check_output(plain(printed), plain(output), loosely)
    assert is_same, f"line {block.line} prints\n{output}\nand the page says\n{printed}"


def plain(text: str) -> str:
    """Return a text without what differs from run to run."""
    for kind, pattern in DIFFERS.items():
        text = re.sub(pattern, f"<{kind}>", text)
    return text


# -- the guide as a whole


def test_every_page_of_the_guide_is_in_its_navigation() -> None:
    """zensical.toml: a page that is not there is found by nobody."""
    project = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    assert sorted(targets(project["nav"])) == sorted(
        path.name for path in (ROOT / "docs").glob("*.md")
    )


def targets(nav: list[dict[str, Any]]) -> Iterator[str]:
    for entry in nav:
        for target in entry.values():
            if isinstance(target, str):
                yield target
            else:
                yield from targets(target)


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")], ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """`make docs` holds the guide's own; those of README.md and its like are held here."""
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if page.is_relative_to(ROOT / "docs"):
            assert target.is_relative_to(ROOT / "docs"), f"{link}: not a part of the site"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(target), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, link


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def slug(heading: str) -> str:
    """Return the anchor of a heading, where GitHub and the site agree."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
