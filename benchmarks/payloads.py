"""What the benchmarked agents record: shapes of payload, the same for every recorder."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

SPANS_PER_REQUEST = 5
# Enough that no recorder lives off a warm cache line, few enough to build in a blink.
_DISTINCT_REQUESTS = 40
_SENTENCE = (
    'the agent asked for "two" tools and the weather in Zürich\nwas never the answer to'
    " this question so it called search with a longer query then waited for results"
)
_WORDS = _SENTENCE.split(" ")


class Call(NamedTuple):
    """What one span records."""

    name: str
    input: dict[str, Any]
    output: dict[str, Any]


Request = list[Call]
"""The calls of one agent request: the first is the root's, the others are its children's."""


def requests(shape: str, count: int) -> list[Request]:
    """Return `count` requests of five calls; distinct ones repeat.

    Args:
        shape: "chat" (2 KB in, 2 KB out: six messages each), "rows" (2 KB in and out, some 230
            small values each), "small" (`{"q": "hi"}`), "turn" (9.3 KB a request).
        count: how many.
    """
    rng = random.Random(7)
    distinct = [
        [
            Call("agent" if i == 0 else "llm", _payload(shape, rng, 3), _payload(shape, rng, 2))
            for i in range(SPANS_PER_REQUEST)
        ]
        for _ in range(_DISTINCT_REQUESTS)
    ]
    return [distinct[i % _DISTINCT_REQUESTS] for i in range(count)]


def _payload(shape: str, rng: random.Random, turn_messages: int) -> dict[str, Any]:
    match shape:
        case "chat":
            return _messages(rng, 6)
        case "turn":
            return _messages(rng, turn_messages)
        case "rows":
            return {"results": [_result(rng, i) for i in range(26)]}
        case "small":
            return {"q": "hi"}
    raise ValueError(f"shape must be chat, rows, small or turn, got {shape!r}")


def _messages(rng: random.Random, count: int) -> dict[str, Any]:
    roles = ("user", "assistant", "tool")
    return {"messages": [{"role": roles[i % 3], "content": _text(rng)} for i in range(count)]}


def _text(rng: random.Random) -> str:
    return " ".join(rng.choices(_WORDS, k=62))[:300]


def _result(rng: random.Random, i: int) -> dict[str, Any]:
    return {
        "id": i,
        "title": rng.choice(_WORDS),
        "score": rng.random(),
        "tags": [rng.choice(_WORDS), "web"],
        "cached": rng.random() < 0.5,
    }
