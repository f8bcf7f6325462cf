"""Delivers spans to the SGP spans API: one PUT `/v5/spans/batch` for a batch (`sgp` §2).

S1  A batch is joined from frozen bytes; no payload is decoded or encoded again.
S2  One bad span costs only itself: the offender the backend names is cut out (`sgp:E4`), a text
    that is no valid UTF-8 is repaired here.
S3  Nothing is kept between START and END (`trace:S1`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx2
import msgspec

from everyspan.config import Settings, check_address, load_environment, load_settings
from everyspan.delivery.backlog import Batch
from everyspan.delivery.lane import is_from_outside
from everyspan.errors import (
    BatchRefusedError,
    BatchTooLargeError,
    DestinationRefusedError,
    ExportError,
    PermanentExportError,
    RetryableExportError,
    SettingsError,
)
from everyspan.log import complain
from everyspan.model.record import SpanRecord
from everyspan.model.report import PRODUCERS_PATH
from everyspan.model.span import (
    AGENT_NAME_KEY,
    COMPLETENESS_KEY,
    SPAN_TYPE_KEY,
    TASK_ID_KEY,
    Span,
    SpanStatus,
    SpanType,
)
from everyspan.model.text import serve_command
from everyspan.processors.base import TracingProcessorConfig
from everyspan.processors.builtin import BuiltinProcessor
from everyspan.processors.wire import (
    completeness,
    encode,
    timestamp,
    to_object,
    to_text,
    valid_text,
    with_members,
)
from everyspan.transport.client import HttpClients
from everyspan.transport.outcomes import UNACKNOWLEDGED, to_error
from everyspan.transport.reply import Reply

DEFAULT_BASE_URL = "https://api.egp.scale.com"
"""`sgp` §1, environment `production`."""

LOCAL_START_DELAY_S = 1.0
"""DESIGN: when an open span shows in the local page; chosen, not measured."""

BATCH_PATH = "/v5/spans/batch"
PROBE_PATH = "/v5/spans/search?limit=1"
PROBE_BODY = b'{"trace_ids":["everyspan-doctor"]}'
"""A search (`sgp` §7) that finds nothing."""

REPLY_BYTES_KEPT = 2 << 20
"""An answer names the spans that were stored, with all that they hold: a batch and some."""

ITEMS_MAX = 1000
"""`sgp:X2`."""

SERVER_HEADER = "x-everyspan"
"""On every answer of an everyspan server."""

_TYPES = frozenset(SpanType)
_MISSING: Any = object()


@dataclass(frozen=True, slots=True)
class SGPTracingProcessorConfig(TracingProcessorConfig):
    """Where and as whom to deliver; an empty `sgp_base_url` counts as unset (D21).

    A key that is rotated while the process runs may be a function, which is asked before each
    request, on the thread that sends, and must not wait.
    """

    type: Literal["sgp"] = field(default="sgp", kw_only=True)
    # Of these two a default only says what is missing, in our words.
    sgp_api_key: str | Callable[[], str] = field(default=_MISSING, repr=False)
    sgp_account_id: str = _MISSING
    sgp_base_url: str | None = None

    def __post_init__(self) -> None:
        if self.type != "sgp":
            raise SettingsError(f"type must be sgp, got {self.type!r}")
        for name in ("sgp_api_key", "sgp_account_id"):
            if getattr(self, name) is _MISSING:
                raise SettingsError(
                    f"{name} is missing: SGPTracingProcessorConfig(sgp_api_key, sgp_account_id)"
                )
        if not callable(self.sgp_api_key):
            check_credential(self.sgp_api_key, "sgp_api_key")
        check_credential(self.sgp_account_id, "sgp_account_id")
        if self.sgp_base_url:
            check_address(self.sgp_base_url, "sgp_base_url")


class SGPAsyncTracingProcessor(BuiltinProcessor):
    """The SGP destination; with an empty key or account it is off and sends nothing (`trace:S5`).

    Args:
        only_everyspan: Send only to a server that says it is an everyspan server.
        settings: For the request's timeout; None for those of the environment.
    """

    name = "sgp"
    spans_max = ITEMS_MAX

    def __init__(
        self,
        config: SGPTracingProcessorConfig,
        *,
        only_everyspan: bool = False,
        settings: Settings | None = None,
    ) -> None:
        environment = load_environment()
        self.is_enabled = bool(config.sgp_api_key and config.sgp_account_id)
        if not self.is_enabled:
            missing = "sgp_account_id" if config.sgp_api_key else "sgp_api_key"
            complain("sgp gets no spans: %s is empty", missing, level=logging.WARNING)
        self.base_url = config.sgp_base_url or environment.sgp_base_url or DEFAULT_BASE_URL
        self.only_everyspan = only_everyspan
        if only_everyspan:
            self.start_delay_s = LOCAL_START_DELAY_S
            command = serve_command(httpx2.URL(self.base_url).port)
            self.hint = f"everyspan: no trace server at {self.base_url}; start one with `{command}`"
        elif not environment.skip_span_start:
            self.start_delay_s = 0.0
        self._api_key = config.sgp_api_key
        self._is_verified = not only_everyspan
        self.is_everyspan = False
        self.takes_starts = not environment.skip_span_start
        self._http = HttpClients(
            self.base_url,
            headers={
                "x-selected-account-id": config.sgp_account_id,
                "content-type": "application/json",
                "accept": "application/json",
                # What was written need not come back: it is half of the traffic.
                "prefer": "return=minimal",
            },
            timeout_s=(settings or load_settings()).request_timeout_s,
            reply_bytes_kept=REPLY_BYTES_KEPT,
        )
        stamps = {
            "__source__": "agentex",
            "__acp_type__": environment.acp_type or "async",
            AGENT_NAME_KEY: environment.agent_name,
            "__agent_id__": environment.agent_id,
        }
        self._stamps = {name: to_text(value) for name, value in stamps.items() if value}

    # -- for delivery

    async def export(self, batch: Batch) -> Mapping[int, ExportError]:
        """Send the batch in one request; see `Exporter`."""
        if not self.is_enabled:
            raise PermanentExportError("no sgp_api_key or sgp_account_id", reason="disabled")
        if len(batch) > ITEMS_MAX:
            raise BatchTooLargeError(
                f"a request takes {ITEMS_MAX} spans, got {len(batch)}", reason="too many spans"
            )
        if not self._is_verified:
            await self._verify()
        records = batch.records
        reply = await self._http.request(
            "PUT", BATCH_PATH, self.encode(records), headers={"x-api-key": self._key()}
        )
        self._note_server(reply)
        error = to_error(reply)
        if isinstance(error, BatchRefusedError):
            error = BatchRefusedError(
                str(error),
                reason=error.reason,
                status=error.status,
                offenders=_offenders(reply.body),
            )
        if error is not None:
            raise error
        return {
            position: RetryableExportError(
                UNACKNOWLEDGED.text, reason=UNACKNOWLEDGED.reason, status=reply.status
            )
            for position in _unnamed(reply, records)
        }

    async def report(self, producer: str, body: bytes) -> None:
        """Send a report of the books once; see `reports.ReportTaker`."""
        reply = await self._http.request(
            "POST", f"{PRODUCERS_PATH}/{producer}", body, headers={"x-api-key": self._key()}
        )
        error = to_error(reply)
        if error is not None:
            raise error

    async def probe(self) -> Reply:
        """Ask what changes nothing and shows whether the backend is there and takes the key.

        Raises:
            RetryableExportError: No usable answer came.
        """
        if self.only_everyspan:
            return await self._http.request("GET", "/healthz")
        return await self._http.request(
            "POST", PROBE_PATH, PROBE_BODY, headers={"x-api-key": self._key()}
        )

    def connections(self) -> int:
        """Return how many connections were opened so far."""
        return self._http.connections

    async def close(self) -> None:
        """Close the running loop's connections."""
        await self._http.close()

    def encode(self, records: Sequence[SpanRecord]) -> bytes:
        """Return the request body for these records."""
        items = [self._item(record) for record in records]
        try:
            return b'{"items":' + encode(items) + b"}"
        except (UnicodeEncodeError, TypeError):
            # A lone surrogate in a name or id, or an id that is no text.
            for item in items:
                item.repair()
            return b'{"items":' + encode(items) + b"}"

    # -- for whoever awaits the processor directly

    async def _send(self, spans: Sequence[Span], *, is_end: bool) -> None:
        if self.is_enabled:
            await super()._send(spans, is_end=is_end)

    def _get_client(self) -> httpx2.AsyncClient | None:
        """Return the running loop's client, as the original's (`trace:L1`, `L4`, `S5`)."""
        return self._http.current() if self.is_enabled else None

    # -- within

    def _key(self) -> str:
        if not callable(self._api_key):
            return self._api_key
        try:
            key = self._api_key()
            check_credential(key, "what the function sgp_api_key returns")
        except BaseException as error:
            if is_from_outside(error):
                raise
            # The user's function, or the command that it runs: as if the backend refused the key,
            # so that the spans wait.
            raise DestinationRefusedError(
                f"sgp_api_key raised {type(error).__name__}", reason="no key"
            ) from None
        return key

    def _note_server(self, reply: Reply) -> None:
        # A version: what only stands in for a server, in tests, is told nothing unasked.
        self.is_everyspan = reply.headers.get(SERVER_HEADER, "")[:1].isdigit()

    async def _verify(self) -> None:
        reply = await self._http.request("GET", "/healthz")
        if SERVER_HEADER not in reply.headers:
            raise RetryableExportError(
                f"{self.base_url} is not an everyspan server", reason="not an everyspan server"
            )
        self._is_verified = True

    def _item(self, record: SpanRecord) -> _Item:
        type_ = record.type
        if type_ not in _TYPES:
            # An unknown type would cost the whole batch (D19); the text stays in the metadata.
            type_ = SpanType.STANDALONE if type_ is None else SpanType.CUSTOM
        return _Item(
            record.name,
            record.id,
            record.trace_id,
            timestamp(record.start_ns),
            msgspec.Raw(to_object(record.input, "input")),
            msgspec.Raw(to_object(record.output, "output")),
            msgspec.Raw(self._metadata(record)),
            record.status,
            type_,
            None if record.end_ns is None else timestamp(record.end_ns),
            record.parent_id,
            record.group_id,
            *(record.obs or ()),
        )

    def _metadata(self, record: SpanRecord) -> bytes:
        members = dict(self._stamps)
        if record.type is not None:
            members[SPAN_TYPE_KEY] = to_text(record.type)
        if record.task_id is not None:
            members[TASK_ID_KEY] = to_text(record.task_id)
        if record.error is not None and record.status != SpanStatus.SUCCESS:
            kind, message, category = record.error
            members["error"] = b"true"
            members["error_type"] = to_text(kind)
            members["error_message"] = to_text(message)
            members["error_category"] = to_text(category)
        if record.part is not None:
            members[COMPLETENESS_KEY] = completeness(record, destination=self.name)
        return with_members(to_object(record.data, "data"), members)


