"""The SDK that others wrote, unmodified, against this server: its client (`agx` §9), its agents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from scale_gp_beta import SGPClient

from everyspan.model.ids import new_id
from tests.peers import needs_peers
from tests.server.agentex_sdk import AgentexClient, agentex_client, run_agent
from tests.serving import serving

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

pytestmark = [
    *needs_peers,
    # `retrieve` is marked deprecated in the SGP client; servers must serve it all the same.
    pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def own_account() -> str:
    return new_id()


@pytest.fixture(scope="module", params=[False, True], ids=["synchronous", "asynchronous"])
def client(
    base_url: str, own_account: str, request: pytest.FixtureRequest
) -> Iterator[AgentexClient]:
    """Both clients share an account, so each test has a trace of its own."""
    with agentex_client(base_url, own_account, asynchronous=request.param) as client:
        yield client


@pytest.fixture
def sgp(base_url: str, own_account: str) -> Iterator[SGPClient]:
    with SGPClient(api_key="any", account_id=own_account, base_url=base_url) as client:
        yield client


@pytest.fixture
def trace_id() -> str:
    return new_id()


def start(n: int = 0) -> str:
    return (START + timedelta(seconds=n)).isoformat()


def test_a_span_comes_back_as_it_was_created(client: AgentexClient, trace_id: str) -> None:
    """`agx` §9.1: arrays in `input`, `output` and `data` too."""
    cases: list[dict[str, Any]] = [
        {"input": {"a": [1, "é"]}, "output": {"items": [{}]}, "data": {"k": None}},
        {"input": [{"a": 1}, {}], "output": [{"b": []}], "data": [{"c": {"d": [1.5]}}]},
        {"input": [], "output": {}, "data": []},
    ]
    for payloads in cases:
        said: dict[str, Any] = {
            "id": new_id(),
            "trace_id": trace_id,
            "parent_id": new_id(),
            "task_id": new_id(),
            "name": "n",
            "start_time": "2026-01-02T03:04:05.123456Z",
            "end_time": "2026-01-02T03:04:06Z",
            **payloads,
        }
        assert client.create(**said) == said
        assert client.retrieve(said["id"]) == said
        assert client.list(task_id=said["task_id"]) == [said]
        assert client.update(said["id"], output=[{"n": 1}]) == said | {"output": [{"n": 1}]}


def test_what_is_not_given_is_null(client: AgentexClient, trace_id: str) -> None:
    """`agx` §9.2; and the server makes an id."""
    made = client.create(name="n", trace_id=trace_id, start_time=start(), parent_id=None)
    assert len(made["id"]) == 36
    absent = ("end_time", "parent_id", "task_id", "input", "output", "data")
    assert {name: made[name] for name in absent} == dict.fromkeys(absent)


def test_an_update_merges_data_and_keeps_the_rest(client: AgentexClient, trace_id: str) -> None:
    """`agx` §9.3."""
    made = client.create(
        name="n",
        trace_id=trace_id,
        start_time=start(),
        input={"i": 1},
        data={"a": {"x": 1}, "b": 1},
    )
    changed = client.update(made["id"], data={"a": {"y": 2}, "c": 3}, end_time=start(1), name=None)
    assert changed == made | {
        "data": {"a": {"y": 2}, "b": 1, "c": 3},
        "end_time": "2026-01-02T03:04:06Z",
    }
    assert client.update(made["id"], input={"j": 2})["input"] == {"j": 2}
    moved = client.update(made["id"], trace_id=f"{trace_id} moved", parent_id="p", task_id="k")
    assert (moved["trace_id"], moved["parent_id"]) == (f"{trace_id} moved", "p")
    assert client.list(trace_id=trace_id) == []


def test_sixty_spans_in_pages(client: AgentexClient, trace_id: str) -> None:
    """`agx` §9.4 and §9.5."""
    for n in range(60):
        client.create(name=str(n), trace_id=trace_id, start_time=start(n), id=f"{trace_id} {n}")
    newest_first = [str(n) for n in reversed(range(60))]

    def names(**query: Any) -> list[str]:
        return [span["name"] for span in client.list(trace_id=trace_id, **query)]

    assert names() == newest_first[:50]
    pages = [names(limit=7, page_number=page) for page in range(1, 11)]
    assert [name for page in pages for name in page] == newest_first
    assert pages[9] == []
    assert names(limit=1_000, order_direction="asc") == newest_first[::-1]
    assert names(limit=60, order_by="name", order_direction="ASC") == sorted(newest_first)


def test_a_task_is_found_in_either_column(client: AgentexClient, trace_id: str) -> None:
    """`agx` §9.6."""
    by_task = client.create(
        name="n", trace_id=new_id(), start_time=start(1), task_id=trace_id, id=new_id()
    )
    by_trace = client.create(name="n", trace_id=trace_id, start_time=start(0), id=new_id())
    client.create(name="n", trace_id=new_id(), start_time=start(), task_id=new_id())
    assert client.list(task_id=trace_id) == [by_task, by_trace]
    assert client.list(task_id=trace_id, trace_id=trace_id) == [by_trace]


def test_an_unknown_id_is_404_at_the_first_attempt(client: AgentexClient) -> None:
    """`agx` §9.7, §4."""
    refused = {
        "refused": 404,
        "body": {"message": "Item with id 'a/../b' does not exist.", "code": 404, "data": None},
        "attempt": "0",
    }
    assert client.retrieve("a/../b") == refused
    assert client.update("a/../b", name="x") == refused


def test_a_repeated_create_is_one_row(client: AgentexClient, trace_id: str) -> None:
    """`agx:A2`, §9.8: what a retry sends after its reply was lost; START and END in any order."""
    id_ = new_id()
    begun = {"name": "n", "trace_id": trace_id, "start_time": start(), "id": id_}
    ended = begun | {"end_time": start(1), "output": {"o": 1}}
    versions = (begun | {"input": {"i": 1}}, ended, ended, begun | {"input": {"i": 1}})
    for version in versions:
        stored = client.create(**version)
    assert client.list(trace_id=trace_id) == [stored]
    assert (stored["input"], stored["output"]) == ({"i": 1}, {"o": 1})
    assert stored["end_time"] == "2026-01-02T03:04:06Z"


def test_ids_of_any_shape(client: AgentexClient, trace_id: str) -> None:
    for id_ in ("a/b c", "%2F", "ü☃", "/", "?x=1#y", "../x", "a//b", " "):
        made = client.create(name="n", trace_id=trace_id, start_time=start(), id=id_ + trace_id)
        assert client.retrieve(id_ + trace_id) == made
        assert client.update(id_ + trace_id, output={"o": 1})["id"] == id_ + trace_id


def test_the_sgp_client_reads_what_this_one_wrote(
    client: AgentexClient, sgp: SGPClient, trace_id: str
) -> None:
    """`agx` §7."""
    made = client.create(
        id=new_id(),
        name="n",
        trace_id=trace_id,
        task_id="k",
        start_time=start(),
        end_time=start(1),
        input=[{"i": 1}],
        output={"o": 1},
        data={
            "__span_type__": "COMPLETION",
            "__error__": {"type": "ValueError", "message": "é", "category": "platform"},
            "usage": {"input_tokens": 3},
        },
    )
    (span,) = sgp.spans.search(
        extra_metadata={"__task_id__": "k", "error_type": "ValueError"}, trace_ids=[trace_id]
    )
    assert (span.id, span.type, span.status) == (made["id"], "COMPLETION", "ERROR")
    assert (span.input, span.output, span.input_tokens) == ({"items": [{"i": 1}]}, {"o": 1}, 3)
    assert span.metadata == made["data"] | {
        "__task_id__": "k",
        "error": True,
        "error_type": "ValueError",
        "error_message": "é",
        "error_category": "platform",
    }
    odd = client.create(
        name="n", trace_id=trace_id, start_time=start(), task_id="k", data=[{"__span_type__": 1}]
    )
    span = sgp.spans.retrieve(odd["id"])
    assert span.metadata == {"items": [{"__span_type__": 1}], "__task_id__": "k"}
    assert (span.type, span.status) == ("STANDALONE", "SUCCESS")
    novel = client.create(
        name="n", trace_id=trace_id, start_time=start(), data={"__span_type__": "novel"}
    )
    span = sgp.spans.retrieve(novel["id"])
    assert (span.type, span.metadata) == ("CUSTOM", {"__span_type__": "novel"})
    assert client.retrieve(novel["id"]) == novel


def test_this_client_reads_what_the_sgp_client_wrote(
    client: AgentexClient, sgp: SGPClient, trace_id: str
) -> None:
    """`agx` §7; and what this surface does not show stays where it is."""
    id_ = new_id()
    sgp.spans.create(
        id=id_,
        name="n",
        trace_id=trace_id,
        start_timestamp=START,
        type="CODE_EXECUTION",
        status="ERROR",
        group_id="g",
        input={"items": [{"i": 1}]},
        expected={"e": 1},
        metadata={
            "__task_id__": f"task of {trace_id}",
            "error": True,
            "error_type": "ValueError",
            "error_message": "no",
            "error_category": "application",
            "k": 1,
        },
    )
    span = client.retrieve(id_)
    assert client.list(task_id=f"task of {trace_id}") == [span]
    assert (span["task_id"], span["input"]) == (f"task of {trace_id}", {"items": [{"i": 1}]})
    assert span["data"] == {
        "k": 1,
        "error": True,
        "error_type": "ValueError",
        "error_message": "no",
        "error_category": "application",
        "__span_type__": "CODE_EXECUTION",
        "__error__": {"type": "ValueError", "message": "no", "category": "application"},
    }
    client.update(id_, end_time=start(1), data={"l": 2})
    stored = sgp.spans.retrieve(id_)
    assert (stored.group_id, stored.expected, stored.status) == ("g", {"e": 1}, "ERROR")
    assert stored.metadata is not None
    assert (stored.metadata["k"], stored.metadata["l"]) == (1, 2)


@pytest.mark.parametrize("mode", ["start and end", "end only"])
def test_spans_of_an_unmodified_agent_arrive_complete(mode: str) -> None:
    """`agx` §5: read back over both APIs and by the command line, without naming an account."""
    with serving() as base_url:
        log = run_agent(base_url, mode)
        assert "ERROR" not in log
        with SGPClient(api_key="any", account_id="local", base_url=base_url) as sgp:
            spans = {span.id: span for span in sgp.spans.search(limit=100)}
            with agentex_client(base_url, "local", asynchronous=False) as client:
                shown = client.list(limit=100)
        assert len(shown) == len(spans) == (10 if mode == "start and end" else 9)
        for n in range(3):
            task_id = f"task-{n}"
            by_name = {span["name"]: span for span in shown if span["task_id"] == task_id}
            turn, model, tool = (by_name[name] for name in ("turn", "model", "tool"))
            assert all(span["end_time"] for span in (turn, model, tool))
            assert (turn["input"], turn["output"]) == (
                {"question": f"question {n}"},
                {"answer": "hi"},
            )
            assert model["parent_id"] == tool["parent_id"] == turn["id"]
            assert model["input"] == [{"role": "user", "content": "é☃"}, {"role": "tool"}]
            assert model["output"] == [{"text": "hi"}]
            assert tool["data"] == {
                "k": 1,
                "__error__": {"type": "ValueError", "message": "no", "category": "application"},
            }
            sgp_model, sgp_tool = spans[model["id"]], spans[tool["id"]]
            assert (sgp_model.type, sgp_model.input_tokens) == ("COMPLETION", 3)
            assert sgp_model.input == {"items": model["input"]}
            assert sgp_tool.status == "ERROR"
            assert sgp_tool.metadata is not None
            assert sgp_tool.metadata["error_message"] == "no"
            assert sgp_tool.metadata["__task_id__"] == task_id
        everyspan("audit", "--all", base_url=base_url)
        listed = json.loads(everyspan("traces", "list", "--json", base_url=base_url))
        states = {trace["trace_id"]: trace["completeness"]["state"] for trace in listed}
        assert states["task-1"] == "not reported"
        shown_tree = everyspan("traces", "show", "task-1", base_url=base_url)
        assert "3 stored, sender keeps no count" in shown_tree
        assert "ERROR ValueError: no" in shown_tree
        assert "3→4 tok" in shown_tree


def everyspan(*arguments: str, base_url: str) -> str:
    """Run a command as a user without settings does; it must find nothing wrong."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SGP_")}
    done = subprocess.run(
        [sys.executable, "-m", "everyspan", *arguments, "--url", base_url],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
