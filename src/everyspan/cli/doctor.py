"""`everyspan doctor`: why does nothing arrive?

D1  Looks at what an agent started here would do, by the resolution that it would use.
D2  Sends no span, and asks each destination one thing that changes nothing.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import rich_click as click

from everyspan.cli.options import print_json, print_text
from everyspan.config import (
    Environment,
    Resolved,
    check_address,
    load_environment,
    load_settings,
    resolve_environment,
    resolve_settings,
)
from everyspan.errors import ExportError

if TYPE_CHECKING:
    from rich.text import Text

    from everyspan.cli.diagnosis import Check, Destination, Visit
    from everyspan.processors.otlp import OTLPTracingProcessor
    from everyspan.transport.reply import Reply

LIBRARIES = ("gevent", "eventlet", "uvloop", "langchain-core")
SIGNS = {"ok": ("✓", "green"), "note": ("–", "dim"), "finding": ("✕", "bold red")}


class Probed(Protocol):
    """A destination that can be asked whether it is there."""

    async def probe(self) -> Reply:
        """Return the answer to a request that changes nothing."""
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...


@click.command()
@click.option(
    "--endpoint",
    metavar="URL",
    help="Look at this everyspan server instead of what the environment names.",
)
@click.option(
    "--server",
    metavar="[URL]",
    is_flag=False,
    flag_value="",
    help="Look at a trace server instead of an agent's settings. Default: EVERYSPAN_ENDPOINT, else "
    "http://127.0.0.1:5003.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def doctor(endpoint: str | None, server: str | None, as_json: bool) -> None:
    """Say what an agent started here would do, and what is in its way.

    Shows the settings in force and where each came from, tries every destination without sending a
    span, and shows of a key its last four characters at most. With --server it looks at a trace
    server, with the key in EVERYSPAN_API_KEY: whether it is ready, what the key may, its disk, its
    clock, what stands in between. Exit code 1 on a finding, each of which says how to mend it.

    \b
    Example:
      everyspan doctor
      everyspan doctor --endpoint http://127.0.0.1:5004
      everyspan doctor --server
      everyspan doctor --json | jq '.checks[] | select(.state == "finding")'
    """
    from everyspan.cli.diagnosis import (
        State,
        check_account,
        check_environment,
        check_libraries,
        check_proxy,
        check_visit,
    )

    if server is not None:
        if endpoint is not None:
            raise click.UsageError("--server and --endpoint look at different things: give one")
        _doctor_server(server, as_json)
        return
    if endpoint is not None:
        check_address(endpoint, "--endpoint")
    version = importlib.metadata.version("everyspan")
    resolved = [*resolve_settings(), *resolve_environment()]
    environment = load_environment()
    visits = asyncio.run(_visit_all(_destinations(endpoint, environment)))
    checks = [
        *check_environment(resolved),
        *check_account({found.row.name: found.value for found in resolved}),
        *(check for visit in visits for check in check_visit(visit, version=version)),
        *(check for visit in visits for check in _check_key(visit)),
        *(
            check
            for visit in visits
            for check in check_proxy(visit.destination, _proxy_to(visit.destination.url))
        ),
        *check_libraries(
            {name: _version_of(name) for name in LIBRARIES}, _patched(), _langchain_error()
        ),
    ]
    findings = sum(check.state == State.FINDING for check in checks)
    if as_json:
        print_json(_report_json(version, resolved, visits, checks))
    else:
        print_text(_report(version, resolved, checks, findings))
    if findings:
        raise SystemExit(1)


def _check_key(visit: Visit) -> Iterable[Check]:
    """Ask an everyspan server of the key that spans would be sent with."""
    from everyspan.cli.diagnosis import SERVER_HEADER
    from everyspan.cli.server_diagnosis import check_key
    from everyspan.cli.server_visit import ask_session

    destination, reply = visit.destination, visit.reply
    if destination.kind != "everyspan" or reply is None or SERVER_HEADER not in reply.headers:
        return ()
    session = ask_session(destination)
    if session is None or (session.status == 200 and destination.key is None):
        return ()
    return check_key(session, destination)


def _doctor_server(url: str, as_json: bool) -> None:
    """Look at a trace server."""
    from rich.text import Text

    from everyspan.cli.connection import DEFAULT_URL
    from everyspan.cli.diagnosis import State, check_proxy
    from everyspan.cli.server_diagnosis import check_server
    from everyspan.cli.server_visit import see_server

    environment = load_environment()
    url = (url or environment.endpoint or DEFAULT_URL).rstrip("/")
    check_address(url, "--server")
    seen = see_server(url, environment)
    checks = [
        *check_server(seen, version=importlib.metadata.version("everyspan")),
        *check_proxy(seen.destination, _proxy_to(url)),
    ]
    findings = sum(check.state == State.FINDING for check in checks)
    if as_json:
        print_json({"server": url, "checks": [asdict(check) for check in checks]})
    else:
        text = Text()
        _append_checks(text, checks, findings)
        print_text(text)
    if findings:
        raise SystemExit(1)


def _destinations(
    endpoint: str | None, environment: Environment
) -> list[tuple[Destination, Probed]]:
    """Return what spans of an agent started here go to, ready to be asked."""
    from everyspan import pipeline
    from everyspan.cli.diagnosis import Destination
    from everyspan.processors.agentex import (
        AgentexAsyncTracingProcessor,
        AgentexTracingProcessorConfig,
    )
    from everyspan.processors.otlp import OTLPTracingProcessor
    from everyspan.processors.sgp import SGPAsyncTracingProcessor, SGPTracingProcessorConfig

    settings = load_settings()
    found: list[tuple[Destination, Probed]] = []
    for chosen in [endpoint] if endpoint is not None else pipeline.default_destinations():
        processor = pipeline.build(chosen, settings)
        if isinstance(processor, OTLPTracingProcessor):
            found.append((_otlp(processor, environment), processor))
            continue
        assert isinstance(processor, SGPAsyncTracingProcessor)
        if isinstance(chosen, SGPTracingProcessorConfig):
            destination = Destination(
                "sgp",
                processor.base_url,
                account=chosen.sgp_account_id,
                # Of the environment, so text.
                key=str(chosen.sgp_api_key),
                key_env="SGP_API_KEY",
                address_env="SGP_CLIENT_BASE_URL",
            )
        else:
            destination = Destination(
                "everyspan",
                processor.base_url,
                account=environment.account,
                key=environment.api_key,
                key_env="EVERYSPAN_API_KEY",
                address_env="EVERYSPAN_ENDPOINT" if endpoint is None else "--endpoint",
            )
        found.append((destination, processor))
    agentex_key = environment.agent_api_key or environment.agentex_api_key
    if endpoint is None and (environment.agentex_base_url or agentex_key):
        agentex = AgentexAsyncTracingProcessor(AgentexTracingProcessorConfig(), settings=settings)
        destination = Destination(
            "agentex",
            agentex.base_url,
            account=None,
            key=agentex_key,
            key_env="AGENT_API_KEY" if environment.agent_api_key else "AGENTEX_SDK_API_KEY",
            address_env="AGENTEX_BASE_URL",
        )
        found.append((destination, agentex))
    return found


def _otlp(processor: OTLPTracingProcessor, environment: Environment) -> Destination:
    """Return what the environment's OTLP endpoint is."""
    from everyspan.cli.diagnosis import Destination

    traces = "TRACES_" if environment.otlp_traces_endpoint else ""
    own = "TRACES_" if environment.otlp_traces_headers else ""
    return Destination(
        "otlp",
        processor.endpoint,
        account=None,
        # All headers: which of them is the key, only the endpoint knows.
        key=environment.otlp_traces_headers or environment.otlp_headers,
        key_env=f"OTEL_EXPORTER_OTLP_{own}HEADERS",
        address_env=f"OTEL_EXPORTER_OTLP_{traces}ENDPOINT",
    )