def check_credential(value: object, name: str) -> None:
    """Raise a `SettingsError` unless `value` can travel in a header; it is not shown."""
    if not isinstance(value, str):
        raise SettingsError(f"{name} must be text, got {type(value).__name__}")
    if not value.isascii() or not value.isprintable():
        raise SettingsError(f"{name} must be printable ASCII: it travels in a header")


class _Item(msgspec.Struct, omit_defaults=True):
    """One SpanCreate (`sgp` §3); absent fields are left out."""

    name: Any
    id: Any
    trace_id: Any
    start_timestamp: str
    input: msgspec.Raw
    output: msgspec.Raw
    metadata: msgspec.Raw
    status: Any
    type: str
    end_timestamp: str | None = None
    parent_id: Any = None
    group_id: Any = None
    obs_trace_id: str | None = None
    obs_span_id: str | None = None

    def repair(self) -> None:
        """Make text of what is none, and valid UTF-8 of what is not."""
        for name in ("name", "id", "trace_id", "status", "parent_id", "group_id"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, valid_text(value))


class _Written(msgspec.Struct):
    id: str


class _Acknowledgement(msgspec.Struct):
    items: list[_Written] = []


def _unnamed(reply: Reply, records: Sequence[SpanRecord]) -> list[int]:
    """Return the positions of the spans that an answer leaves out while it names others.

    An answer that names none, or is longer than what is kept of it, is taken at its status.
    """
    try:
        items = msgspec.json.decode(reply.body, type=_Acknowledgement).items
    except (msgspec.DecodeError, RecursionError):
        return []
    named = {item.id for item in items}
    if not named:
        return []
    return [number for number, record in enumerate(records) if valid_text(record.id) not in named]


class _Refusal(msgspec.Struct):
    detail: Any = None


def _offenders(body: bytes) -> list[int]:
    """Return the positions that a refusal names (`sgp:E4`), in order."""
    try:
        detail = msgspec.json.decode(body, type=_Refusal).detail
    except (msgspec.DecodeError, RecursionError):
        return []
    named: set[int] = set()
    for entry in detail if isinstance(detail, list) else ():
        loc = entry.get("loc") if isinstance(entry, dict) else None
        if isinstance(loc, list) and len(loc) > 2 and loc[:2] == ["body", "items"]:
            position = loc[2]
            if isinstance(position, int) and not isinstance(position, bool):
                named.add(position)
    return sorted(named)
