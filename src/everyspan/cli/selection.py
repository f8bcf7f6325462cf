"""Which traces a command is about, and how to ask a server for them.

An everyspan server is asked for traces. Any other of the SGP spans API knows spans alone: there a
trace matches if one of its spans does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import rich_click as click

from everyspan.cli.options import iso, parse_since
from everyspan.cli.reader import SpanReader
from everyspan.errors import EverySpanError
from everyspan.model.completeness import State
from everyspan.model.span import SpanType

_F = TypeVar("_F", bound=Callable[..., Any])

INCOMPLETE = "incomplete"
INCOMPLETE_STATES = (str(State.LOST), str(State.UNACCOUNTED), str(State.LATE))
STATES = (INCOMPLETE, *(str(state).replace(" ", "-") for state in State))
_UNITS_NS = {"us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


class SelectionError(EverySpanError):
    """The server does not know what a selection goes by; the text names the option."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which traces; all of it holds together, what is empty does not count."""

    since_s: float | None = None
    until_s: float | None = None
    states: tuple[str, ...] = ()
    errors: bool = False
    agents: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    min_duration_ns: int | None = None
    text: str | None = None

    def __bool__(self) -> bool:
        return self != Selection()


def selection_options(command: _F) -> _F:
    """Add the options that say which traces; the command gets them as `selection`."""

    def gather(**values: Any) -> Any:
        mine = {field.name: values.pop(field.name) for field in fields(Selection)}
        return command(selection=Selection(**mine), **values)

    gather.__doc__ = command.__doc__
    gather.__name__ = command.__name__
    # What other decorators left on it.
    gather.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    wrapped: Any = gather
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    result: _F = wrapped
    return result


def _parse_duration(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(us|ms|s|m|h)", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no duration; allowed: 250ms, 1.5s, 2m")
    return round(float(match[1]) * _UNITS_NS[match[2]])


_OPTIONS = (
    click.option(
        "--since",
        "since_s",
        metavar="TIME",
        callback=parse_since,
        help="Traces that began since: 90s, 15m, 1h, 7d ago, or an ISO-8601 time.",
    ),
    click.option(
        "--until",
        "until_s",
        metavar="TIME",
        callback=parse_since,
        help="Traces that began before.",
    ),
    click.option(
        "--state",
        "states",
        multiple=True,
        type=click.Choice(STATES),
        help="By completeness; several may be given.",
    ),
    click.option("--errors", is_flag=True, help="Traces with a span that failed."),
    click.option("--agent", "agents", multiple=True, metavar="NAME", help="By agent."),
    click.option("--model", "models", multiple=True, metavar="NAME", help="By model."),
    click.option(
        "--type",
        "types",
        multiple=True,
        metavar="TYPE",
        type=click.Choice([str(one) for one in SpanType], case_sensitive=False),
        help="By the type of a span.",
    ),
    click.option("--name", "names", multiple=True, metavar="NAME", help="By the name of a span."),
    click.option(
        "--session", "sessions", multiple=True, metavar="ID", help="By session: a task or group."
    ),
    click.option(
        "--min-duration",
        "min_duration_ns",
        metavar="DURATION",
        callback=_parse_duration,
        help="Traces that took as long: 250ms, 1.5s, 2m.",
    ),
    click.option("--search", "text", metavar="TEXT", help="By words in names, errors, payloads."),
)


def select(reader: SpanReader, selection: Selection) -> Iterator[str]:
    """Yield the id of every trace that matches, each once, the newest first.

    Raises:
        ReaderError: The server cannot be read.
        SelectionError: It does not know what the selection goes by.
    """
    if reader.is_everyspan:
        params = trace_filters(selection) | {"limit": "500"}
        while True:
            page = reader.get_json("/api/traces", params)
            yield from (str(item["trace_id"]) for item in page["items"])
            if not page["next"]:
                return
            params["after"] = page["next"]
    found: dict[str, None] = {}
    for span in reader.search(
        span_filters(selection),
        from_ts=None if selection.since_s is None else iso(selection.since_s),
        to_ts=None if selection.until_s is None else iso(selection.until_s),
    ):
        trace_id = str(span.get("trace_id"))
        # Behind those that came before: the last one is the newest.
        found.pop(trace_id, None)
        found[trace_id] = None
    yield from reversed(found)


def trace_filters(selection: Selection) -> dict[str, str | list[str]]:
    """Return the parameters of `/api/traces` that find the traces."""
    states = [state.replace("-", " ") for state in selection.states if state != INCOMPLETE]
    if INCOMPLETE in selection.states:
        states += [state for state in INCOMPLETE_STATES if state not in states]
    filters: dict[str, str | list[str] | None] = {
        "from": None if selection.since_s is None else iso(selection.since_s),
        "to": None if selection.until_s is None else iso(selection.until_s),
        "state": states,
        "has_error": "true" if selection.errors else None,
        "agent": [*selection.agents],
        "model": [*selection.models],
        "type": [*selection.types],
        "name": [*selection.names],
        "session": [*selection.sessions],
        "text": selection.text,
    }
    if selection.min_duration_ns is not None:
        filters["min_duration_ns"] = str(selection.min_duration_ns)
    return {name: value for name, value in filters.items() if value}


def span_filters(selection: Selection) -> dict[str, Any]:
    """Return the search that finds a span of each trace that matches, as any server knows it.

    Raises:
        SelectionError: No search does.
    """
    unknown = {
        "--state": selection.states,
        "--model": selection.models,
        "--session": selection.sessions,
    }
    for option, value in unknown.items():
        if value:
            raise SelectionError(f"only an everyspan server knows {option}")
    filters: dict[str, Any] = {}
    if selection.errors:
        filters["statuses"] = ["ERROR"]
    if selection.types:
        filters["types"] = [*selection.types]
    if selection.names:
        filters["names"] = [*selection.names]
    if selection.agents:
        filters["agentex_agent_names"] = [*selection.agents]
    if selection.text:
        filters["search_texts"] = [selection.text]
    if selection.min_duration_ns is not None:
        filters["min_duration_ms"] = selection.min_duration_ns // 1_000_000
    return filters
