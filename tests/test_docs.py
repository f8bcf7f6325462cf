"""Pages that are written from the source say what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["settings", "failures", "metrics", "api"])
def test_a_page_is_what_the_source_says(page: str) -> None:
    """STYLE, Settings: the page is generated; `make docs` mends what this finds."""
    written = subprocess.run(
        [sys.executable, ROOT / "scripts" / f"{page}_page.py"],
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    ).stdout
    assert max(written.count("\n| "), written.count("\n### ")) > 10
    assert " at 0x" not in written, "an address, which is another each time"
    assert (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") == written
