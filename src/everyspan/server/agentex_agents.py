"""Registration, without which an agent of agentex-sdk does not start (`acp:AB2`).

Nothing is remembered: this server calls no agent, so all one needs is the same answer each time.
"""

from __future__ import annotations

import uuid

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from everyspan.server.account import LOCAL_ACCOUNT
from everyspan.server.body import Bodies
from everyspan.server.json_body import decode_json
from everyspan.server.problem import InvalidRequestError

AGENTS_PATH = "/agents"
_NAMESPACE = uuid.UUID("8d3c1c0e-6a57-4d0a-9d0a-7f0b8a3f5e21")
"""Makes the id of an agent from its name; drawn once."""


class _Registration(msgspec.Struct):
    name: str
    agent_id: str | None = None


class _Agent(msgspec.Struct):
    id: str
    name: str
    agent_api_key: str


_decode = msgspec.json.Decoder(_Registration).decode


def agentex_agents_routes(bodies: Bodies) -> list[BaseRoute]:
    """Return the route `/agents/register`."""

    async def register(request: Request) -> Response:
        async with bodies.read(request) as body:
            try:
                said = decode_json(_decode, body)
            except InvalidRequestError as error:
                raise InvalidRequestError(422, error.details) from None
        agent_id = said.agent_id or str(uuid.uuid5(_NAMESPACE, said.name))
        agent = _Agent(agent_id, said.name, agent_api_key=LOCAL_ACCOUNT)
        return Response(msgspec.json.encode(agent), media_type="application/json")

    return [Route(f"{AGENTS_PATH}/register", register, methods=["POST"])]
