"""Registration of agents, as the SDK's start-up asks for it (`acp:AB2`)."""

from __future__ import annotations

import httpx2
import pytest

REGISTER = "/agents/register"


def test_an_agent_is_told_who_it_is_the_same_each_time(http: httpx2.Client) -> None:
    told = [
        http.post(REGISTER, json={"name": name, "description": "d", "acp_url": "u", **more}).json()
        for name, more in (("one", {}), ("one", {}), ("two", {}), ("two", {"agent_id": "own"}))
    ]
    assert [each["name"] for each in told] == ["one", "one", "two", "two"]
    assert told[0] == told[1]
    assert told[0]["id"] != told[2]["id"]
    assert told[3]["id"] == "own"
    assert all(each["agent_api_key"] for each in told)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"name":5}', b'{"name":null}', b"\xff"])
def test_what_is_no_registration_is_422(http: httpx2.Client, body: bytes) -> None:
    reply = http.post(REGISTER, content=body)
    assert (reply.status_code, reply.json()["status_code"]) == (422, 10422)
    reply = http.get(REGISTER)
    assert (reply.status_code, reply.json()["code"]) == (405, 405)
