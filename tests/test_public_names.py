"""`import everyspan`: what it offers is what loads, and what the type checker sees."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import everyspan
from tests.sources import parse

SOURCE = Path(everyspan.__file__)
TYPED_USE = Path(__file__).parent / "typing" / "api.py"


@pytest.mark.parametrize("name", everyspan.__all__)
def test_every_public_name_loads(name: str) -> None:
    value = getattr(everyspan, name)
    home = everyspan._HOME_OF[name]
    assert value is getattr(importlib.import_module(home), name)


def test_all_is_what_can_be_loaded() -> None:
    assert sorted(everyspan.__all__) == sorted(everyspan._HOME_OF) == dir(everyspan)
    assert len(set(everyspan.__all__)) == len(everyspan.__all__)


def test_the_type_checker_sees_what_loads() -> None:
    """P10: names are loaded when first used, so they are written twice."""
    tree = parse(SOURCE)
    (block,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    seen = {
        node.module: tuple(alias.name for alias in node.names)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
    }
    assert seen.pop("everyspan") == everyspan._SUBMODULES
    assert seen == everyspan._HOMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'spam'"):
        everyspan.spam  # noqa: B018
    with pytest.raises(ImportError):
        from everyspan import spam  # noqa: F401


def test_the_version_is_the_packages() -> None:
    assert everyspan.__version__ == metadata.version("everyspan")


def test_every_public_name_says_what_it_is() -> None:
    for name in everyspan.__all__:
        value = getattr(everyspan, name)
        if callable(value):
            assert value.__doc__, name


def test_every_public_name_is_used_where_types_are_checked() -> None:
    """`make check` has mypy look at tests/typing/api.py: a new name's use belongs there."""
    used = {
        node.attr
        for node in ast.walk(parse(TYPED_USE))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "everyspan"
    }
    assert [name for name in everyspan.__all__ if name not in used] == []


def test_submodules_of_users_need_no_import_of_their_own() -> None:
    """P10: they come when they are named."""
    program = (
        "import sys, everyspan\n"
        "assert not {'everyspan.adk', 'everyspan.testing'} & {*sys.modules}\n"
        "everyspan.testing.capture, everyspan.adk.tracing"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
