"""Delivers spans to the AgentEx spans API: one POST or PATCH `/spans` for a span.

A1  What an END says is stored when it counts as delivered, whatever came before it: a START, its
    own earlier try, another process (`agx:A1`).
A2  A START never touches a span that is there already.
A3  A bad span costs only itself: payloads that the API does not take are wrapped, a task that the
    backend does not know becomes part of the data.
A4  Nothing is kept between START and END; which ENDs are to be PATCHes is the lane's to know.

```
END   POST --"exists"--> PATCH --200--> delivered
      PATCH --404--> POST               (its START was lost, or never came here)
START POST --"exists"--> stored
```
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import httpx2
import msgspec

from everyspan.config import Settings, load_agent_api_key, load_environment, load_settings
from everyspan.delivery.backlog import Batch
from everyspan.delivery.lane import classify
from everyspan.errors import ExportError, RetryableExportError, SettingsError
from everyspan.log import complain
from everyspan.model.record import SpanRecord
from everyspan.model.span import (
    COMPLETENESS_KEY,
    SPAN_ERROR_KEY,
    SPAN_TYPE_KEY,
    TASK_ID_KEY,
    SpanStatus,
)
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
from everyspan.transport.outcomes import to_error
from everyspan.transport.reply import Reply

DEFAULT_BASE_URL = "http://localhost:5003"
"""`agx` §1."""

PATH = "/spans"
PROBE_PATH = PATH + "?trace_id=everyspan-doctor&limit=1"
"""A list (`agx` §3) that is empty."""

CONCURRENCY = 64
"""Requests in flight at once, unless a setting says otherwise. One carries one span, so it takes
more of them than elsewhere; chosen, not measured."""

TURNS_MAX = 4
"""Requests for one try to write a span: PATCH, POST, and once more where another process wrote or
the task was unknown between them."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class AgentexTracingProcessorConfig(TracingProcessorConfig):
    """Deliver to the AgentEx server of the environment (`AGENTEX_BASE_URL`)."""

    type: Literal["agentex"] = "agentex"

    def __post_init__(self) -> None:
        if self.type != "agentex":
            raise SettingsError(f"type must be agentex, got {self.type!r}")


class AgentexAsyncTracingProcessor(BuiltinProcessor):
    """The AgentEx destination.

    STARTs are sent where `AGENTEX_TRACING_SKIP_AGENTEX_SPAN_START` says so, or where a
    `start_delay_ms` is set; the variable is read once, here (`trace:A3`).

    Args:
        settings: For the request's timeout; None for those of the environment.
    """

    name = "agentex"
    one_by_one = True
    concurrency = CONCURRENCY

    def __init__(
        self, config: AgentexTracingProcessorConfig, *, settings: Settings | None = None
    ) -> None:
        environment = load_environment()
        self.base_url = environment.agentex_base_url or DEFAULT_BASE_URL
        self.takes_starts = not environment.skip_agentex_span_start
        if self.takes_starts:
            self.start_delay_s = 0.0
        headers = {"content-type": "application/json", "accept": "application/json"}
        if environment.agentex_api_key:
            headers["authorization"] = f"Bearer {environment.agentex_api_key}"
        self._http = HttpClients(
            self.base_url,
            headers=headers | parse_headers(environment.agentex_headers or ""),
            timeout_s=(settings or load_settings()).request_timeout_s,
        )

    @property
    def client(self) -> httpx2.AsyncClient:
        """The running loop's HTTP client, as the original's (`trace:L1`, `L4`)."""
        return self._http.current()

    async def export(self, batch: Batch) -> Mapping[int, ExportError]:
        """Write every span of the batch, at most `CONCURRENCY` at once; see `Exporter`."""
        turns = asyncio.Semaphore(CONCURRENCY)

        async def write(record: SpanRecord) -> None:
            async with turns:
                await self._write(record, is_started=record in batch.started)

        results = await asyncio.gather(
            *[write(record) for record in batch.records], return_exceptions=True
        )
        return {
            position: result if isinstance(result, ExportError) else classify(result)
            for position, result in enumerate(results)
            if result is not None
        }

    async def probe(self) -> Reply:
        """Ask what changes nothing and shows whether the backend is there and takes the key.

        Raises:
            RetryableExportError: No usable answer came.
        """
        return await self._http.request("GET", PROBE_PATH, headers=_agent_headers())

    def connections(self) -> int:
        """Return how many connections were opened so far."""
        return self._http.connections

    async def close(self) -> None:
        """Close the running loop's connections."""
        await self._http.close()

    # -- within

    async def _write(self, record: SpanRecord, *, is_started: bool) -> None:
        """Return once the span is stored as the record has it.

        Args:
            is_started: Whether its START should be there: a guess that saves a request, no more.

        Raises:
            ExportError: It is not, or perhaps not.
        """
        is_update, names_task = is_started, record.task_id is not None
        for _ in range(TURNS_MAX):
            reply = await self._request(record, is_update=is_update, names_task=names_task)
            if is_update and reply.status == 404:
                is_update = False
            elif not is_update and _says_exists(reply):
                if not record.is_end:
                    return
                is_update = True
            elif names_task and _says_no_such_task(reply):
                names_task = False
            else:
                error = to_error(reply)
                if error is not None:
                    raise error
                if not reply.body.lstrip().startswith(b"{"):
                    # A proxy's page, for instance: nobody said that the span is stored.
                    raise RetryableExportError(
                        f"{self.base_url} answered {reply.status} without a span",
                        reason="no span in the answer",
                    )
                return
        raise RetryableExportError(
            f"{self.base_url} says of span {record.id} that it exists, and that it does not",
            reason="contradiction",
        )

    async def _request(self, record: SpanRecord, *, is_update: bool, names_task: bool) -> Reply:
        body = encode_span(record, is_update=is_update, names_task=names_task, name=self.name)
        headers = _agent_headers()
        if not is_update:
            return await self._http.request("POST", PATH, body, headers=headers)
        return await self._http.request("PATCH", _path_of(record.id), body, headers=headers)


