"""What the fault server stores, by the rules of the span APIs it speaks.

- SGP, `/v5/spans/batch`: every version of a span is kept, in the order of arrival.
- AgentEx, `/spans`: strict. A repeated id is 400, an unknown one 404; a PATCH changes what is not
  null and merges `data` one level deep. A version is the span as it stood after the write.
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

from everyspan.testing.exchange import BATCH_PATH, JSON_TYPE, Reply, Request

ITEMS_MAX = 1000
AGENTEX_FIELDS = (
    *("id", "trace_id", "name", "start_time", "end_time", "parent_id", "task_id"),
    *("input", "output", "data"),
)
AGENTEX_REQUIRED = ("name", "trace_id", "start_time")

Version = dict[str, Any]


class SpanApis:
    """What is stored; for one thread at a time.

    `rows` holds the versions of each span, by its id.
    """

    def __init__(self) -> None:
        self.rows: dict[str, list[Version]] = {}
        self._agentex: dict[str, tuple[int, Version]] = {}

    def carry_out(
        self, request: Request, *, missing: int = 0
    ) -> tuple[Reply, list[tuple[str, int]]]:
        """Store what a request says; return the answer, and which versions of which ids it wrote.

        Args:
            missing: How many spans at the end of a batch to pass over, unnamed in the answer.
        """
        written: list[tuple[str, int]] = []
        path = request.path
        if path.endswith("/healthz"):
            return _reply(200, {"status": "ok"}, {"x-everyspan": "fault-server"}), written
        if path.endswith(BATCH_PATH):
            if request.method in ("PUT", "POST"):
                return self._write_batch(request, missing, written), written
            return _reply(405, {"detail": "Method Not Allowed"}), written
        parent, _, last = path.rpartition("/")
        if request.method == "POST" and last == "spans" and not parent.endswith("/v5"):
            return self._create(request, written), written
        if (
            request.method == "PATCH"
            and parent.endswith("/spans")
            and not parent.endswith("/v5/spans")
        ):
            return self._patch(unquote(last), request, written), written
        return _reply(404, {"detail": "Not Found"}), written

    def forget(self, id: str, index: int) -> None:
        """Keep of a version only that it came."""
        self.rows[id][index] = {"id": id}
        if self._agentex.get(id, (-1,))[0] == index:
            self._agentex[id] = (index, {"id": id})

    def _write_batch(self, request: Request, missing: int, written: list[tuple[str, int]]) -> Reply:
        body = _decode(request)
        items = body.get("items") if isinstance(body, dict) else None
        if not isinstance(items, list) or len(items) > ITEMS_MAX:
            return _refusal(["body", "items"])
        for position, item in enumerate(items):
            if not isinstance(item, dict) or not isinstance(item.get("id", ""), str):
                return _refusal(["body", "items", position, "id"])
        stored = items[: max(0, len(items) - missing)]
        for item in stored:
            item.setdefault("id", str(uuid.uuid4()))
            self._add(item["id"], item, written)
        if request.headers.get("prefer") == "return=minimal" and not missing:
            return _reply(200, {"object": "list", "items": []})
        account = request.headers.get("x-selected-account-id", "local")
        shown = [{"object": "span", "account_id": account, **item} for item in stored]
        return _reply(200, {"object": "list", "items": shown})

    def _create(self, request: Request, written: list[tuple[str, int]]) -> Reply:
        body = _decode(request)
        if (bad := _invalid(body, required=AGENTEX_REQUIRED)) is not None:
            return bad
        id = body.get("id") or str(uuid.uuid4())
        if id in self._agentex:
            return _problem(400, f"Item already exists: {id}")
        return self._put(
            id, {name: body.get(name) for name in AGENTEX_FIELDS} | {"id": id}, written
        )

    def _patch(self, id: str, request: Request, written: list[tuple[str, int]]) -> Reply:
        body = _decode(request)
        if (bad := _invalid(body, required=())) is not None:
            return bad
        if id not in self._agentex:
            return _problem(404, f"Item with id '{id}' does not exist.")
        span = {**self._agentex[id][1]}
        for name, value in body.items():
            if value is None or name not in AGENTEX_FIELDS or name == "id":
                continue
            if name == "data" and span.get("data"):
                if not isinstance(span["data"], dict) or not isinstance(value, dict):
                    # The original cannot either.
                    return _problem(500, "AttributeError: 'list' object has no attribute 'items'")
                value = {**span["data"], **value}
            span[name] = value
        return self._put(id, span, written)

    def _put(self, id: str, span: Version, written: list[tuple[str, int]]) -> Reply:
        self._agentex[id] = (self._add(id, span, written), span)
        return _reply(200, span)

    def _add(self, id: str, version: Version, written: list[tuple[str, int]]) -> int:
        versions = self.rows.setdefault(id, [])
        versions.append(version)
        written.append((id, len(versions) - 1))
        return len(versions) - 1


def _decode(request: Request) -> Any:
    try:
        return request.json
    except (ValueError, RecursionError):
        return None


def _reply(status: int, body: object, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, json.dumps(body).encode(), {**JSON_TYPE, **(headers or {})})


def _refusal(loc: list[str | int]) -> Reply:
    return _reply(422, {"detail": [{"loc": loc, "msg": "invalid", "type": "value_error"}]})


def _problem(code: int, message: str) -> Reply:
    """An error of the AgentEx API (`agx` §4)."""
    return _reply(code, {"message": message, "code": code, "data": None})


def _invalid(body: Any, *, required: tuple[str, ...]) -> Reply | None:
    if not isinstance(body, dict):
        bad = ["body"]
    else:
        bad = [name for name in AGENTEX_FIELDS if not _is_valid(name, body.get(name))]
        bad += [name for name in required if body.get(name) is None]
    message = f"invalid: {', '.join(bad)}"
    return _reply(422, {"status_code": 10422, "message": message, "data": None}) if bad else None


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
