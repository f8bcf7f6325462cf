"""Langfuse's SDK: observations of several types, a session, a user, tags, an error.

Argument: the server.
"""

from __future__ import annotations

import sys

from langfuse import Langfuse, propagate_attributes

(base_url,) = sys.argv[1:]
client = Langfuse(public_key="pk-1", secret_key="sk-1", base_url=base_url)
with (
    client.start_as_current_observation(name="turn", as_type="agent", input={"q": "Rome?"}) as turn,
    propagate_attributes(user_id="u-1", session_id="s-1", tags=["t1"], metadata={"plan": "free"}),
):
    with client.start_as_current_observation(
        name="answer",
        as_type="generation",
        model="gpt-4o",
        input=[{"role": "user", "content": "Rome?"}],
        metadata={"try": {"n": 1}},
    ) as generation:
        generation.update(
            output="sunny",
            usage_details={"input": 12, "output": 3, "total": 15},
            cost_details={"input": 0.1, "output": 0.2, "total": 0.3},
        )
    with client.start_as_current_observation(name="search", as_type="retriever") as search:
        search.update(output=["a", "b"], level="ERROR", status_message="too slow")
    turn.update(output={"a": "sunny"})

client.flush()
client.shutdown()
print(turn.trace_id)
