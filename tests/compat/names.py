"""The names that both SDKs have, and a program that runs a test module of this folder with the
original's: `PYTHON -m tests.compat.names tests.compat.test_originals_rules`.

It prints a JSON object, by test: null where the test passed, else what it failed with; without a
module, the signatures of the original's names. What these tests import must be there in the
original's environment too: the standard library, `everyspan.testing.FaultServer`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from importlib import import_module
from types import SimpleNamespace
from typing import Any

TEST_TIME_MAX_S = 15.0
AGENT = {"AGENT_NAME": "agent", "ACP_URL": "http://127.0.0.1"}


def ours() -> SimpleNamespace:
    """The names as everyspan has them."""
    import everyspan

    return SimpleNamespace(**{name: getattr(everyspan, name) for name in _HOMES})


def originals() -> SimpleNamespace:
    """The same names from the original SDK, which imports on a Python of 3.12 as it stands."""
    vars(typing).setdefault("override", import_module("typing_extensions").override)
    return SimpleNamespace(
        **{name: getattr(import_module(f"agentex.{home}"), name) for name, home in _HOMES.items()}
    )


_TRACING = "lib.core.tracing"
# Not its AgentEx processors: their module loads the whole framework, langgraph included.
_HOMES = {
    "AgentexTracingProcessorConfig": "lib.types.tracing",
    "AsyncSpanQueue": f"{_TRACING}.span_queue",
    "AsyncTrace": f"{_TRACING}.trace",
    "AsyncTracer": f"{_TRACING}.tracer",
    "AsyncTracingProcessor": f"{_TRACING}.processors.tracing_processor_interface",
    "SGPAsyncTracingProcessor": f"{_TRACING}.processors.sgp_tracing_processor",
    "SGPSyncTracingProcessor": f"{_TRACING}.processors.sgp_tracing_processor",
    "SGPTracingProcessorConfig": "lib.types.tracing",
    "Span": "types.span",
    "SpanEventType": f"{_TRACING}.span_queue",
    "SyncTracingProcessor": f"{_TRACING}.processors.tracing_processor_interface",
    "Trace": f"{_TRACING}.trace",
    "Tracer": f"{_TRACING}.tracer",
    "add_tracing_processor_config": f"{_TRACING}.tracing_processor_manager",
    "get_async_tracing_processors": f"{_TRACING}.tracing_processor_manager",
    "get_sync_tracing_processors": f"{_TRACING}.tracing_processor_manager",
    "get_default_span_queue": f"{_TRACING}.span_queue",
    "set_tracing_processor_configs": f"{_TRACING}.tracing_processor_manager",
    "shutdown_default_span_queue": f"{_TRACING}.span_queue",
}


def signatures(names: SimpleNamespace) -> dict[str, list[str]]:
    """The parameters of every function, class and public method among the names, in order."""
    found = {}
    for name, value in vars(names).items():
        if not inspect.isclass(value):
            found[name] = _parameters(value)
            continue
        if issubclass(value, Enum) or hasattr(value, "model_dump"):
            # Keywords alone, which the tests use.
            continue
        members = {"__init__": value, **vars(value)}
        for member, function in members.items():
            if callable(function) and (member == "__init__" or not member.startswith("_")):
                found[f"{name}.{member}"] = _parameters(function)
    return found


def _parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def make_span(sdk: Any, id: str = "span-1", **fields: Any) -> Any:
    """A span as the original's tests make it: ended unless `end_time` says otherwise."""
    now = datetime.now(UTC)
    values = {"name": "step", "trace_id": "trace-1", "start_time": now, "end_time": now} | fields
    return sdk.Span(id=id, **values)


@contextmanager
def environment(**variables: str | None) -> Iterator[None]:
    """Set variables for the block; None removes one."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def run_all(module: str) -> dict[str, str | None]:
    """Run the tests of a module with the original's names."""
    sdk = originals()
    return {
        name: _run(test, sdk)
        for name, test in vars(import_module(module)).items()
        if name.startswith("test_")
    }


def _run(test: Callable[..., Any], sdk: Any) -> str | None:
    # Read once a process, but each test has an environment of its own.
    vars(import_module("agentex.lib.environment_variables"))["refreshed_environment_variables"] = (
        None
    )
    try:
        with environment(**AGENT):
            if inspect.iscoroutinefunction(test):
                asyncio.run(asyncio.wait_for(test(sdk), TEST_TIME_MAX_S))
            else:
                test(sdk)
    except BaseException as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


if __name__ == "__main__":
    found = run_all(sys.argv[1]) if sys.argv[1:] else signatures(originals())
    print(json.dumps(found), flush=True)
    # Without joining what the original left running.
    os._exit(0)
