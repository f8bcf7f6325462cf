"""What a failed export is counted as."""

from __future__ import annotations

import pytest

from everyspan.delivery.lane import classify
from everyspan.errors import ExportError
from everyspan.metrics.failures import failure_labels
from everyspan.transport import outcomes
from everyspan.transport.reply import Reply


def raised(name: str, text: str = "", **fields: object) -> ExportError:
    """What an exception of a user's processor means."""
    error = type(name, (Exception,), fields)(text)
    return classify(error)


@pytest.mark.parametrize(
    ("error", "labels"),
    [
        (raised("APITimeoutError", "Error code: 500"), ("timeout", "timeout")),
        (raised("APIConnectionError"), ("network_error", "network")),
        (raised("ConnectError", "Error code: 401"), ("network_error", "network")),
        (raised("APIStatusError", "Error code: 401 - {}"), ("authentication", "401")),
        (raised("APIStatusError", "Error code: 403"), ("authentication", "403")),
        (raised("APIStatusError", "Error code: 429"), ("rate_limit", "429")),
        (raised("APIStatusError", "Error code:  404"), ("client_error", "4xx")),
        (raised("APIStatusError", "Error code: 503"), ("server_error", "5xx")),
        (raised("APIStatusError", "Error code: 302"), ("other_error", "other")),
        (raised("RateLimitError", "Error code: 500"), ("server_error", "5xx")),
        (raised("AuthenticationError"), ("authentication", "unknown")),
        (raised("PermissionDeniedError"), ("authentication", "unknown")),
        (raised("RateLimitError"), ("rate_limit", "429")),
        (raised("InternalServerError"), ("server_error", "5xx")),
        (raised("ServiceUnavailable"), ("server_error", "5xx")),
        (raised("BadGatewayError"), ("server_error", "5xx")),
        (raised("BadRequestError"), ("client_error", "4xx")),
        (raised("NotFoundError"), ("client_error", "4xx")),
        (raised("ConflictError"), ("client_error", "4xx")),
        (raised("UnprocessableEntityError"), ("client_error", "4xx")),
        (raised("ValueError", "Timeout"), ("other_error", "unknown")),
        (raised("StatusError", "no code here", status_code=503), ("server_error", "5xx")),
        (raised("GatewayTimeout", status_code=504), ("timeout", "timeout")),
    ],
)
def test_an_exception_of_a_processor(error: ExportError, labels: tuple[str, str]) -> None:
    """trace:M1: by its class, then the code in its text, then its class again."""
    assert failure_labels(error) == labels


@pytest.mark.parametrize("row", outcomes.OUTCOMES, ids=lambda row: row.text)
def test_every_outcome_of_a_request_of_ours(row: outcomes.Outcome) -> None:
    """trace:M1: few classes, known ones, and the right ones of each status."""
    for status in row.statuses:
        error = outcomes.to_error(Reply(status, {}, b""))
        if error is None:
            continue
        error_class, code = failure_labels(error)
        expected = {401: "authentication", 403: "authentication", 429: "rate_limit"}.get(status)
        by_hundred = {3: "other_error", 4: "client_error", 5: "server_error"}
        assert error_class == (expected or by_hundred[status // 100])
        assert code in ("401", "403", "429", "4xx", "5xx", "other")
    if not row.statuses and row.error is not None:
        is_answered = row in (outcomes.FOREIGN_PAGE, outcomes.UNACKNOWLEDGED)
        labels = failure_labels(row.error("m", reason=row.reason))
        assert (labels[0] == "other_error") == is_answered
