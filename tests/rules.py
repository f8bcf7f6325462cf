"""Which test holds which rule: reads the citations of test docstrings, writes docs/rules.md.

`python -m tests.rules` writes the page anew. A citation is `trace:Q4`; further rules of the same
source follow after commas, `trace:Q2, Q3`, and the promises of ARCHITECTURE.md may stand among
them.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.sources import parse

TESTS = Path(__file__).parent
DATA = TESTS.parent / "docs" / "rules.toml"
PAGE = TESTS.parent / "docs" / "rules.md"

_INTRO = """\
# Rules and the tests that hold them

Written by `python -m tests.rules` from `docs/rules.toml` and the docstrings of the tests.

everyspan takes the place of an existing tracing SDK, that of `agentex-sdk` (here *the original*),
and speaks the wire formats of existing services. What it must do follows from what those do; each
such behaviour is a rule with a short name, and a test that holds it says so in its docstring:
`trace:Q4`. The part before the colon is the source of the rule, the letter the section below.
`P1` to `P11` are everyspan's own promises, in ARCHITECTURE.md; other bare names (`K3`, `S2`) are
promises that the module under test makes at its top.

The tests in `tests/compat` run with either SDK's names: those of rules pass with the original too,
those of defects fail there, with what their docstrings state (`make peers` installs it).
"""


class Rule(NamedTuple):
    """A rule: `trace:Q4` has source `trace` and id `Q4`."""

    source: str
    id: str

    def __str__(self) -> str:
        return f"{self.source}:{self.id}"

    @property
    def section(self) -> str:
        """The letters of its id."""
        return self.id.rstrip("0123456789")


def load() -> dict[str, Any]:
    """Return the sources with their rules, as docs/rules.toml has them."""
    return tomllib.loads(DATA.read_text(encoding="utf-8"))


def citations(text: str, sources: Any) -> Iterator[Rule]:
    """Yield the rules that a docstring cites."""
    names = "|".join(sources)
    for source, listed in re.findall(rf"\b({names}):([A-Z]+\d+`?(?:, `?[A-Z]+\d+)*)", text):
        for id in re.findall(r"[A-Z]+\d+", listed):
            if not re.fullmatch(r"P\d+", id):
                yield Rule(source, id)


def cited(sources: Any) -> dict[Rule, list[str]]:
    """Return the tests that cite each rule, in order of their files and lines."""
    found: dict[Rule, list[str]] = {}
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("test_"):
                name = f"{path.relative_to(TESTS).as_posix()}::{node.name}"
                for rule in dict.fromkeys(citations(ast.get_docstring(node) or "", sources)):
                    found.setdefault(rule, []).append(name)
    return found


def reason(sources: Any, rule: Rule) -> str | None:
    """Return why a rule has no test, None where it must have one."""
    source = sources[rule.source]
    text: str | None = source.get("reasons", {}).get(rule.id, source.get("awaits"))
    return text


def page() -> str:
    """Return docs/rules.md as it should be."""
    sources = load()
    tests = cited(sources)
    lines = [_INTRO]
    for name, source in sources.items():
        lines += [f"## {source['title']} (`{name}:`)", "", source["about"], ""]
        for letters, title in source["sections"].items():
            lines += [f"### {title}", "", "| | rule | tests |", "|---|---|---|"]
            for id, text in source["rules"].items():
                rule = Rule(name, id)
                if rule.section == letters:
                    held = "<br>".join(f"`{test}`" for test in tests.get(rule, []))
                    lines.append(f"| {id} | {text} | {held or f'*{reason(sources, rule)}*'} |")
            lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
