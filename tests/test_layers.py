"""Who may know whom: the import table of ARCHITECTURE.md, read from the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.sources import parse

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "everyspan"

ABOVE = "all above"
PUBLIC = "public names, log"

# A part, or parts on one line, from the ground up; then what it may import.
LAYERS: tuple[tuple[str, str], ...] = (
    ("errors", "-"),
    ("clock", ABOVE),
    ("log", ABOVE),
    ("config", ABOVE),
    ("model", ABOVE),
    ("obs", ABOVE),
    ("home", ABOVE),
    ("ledger", ABOVE),
    ("metrics", ABOVE),
    ("untraced", ABOVE),
    ("transport", ABOVE),
    ("spool", "all above but transport"),
    ("delivery", ABOVE),
    ("processors", ABOVE),
    ("queue", "all above but transport, spool"),
    ("reports", ABOVE),
    ("pipeline", ABOVE),
    ("sync", ABOVE),
    ("context, tracer, trace, log_filter, jobs", ABOVE),
    ("integrations, acp", PUBLIC),
    ("adk", f"{PUBLIC}, integrations"),
    ("server", "errors, clock, config, model"),
    ("loadtest, testing", ABOVE),
    ("cli", ABOVE),
)
ORDER = [part for line, _ in LAYERS for part in line.split(", ")]
# Each import of one of these costs every process that says `import everyspan`, traced or not (P10).
HEAVY = {
    *("asyncio", "ssl", "socket", "sqlite3", "compression"),
    *("httpx2", "httpcore2", "httpx", "anyio", "backports", "zstandard"),
    *("starlette", "uvicorn", "apsw", "pydantic"),
}


class Import(NamedTuple):
    """One name that a file takes from one of our modules."""

    file: Path
    line: int
    module: str
    name: str | None

    def __str__(self) -> str:
        what = f"import {self.name} from {self.module}" if self.name else f"import {self.module}"
        return f"{self.file.relative_to(ROOT)}:{self.line}: {what}"


def test_the_table_is_the_one_in_architecture_md() -> None:
    """ARCHITECTURE.md: what people read is what is enforced."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text.split("| part | owns | may import |\n", 1)[1].split("\n\n", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    written = [(part.replace("`", ""), may_import) for part, _, may_import in rows[1:]]
    assert tuple(written) == LAYERS


def test_every_file_belongs_to_a_part() -> None:
    """ARCHITECTURE.md: a new part takes its place in the table first."""
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or is_package(path)}
    assert found - {"__init__", "__main__"} <= set(ORDER)


def test_a_part_imports_only_what_the_table_allows() -> None:
    """ARCHITECTURE.md: knowledge points one way."""
    forbidden = [found for found in imports() if not is_allowed(found)]
    assert not forbidden, "\n".join(map(str, forbidden))


def test_no_part_takes_what_another_keeps_private() -> None:
    """ARCHITECTURE.md: a name with an underscore may change without asking around."""
    taken = [
        found
        for found in imports()
        if part_of(found.file) != part_of_module(found)
        and any(is_private(word) for word in [*found.module.split("."), found.name or ""])
    ]
    assert not taken, "\n".join(map(str, taken))


def test_only_config_reads_the_environment() -> None:
    """ARCHITECTURE.md: every setting is a row of config.py."""
    readers = [
        str(path.relative_to(ROOT))
        for path in sources()
        if any(map(reads_environment, ast.walk(parse(path))))
    ]
    assert readers == ["src/everyspan/config.py"]


def test_importing_everyspan_loads_nothing_heavy() -> None:
    """P10: no event loop, TLS, HTTP client, database or web framework until one is used."""
    program = "import sys, everyspan; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    ).stdout.split()
    assert "everyspan" in loaded
    assert [name for name in loaded if name.split(".")[0] in HEAVY] == []


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("queue: from everyspan.ledger import Ledger", True),
        ("queue: from everyspan.transport import Transport", False),
        ("queue: from everyspan.pipeline import Pipeline", False),
        ("model: from everyspan.model.span import _to_ns", True),
        ("server: from everyspan import span", False),
        ("server: from everyspan.model import Span", True),
        ("server: import everyspan.ledger", False),
        ("integrations: import everyspan", True),
        ("integrations: from everyspan import span", True),
        ("integrations: from everyspan import model", False),
        ("adk: from everyspan.log import complain", True),
        ("adk: from everyspan.tracer import end", False),
        ("adk: from everyspan.integrations.langchain import Handler", True),
        ("integrations: from everyspan.model import Span", False),
        ("integrations: from everyspan.integrations.langchain import Handler", True),
        ("integrations: from everyspan.adk import tracing", False),
        ("pipeline: from everyspan.cli import main", False),
        ("__init__: from everyspan.cli import main", False),
        ("__init__: from everyspan.trace import Tracer", True),
        ("__main__: from everyspan.cli import main", True),
    ],
)
def test_the_rule_tells_right_from_wrong(code: str, allowed: bool) -> None:
    """The guard itself: it would pass on anything if it saw no imports."""
    part, statement = code.split(": ")
    (found,) = imports_in(PACKAGE / f"{part}.py", ast.parse(statement))
    assert is_allowed(found) is allowed


def is_allowed(found: Import) -> bool:
    """Whether the table lets the importing file know what it imports."""
    importer, imported = part_of(found.file), part_of_module(found)
    if importer == imported or importer == "__main__":
        return True
    if imported == "cli":
        return False
    if importer == "__init__":
        return True
    allowed = next(rule for line, rule in LAYERS if importer in line.split(", "))
    if allowed.startswith(PUBLIC):
        return imported == "__init__" or imported in allowed.split(", ")
    if allowed.startswith(ABOVE):
        kept_out = allowed.removeprefix(ABOVE).removeprefix(" but ").split(", ")
        is_higher = imported == "__init__" or row_of(imported) <= row_of(importer)
        # The package itself stands above the parts that agents use, not above those it is made of.
        reaches_up = imported == "__init__" and row_of(importer) < row_of("integrations")
        return is_higher and not reaches_up and imported not in kept_out
    return imported in allowed.split(", ")


def row_of(part: str) -> int:
    return next(row for row, (line, _) in enumerate(LAYERS) if part in line.split(", "))


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def part_of_module(found: Import) -> str:
    """The part that an import reaches; `__init__` for the package's public names."""
    words = found.module.split(".")
    if len(words) > 1:
        return words[1]
    return found.name if found.name in ORDER else "__init__"


def imports() -> Iterator[Import]:
    for path in sources():
        yield from imports_in(path, parse(path))


def imports_in(path: Path, tree: ast.Module) -> Iterator[Import]:
    """Every import of ours in a file, also those inside functions and for types only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "everyspan":
                    yield Import(path, node.lineno, alias.name, None)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            if node.module and node.module.split(".")[0] == "everyspan":
                for alias in node.names:
                    yield Import(path, node.lineno, node.module, alias.name)


def reads_environment(node: ast.AST) -> bool:
    names = {"environ", "environb", "getenv", "getenvb"}
    if isinstance(node, ast.Attribute):
        return node.attr in names and isinstance(node.value, ast.Name) and node.value.id == "os"
    if isinstance(node, ast.ImportFrom) and node.module == "os":
        return any(alias.name in names for alias in node.names)
    return False


def is_private(word: str) -> bool:
    return re.match(r"_(?!_)", word) is not None


def is_package(path: Path) -> bool:
    return any(path.glob("**/*.py"))


def sources() -> Iterator[Path]:
    return PACKAGE.rglob("*.py")