def _agent_headers() -> dict[str, str] | None:
    # Registration sets the key while the agent runs (`agx` §1).
    api_key = load_agent_api_key()
    return {"x-agent-api-key": api_key} if api_key else None


def parse_headers(text: str) -> dict[str, str]:
    """Return the headers of lines like `Name: value`, names in lower case; bad lines are left out.

    Repeats of a name: the last.
    """
    headers = {}
    for line in filter(str.strip, text.splitlines()):
        name, colon, value = (part.strip() for part in line.partition(":"))
        if colon and _HEADER_NAME.fullmatch(name) and value.isascii() and value.isprintable():
            headers[name.lower()] = value
        else:
            # Not shown: headers hold keys.
            complain(
                "AGENTEX_CUSTOM_HEADERS must hold lines like `Name: value` in ASCII; one that is "
                "none is left out",
                level=logging.WARNING,
            )
    return headers


def encode_span(record: SpanRecord, *, is_update: bool, names_task: bool, name: str) -> bytes:
    """Return the request body for a record: all fields, or those that a PATCH changes (`trace:A4`).

    Args:
        names_task: Send `task_id` as such; else it goes into the data.
        name: Of the destination, by which losses are told (P11).
    """
    fields: dict[str, Any] = {
        "name": record.name,
        "start_time": timestamp(record.start_ns),
        "end_time": None if record.end_ns is None else timestamp(record.end_ns),
        "id": record.id,
        "trace_id": record.trace_id,
        "parent_id": record.parent_id,
        "input": _payload(record.input, "input"),
        "output": _payload(record.output, "output"),
        "data": _data(record, names_task=names_task, name=name),
        "task_id": record.task_id if names_task else None,
    }
    if is_update:
        del fields["id"]
        fields = {field: value for field, value in fields.items() if value is not None}
    try:
        return encode(fields)
    except UnicodeEncodeError:
        # A lone surrogate in a name or id.
        texts = {field: valid_text(value) for field, value in fields.items() if type(value) is str}
        return encode(fields | texts)


def _data(record: SpanRecord, *, names_task: bool, name: str) -> msgspec.Raw | None:
    """Return the span's data, an object or null, with what the API has no field for.

    An array becomes the `items` of an object, as it does towards the SGP API: a PATCH cannot merge
    into an array, and an element of ours would be taken for the agent's (`docs/decisions/030`).
    """
    members: dict[str, bytes] = {}
    if record.type is not None:
        members[SPAN_TYPE_KEY] = to_text(record.type)
    if record.error is None and record.status != SpanStatus.SUCCESS:
        # Else a failed step would look like any other (D17).
        kind = "CancelledError" if record.status == SpanStatus.CANCELED else "Error"
        members[SPAN_ERROR_KEY] = encode({"type": kind, "message": ""})
    if record.task_id is not None and not names_task:
        members[TASK_ID_KEY] = to_text(record.task_id)
    if record.part is not None:
        members[COMPLETENESS_KEY] = completeness(record, destination=name)
    if record.data is None and not members:
        return None
    return msgspec.Raw(with_members(to_object(record.data, "data"), members))


def _payload(frozen: bytes | None, key: str) -> msgspec.Raw | None:
    """Return a payload as the API takes it: null, an object or an array of objects (`agx` §2)."""
    if frozen is None:
        return None
    return msgspec.Raw(frozen if _is_array_of_objects(frozen) else to_object(frozen, key))


def _is_array_of_objects(frozen: bytes) -> bool:
    if frozen[:1] != b"[":
        return False
    try:
        return all(bytes(item)[:1] == b"{" for item in _decode_items(frozen))
    except (msgspec.DecodeError, RecursionError):
        # Nested too deep to be looked at here.
        return False


def _path_of(span_id: str) -> str:
    quoted = quote(valid_text(span_id), safe="")
    # As they are, clients take these for the way up.
    return f"{PATH}/{quoted.replace('.', '%2E') if quoted in ('.', '..') else quoted}"


class _Refusal(msgspec.Struct):
    message: str = ""


def _says_exists(reply: Reply) -> bool:
    return reply.status == 400 and "already exists" in _message(reply)


def _says_no_such_task(reply: Reply) -> bool:
    # A constraint of the backend's database, and so a 500 that no retry would mend (`agx` §3).
    return reply.status == 500 and "foreign key" in _message(reply)


def _message(reply: Reply) -> str:
    try:
        return msgspec.json.decode(reply.body, type=_Refusal).message.lower()
    except (msgspec.DecodeError, RecursionError):
        return ""
