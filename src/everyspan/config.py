"""Every setting of everyspan, one row each; the only reader of the environment.

C1  An argument beats the environment, the environment beats the default (`trace:V1`).
C2  A number below its minimum is raised to it (`trace:V2`).
C3  A value that is no number raises from an argument; from the environment it warns once,
    in the same words, and the default holds (`trace:V3`). So does a switch that is no yes or no.
C4  Whoever wants to know where a value came from asks the same resolution that put it in force.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypedDict, Unpack

from everyspan.errors import SettingsError
from everyspan.log import complain

_OFF = ("0", "false", "no", "off")
_ON = ("1", "true", "yes", "on")

DEFAULT = "default"
ARGUMENT = "argument"

_warned: set[str] = set()


@dataclass(frozen=True, slots=True)
class Setting:
    """One row: a number that a caller or the environment may set; None means there is none."""

    name: str
    env: str
    default: float | None
    minimum: float
    unit: str
    help: str
    whole: bool = True
    maximum: float | None = None


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "linger_ms",
        "AGENTEX_SPAN_QUEUE_LINGER_MS",
        100,
        0,
        "ms",
        "longest wait of a span for company; 0 sends at once",
        whole=False,
    ),
    Setting(
        "batch_size",
        "AGENTEX_SPAN_QUEUE_BATCH_SIZE",
        200,
        1,
        "spans",
        "spans in one request at most",
    ),
    Setting(
        "batch_bytes",
        "EVERYSPAN_BATCH_BYTES",
        1 << 20,
        1 << 10,
        "bytes",
        "payload in one request at most; a larger span travels alone",
    ),
    Setting(
        "max_size",
        "AGENTEX_SPAN_QUEUE_MAX_SIZE",
        0,
        0,
        "spans",
        "spans that may wait for one destination; 0 leaves only the byte budget",
    ),
    Setting(
        "byte_budget",
        "EVERYSPAN_BYTE_BUDGET",
        128 << 20,
        1 << 20,
        "bytes",
        "memory for all spans that are held, payload plus 600 bytes a span; each destination has "
        "an equal share",
    ),
    Setting(
        "max_retries",
        "AGENTEX_SPAN_QUEUE_MAX_RETRIES",
        None,
        1,
        "attempts",
        "attempts for a batch, the first included; unset, max_age_s alone decides",
    ),
    Setting(
        "concurrency",
        "AGENTEX_SPAN_QUEUE_CONCURRENCY",
        None,
        1,
        "requests",
        "requests in flight to one destination at most; unset 16, and 64 to the AgentEx spans API, "
        "where each carries one span",
    ),
    Setting(
        "request_timeout_s",
        "EVERYSPAN_REQUEST_TIMEOUT_S",
        10,
        0.001,
        "s",
        "longest wait for the answer to one request",
        whole=False,
    ),
    Setting(
        "max_age_s",
        "EVERYSPAN_MAX_AGE_S",
        300,
        0,
        "s",
        "age at which an undelivered span is given up",
        whole=False,
    ),
    Setting(
        "grace_s",
        "EVERYSPAN_GRACE_S",
        5,
        0,
        "s",
        "longest time that the end of the process waits for spans",
        whole=False,
    ),
    Setting(
        "start_delay_ms",
        "EVERYSPAN_START_DELAY_MS",
        None,
        0,
        "ms",
        "age at which an open span is written as in progress; unset never "
        "(1000 towards the local server)",
        whole=False,
    ),
    Setting(
        "sample",
        "EVERYSPAN_SAMPLE",
        None,
        0,
        "share",
        "share of the traces to record, chosen by trace id; the decision of whoever called us is "
        "obeyed; unset records every trace",
        whole=False,
        maximum=1,
    ),
    *(
        Setting(
            f"{field}_bytes_max",
            f"EVERYSPAN_{field.upper()}_BYTES_MAX",
            1 << 20,
            512,
            "bytes",
            f"most bytes of a span's {field} as JSON; what is longer is cut, visibly",
        )
        for field in ("input", "output", "data")
    ),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """One row: one of a few words that a caller or the environment may set."""

    name: str
    env: str
    default: str
    words: tuple[str, ...]
    help: str


DROP_NEWEST = "drop_newest"
DROP_OLDEST = "drop_oldest"

CHOICES: tuple[Choice, ...] = (
    Choice(
        "when_full",
        "EVERYSPAN_WHEN_FULL",
        DROP_NEWEST,
        (DROP_NEWEST, DROP_OLDEST),
        "which span is lost where `max_size` or `byte_budget` leaves no room: the one that comes, "
        "or the one that has waited longest; payloads are shed before that",
    ),
)


_NAMES = dict.fromkeys([row.name for row in SETTINGS] + [row.name for row in CHOICES])


@dataclass(frozen=True, slots=True)
class Variable:
    """One row: a text that the environment alone says; empty text counts as unset (`trace:D21`)."""

    name: str
    env: str
    help: str
    is_secret: bool = False
    is_address: bool = False
    is_header: bool = False


@dataclass(frozen=True, slots=True)
class Switch:
    """One row: a yes or no that the environment alone says, in any case.

    Attributes:
        on, off: The words that count. Without `on`, every other text leaves the default, unsaid;
            without either, the variable counts as on if it is set at all, be it to nothing.
    """

    name: str
    env: str
    help: str
    default: bool = False
    on: tuple[str, ...] = ()
    off: tuple[str, ...] = ()


VARIABLES: tuple[Variable | Switch, ...] = (
    Variable(
        "endpoint",
        "EVERYSPAN_ENDPOINT",
        "address of the everyspan server that `configure()` sends to and commands read from",
        is_address=True,
    ),
    Variable(
        "api_key",
        "EVERYSPAN_API_KEY",
        "key for that server, where it asks for one: `everyspan keys create`",
        is_secret=True,
        is_header=True,
    ),
    Variable(
        "account",
        "EVERYSPAN_ACCOUNT",
        "account at that server; `local` if unset",
        is_header=True,
    ),
    Variable(
        "sgp_api_key",
        "SGP_API_KEY",
        "key for the SGP spans API; with SGP_ACCOUNT_ID, `configure()` sends there",
        is_secret=True,
        is_header=True,
    ),
    Variable("sgp_account_id", "SGP_ACCOUNT_ID", "account at the SGP spans API", is_header=True),
    Variable(
        "sgp_base_url",
        "SGP_CLIENT_BASE_URL",
        "address of the SGP spans API, where a configuration names none",
        is_address=True,
    ),
    Variable(
        "agentex_base_url",
        "AGENTEX_BASE_URL",
        "address of the AgentEx spans API; http://localhost:5003 if unset",
        is_address=True,
    ),
    Variable(
        "agentex_api_key",
        "AGENTEX_SDK_API_KEY",
        "bearer token for the AgentEx spans API",
        is_secret=True,
        is_header=True,
    ),
    Variable(
        "agent_api_key",
        "AGENT_API_KEY",
        "key of a registered agent for the AgentEx spans API; read for every request, since "
        "registration sets it",
        is_secret=True,
        is_header=True,
    ),
    Variable(
        "agentex_headers",
        "AGENTEX_CUSTOM_HEADERS",
        "further headers for the AgentEx spans API, lines like `Name: value`",
        is_secret=True,
    ),
    Variable(
        "otlp_traces_endpoint",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "address that OTLP traces are sent to, as it is",
        is_address=True,
    ),
    Variable(
        "otlp_endpoint",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "address of an OTLP endpoint; traces go to `/v1/traces` below it. `configure()` sends to "
        "either where neither SGP_API_KEY nor EVERYSPAN_ENDPOINT says otherwise",
        is_address=True,
    ),
    Variable(
        "otlp_traces_headers",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        "headers for OTLP traces, `name=value,name=value`, percent-encoded",
        is_secret=True,
    ),
    Variable(
        "otlp_headers",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "the same, where the variable above is unset",
        is_secret=True,
    ),
    Variable(
        "otlp_traces_compression",
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
        "of OTLP traces: `gzip`, if unset, `zstd` or `none`",
    ),
    Variable(
        "otlp_compression",
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        "the same, where the variable above is unset",
    ),
    Variable(
        "otel_service_name",
        "OTEL_SERVICE_NAME",
        "`service.name` of OTLP traces; else that of OTEL_RESOURCE_ATTRIBUTES, else AGENT_NAME",
    ),
    Variable(
        "otel_resource",
        "OTEL_RESOURCE_ATTRIBUTES",
        "of whom OTLP traces tell, `name=value,name=value`, percent-encoded",
    ),
    Variable("agent_name", "AGENT_NAME", "stamped on spans as `__agent_name__`"),
    Variable("agent_id", "AGENT_ID", "stamped on spans as `__agent_id__`"),
    Variable("acp_type", "ACP_TYPE", "stamped on spans as `__acp_type__`; `async` if unset"),
    Variable(
        "obs_mode",
        "SGP_OBS_MODE",
        "whose ids a span carries as `obs_trace_id` and `obs_span_id`: `dd_only`, if unset, those "
        "of ddtrace; `lgtm` those of OpenTelemetry; `dual` the latter's, else the former's",
    ),
    Variable("no_color", "NO_COLOR", "any text: spans on a terminal have no colours"),
    Variable("term", "TERM", "`dumb`: the same"),
    Switch(
        "disabled",
        "EVERYSPAN_DISABLED",
        "on: `configure()` sends nothing anywhere",
        on=_ON,
        off=_OFF,
    ),
    Switch("disabled", "DISABLE_SCALE_TRACING", "set at all: as EVERYSPAN_DISABLED=1"),
    Switch(
        "disabled",
        "OTEL_SDK_DISABLED",
        "true: as EVERYSPAN_DISABLED=1",
        on=("true",),
        off=("false",),
    ),
    Switch(
        "skip_span_start",
        "AGENTEX_TRACING_SKIP_SPAN_START",
        "off: the SGP spans API is also told of spans that have only started",
        default=True,
        off=_OFF,
    ),
    Switch(
        "skip_agentex_span_start",
        "AGENTEX_TRACING_SKIP_AGENTEX_SPAN_START",
        "off: the same of the AgentEx spans API",
        default=True,
        off=_OFF,
    ),
    Switch(
        "metrics",
        "AGENTEX_TRACING_METRICS",
        "off: no metrics for OpenTelemetry; `everyspan.stats()` is always kept",
        default=True,
        off=_OFF,
    ),
)

_AGENT_API_KEY = next(
    row for row in VARIABLES if isinstance(row, Variable) and row.name == "agent_api_key"
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The numbers in force for one queue; see `SETTINGS` for what each means."""

    linger_ms: float
    batch_size: int
    batch_bytes: int
    max_size: int
    byte_budget: int
    max_retries: int | None
    concurrency: int | None
    request_timeout_s: float
    max_age_s: float
    grace_s: float
    start_delay_ms: float | None
    sample: float | None
    input_bytes_max: int
    output_bytes_max: int
    data_bytes_max: int
    when_full: str


