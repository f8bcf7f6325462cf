"""Every exception of everyspan; the class decides what happens next.

EverySpanError
├── SettingsError            an argument or setting is wrong: raised at once, names it
├── ExportError              a batch was not stored
│   ├── RetryableExportError     perhaps stored; upserts make repeating safe
│   ├── BatchTooLargeError       the body is too big: send halves
│   ├── BatchRefusedError        nothing stored, some span is at fault: cut it out or bisect
│   ├── DestinationRefusedError  nothing is taken from us, whatever it is: keep all, and probe
│   └── PermanentExportError     the same bytes will fail again: reject the batch
├── RequestError             the server refuses a request and says why (status, code, loc)
└── StoreError               the store cannot do it
    └── StoreBusyError           not now: the sender should come back (503)
"""

from __future__ import annotations

from collections.abc import Sequence


class EverySpanError(Exception):
    """Base of everything everyspan raises."""


class SettingsError(EverySpanError, ValueError):
    """An argument or setting is not allowed; the text names it, its value and what is."""


class ExportError(EverySpanError):
    """A batch was not acknowledged.

    `reason` is a short stable word for the books (`http 503`, `timeout`); `str()` is for people.
    `kind` is the class of what a user's processor raised; empty where the error is ours.
    """

    kind = ""

    def __init__(self, message: str, *, reason: str, status: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status


class RetryableExportError(ExportError):
    """The batch is perhaps stored; sending it again is safe.

    `retry_after_s` is what the backend asked for, None where it asked for nothing.
    `congested` is True where the backend or the path is overloaded (429, 503, time-outs).
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        status: int | None = None,
        retry_after_s: float | None = None,
        congested: bool = False,
    ) -> None:
        super().__init__(message, reason=reason, status=status)
        self.retry_after_s = retry_after_s
        self.congested = congested

    @property
    def is_trouble(self) -> bool:
        """False where the destination works and merely left something out."""
        return self.status is None or self.status >= 400

    @property
    def is_general(self) -> bool:
        """True for trouble of the whole destination, which other batches would meet as well."""
        return self.congested or self.status is None

    @property
    def is_crowding(self) -> bool:
        """True for an answer that says no more than that too many requests are under way."""
        return self.congested and self.status is not None and self.retry_after_s is None


class BatchTooLargeError(ExportError):
    """The body exceeds what the backend takes (413): halves may pass."""


class BatchRefusedError(ExportError):
    """Nothing of the batch was stored because of some span in it.

    `offenders` are the positions the backend named, in order; empty where it named none.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        status: int | None = None,
        offenders: Sequence[int] = (),
    ) -> None:
        super().__init__(message, reason=reason, status=status)
        self.offenders = tuple(offenders)


class DestinationRefusedError(ExportError):
    """The destination takes nothing from us: no key, no such path, a proxy's page instead.

    No span is at fault, so none is rejected. They wait, and single ones are tried now and then,
    until the cause is mended or the spans are too old.
    """


class PermanentExportError(ExportError):
    """The same bytes will fail again, whole or in parts."""


class RequestError(EverySpanError):
    """A request to the server is refused.

    Args:
        status: HTTP status, 400 to 499.
        code: Upper-case word a program can act on, for instance `INVALID_CURSOR`.
        loc: Path of the offending field, for instance `("body", "items", 17, "end_timestamp")`.
    """

    def __init__(
        self, status: int, code: str, message: str, *, loc: Sequence[str | int] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.loc = tuple(loc)


class StoreError(EverySpanError):
    """The store could not do what was asked; nothing was written."""


class StoreBusyError(StoreError):
    """The store cannot take more now; nothing was written."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
