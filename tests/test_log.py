"""What the agent's log is told (P4, P9)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from everyspan import log

logger = logging.getLogger("everyspan")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The only item is the time, in seconds."""
    now_s = [100.0]
    monkeypatch.setattr(log, "monotonic", lambda: now_s[0])
    return now_s


@pytest.fixture
def said() -> Iterator[list[logging.LogRecord]]:
    """What was logged, as it grows."""
    records: list[logging.LogRecord] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            record.message = record.getMessage()
            records.append(record)

    keeper = Keeper()
    logger.addHandler(keeper)
    yield records
    logger.removeHandler(keeper)


def test_a_cause_is_said_at_once_then_once_a_minute_with_a_count(
    clock: list[float], said: list[logging.LogRecord]
) -> None:
    """P4: of a thousand failures a minute the log gets one line."""
    for _ in range(1000):
        log.complain("it broke: %s", "x", cause="it")
    clock[0] += log.PAUSE_S
    log.complain("it broke: %s", "y", cause="it")
    log.complain("it broke: %s", "z", cause="it")
    assert [record.message for record in said] == [
        "it broke: x",
        "it broke: y (and 999 times more since the last line)",
    ]


def test_a_cause_may_have_several_lines_a_minute(
    clock: list[float], said: list[logging.LogRecord]
) -> None:
    """P4: and no more; the next minute says how many went unsaid."""
    for number in range(5):
        log.complain("it broke: %d", number, cause="it", lines=3)
    clock[0] += log.PAUSE_S
    for number in range(5, 10):
        log.complain("it broke: %d", number, cause="it", lines=3)
    assert [record.message for record in said] == [
        "it broke: 0",
        "it broke: 1",
        "it broke: 2",
        "it broke: 5 (and 2 times more since the last line)",
        "it broke: 6",
        "it broke: 7",
    ]


def test_another_cause_is_said(clock: list[float], said: list[logging.LogRecord]) -> None:
    """P4: one that repeats hides no other."""
    log.complain("a", level=logging.WARNING)
    log.complain("a")
    log.complain("b")
    assert [(r.message, r.levelname) for r in said] == [("a", "WARNING"), ("b", "ERROR")]


def test_causes_without_end_are_not_remembered_without_end(
    clock: list[float], said: list[logging.LogRecord]
) -> None:
    """P4: a bound on memory too."""
    for number in range(10 * log.CAUSES_MAX):
        log.complain("x", cause=str(number))
    assert len(log._due_s) <= log.CAUSES_MAX


def test_an_error_is_shown_by_class_and_place_never_by_its_text(
    said: list[logging.LogRecord],
) -> None:
    """P9: its text may hold what a payload held."""
    try:
        raise ValueError("s3cret")
    except ValueError as error:
        log.complain("it broke", error=error)
    (record,) = said
    assert record.message.endswith("ValueError")
    assert "test_log.py" in record.message
    assert 'raise ValueError("s3cret")' in record.message  # A line of source, not a value.
    assert record.exc_info is None
    assert "s3cret" not in record.message.replace('raise ValueError("s3cret")', "")


class Broken(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise RuntimeError


def test_the_agents_own_filter_stops_nobody(said: list[logging.LogRecord]) -> None:
    """P2."""
    broken = Broken()
    logger.addFilter(broken)
    try:
        log.complain("it broke")
    finally:
        logger.removeFilter(broken)
    assert said == []


def test_a_handler_that_complains_itself_does_not_deadlock(
    said: list[logging.LogRecord],
) -> None:
    """P2: a span may end, and fail, within the agent's own handler."""

    class Again(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log.complain("again")

    again = Again()
    logger.addHandler(again)
    try:
        worker = threading.Thread(target=log.complain, args=("first",), daemon=True)
        worker.start()
        worker.join(10)
        assert not worker.is_alive()
    finally:
        logger.removeHandler(again)
    assert sorted(record.message for record in said) == ["again", "first"]
