"""Figures and foreign text on a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everyspan.model.text import age, byte_size, duration, plural, visible


@given(st.text(st.characters(codec=None)))
def test_nothing_a_terminal_acts_on_gets_through(text: str) -> None:
    """X1: any text at all, surrogates included."""
    shown = visible(text)
    assert not [c for c in shown if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
    shown.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Grüße 日本 🙂", "Grüße 日本 🙂"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u202eb", r"a\u202eb"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("[red]x[/red]", "[red]x[/red]"),
    ],
)
def test_escapes_can_be_read(text: str, shown: str) -> None:
    """X1: what is hidden is shown, all else as it is."""
    assert visible(text) == shown


def test_long_text_is_cut() -> None:
    """X1: one line stays one line."""
    assert visible("x" * 99, chars_max=5) == "xxxx…"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0ms"),
        (850e-6, "850µs"),
        (0.0123, "12.3ms"),
        (0.9994, "999ms"),
        (0.9996, "1.00s"),
        (4.21, "4.21s"),
        (59.94, "59.9s"),
        (59.96, "1m00s"),
        (125, "2m05s"),
        (11220, "3h07m"),
        (187200, "2d04h"),
        (-0.5, "-500ms"),
    ],
)
def test_durations_keep_three_digits(seconds: float, shown: str) -> None:
    """UI anchors, Time: 850µs, 12.3ms, 4.21s, 2m05s."""
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5, "now"), (0.4, "now"), (12, "12s"), (240, "4m"), (7200, "2h"), (172800, "2d")],
)
def test_ages_are_coarse(seconds: float, shown: str) -> None:
    """UI anchors, list."""
    assert age(seconds) == shown


def test_plurals() -> None:
    """STYLE: figures are for people."""
    assert [plural(n, "span") for n in (0, 1, 1204)] == ["0 spans", "1 span", "1,204 spans"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1023 * 1024, "1.00 MiB"),
        (812 * 1024**2, "812 MiB"),
        (3 * 1024**5, "3072 TiB"),
    ],
)
def test_sizes_keep_three_digits(count: int, shown: str) -> None:
    assert byte_size(count) == shown
