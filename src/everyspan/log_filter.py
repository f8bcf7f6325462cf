"""The current span's ids on every log record, so that a log line leads to its trace."""

from __future__ import annotations

import logging

from everyspan.context import current_span

NO_ID = "0"
"""What OpenTelemetry and ddtrace write where no span runs."""


class TraceContextFilter(logging.Filter):
    """A filter that refuses nothing and sets `trace_id` and `span_id` on every record.

    Belongs on handlers: a logger's own filter does not see what loggers below it pass up. In
    `logging.config.dictConfig`: `"filters": {"trace": {"()": "everyspan.TraceContextFilter"}}`.
    Ids that a record has already stay, so a record may cross a `QueueHandler` to another thread.

    Args:
        default: Both ids where no span runs; None suits a JSON formatter.
    """

    def __init__(self, *, default: str | None = NO_ID) -> None:
        super().__init__()
        self._default = default

    def filter(self, record: logging.LogRecord) -> bool:
        """Set the ids; True."""
        values = record.__dict__
        if "trace_id" not in values or "span_id" not in values:
            span = current_span()
            if span is None:
                trace_id = span_id = self._default
            else:
                trace_id, span_id = _on_one_line(span.trace_id), _on_one_line(span.id)
            values.setdefault("trace_id", trace_id)
            values.setdefault("span_id", span_id)
        return True


def _on_one_line(id: object) -> str:
    if not isinstance(id, str):
        # The agent has set it; what a foreign object does when shown is not for a log call to find.
        return f"<{type(id).__name__}>"
    # An id may be a stranger's, from a request's headers, and must not forge lines of a log.
    return id if id.isprintable() else ascii(id)[1:-1]
