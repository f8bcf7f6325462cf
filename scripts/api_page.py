"""Print docs/api.md from the public names' docstrings; `make docs` writes it, a test holds it."""

from __future__ import annotations

import enum
import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from everyspan.processors.builtin import BuiltinProcessor

HEAD = """\
# API

Written by `make docs` from the docstrings of the source; change those. The guide shows how the
names are used together.
"""

MODULES = (
    "everyspan",
    "everyspan.adk",
    "everyspan.testing",
    "everyspan.testing.faults",
    "everyspan.integrations.langchain",
)

# What everyspan itself calls is public within it, and none of a reader's business.
SHOWN = {
    "AsyncSpanQueue": (
        *("enqueue", "flush", "shutdown", "flush_sync", "shutdown_sync"),
        *("stats", "dropped_spans", "depth", "max_size"),
    ),
    "FakeClock": ("advance", "monotonic", "time_ns", "waiting"),
}
NOT_CALLED = ("Capture",)

ELSEWHERE = "See the module text."
WIDTH = 90
TITLES = {"Args": "Arguments"}

# Which rule a sentence keeps is for readers of the source.
_CITATION = re.compile(r" \((?:`[a-z]+(?::| ?` §)[^)]*|(?:[A-Z]+\d+(?:, | to )?)+)\)")
_SECTION = re.compile(r"(Args|Returns|Raises|Attributes):")
_ITEM = re.compile(r"([\w*, ]+): (.*)")


def main() -> None:
    print(HEAD)
    for path in MODULES:
        module = importlib.import_module(path)
        print(f"## {path}\n")
        names = getattr(module, "__all__", None) or own_names(module)
        for name in sorted(names, key=lambda name: (name.lower(), name)):
            print(f"### {name}\n")
            for line in entry(name, getattr(module, name)):
                print(line)


def own_names(module: ModuleType) -> list[str]:
    """Return what a module without `__all__` defines itself."""
    return [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    ]


def entry(name: str, value: Any) -> Iterator[str]:
    """Yield the lines on one public name, the last one empty."""
    if not callable(value):
        is_plain = isinstance(value, str | int)
        yield from (f"`{value!r}`" if is_plain else f"A `{type(value).__name__}`.", "")
        return
    if not is_enumeration(value) and name not in NOT_CALLED:
        yield from ("```py", signature(name, value), "```", "")
    yield from prose(value)
    if is_enumeration(value):
        yield from (", ".join(f"`{member}`" for member in value.__members__), "")
    elif inspect.isclass(value) and not issubclass(value, BuiltinProcessor):
        # Destinations of ours are handed to `configure`; what they do then is its business.
        yield from members(value)


def members(owner: type) -> Iterator[str]:
    """Yield a line for each documented method and property, those of private bases included."""
    own = [base for base in owner.__mro__ if base is owner or base.__name__.startswith("_")]
    found = {name: value for base in reversed(own) for name, value in vars(base).items()}
    lines = []
    for name in SHOWN.get(owner.__name__, found):
        value = found[name]
        function = getattr(value, "fget", None) or getattr(value, "__func__", value)
        if name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        shown = name if isinstance(value, property) else outline(name, function)
        summary = inspect.cleandoc(function.__doc__).partition("\n\n")[0].replace("\n", " ")
        lines.append(f"- `{shown}`: {plain(summary)}")
    if lines:
        yield from ("**Members**", "", *lines, "")


def is_enumeration(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, enum.Enum)


def outline(name: str, function: Any) -> str:
    """Return a method with the names of its arguments alone."""
    names = [one for one in inspect.signature(function).parameters if one not in ("self", "cls")]
    await_ = "await " if inspect.iscoroutinefunction(function) else ""
    return f"{await_}{name}({', '.join(names)})"


def signature(name: str, value: Any) -> str:
    """Return how something is called: on one line, or, if that is wider, one for an argument."""
    try:
        found = inspect.signature(value)
    except ValueError:
        return name
    shown, kind = [], None
    for one in found.parameters.values():
        if one.name.startswith("_"):
            continue
        if kind is one.POSITIONAL_ONLY and one.kind is not kind:
            shown.append("/")
        if one.kind is one.KEYWORD_ONLY and kind not in (one.KEYWORD_ONLY, one.VAR_POSITIONAL):
            shown.append("*")
        kind = one.kind
        shown.append(argument(one))
    end = ")"
    if not inspect.isclass(value) and found.return_annotation is not found.empty:
        end += f" -> {annotation(found.return_annotation)}"
    start = f"{'await ' if inspect.iscoroutinefunction(value) else ''}{name}("
    line = start + ", ".join(shown) + end
    if len(line) <= WIDTH:
        return line
    return "\n".join([start, *(f"    {one}," for one in shown), end])


def argument(one: inspect.Parameter) -> str:
    stars = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
    text = stars + one.name
    if one.annotation is not one.empty:
        text += f": {annotation(one.annotation)}"
    if one.default is not one.empty:
        text += f" = {default(one.default)}"
    return text


def annotation(value: Any) -> str:
    text = value if isinstance(value, str) else inspect.formatannotation(value)
    return re.sub(r"\b[a-z_]\w*\.", "", text)


def default(value: Any) -> str:
    """Return a default as source, `...` where it is made anew or is an object of ours."""
    text = str(value) if isinstance(value, enum.Enum) else repr(value)
    return "..." if text.startswith("<") else text


def prose(value: Any) -> Iterator[str]:
    """Yield a docstring in Google's form as Markdown, an empty line after it."""
    section = ""
    text = inspect.cleandoc(value.__doc__ or "")
    if text.startswith(ELSEWHERE):
        module = inspect.getmodule(value)
        text = (module.__doc__ or "").partition("\n\n")[0] + text.removeprefix(ELSEWHERE)
    # A program in a docstring is one of Python.
    for line in re.sub(r"^```(\n(?:.*\n)*?```)$", r"```py\1", text, flags=re.M).splitlines():
        text = plain(line.strip())
        if heading := _SECTION.fullmatch(line):
            section = heading[1]
            yield from (f"**{TITLES.get(section, section)}**", "")
        elif not text:
            yield ""
        elif not line.startswith(" "):
            section = ""
            yield text.replace("::", ":")
        elif not section:
            yield line
        elif line.startswith("     "):
            yield f"  {text}"
        elif section != "Returns" and (item := _ITEM.fullmatch(text)):
            names = ", ".join(f"`{name.strip()}`" for name in item[1].split(","))
            yield f"- {names}: {item[2]}"
        else:
            yield text
    yield ""


def plain(text: str) -> str:
    return _CITATION.sub("", text)


if __name__ == "__main__":
    main()