class SettingArguments(TypedDict, total=False):
    """The settings as keyword arguments; None leaves one to the environment."""

    linger_ms: float | None
    batch_size: int | None
    batch_bytes: int | None
    max_size: int | None
    byte_budget: int | None
    max_retries: int | None
    concurrency: int | None
    request_timeout_s: float | None
    max_age_s: float | None
    grace_s: float | None
    start_delay_ms: float | None
    sample: float | None
    input_bytes_max: int | None
    output_bytes_max: int | None
    data_bytes_max: int | None
    when_full: str | None


@dataclass(frozen=True, slots=True)
class Environment:
    """What the environment says beside numbers; see `VARIABLES` for what each means."""

    endpoint: str | None
    api_key: str | None
    account: str | None
    sgp_api_key: str | None
    sgp_account_id: str | None
    sgp_base_url: str | None
    agentex_base_url: str | None
    agentex_api_key: str | None
    agent_api_key: str | None
    agentex_headers: str | None
    otlp_traces_endpoint: str | None
    otlp_endpoint: str | None
    otlp_traces_headers: str | None
    otlp_headers: str | None
    otlp_traces_compression: str | None
    otlp_compression: str | None
    otel_service_name: str | None
    otel_resource: str | None
    agent_name: str | None
    agent_id: str | None
    acp_type: str | None
    obs_mode: str | None
    no_color: str | None
    term: str | None
    disabled: bool
    skip_span_start: bool
    skip_agentex_span_start: bool
    metrics: bool

    def for_commands(self) -> tuple[str | None, str | None]:
        """Return key and account that commands read a server with."""
        if self.api_key or self.account:
            return self.api_key, self.account
        return self.sgp_api_key, self.sgp_account_id


