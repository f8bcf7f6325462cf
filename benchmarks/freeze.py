"""What freezing a payload costs the agent: `python -m benchmarks.freeze`.

CPU time, best of several rounds, in one process. First the payloads agents record, beside the bare
encoder and beside the looks at types and sizes that were rejected; then values of about 100 MB.
The figures are in `docs/decisions/020-freezing.md`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from gc import get_referents
from typing import Any

import msgspec

from everyspan.model.freeze import freeze
from everyspan.model.repair import Verdict, look

_SENTENCE = "The quick brown fox jumps over it and is never seen again. "
_encode = msgspec.json.Encoder().encode


def _chat(messages: int, size: int) -> dict[str, Any]:
    text = (_SENTENCE * (size // 50 + 1))[: size // messages - 30]
    return {
        "messages": [{"role": "user", "content": text} for _ in range(messages)],
        "model": "gpt-5",
        "temperature": 0.2,
    }


def _tools() -> dict[str, Any]:
    call = {"id": "c1", "name": "search", "args": {"query": "weather", "limit": 3}}
    return {
        "messages": [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": _SENTENCE * 16, "tool_call_id": "c1"},
        ]
        * 2
    }


PAYLOADS: dict[str, Any] = {
    "2 KB, 4 messages": _chat(4, 2_048),
    "2 KB, 6 messages": _chat(6, 2_048),
    "2 KB, 8 messages": _chat(8, 2_048),
    "20 KB, 20 messages": _chat(20, 20_000),
    "2 KB, tool calls": _tools(),
    "2 KB, 40 rows": {
        "rows": [{"id": i, "score": i / 7, "title": _SENTENCE[:40]} for i in range(26)]
    },
    "2 KB text": {"output": _SENTENCE * 34},
    '{"q": "hi"}': {"q": "hi"},
    "None": None,
}


def _looked(value: Any) -> bytes:
    """Rejected: a look at every type and size, level by level in C, then the encoder."""
    verdict, _ = look(value, bytes_max=1 << 20, nodes_max=2_000, depth_max=64)
    return _encode(value) if verdict is Verdict.PLAIN else b""


def _walked(value: Any) -> bytes:
    """Rejected: the same look, one value at a time."""
    size = 0
    todo = [value]
    for item in todo:
        for inner in get_referents(item):
            kind = type(inner)
            if kind is str:
                size += len(inner)
            elif kind is dict or kind is list:
                todo.append(inner)
            elif kind is not int and kind is not float and kind is not bool and inner is not None:
                return b""
    return _encode(value) if size < 1 << 20 else b""


def _best_ns(call: Callable[[Any], object], value: Any, *, calls: int = 10_000) -> float:
    best = float("inf")
    for _ in range(11):
        start = time.process_time_ns()
        for _ in range(calls):
            call(value)
        best = min(best, (time.process_time_ns() - start) / calls)
    return best


HUGE: dict[str, Callable[[], Any]] = {
    "a text": lambda: {"t": "x" * 100_000_000},
    "a CJK text at the top": lambda: "漢" * 50_000_000,
    "a CJK text inside": lambda: {"m": [{"t": "漢" * 50_000_000}]},
    "escapes": lambda: ["\x01" * 100_000_000],
    "1,000 texts": lambda: ["x" * 100_000 for _ in range(1_000)],
    "bytes": lambda: {"b": b"\xff" * 100_000_000},
    "3,000,000 integers": lambda: list(range(3_000_000)),
    "3,000 lists of 1,000 floats": lambda: [[i / 7] * 1_000 for i in range(3_000)],
    "300,000 rows": lambda: [{"a": i, "b": str(i)} for i in range(300_000)],
    "a set of 1,000,000": lambda: set(range(1_000_000)),
    "a numpy array": lambda: __import__("numpy").zeros(12_500_000),
}


def main() -> None:
    print(f"Python {sys.version.split()[0]}, msgspec {msgspec.__version__}; ns a payload, of bare")
    print(f"{'':22}{'bare':>7}{'freeze':>14}{'look':>14}{'walk':>14}")
    for name, value in PAYLOADS.items():
        bare = _best_ns(_encode, value)
        cells = ""
        for call in (freeze, _looked, _walked) if value is not None else (freeze,):
            ns = _best_ns(call, value)
            cells += f"{ns:8.0f} {ns / bare:4.2f}x"
        print(f"{name:22}{bare:7.0f}{cells}")
    print("\nvalues of about 100 MB: ms of the caller's CPU, first time; bytes of the answer")
    for name, make in HUGE.items():
        freeze({"q": "hi"})
        best, size = float("inf"), 0
        for _ in range(3):
            value = make()
            start = time.process_time_ns()
            size = len(freeze(value))
            best = min(best, (time.process_time_ns() - start) / 1e6)
            del value
        print(f"{name:30}{best:8.2f}{size:10}")


if __name__ == "__main__":
    main()
