"""Pages that are written from the source say what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_settings_page_is_what_the_rows_say() -> None:
    """STYLE, Settings: the page is generated; `make docs` mends what this finds."""
    page = subprocess.run(
        [sys.executable, ROOT / "scripts" / "settings_page.py"],
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    ).stdout
    assert page.count("| `EVERYSPAN_") > 3
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == page