@dataclass(frozen=True, slots=True)
class Resolved:
    """A value in force and where it came from.

    Attributes:
        source: `ARGUMENT`, `DEFAULT`, or the name of the environment variable.
        complaint: Why what the environment says does not count; None where it does.
    """

    row: Setting | Choice | Variable | Switch
    value: Any
    source: str
    complaint: str | None = None


def load_settings(
    environ: Mapping[str, str] | None = None, /, **arguments: Unpack[SettingArguments]
) -> Settings:
    """Return the settings in force: arguments that are not None, then environment, then defaults.

    Raises:
        SettingsError: An argument is not what its row allows, or no setting has its name.
    """
    return Settings(**_in_force(resolve_settings(environ, **arguments)))


def load_environment(environ: Mapping[str, str] | None = None) -> Environment:
    """Return what the environment says of destinations, the agent and switches."""
    return Environment(**_in_force(resolve_environment(environ)))


def load_agent_api_key(environ: Mapping[str, str] | None = None) -> str | None:
    """Return `agent_api_key` as it is now, for whoever asks often."""
    environ = os.environ if environ is None else environ
    key: str | None = _in_force((_resolve_text(_AGENT_API_KEY, environ),))["agent_api_key"]
    return key


def resolve_settings(
    environ: Mapping[str, str] | None = None, /, **arguments: Unpack[SettingArguments]
) -> tuple[Resolved, ...]:
    """Return every setting with its source, in the order of the rows; as `load_settings`."""
    environ = os.environ if environ is None else environ
    unknown = sorted(arguments.keys() - _NAMES.keys())
    if unknown:
        raise SettingsError(f"unknown setting {unknown[0]!r}; known: {', '.join(_NAMES)}")
    return (
        *(_resolve_number(row, arguments.get(row.name), environ) for row in SETTINGS),
        *(_resolve_choice(row, arguments.get(row.name), environ) for row in CHOICES),
    )


