"""The order and the branches in which spans are drawn as a tree.

B1  Every span is drawn once; parents that form a loop are not followed round it.
B2  A chain of any depth costs no recursion and at most `INDENT_LEVELS_MAX` levels of indent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

INDENT_LEVELS_MAX = 20

_Span = TypeVar("_Span")


def branches(
    children: Sequence[_Span],
    children_of: Callable[[_Span], Sequence[_Span]],
    drawn: set[int],
) -> Iterator[tuple[_Span, str]]:
    """Yield spans and all below them, depth first, each with what stands left of its name.

    Args:
        children: Siblings, in the order to draw them; those of one parent that is drawn already.
        drawn: `id` of the spans that are drawn; these are left out, and what is yielded is added.
    """
    stack: list[tuple[_Span, tuple[bool, ...], int]] = []

    def push(spans: Sequence[_Span], path: tuple[bool, ...], depth: int) -> None:
        fresh = [span for span in spans if id(span) not in drawn]
        drawn.update(id(span) for span in fresh)
        for at, span in reversed(list(enumerate(fresh))):
            is_last = at == len(fresh) - 1
            stack.append((span, (*path[-INDENT_LEVELS_MAX:], is_last), depth))

    push(children, (), 1)
    while stack:
        span, path, depth = stack.pop()
        yield span, _indent(path, depth)
        push(children_of(span), path, depth + 1)


def _indent(path: tuple[bool, ...], depth: int) -> str:
    """Return the branches left of a name; `path` says of each level whether it was the last."""
    bars = "".join("   " if last else "│  " for last in path[:-1])
    own = "└─ " if path[-1] else "├─ "
    if depth > INDENT_LEVELS_MAX:
        # Narrow enough to read at any depth (B2); the number says how deep this is.
        return f"⋯{depth} {own}"
    return bars + own
