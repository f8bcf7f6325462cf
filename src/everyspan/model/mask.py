"""Take secrets out of a frozen span before anything leaves the process (P9).

M1  A record is masked once, in place: name, input, output, data and the error that data tells of.
    Ids are not touched, since they tie spans together.
M2  What a mask raises, or answers with something that is no JSON, redacts the whole field.
M3  A field without a credential keeps its frozen text; masking what was masked changes nothing.

Runs where spans are sent, never on the agent's thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from everyspan.errors import SettingsError
from everyspan.model.credentials import NOTHING_FOUND, may_hold_credential, redact
from everyspan.model.freeze import PAYLOAD_BYTES_MAX, freeze
from everyspan.model.record import SpanRecord
from everyspan.model.span import SPAN_ERROR_KEY, SpanType

Path = tuple[str | int, ...]
Mask = Callable[[Path, Any], Any]
"""Answers what shall stand in a span instead of a value.

Called with the value's place, for instance `("input", "messages", 0, "content")`, outermost first;
an object or array that comes back itself is gone through, any other answer is final.
"""

REDACTED_FIELD = "[REDACTED:mask failed]"

_TYPES = frozenset(SpanType)
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Masker:
    """See the module text.

    Args:
        mask: True for the patterns of credentials, or a function of the user's.
        failed: Told the exception that a mask raised; nothing of it may be shown, since its text
            may hold what was to be hidden.

    Raises:
        SettingsError: `mask` is neither, or takes other arguments.
    """

    def __init__(self, mask: object, *, failed: Callable[[BaseException], None]) -> None:
        if mask is not True and not (callable(mask) and _takes_two(mask)):
            raise SettingsError(f"mask must be True or a function of (path, value), got {mask!r}")
        self._mask: Mask | None = None if mask is True else mask
        self._failed = failed
        # Destinations share a record and run on several threads.
        self._lock = threading.Lock()

    def apply(self, records: Sequence[SpanRecord]) -> None:
        """Mask the records that were not before (M1)."""
        for record in records:
            if not record.is_masked:
                self._apply(record)

    def _apply(self, record: SpanRecord) -> None:
        with self._lock:
            if record.is_masked:
                return
            record.name = self._text(("name",), record.name)
            if record.type is not None and record.type not in _TYPES:
                record.type = self._text(("type",), record.type)
            record.input = self._field(("input",), record.input)
            record.output = self._field(("output",), record.output)
            record.data = self._field(("data",), record.data)
            if record.error is not None:
                # By itself: the limit of `data` may have cut off there what is whole here.
                kind, message, category = record.error
                place = ("data", SPAN_ERROR_KEY)
                record.error = (
                    self._text((*place, "type"), kind),
                    self._text((*place, "message"), message),
                    category,
                )
            # Last: whatever stops us on the way leaves a record that is masked again.
            record.is_masked = True

    def _text(self, path: Path, text: str) -> str:
        masked = _decode(self._field(path, freeze(text)) or b"null")
        return masked if isinstance(masked, str) else REDACTED_FIELD

    def _field(self, path: Path, frozen: bytes | None) -> bytes | None:
        if frozen is None:
            return None
        try:
            if self._mask is None and not may_hold_credential(frozen):
                return frozen
            value = _decode(frozen)
            if self._mask is None:
                masked = redact(value)
                if masked is NOTHING_FOUND:
                    return frozen
            else:
                masked = _masked(self._mask, path, value)
            return freeze(masked, bytes_max=max(len(frozen), PAYLOAD_BYTES_MAX))
        except BaseException as error:
            is_ctrl_c = isinstance(error, KeyboardInterrupt)
            if is_ctrl_c and threading.current_thread() is threading.main_thread():
                raise
            # The user's function may raise anything, on our thread.
            self._failed(error)
            return _encode(REDACTED_FIELD)


def _masked(mask: Mask, path: Path, value: Any) -> Any:
    """Return what the mask makes of a value and of all that is in it."""
    answer = mask(path, value)
    if answer is value and isinstance(value, dict | list):
        places: Iterator[tuple[Any, Any]]
        places = iter([*value.items()] if isinstance(value, dict) else enumerate(value))
        for key, inner in places:
            value[key] = _masked(mask, (*path, key), inner)
    return answer


def _takes_two(mask: Callable[..., Any]) -> bool:
    """Tell whether a function may be called with a path and a value, as far as it says."""
    import inspect  # Only for who masks by a function (P10).

    try:
        signature = inspect.signature(mask)
    except (TypeError, ValueError):
        # Built-in ones do not always say.
        return True
    try:
        signature.bind((), None)
    except TypeError:
        return False
    return True


_in_force: Masker | None = None


def masker_in_force() -> Masker | None:
    """Return the masker of the process's configuration.

    For spans that do not pass the process's own queue, which has a masker of its own.
    """
    return _in_force


def put_in_force(masker: Masker | None) -> None:
    """Make `masker` the one of the process's configuration."""
    global _in_force
    _in_force = masker
