"""Pages say what the source does: those written from it, and those that show programs."""

from __future__ import annotations

import os
import re
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


def test_what_the_page_on_logging_shows_runs() -> None:
    """docs/logging.md."""
    page = (ROOT / "docs" / "logging.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"EVERYSPAN_DISABLED": "1"},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    line, *_ = done.stderr.splitlines()
    assert re.fullmatch(r"INFO [0-9a-f-]{36} [0-9a-f-]{36} asked about Rome", line), done.stderr
