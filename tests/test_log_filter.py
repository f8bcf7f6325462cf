"""`TraceContextFilter`: a log line leads to its trace."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import logging.handlers
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import everyspan
from everyspan.testing.capturing import Capture, capture


@pytest.fixture
def captured() -> Iterator[Capture]:
    with capture() as captured:
        yield captured


class Lines(logging.Handler):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def lines() -> Iterator[Lines]:
    """A handler of the root logger, with the filter."""
    lines = Lines()
    lines.addFilter(everyspan.TraceContextFilter())
    logging.getLogger().addHandler(lines)
    yield lines
    logging.getLogger().removeHandler(lines)


def test_records_below_a_span_carry_its_ids(captured: Capture, lines: Lines) -> None:
    with everyspan.span("turn") as turn, everyspan.span("step") as step:
        logging.getLogger("agent.deep.below").warning("inside")
    (record,) = lines.records
    assert (record.trace_id, record.span_id) == (turn.trace_id, step.id)


def test_records_without_a_span_have_the_attributes_too(lines: Lines) -> None:
    """A format string with %(trace_id)s never fails."""
    logging.getLogger("agent").warning("outside")
    (record,) = lines.records
    assert (record.trace_id, record.span_id) == ("0", "0")


@pytest.mark.parametrize("default", ["-", None])
def test_what_stands_for_no_span_can_be_chosen(default: str | None) -> None:
    record: Any = logging.makeLogRecord({})
    assert everyspan.TraceContextFilter(default=default).filter(record)
    assert (record.trace_id, record.span_id) == (default, default)


def test_ids_that_a_record_has_stay(captured: Capture, lines: Lines) -> None:
    with everyspan.span("turn") as turn:
        logging.getLogger("agent").warning("x", extra={"trace_id": "mine"})
    (record,) = lines.records
    assert (record.trace_id, record.span_id) == ("mine", turn.id)


def test_a_record_keeps_its_ids_on_its_way_to_another_thread(captured: Capture) -> None:
    """logging.handlers.QueueHandler: the listener's thread has no current span."""
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    sender, lines = logging.handlers.QueueHandler(records), Lines()
    for handler in (sender, lines):
        handler.addFilter(everyspan.TraceContextFilter())
    logger = logging.getLogger("agent.queued")
    logger.addHandler(sender)
    try:
        with everyspan.span("turn") as turn:
            logger.warning("x")
    finally:
        logger.removeHandler(sender)
    thread = threading.Thread(target=lambda: lines.handle(records.get(timeout=5)))
    thread.start()
    thread.join()
    assert lines.records[0].span_id == turn.id


def test_a_strangers_id_forges_no_line(captured: Capture, lines: Lines) -> None:
    """otlp §5: an id may come with a request."""
    with everyspan.span("turn", trace_id="a\nCRITICAL all is lost\x1b[2J"):
        logging.getLogger("agent").warning("x")
    assert lines.records[0].trace_id == "a\\nCRITICAL all is lost\\x1b[2J"


@pytest.mark.parametrize("garbage", [None, 5, object(), ["x"]])
def test_an_id_that_the_agent_spoiled_fails_no_log_call(
    garbage: Any, captured: Capture, lines: Lines
) -> None:
    """P2: a filter that raises, raises out of `logger.warning`."""
    with everyspan.span("turn") as turn:
        was, turn.id = turn.id, garbage
        logging.getLogger("agent").warning("x")
        turn.id = was
    assert lines.records[0].span_id == f"<{type(garbage).__name__}>"


def test_dict_config_knows_it_by_name(captured: Capture) -> None:
    """As docs/logging.md shows."""
    text = io.StringIO()
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"trace": {"()": "everyspan.TraceContextFilter", "default": "-"}},
            "formatters": {"json": {"format": '{"trace": "%(trace_id)s", "span": "%(span_id)s"}'}},
            "handlers": {
                "text": {
                    "class": "logging.StreamHandler",
                    "stream": text,
                    "filters": ["trace"],
                    "formatter": "json",
                }
            },
            "loggers": {"agent.configured": {"handlers": ["text"], "propagate": False}},
        }
    )
    logger = logging.getLogger("agent.configured")
    with everyspan.span("turn") as turn:
        logger.warning("inside")
    logger.warning("outside")
    logger.handlers.clear()
    inside, outside = map(json.loads, text.getvalue().splitlines())
    assert inside == {"trace": turn.trace_id, "span": turn.id}
    assert outside == {"trace": "-", "span": "-"}