async def _visit_all(destinations: Sequence[tuple[Destination, Probed]]) -> list[Visit]:
    return await asyncio.gather(*[_visit(*destination) for destination in destinations])


async def _visit(destination: Destination, processor: Probed) -> Visit:
    from everyspan.cli.diagnosis import Visit

    asked_s, began_s = time.time(), time.monotonic()
    reply, error = None, None
    try:
        reply = await processor.probe()
    except ExportError as caught:
        error = caught
    finally:
        await processor.close()
    return Visit(destination, asked_s, time.monotonic() - began_s, reply, error)


def _proxy_to(url: str) -> str | None:
    """Return the proxy that requests to an address take, as the HTTP client finds it."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    from everyspan.transport.client import LOOPBACK_HOSTS

    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in LOOPBACK_HOSTS or proxy_bypass(host):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _patched() -> list[str]:
    """Return the libraries that have replaced Python's threads, by a `sitecustomize` for example.

    Asks only those that are loaded: loading one is not for a diagnosis to do.
    """
    patched = []
    for name, module, question in (
        ("gevent", "gevent.monkey", "is_module_patched"),
        ("eventlet", "eventlet.patcher", "is_monkey_patched"),
    ):
        loaded = sys.modules.get(module)
        if loaded is not None and getattr(loaded, question)(
            "threading" if name == "gevent" else "thread"
        ):
            patched.append(name)
    return patched


def _langchain_error() -> str | None:
    try:
        importlib.import_module("everyspan.integrations.langchain")
    except Exception as error:
        # Whatever a foreign library raises while it loads is what is to be told.
        return f"{type(error).__name__}: {error}"
    return None


def _report(
    version: str, resolved: Sequence[Resolved], checks: Sequence[Check], findings: int
) -> Text:
    from rich.text import Text

    from everyspan.cli.diagnosis import shown_value

    text = Text()
    text.append(f"everyspan {version}", "bold").append(f", {_python()}\n\nSettings\n")
    rows = [(found.row.env, shown_value(found) or "unset", found.source) for found in resolved]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for env, value, source in rows:
        is_default = source == "default"
        text.append(
            f"  {env:<{widths[0]}}  {value:<{widths[1]}}  "
            f"{'default' if is_default else 'environment'}\n",
            "dim" if is_default else "",
        )
    text.append("\n")
    _append_checks(text, checks, findings)
    return text


def _append_checks(text: Text, checks: Sequence[Check], findings: int) -> None:
    from everyspan.model.text import plural

    text.append("Checks\n")
    for check in checks:
        sign, style = SIGNS[check.state]
        text.append(f"  {sign} ", style).append(check.about, "bold").append(f"  {check.said}\n")
        if check.mend is not None:
            text.append(f"      {check.mend}\n")
    verdict = plural(findings, "finding") if findings else "Nothing is in the way."
    text.append(f"\n{verdict}", "bold")


def _report_json(
    version: str, resolved: Sequence[Resolved], visits: Sequence[Visit], checks: Sequence[Check]
) -> dict[str, Any]:
    from everyspan.cli.diagnosis import shown_key, shown_value

    return {
        "everyspan": version,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "settings": [
            {
                "name": found.row.name,
                "environment": found.row.env,
                "value": shown_value(found),
                "source": found.source,
            }
            for found in resolved
        ],
        "destinations": [
            {
                "kind": visit.destination.kind,
                "url": visit.destination.url,
                "account": visit.destination.account,
                "key": shown_key(visit.destination.key) if visit.destination.key else None,
                "status": None if visit.reply is None else visit.reply.status,
                "seconds": round(visit.took_s, 6),
            }
            for visit in visits
        ],
        "checks": [asdict(check) for check in checks],
    }


def _python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}, {platform.system()}"
