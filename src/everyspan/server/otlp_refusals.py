"""Spans and requests that the OTLP endpoint refused, counted: exporters hardly say (`otlp:H5`).

OpenTelemetry's exporter for Python never reads what is answered to a stored request, so whoever
looks for a missing span finds it here: in `/metrics` and in the log, once a minute for each reason.
"""

from __future__ import annotations

import logging

from everyspan.clock import SYSTEM_CLOCK, Clock

LOG_EVERY_S = 60.0
_log = logging.getLogger("everyspan.server.otlp")


class Refusals:
    """Counts by reason; reasons are sentences of ours, so there are few and none repeats a payload.

    Args:
        clock: Tells when a reason was last logged.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._spans: dict[str, int] = {}
        self._logged_s: dict[str, float] = {}

    @property
    def spans(self) -> dict[str, int]:
        """Spans refused so far, by reason."""
        return dict(self._spans)

    def add(self, reason: str, spans: int) -> None:
        """Count spans that were refused for this reason."""
        self._spans[reason] = total = self._spans.get(reason, 0) + spans
        now_s = self._clock.monotonic()
        logged_s = self._logged_s.get(reason)
        if logged_s is None or now_s - logged_s >= LOG_EVERY_S:
            self._logged_s[reason] = now_s
            _log.warning("spans refused: %s (%d so far)", reason, total)
