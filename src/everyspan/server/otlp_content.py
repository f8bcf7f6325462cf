"""Messages that travel in span events and not in attributes (`otlp` §3, content events)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from everyspan.server.otlp_span import Attributes, OtlpSpan
from everyspan.server.otlp_tables import (
    CHOICE_EVENT,
    COMPLETION_EVENT,
    DETAILS_EVENT,
    EVENTS_KEY,
    MESSAGE_EVENTS,
    PROMPT_EVENT,
    SYSTEM_KEY,
    TOOLS_KEY,
)
from everyspan.server.otlp_values import is_list, parse_json, plain

_INPUT_KEY = "gen_ai.input.messages"
_OUTPUT_KEY = "gen_ai.output.messages"
_TEXT_KEYS = ("message", "tool_calls")
"""What OpenTelemetry's own instrumentations send as JSON text in these events."""
INPUT_EVENTS = frozenset({*MESSAGE_EVENTS, PROMPT_EVENT[0], DETAILS_EVENT})
OUTPUT_EVENTS = frozenset({CHOICE_EVENT, COMPLETION_EVENT[0], DETAILS_EVENT})


class Content(msgspec.Struct):
    """What the events of a span hold; None where nothing."""

    input: Any = None
    output: Any = None
    system: Any = None
    tools: Any = None


def read_content(span: OtlpSpan) -> Content:
    """Return the messages that the events of a span carry."""
    content = Content()
    said: list[Any] = []
    chosen: list[Any] = []
    pairs = [(event.name, event.attributes) for event in span.events]
    for name, attributes in (*pairs, *_attribute_events(span.attributes)):
        if name == DETAILS_EVENT:
            content.input = _json(attributes.get(_INPUT_KEY))
            content.output = _json(attributes.get(_OUTPUT_KEY))
            content.system = _json(attributes.get(SYSTEM_KEY))
            content.tools = _json(attributes.get(TOOLS_KEY))
        elif name in MESSAGE_EVENTS:
            said.append(_message(MESSAGE_EVENTS[name], attributes))
        elif name == CHOICE_EVENT:
            chosen.append(_choice(attributes))
        elif name == PROMPT_EVENT[0]:
            said += _list(_json(attributes.get(PROMPT_EVENT[1])))
        elif name == COMPLETION_EVENT[0]:
            chosen += _list(_json(attributes.get(COMPLETION_EVENT[1])))
    content.input = content.input or said or None
    content.output = content.output or chosen or None
    return content


def _attribute_events(attributes: Attributes) -> Iterable[tuple[str, Attributes]]:
    value = attributes.get(EVENTS_KEY)
    if isinstance(value, str):
        value = plain(parse_json(value))
    for event in value if isinstance(value, list) else ():
        if isinstance(event, dict) and isinstance(name := event.get("event.name"), str):
            yield name, {key: inner for key, inner in event.items() if key != "event.name"}


def _message(role: str, attributes: Attributes) -> Attributes:
    return {"role": role, **_without_marks(attributes)}


def _choice(attributes: Attributes) -> Attributes:
    found = _without_marks(attributes)
    message = found.pop("message", None)
    if isinstance(message, dict):
        found = {**message, **found}
    elif message is not None:
        found["content"] = message
    return {"role": "assistant", **found}


def _without_marks(attributes: Attributes) -> Attributes:
    found = {}
    for key, value in attributes.items():
        if key in ("gen_ai.system", "gen_ai.message.index") or value is None:
            continue
        found[key] = plain(_json(value)) if key in _TEXT_KEYS else value
    return found


def _json(value: Any) -> Any:
    return parse_json(value) if isinstance(value, str) else value


def _list(value: Any) -> list[Any]:
    if is_list(value) and isinstance(found := plain(value), list):
        return found
    return [] if value is None else [value]
