"""What `import everyspan` costs a process, and which modules it must not bring.

CPU milliseconds of a fresh process beyond one that imports nothing.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.report import Row, progress, verdict

CPU_MS_MAX = 45.0
FORBIDDEN = {
    "asyncio",
    "ssl",
    "sqlite3",
    "apsw",
    "httpx",
    "httpx2",
    "httpcore2",
    "h11",
    "aiohttp",
    "requests",
    "urllib3",
    "zstandard",
    "backports.zstd",
    "compression.zstd",
    "starlette",
    "uvicorn",
    "httptools",
    "fastapi",
    "click",
    "rich_click",
    "pydantic",
    "langchain_core",
    "opentelemetry",
    "google.protobuf",
}
IMPORT = "import everyspan"
# Names load when first used; what that costs is shown, and only there do asyncio and ssl come in.
USE = f"{IMPORT}; everyspan.configure, everyspan.span, everyspan.traced, everyspan.stats"
OPEN_TELEMETRY = (
    "from opentelemetry.sdk.trace import TracerProvider;"
    " from opentelemetry.sdk.trace.export import BatchSpanProcessor;"
    " from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter"
)
# It declares Python 3.11 but imports a name of 3.12 from `typing`.
AGENTEX = (
    "import typing, typing_extensions; typing.override = typing_extensions.override;"
    " from agentex.lib.core.tracing.tracer import AsyncTracer"
)


def run(rounds: int) -> Iterator[Row]:
    """Yield the rows; `rounds` fresh processes a statement, three for the slow peers."""
    progress("import: everyspan")
    cpu_ms = _cpu_ms(IMPORT, rounds)
    loaded = _forbidden_modules(IMPORT)
    yield Row(
        name="import everyspan",
        figures={"cpu": cpu_ms, "forbidden modules": _listed(loaded)},
        unit="ms",
        target=f"cpu < {CPU_MS_MAX:g}, no forbidden module",
        verdict=verdict(cpu_ms < CPU_MS_MAX and not loaded),
    )
    yield Row(
        name="import everyspan and use its names",
        figures={
            "cpu": _cpu_ms(USE, rounds),
            "forbidden modules": _listed(_forbidden_modules(USE)),
        },
        unit="ms",
    )
    for name, program in {"opentelemetry": OPEN_TELEMETRY, "agentex-sdk": AGENTEX}.items():
        progress(f"import: {name}")
        try:
            yield Row(name=f"import {name}", figures={"cpu": _cpu_ms(program, 3)}, unit="ms")
        except subprocess.CalledProcessError:
            progress(f"import: {name} left out: not installed")


def _cpu_ms(program: str, rounds: int) -> float:
    extra = [_process_cpu_ms(program) - _process_cpu_ms("pass") for _ in range(rounds + 1)]
    return statistics.median(extra[1:])  # The first run may compile bytecode.


def _process_cpu_ms(program: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], check=True, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1000


def _forbidden_modules(program: str) -> list[str]:
    listing = f"import sys; old = set(sys.modules); {program}; print(*(set(sys.modules) - old))"
    done = subprocess.run([sys.executable, "-c", listing], check=True, stdout=subprocess.PIPE)
    return sorted(FORBIDDEN.intersection(done.stdout.decode().split()))


def _listed(modules: list[str]) -> str:
    return " ".join(modules) or "none"
