"""What schemathesis makes of the OpenAPI document: no answer that it does not say, no crash.

More than `make test` does, with other inputs each time:

    EVERYSPAN_SCHEMATHESIS_EXAMPLES=500 pytest tests/server/test_schemathesis.py
"""

from __future__ import annotations

import os
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

from everyspan.server.feed import EVENTS_PATH
from tests.server.rows import make_item
from tests.waiting import wait_until

EXAMPLES = int(os.environ.get("EVERYSPAN_SCHEMATHESIS_EXAMPLES", "0"))
CONFIG = SchemathesisConfig.from_dict(
    {
        "checks": {
            # A cursor is text that only the server makes: what the schema allows may be none.
            "positive_data_acceptance": {"enabled": False},
            "negative_data_rejection": {"expected-statuses": [400, 404, 405, 413, 414, 422, 431]},
        }
    }
)


@pytest.fixture(scope="module")
def described(base_url: str) -> Any:
    with httpx2.Client(base_url=base_url) as http:
        http.put("/v5/spans/batch", json={"items": [make_item(id="s", input={"x": 1})]})
        wait_until(lambda: http.get("/api/traces").json()["items"])
    return schemathesis.openapi.from_url(f"{base_url}/api/openapi.json", config=CONFIG)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_server_does_what_its_document_says(described: Any, mode: GenerationMode) -> None:
    """Issue acceptance: statuses, bodies and types as documented; invalid input is refused."""
    for result in described.get_all_operations():
        operation = result.ok()
        if operation.path == EVENTS_PATH:
            continue  # An answer without an end; tests/server/test_feed.py reads it.

        @settings(
            max_examples=EXAMPLES or 8,
            derandomize=not EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            case.call_and_validate()

        ask()
