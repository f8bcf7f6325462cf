"""Put figures and foreign text on a terminal.

X1  No control, bidi, invisible or unassigned character of a trace reaches the terminal raw:
    it is shown as an escape (`\\x1b`, `\\u202e`).
"""

from __future__ import annotations

import unicodedata

SERVE_PORT = 5003
"""Where `everyspan serve` listens unless it is told otherwise."""

_SHOWN_AS = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Control, format (bidi, zero width), surrogate, private use, unassigned, line and paragraph ends.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

_BINARY_UNITS = ("KiB", "MiB", "GiB", "TiB")


def visible(text: str, *, chars_max: int | None = None) -> str:
    """Return `text` safe to print on one line, cut to `chars_max` with an ellipsis (X1)."""
    if chars_max is not None and len(text) > chars_max:
        text = text[: chars_max - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(char) if unicodedata.category(char) in _UNSEEN else char for char in text)


def serve_command(port: int | None) -> str:
    """Return what to type for a server on a port, None for the usual one."""
    return "everyspan serve" if port in (None, SERVE_PORT) else f"everyspan serve --port {port}"


def _shown(char: str) -> str:
    code = ord(char)
    if char in _SHOWN_AS:
        return _SHOWN_AS[char]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def duration(seconds: float) -> str:
    """Return a time for people: `850µs`, `12.3ms`, `4.21s`, `2m05s`, `3h07m`, `2d04h`."""
    if seconds < 0:
        return "-" + duration(-seconds)
    if seconds == 0:
        return "0ms"
    if seconds < 0.0009995:
        return f"{seconds * 1e6:.0f}µs"
    if seconds < 0.9995:
        return _three_digits(seconds * 1e3) + "ms"
    if seconds < 59.95:
        return _three_digits(seconds) + "s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def age(seconds: float) -> str:
    """Return how long ago something was, coarsely: `now`, `12s`, `4m`, `3h`, `2d`."""
    if seconds < 1:
        return "now"
    for unit_s, unit, unit_max in ((1, "s", 60), (60, "m", 60), (3600, "h", 48)):
        if seconds < unit_s * unit_max:
            return f"{int(seconds // unit_s)}{unit}"
    return f"{int(seconds // 86400)}d"


def _three_digits(value: float) -> str:
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f}"


def plural(count: int, noun: str) -> str:
    """Return `1 span`, `1,204 spans`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def byte_size(count: int) -> str:
    """Return an amount of memory for people: `512 B`, `9.1 KiB`, `812 MiB`, `1.20 GiB`."""
    if count < 1024:
        return f"{count} B"
    power = 1
    while count >= 999.5 * 1024**power and power < len(_BINARY_UNITS):
        power += 1
    return f"{_three_digits(count / 1024**power)} {_BINARY_UNITS[power - 1]}"
