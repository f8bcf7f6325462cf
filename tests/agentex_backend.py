"""A strict AgentEx spans API on loopback, as `agx` describes the original server, faults by script.

It inserts: a repeated id is 400, an unknown one 404. A PATCH changes what is not null and merges
`data` one level deep; into an array it cannot merge (500).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from tests.backend import Answer, Backend, Request

Fault = Callable[[Request], Answer | None]

FIELDS = (
    *("id", "trace_id", "name", "start_time", "end_time", "parent_id", "task_id"),
    *("input", "output", "data"),
)
LOST = Answer(then="lose", stores=True)
"""Carry the request out, and lose the reply."""


class AgentexBackend(Backend):
    """See the module text; `spans` is what is stored, by id.

    Args:
        fault: Returns what to answer instead, None to behave. With `stores=True` the request is
            carried out all the same.
        tasks: Known ones; None knows all.
        agent_key: What `x-agent-api-key` must be; None asks for none.
    """

    def __init__(
        self,
        fault: Fault | None = None,
        *,
        tasks: Collection[str] | None = None,
        agent_key: str | None = None,
    ) -> None:
        super().__init__(self._handle)
        self.fault = fault or (lambda request: None)
        self.spans: dict[str, dict[str, Any]] = {}
        self._tasks = tasks
        self._agent_key = agent_key

    @property
    def calls(self) -> list[tuple[str, int]]:
        """Methods and what each was answered, faults aside, in order."""
        return [*self._calls]

    def _handle(self, request: Request) -> Answer:
        fault = self.fault(request)
        if fault is not None and not fault.stores:
            return fault
        status, body = self._carry_out(request)
        self._calls.append((request.method, status))
        answer = Answer(status, body=json.dumps(body).encode())
        return answer if fault is None else replace(answer, then=fault.then)

    _calls: list[tuple[str, int]]

    def __enter__(self) -> AgentexBackend:
        self._calls = []
        super().__enter__()
        return self

    def _carry_out(self, request: Request) -> tuple[int, Any]:
        if self._agent_key not in (None, request.headers.get("x-agent-api-key")):
            return 401, {"detail": "Agent Unauthorized"}
        parts = request.path.split("/")
        is_create = request.method == "POST" and parts == ["", "spans"]
        is_patch = request.method == "PATCH" and parts[:2] == ["", "spans"] and len(parts) == 3
        if not (is_create or is_patch):
            return 404, {"detail": "Not Found"}
        body: dict[str, Any] = json.loads(request.body)
        bad = [name for name, value in body.items() if not _is_valid(name, value)]
        if is_create:
            bad += [name for name in ("name", "trace_id", "start_time") if body.get(name) is None]
        if bad:
            return 422, {"status_code": 10422, "message": f"invalid: {bad}", "data": None}
        if self._tasks is not None and (body.get("task_id") or None) not in (None, *self._tasks):
            return 500, _problem(500, 'violates foreign key constraint "spans_task_id_fkey"')
        if is_create:
            return self._create(body)
        return self._patch(unquote(parts[2]), body)

    def _create(self, body: dict[str, Any]) -> tuple[int, Any]:
        if body["id"] in self.spans:
            return 400, _problem(400, f"Item already exists: {body['id']}")
        self.spans[body["id"]] = {name: body.get(name) for name in FIELDS}
        return 200, self.spans[body["id"]]

    def _patch(self, id: str, body: dict[str, Any]) -> tuple[int, Any]:
        span = self.spans.get(id)
        if span is None:
            return 404, _problem(404, f"Item with id '{id}' does not exist.")
        for name, value in body.items():
            if value is None or name not in FIELDS or name == "id":
                continue
            if name == "data" and span["data"]:
                if not isinstance(span["data"], dict) or not isinstance(value, dict):
                    return 500, _problem(500, "AttributeError: 'list' object")
                value = {**span["data"], **value}
            span[name] = value
        return 200, span


def _problem(code: int, message: str) -> dict[str, Any]:
    return {"message": message, "code": code, "data": None}


def _is_valid(name: str, value: Any) -> bool:
    if name in ("input", "output", "data"):
        items = value if isinstance(value, list) else [value]
        return value is None or all(isinstance(item, dict) for item in items)
    if name in ("start_time", "end_time") and value is not None:
        try:
            datetime.fromisoformat(value)
        except (TypeError, ValueError):
            return False
    return name not in FIELDS or value is None or isinstance(value, str)
