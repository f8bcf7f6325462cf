"""Every setting of everyspan, one row each; the only reader of the environment.

C1  An argument beats the environment, the environment beats the default (`trace:V1`).
C2  A number below its minimum is raised to it (`trace:V2`).
C3  A value that is no number raises from an argument; from the environment it warns once,
    in the same words, and the default holds (`trace:V3`).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from everyspan.errors import SettingsError

logger = logging.getLogger("everyspan")
# Without a handler Python prints warnings to stderr: into the traced agent.
logger.addHandler(logging.NullHandler())

_FALSY = frozenset({"0", "false", "no", "off"})
_TRUTHY = frozenset({"1", "true", "yes", "on"})

_warned: set[str] = set()


@dataclass(frozen=True, slots=True)
class Setting:
    """One row: a number that a caller or the environment may set."""

    name: str
    env: str
    default: float | None
    minimum: float
    unit: str
    help: str
    whole: bool = True


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
        "memory for all spans that are held, payload plus 600 bytes a span",
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
        16,
        1,
        "requests",
        "requests in flight to one destination at most",
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
)

_ROWS = {row.name: row for row in SETTINGS}


@dataclass(frozen=True, slots=True)
class Settings:
    """The numbers in force for one queue; see `SETTINGS` for what each means."""

    linger_ms: float
    batch_size: int
    batch_bytes: int
    max_size: int
    byte_budget: int
    max_retries: int | None
    concurrency: int
    request_timeout_s: float
    max_age_s: float
    grace_s: float
    start_delay_ms: float | None


@dataclass(frozen=True, slots=True)
class Environment:
    """What the environment says beside numbers; empty text counts as unset (`trace:D21`)."""

    endpoint: str | None
    sgp_api_key: str | None
    sgp_account_id: str | None
    sgp_base_url: str | None
    agent_name: str | None
    agent_id: str | None
    acp_type: str | None
    disabled: bool
    skip_span_start: bool


def load_settings(
    environ: Mapping[str, str] | None = None, /, **arguments: float | None
) -> Settings:
    """Return the settings in force: arguments that are not None, then environment, then defaults.

    Raises:
        SettingsError: An argument is not a finite number, or no setting has its name.
    """
    environ = os.environ if environ is None else environ
    unknown = sorted(arguments.keys() - _ROWS.keys())
    if unknown:
        raise SettingsError(f"unknown setting {unknown[0]!r}; known: {', '.join(_ROWS)}")
    values: dict[str, Any] = {}
    for row in SETTINGS:
        given = arguments.get(row.name)
        if given is not None:
            values[row.name] = _parse(row, given, row.name)
            continue
        values[row.name] = row.default
        text = environ.get(row.env, "").strip()
        if text:
            try:
                values[row.name] = _parse(row, text, row.env)
            except SettingsError as error:
                _warn_once(f"{error}; using {row.default}")
    return Settings(**values)


def load_environment(environ: Mapping[str, str] | None = None) -> Environment:
    """Return what the environment says of destinations, the agent and switches."""
    environ = os.environ if environ is None else environ

    def text(name: str) -> str | None:
        return environ.get(name, "").strip() or None

    skip = text("AGENTEX_TRACING_SKIP_SPAN_START")
    return Environment(
        endpoint=text("EVERYSPAN_ENDPOINT"),
        sgp_api_key=text("SGP_API_KEY"),
        sgp_account_id=text("SGP_ACCOUNT_ID"),
        sgp_base_url=text("SGP_CLIENT_BASE_URL"),
        agent_name=text("AGENT_NAME"),
        agent_id=text("AGENT_ID"),
        acp_type=text("ACP_TYPE"),
        disabled=(
            (text("EVERYSPAN_DISABLED") or "").lower() in _TRUTHY
            or "DISABLE_SCALE_TRACING" in environ
            or (text("OTEL_SDK_DISABLED") or "").lower() == "true"
        ),
        skip_span_start=skip is None or skip.lower() not in _FALSY,
    )


def _parse(row: Setting, given: object, name: str) -> float | int:
    number = _to_number(given)
    if number is None or (row.whole and not number.is_integer()):
        kind = "a whole number" if row.whole else "a number"
        raise SettingsError(f"{name} must be {kind} of at least {row.minimum}, got {given!r}")
    number = max(number, float(row.minimum))
    return int(number) if row.whole else number


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
        logger.warning("%s", text)


assert {field.name for field in fields(Settings)} == _ROWS.keys()