def resolve_environment(environ: Mapping[str, str] | None = None) -> tuple[Resolved, ...]:
    """Return every text and switch with its source, in the order of `VARIABLES`."""
    environ = os.environ if environ is None else environ
    return tuple(
        _resolve_switch(row, environ) if isinstance(row, Switch) else _resolve_text(row, environ)
        for row in VARIABLES
    )


def check_whole(value: object, name: str, *, least: int, most: int) -> None:
    """Check an argument that is no setting of its own.

    Raises:
        SettingsError: It is no whole number within the bounds; the text names `name`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise SettingsError(f"{name} must be a whole number from {least} to {most}, got {value!r}")


def check_address(address: object, name: str) -> None:
    """Check the base address of a server, `http://host:port/prefix`.

    Raises:
        SettingsError: It is none; the text names `name`.
    """
    from urllib.parse import urlsplit  # 3 ms that only a process with a destination pays (P10)

    if not isinstance(address, str):
        raise SettingsError(f"{name} must be the address of a server, got {address!r}")
    if "@" in address.partition("//")[2].partition("/")[0]:
        # Not shown: it ends up in logs.
        raise SettingsError(f"{name} must not hold a user or password; use the key for that")
    wrong = ""
    try:
        parts = urlsplit(address)
        if not address.startswith(("http://", "https://")):
            wrong = "must start with http:// or https://"
        elif not address.isascii() or not address.isprintable() or " " in address:
            wrong = "must be ASCII without spaces"
        elif not parts.hostname:
            wrong = "must name a host"
        elif parts.port == 0:
            wrong = "must have a port from 1 to 65535"
        elif parts.query or parts.fragment:
            wrong = "must end with its path, without ? and #"
    except ValueError:
        wrong = "must have a host and a port from 1 to 65535"
    if wrong:
        raise SettingsError(f"{name} {wrong}, got {address!r}")


def _resolve_number(row: Setting, given: object, environ: Mapping[str, str]) -> Resolved:
    if given is not None:
        if isinstance(given, str):
            # The environment has only text; an argument that is text is a slip.
            raise _refusal(row, given, row.name)
        return Resolved(row, _parse(row, given, row.name), ARGUMENT)
    text = environ.get(row.env, "").strip()
    if not text:
        return Resolved(row, row.default, DEFAULT)
    try:
        return Resolved(row, _parse(row, text, row.env), row.env)
    except SettingsError as error:
        return Resolved(row, row.default, DEFAULT, f"{error}; using {row.default}")


def _resolve_choice(row: Choice, given: object, environ: Mapping[str, str]) -> Resolved:
    if given is not None:
        _check_word(row, given, row.name)
        return Resolved(row, given, ARGUMENT)
    word = environ.get(row.env, "").strip().lower()
    if not word:
        return Resolved(row, row.default, DEFAULT)
    try:
        _check_word(row, word, row.env)
    except SettingsError as error:
        return Resolved(row, row.default, DEFAULT, f"{error}; using {row.default}")
    return Resolved(row, word, row.env)


def _check_word(row: Choice, word: object, name: str) -> None:
    if not isinstance(word, str) or word not in row.words:
        raise SettingsError(f"{name} must be {' or '.join(row.words)}, got {word!r}")


def _resolve_text(row: Variable, environ: Mapping[str, str]) -> Resolved:
    text = environ.get(row.env, "").strip()
    if text and row.is_address:
        try:
            check_address(text, row.env)
        except SettingsError as error:
            return Resolved(row, None, DEFAULT, f"{error}; using the default")
    if row.is_header and not (text.isascii() and text.isprintable()):
        # Not shown: it is a secret, as a rule.
        complaint = f"{row.env} must be printable ASCII: it travels in a header; ignored"
        return Resolved(row, None, DEFAULT, complaint)
    return Resolved(row, text, row.env) if text else Resolved(row, None, DEFAULT)


def _resolve_switch(row: Switch, environ: Mapping[str, str]) -> Resolved:
    text = environ.get(row.env)
    if text is None:
        return Resolved(row, row.default, DEFAULT)
    if not row.off:
        return Resolved(row, True, row.env)
    word = text.strip().lower()
    if word in row.on or word in row.off:
        return Resolved(row, word in row.on, row.env)
    if not word:
        return Resolved(row, row.default, DEFAULT)
    if not row.on:
        return Resolved(row, row.default, row.env)
    known = ", ".join((*row.on, *row.off))
    using = "on" if row.default else "off"
    complaint = f"{row.env} must be one of {known}, got {text!r}; using {using}"
    return Resolved(row, row.default, DEFAULT, complaint)


def _in_force(resolved: tuple[Resolved, ...]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for found in resolved:
        if found.complaint is not None:
            _warn_once(found.complaint)
        # Of several switches with one name, one that is on is enough.
        values[found.row.name] = values.get(found.row.name) or found.value
    return values


def _parse(row: Setting, given: object, name: str) -> float | int:
    number = _to_number(given)
    is_above = number is not None and row.maximum is not None and number > row.maximum
    if number is None or is_above or (row.whole and not number.is_integer()):
        raise _refusal(row, given, name)
    number = max(number, float(row.minimum))
    return int(number) if row.whole else number


def _refusal(row: Setting, given: object, name: str) -> SettingsError:
    kind = "a whole number" if row.whole else "a number"
    bounds = f"of at least {row.minimum}"
    if row.maximum is not None:
        bounds = f"from {row.minimum} to {row.maximum}"
    return SettingsError(f"{name} must be {kind} {bounds}, got {given!r}")


def _to_number(given: object) -> float | None:
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        return None
    try:
        number = float(given)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _warn_once(text: str) -> None:
    if text not in _warned:
        _warned.add(text)
        complain("%s", text, cause=text, level=logging.WARNING)


assert {field.name for field in fields(Settings)} == _NAMES.keys()
assert {field.name for field in fields(Environment)} == {row.name for row in VARIABLES}
assert SettingArguments.__annotations__.keys() == _NAMES.keys()
