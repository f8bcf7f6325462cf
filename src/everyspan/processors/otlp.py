"""Delivers spans to an OTLP endpoint: one POST of protobuf for a batch (`otlp` §4).

D1  A span is sent once, when it has ended; that one is open is told only where `pending_spans` says
    so, in a form that only an everyspan server and Logfire take for what it is (`otlp:B7`).
D2  A body is at most BODY_BYTES_MAX before it is compressed (`otlp:B5`).
D3  The books stay exact where an endpoint stores a batch but for some spans, and does not say
    which: so many are counted as rejected, and the others as delivered.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Literal
from urllib.parse import unquote, urlsplit

from everyspan.config import (
    Environment,
    Settings,
    check_address,
    load_environment,
    load_settings,
)
from everyspan.delivery.backlog import Batch
from everyspan.delivery.lane import is_from_outside
from everyspan.errors import (
    BatchTooLargeError,
    DestinationRefusedError,
    ExportError,
    PermanentExportError,
    SettingsError,
)
from everyspan.log import complain
from everyspan.model.credentials import NOTHING_FOUND, redact
from everyspan.model.text import visible
from everyspan.processors import otlp_wire as wire
from everyspan.processors.base import TracingProcessorConfig
from everyspan.processors.builtin import BuiltinProcessor
from everyspan.processors.otlp_span import SpanEncoder
from everyspan.processors.otlp_values import utf8
from everyspan.transport.client import HttpClients
from everyspan.transport.compression import COMPRESSIONS, compressor
from everyspan.transport.outcomes import to_error
from everyspan.transport.reply import Reply

DEFAULT_ENDPOINT = "http://localhost:4318/v1/traces"
"""Where OpenTelemetry's exporters look; an everyspan server is there too, if the port is free."""

TRACES_PATH = "/v1/traces"
PROTOBUF = "application/x-protobuf"

BODY_BYTES_MAX = 4 << 20
"""`otlp:B5`."""

PENDING_DELAY_S = 1.0
"""As towards the local everyspan server."""

REASON_CHARS_MAX = 80
REASONS_MAX = 16
"""Different reasons of refusal that the books keep of an endpoint: each stays there for good."""

OTHER_REASON = "refused: for another reason"

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# A user may have any of these from the environment as well; the protocol's are its own.
_OWN_HEADERS = frozenset({"content-type", "content-encoding", "content-length", "host"})

