"""What a failed export is counted as: few classes and codes, whatever was raised (`trace:M1`)."""

from __future__ import annotations

import re

from everyspan.errors import ExportError

_ERROR_CODE = re.compile(r"Error code:\s*(\d+)")

_TIMEOUT = ("timeout", "timeout")
_NETWORK = ("network_error", "network")
_UNKNOWN = ("other_error", "unknown")

_OURS = {
    "timeout": _TIMEOUT,
    "cannot connect": _NETWORK,
    "cannot resolve": _NETWORK,
    "connection broke": _NETWORK,
    "tls": _NETWORK,
}

# Of classes whose errors tell no code, in order.
_BY_NAME = (
    (("Authentication", "Permission"), ("authentication", "unknown")),
    (("RateLimit",), ("rate_limit", "429")),
    (("ServerError", "ServiceUnavailable", "BadGateway"), ("server_error", "5xx")),
    (("BadRequest", "NotFound", "Conflict", "UnprocessableEntity"), ("client_error", "4xx")),
)


def failure_labels(error: ExportError) -> tuple[str, str]:
    """Return `error_class` and `http_code` of a failure."""
    if not error.kind and error.status is None:
        return _OURS.get(error.reason, _UNKNOWN)
    return labels(error.kind, str(error), status=error.status)


def labels(kind: str, text: str, *, status: int | None = None) -> tuple[str, str]:
    """Return the labels of an exception.

    Args:
        kind: Name of its class.
        text: May tell the code, as the messages of generated API clients do.
        status: Counts where the text tells none.
    """
    if "Timeout" in kind:
        return _TIMEOUT
    if "Connect" in kind:
        return _NETWORK
    told = _ERROR_CODE.search(text)
    if told is not None:
        return _of_code(int(told[1]))
    if status is not None:
        return _of_code(status)
    for words, found in _BY_NAME:
        if any(word in kind for word in words):
            return found
    return _UNKNOWN


def _of_code(code: int) -> tuple[str, str]:
    if code in (401, 403):
        return "authentication", str(code)
    if code == 429:
        return "rate_limit", "429"
    if 400 <= code < 500:
        return "client_error", "4xx"
    if 500 <= code < 600:
        return "server_error", "5xx"
    return "other_error", "other"
