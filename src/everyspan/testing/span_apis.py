"""What the fault server stores, by the rules of the span APIs it speaks.

- SGP, `/v5/spans/batch`: every version of a span is kept, in the order of arrival.
- AgentEx, `/spans`: strict. A repeated id is 400, an unknown one 404; a PATCH changes what is not
  null and merges `data` one level deep. A version is the span as it stood after the write.
- OTLP, `/v1/traces`: protobuf, plain or gzip; every version of a span is kept.
- everyspan, `/healthz`: says that it is an everyspan server.

Each may stand below a prefix. Everything else is 404.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from everyspan.testing.exchange import BATCH_PATH, JSON_TYPE, TRACES_PATH, Reply, Request
from everyspan.testing.otlp_body import UnsupportedError, partial_success, read_spans

ITEMS_MAX = 1000
AGENTEX_FIELDS = (
    *("id", "trace_id", "name", "start_time", "end_time", "parent_id", "task_id"),
    *("input", "output", "data"),
)
AGENTEX_REQUIRED = ("name", "trace_id", "start_time")

PROTOBUF = "application/x-protobuf"
PROTOBUF_TYPE = {"content-type": PROTOBUF}

NOT_FOUND = Reply(404, b'{"detail":"Not Found"}')

Version = dict[str, Any]
Written = tuple[str, int]
"""A version that was stored: the id, and its place among the versions of that id."""


class SpanApis:
    """What is stored; for one thread at a time.

    `rows` holds the versions of each span, by its id.
    """

    def __init__(self) -> None:
        self.rows: dict[str, list[Version]] = {}
        self._agentex: dict[str, Written] = {}

    def carry_out(self, request: Request, *, missing: int = 0) -> tuple[Reply, list[Written]]:
        """Store what a request says; return the answer, and what was stored.

        Args:
            missing: How many spans at the end of a batch to pass over, unnamed in the answer (OTLP:
                counted there).
        """
        path = request.path
        parent, _, last = path.rpartition("/")
        try:
            if last == "healthz":
                return _reply(200, {"status": "ok"}, {"x-everyspan": "fault-server"}), []
            if path.endswith(BATCH_PATH):
                return self._write_batch(request, missing)
            if path.endswith(TRACES_PATH):
                return self._write_traces(request, missing)
            if "/v5/" in path:
                # The SGP API has more, which no tracer needs.
                raise _RefusedError(NOT_FOUND)
            if request.method == "POST" and path.endswith("/spans"):
                return self._create(request)
            if request.method == "PATCH" and parent.endswith("/spans"):
                return self._patch(unquote(last), request)
        except _RefusedError as refused:
            return refused.reply, []
        return NOT_FOUND, []

    def forget(self, written: Written) -> None:
        """Keep of a version only that it came."""
        id, index = written
        self.rows[id][index] = {"id": id}

    def _write_batch(self, request: Request, missing: int) -> tuple[Reply, list[Written]]:
        if request.method not in ("PUT", "POST"):
            raise _RefusedError(_reply(405, {"detail": "Method Not Allowed"}))
        body = _decode(request)
        items = body.get("items") if isinstance(body, dict) else None
        if not isinstance(items, list) or len(items) > ITEMS_MAX:
            raise _RefusedError(_invalid("body", "items"))
        for position, item in enumerate(items):
            if not isinstance(item, dict) or not isinstance(item.get("id", ""), str):
                raise _RefusedError(_invalid("body", "items", position, "id"))
        # At least one is named: an answer that names nobody is how spans are left out on request.
        stored = items[: max(1, len(items) - missing)]
        written = [self._add({"id": str(uuid.uuid4()), **item}) for item in stored]
        shown: list[Version] = []
        if missing or request.headers.get("prefer") != "return=minimal":
            account = request.headers.get("x-selected-account-id", "local")
            marks = {"object": "span", "account_id": account}
            shown = [{**marks, **self.rows[id][index]} for id, index in written]
        return _reply(200, {"object": "list", "items": shown}), written

    def _write_traces(self, request: Request, missing: int) -> tuple[Reply, list[Written]]:
        if request.method != "POST":
            raise _RefusedError(Reply(405, b"", PROTOBUF_TYPE))
        if request.headers.get("content-type") != PROTOBUF:
            raise _RefusedError(Reply(415, b"", PROTOBUF_TYPE))
        try:
            spans = read_spans(request.headers, request.body)
        except UnsupportedError:
            raise _RefusedError(Reply(415, b"", PROTOBUF_TYPE)) from None
        except ValueError:
            raise _RefusedError(Reply(400, b"", PROTOBUF_TYPE)) from None
        missing = min(missing, max(0, len(spans) - 1))
        written = [self._add(span) for span in spans[: len(spans) - missing]]
        said = partial_success(missing, "scripted") if missing else b""
        return Reply(200, said, PROTOBUF_TYPE), written

    def _create(self, request: Request) -> tuple[Reply, list[Written]]:
        body = _agentex_fields(request, required=AGENTEX_REQUIRED)
        id = body.get("id") or str(uuid.uuid4())
        if id in self._agentex:
            raise _RefusedError(_problem(400, f"Item already exists: {id}"))
        return self._put({name: body.get(name) for name in AGENTEX_FIELDS} | {"id": id})

    def _patch(self, id: str, request: Request) -> tuple[Reply, list[Written]]:
        changes = _agentex_fields(request)
        if id not in self._agentex:
            raise _RefusedError(_problem(404, f"Item with id '{id}' does not exist."))
        old = self.rows[id][self._agentex[id][1]]
        data = changes.get("data")
        if old.get("data") and data is not None:
            if not isinstance(old["data"], dict) or not isinstance(data, dict):
                # The original cannot either.
                raise _RefusedError(_problem(500, "'list' object has no attribute 'items'"))
            changes["data"] = {**old["data"], **data}
        new = {name: value for name, value in changes.items() if value is not None}
        return self._put({**old, **new, "id": id})

    def _put(self, span: Version) -> tuple[Reply, list[Written]]:
        written = self._agentex[span["id"]] = self._add(span)
        return _reply(200, span), [written]

    def _add(self, version: Version) -> Written:
        versions = self.rows.setdefault(version["id"], [])
        versions.append(version)
        return version["id"], len(versions) - 1


class _RefusedError(Exception):
    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def _decode(request: Request) -> Any:
    try:
        return request.json
    except (ValueError, RecursionError):
        return None


def _reply(status: int, body: object, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, json.dumps(body).encode(), {**JSON_TYPE, **(headers or {})})


def _invalid(*loc: str | int) -> Reply:
    """A refusal of the SGP API that names a place (`sgp:E4`)."""
    return _reply(422, {"detail": [{"loc": loc, "msg": "invalid", "type": "value_error"}]})


def _problem(code: int, message: str) -> Reply:
    """An error of the AgentEx API (`agx` §4)."""
    return _reply(code, {"message": message, "code": code, "data": None})


def _agentex_fields(request: Request, *, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the fields of a body that the AgentEx API knows; those it does not are ignored."""
    body = _decode(request)
    if isinstance(body, dict):
        bad = [name for name in AGENTEX_FIELDS if not _is_valid(name, body.get(name))]
        bad += [name for name in required if body.get(name) is None]
        if not bad:
            return {name: body[name] for name in AGENTEX_FIELDS if name in body}
    else:
        bad = ["body"]
    message = f"invalid: {', '.join(bad)}"
    raise _RefusedError(_reply(422, {"status_code": 10422, "message": message, "data": None}))


def _is_valid(name: str, value: Any) -> bool:
    if value is None:
        return True
    if name in ("input", "output", "data"):
        items = value if isinstance(value, list) else [value]
        return all(isinstance(item, dict) for item in items)
    if not isinstance(value, str):
        return False
    if name in ("start_time", "end_time"):
        try:
            datetime.fromisoformat(value)
        except ValueError:
            return False
    return True