Headers = Mapping[str, str] | Callable[[], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class OTLPTracingProcessorConfig(TracingProcessorConfig):
    """Where to deliver, and how.

    Attributes:
        endpoint: An address without a path gets `/v1/traces`; with one it is taken as it is. None:
            that of the environment (`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`,
            `OTEL_EXPORTER_OTLP_ENDPOINT`), else http://localhost:4318/v1/traces.
        headers: For every request, keys among them; never logged. Or a function that returns them,
            which is asked before each request, on the thread that sends, and must not wait. None:
            those of the environment.
        compression: `gzip`, `zstd` or `none`; None: that of the environment, else gzip.
        openinference: Say things twice, also in the words of OpenInference (Phoenix before 15.10).
        pending_spans: Tell of spans that are open for more than a second; for an everyspan server
            or Logfire only, others show each as a span of its own.
    """

    endpoint: str | None = None
    headers: Headers | None = field(default=None, repr=False)
    compression: Literal["gzip", "zstd", "none"] | None = field(default=None, kw_only=True)
    openinference: bool = field(default=False, kw_only=True)
    pending_spans: bool = field(default=False, kw_only=True)
    type: Literal["otlp"] = field(default="otlp", kw_only=True)

    def __post_init__(self) -> None:
        if self.type != "otlp":
            raise SettingsError(f"type must be otlp, got {self.type!r}")
        if self.endpoint:
            check_address(self.endpoint, "endpoint")
        if self.headers is not None and not callable(self.headers):
            check_headers(self.headers, "headers")
        if self.compression is not None and self.compression not in COMPRESSIONS:
            raise SettingsError(
                f"compression must be one of {', '.join(COMPRESSIONS)}, got {self.compression!r}"
            )
        for name in ("openinference", "pending_spans"):
            if not isinstance(getattr(self, name), bool):
                raise SettingsError(f"{name} must be True or False, got {getattr(self, name)!r}")


class OTLPTracingProcessor(BuiltinProcessor):
    """The OTLP destination.

    Args:
        config: None for `OTLPTracingProcessorConfig()`.
        settings: For the request's timeout; None for those of the environment.
    """

    name = "otlp"

    def __init__(
        self, config: OTLPTracingProcessorConfig | None = None, *, settings: Settings | None = None
    ) -> None:
        config = config or OTLPTracingProcessorConfig()
        environment = load_environment()
        self.endpoint = endpoint_of(config, environment)
        self.only_ends = not config.pending_spans
        self.takes_starts = config.pending_spans
        if config.pending_spans:
            self.start_delay_s = PENDING_DELAY_S
        self._headers = config.headers
        if self._headers is None:
            self._headers = _headers_of(environment)
        compression = config.compression or _compression_of(environment)
        self._compress = compressor(compression)
        parts = urlsplit(self.endpoint)
        self._path = parts.path
        self._http = HttpClients(
            f"{parts.scheme}://{parts.netloc}",
            headers={
                "content-type": PROTOBUF,
                "user-agent": f"everyspan/{_version()}",
                **({} if compression == "none" else {"content-encoding": compression}),
            },
            timeout_s=(settings or load_settings()).request_timeout_s,
        )
        self._encoder = SpanEncoder(
            name=self.name,
            agent_name=environment.agent_name,
            openinference=config.openinference,
        )
        self._about_us = _resource_of(environment)
        self._scope = wire.scope(name=b"everyspan", version=_version().encode())
        self._reasons: set[str] = set()

    # -- for delivery

    async def export(self, batch: Batch) -> Mapping[int, ExportError]:
        """Send the batch in one request; see `Exporter`."""
        records = batch.records
        body = self.encode(batch)
        if len(body) > BODY_BYTES_MAX and len(records) > 1:
            raise BatchTooLargeError(
                f"a request takes {BODY_BYTES_MAX} bytes, got {len(body)}", reason="too many bytes"
            )
        reply = await self._post(body)
        error = to_error(reply, is_otlp=True)
        if error is not None:
            raise error
        return self._refused(reply, len(records))

    async def probe(self) -> Reply:
        """Send nothing, which is fine with every endpoint (`otlp` §1), and shows whether it is one.

        Raises:
            RetryableExportError: No usable answer came.
            DestinationRefusedError: The function `headers` has none.
        """
        return await self._post(b"")

    def connections(self) -> int:
        """Return how many connections were opened so far."""
        return self._http.connections

    async def close(self) -> None:
        """Close the running loop's connections."""
        await self._http.close()

    def encode(self, batch: Batch) -> bytes:
        """Return the request body, not compressed."""
        self._encoder.name = self.name
        return wire.request(
            resource=self._about_us + _instance(os.getpid()),
            scope=self._scope,
            spans=map(self._encoder.encode, batch.records),
        )

    # -- within

    async def _post(self, body: bytes) -> Reply:
        headers = self._ask_headers()
        return await self._http.request("POST", self._path, self._compress(body), headers=headers)

    def _ask_headers(self) -> Mapping[str, str] | None:
        if not callable(self._headers):
            return self._headers
        try:
            headers = self._headers()
            check_headers(headers, "what the function headers returns")
        except BaseException as error:
            if is_from_outside(error):
                raise
            # The user's function, or the command that it runs: as if the endpoint refused the key,
            # so that the spans wait.
            raise DestinationRefusedError(
                f"headers raised {type(error).__name__}", reason="no headers"
            ) from None
        return headers

    def _refused(self, reply: Reply, spans: int) -> dict[int, ExportError]:
        """Return the spans that the endpoint says it refused (D3): the last of the batch."""
        refused, message = wire.partial_success(reply.body)
        if not refused:
            if message:
                complain(
                    "%s takes the spans and warns: %s",
                    self.name,
                    _shown(message),
                    cause=f"{self.name} warns",
                    level=logging.WARNING,
                )
            return {}
        reason = self._reason(message)
        error = PermanentExportError(
            f"{self.endpoint} refused {refused} spans", reason=reason, status=reply.status
        )
        return dict.fromkeys(range(max(0, spans - refused), spans), error)

    def _reason(self, message: bytes) -> str:
        if not message:
            return OTHER_REASON
        reason = f"refused: {_shown(message)}"
        if reason not in self._reasons and len(self._reasons) >= REASONS_MAX:
            return OTHER_REASON
        self._reasons.add(reason)
        return reason


def endpoint_of(config: OTLPTracingProcessorConfig, environment: Environment) -> str:
    """Return the address that spans are sent to (`otlp:B2`)."""
    if config.endpoint:
        return (
            config.endpoint
            if urlsplit(config.endpoint).path.strip("/")
            else _below(config.endpoint)
        )
    if environment.otlp_traces_endpoint:
        return environment.otlp_traces_endpoint
    if environment.otlp_endpoint:
        return _below(environment.otlp_endpoint)
    return DEFAULT_ENDPOINT


def _below(address: str) -> str:
    return address.rstrip("/") + TRACES_PATH


def check_headers(headers: object, name: str) -> None:
    """Check headers; neither their names nor their values are shown.

    Raises:
        SettingsError: They are no mapping of text that can travel as headers.
    """
    if not isinstance(headers, Mapping):
        raise SettingsError(f"{name} must be a mapping, got {type(headers).__name__}")
    for key, value in headers.items():
        if not isinstance(key, str) or not _NAME.fullmatch(key):
            raise SettingsError(f"{name} must have names of letters, digits and hyphens")
        if key.lower() in _OWN_HEADERS:
            raise SettingsError(f"{name} must not set {key.lower()}: the protocol does")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise SettingsError(f"{name} must have values of printable ASCII")


def _headers_of(environment: Environment) -> dict[str, str]:
    name = "OTEL_EXPORTER_OTLP_HEADERS"
    if environment.otlp_traces_headers:
        name = "OTEL_EXPORTER_OTLP_TRACES_HEADERS"
    text = environment.otlp_traces_headers or environment.otlp_headers or ""
    headers = {}
    for key, value in _pairs(text, name):
        try:
            check_headers({key: value}, name)
        except SettingsError as error:
            complain("%s; one is left out", error, cause=name, level=logging.WARNING)
        else:
            headers[key.lower()] = value
    return headers


def _compression_of(environment: Environment) -> str:
    said = environment.otlp_traces_compression or environment.otlp_compression or COMPRESSIONS[0]
    if said not in COMPRESSIONS:
        complain(
            "OTEL_EXPORTER_OTLP_COMPRESSION must be one of %s, got %r; using gzip",
            ", ".join(COMPRESSIONS),
            said,
            cause="OTEL_EXPORTER_OTLP_COMPRESSION",
            level=logging.WARNING,
        )
        return COMPRESSIONS[0]
    return said


def _resource_of(environment: Environment) -> bytes:
    """Return the resource but for its instance (`otlp:B3`)."""
    attributes = {
        "service.name": environment.agent_name or "unknown_service:python",
        **dict(_pairs(environment.otel_resource or "", "OTEL_RESOURCE_ATTRIBUTES")),
    }
    if environment.otel_service_name:
        attributes["service.name"] = environment.otel_service_name
    attributes |= {
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "everyspan",
        "telemetry.sdk.version": _version(),
    }
    return wire.resource(
        [wire.text(wire.key(name), utf8(value)) for name, value in attributes.items()]
    )


@functools.lru_cache(maxsize=1)
def _instance(pid: int) -> bytes:
    """Return what tells this process from others of its service, forked ones included."""
    return wire.resource([wire.text(wire.key("service.instance.id"), str(uuid.uuid4()).encode())])


def _pairs(text: str, name: str) -> list[tuple[str, str]]:
    """Return the pairs of a text like `name=value,name=value`, percent-encoded."""
    pairs = []
    for member in filter(str.strip, text.split(",")):
        key, equals, value = (part.strip() for part in member.partition("="))
        if key and equals:
            pairs.append((unquote(key), unquote(value)))
        else:
            # Not shown: headers hold keys.
            complain(
                "%s must hold pairs like name=value; one that is none is left out",
                name,
                cause=name,
                level=logging.WARNING,
            )
    return pairs


def _shown(message: bytes) -> str:
    """Return what an endpoint says, for the books: short, on one line, without credentials."""
    text = message.decode("utf-8", "replace")[: 4 * REASON_CHARS_MAX]
    redacted = redact(text)
    return visible(text if redacted is NOTHING_FOUND else str(redacted), chars_max=REASON_CHARS_MAX)


@functools.cache
def _version() -> str:
    try:
        return version("everyspan")
    except PackageNotFoundError:
        # Run from a source that nobody installed.
        return "0"
