"""Print docs/settings.md from the rows of config.py; `make docs` writes it, a test holds it."""

from __future__ import annotations

from collections.abc import Iterable

from everyspan.config import CHOICES, SETTINGS, VARIABLES, Switch, Variable

HEAD = """\
# Settings

Written by `make docs` from the rows of `src/everyspan/config.py`; change those.

An argument of `everyspan.configure()` beats the environment, which beats the default. A number
below its minimum is raised to it. Garbage raises from an argument; in the environment it warns once
and the default holds. Empty text counts as unset. `everyspan doctor` shows what is in force here.
"""


def main() -> None:
    print(HEAD)
    print("## Numbers\n")
    table(
        ("environment", "argument", "default", "bounds", "unit", "meaning"),
        (
            (
                f"`{row.env}`",
                f"`{row.name}`",
                "unset" if row.default is None else f"{row.default:,}",
                f"{row.minimum:,} or more"
                if row.maximum is None
                else f"{row.minimum:,} to {row.maximum:,}",
                row.unit,
                row.help,
            )
            for row in SETTINGS
        ),
    )
    print("\n## Words\n")
    table(
        ("environment", "argument", "default", "or", "meaning"),
        (
            (
                f"`{row.env}`",
                f"`{row.name}`",
                f"`{row.default}`",
                words(row.words[1:]),
                row.help,
            )
            for row in CHOICES
        ),
    )
    print("\n## Destinations and the agent\n")
    table(
        ("environment", "meaning"),
        ((f"`{row.env}`", row.help) for row in VARIABLES if isinstance(row, Variable)),
    )
    print("\n## Switches\n")
    table(
        ("environment", "default", "on", "off", "meaning"),
        (
            (
                f"`{row.env}`",
                "on" if row.default else "off",
                words(row.on) or ("any other text" if row.off else "set at all"),
                words(row.off) or "unset",
                row.help,
            )
            for row in VARIABLES
            if isinstance(row, Switch)
        ),
    )


def words(some: tuple[str, ...]) -> str:
    return " ".join(f"`{word}`" for word in some)


def table(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    for cells in (heading, ("---",) * len(heading), *rows):
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
