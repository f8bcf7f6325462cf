"""What every test stands on: no hypothesis deadline, and no silent skip in CI."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

from everyspan import log

# Helpers that tests share assert as well, and should show what was compared.
HERE = Path(__file__).parent
for helper in HERE.rglob("*.py"):
    if not helper.name.startswith(("test_", "conftest", "__")):
        name = ".".join(helper.relative_to(HERE.parent).with_suffix("").parts)
        pytest.register_assert_rewrite(name)

# A deadline, and being too slow, measure the machine's other work, not ours. Under CI hypothesis
# has its own profile, which forgoes both as well and is seeded.
patient = hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("everyspan", patient)
# For further Pythons: scripts/test-on.
hypothesis.settings.register_profile("brief", patient, derandomize=True, max_examples=20)
if "CI" not in os.environ:
    hypothesis.settings.load_profile("everyspan")


@pytest.fixture(autouse=True)
def _nothing_said_before() -> None:
    """What a test's log is told does not depend on the tests before it."""
    log.forget()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a CI run in which a test was skipped: there, everything a test needs is installed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if "CI" in os.environ and reporter and reporter.stats.get("skipped") and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the skips that failed the run."""
    if "CI" in os.environ:
        for report in terminalreporter.stats.get("skipped", []):
            terminalreporter.write_line(f"skipped, which fails a CI run: {report.nodeid}", red=True)
