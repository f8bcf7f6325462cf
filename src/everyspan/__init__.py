"""everyspan: traces of AI agents, recorded in microseconds, every span accounted for.

All public names live here and are loaded when first used, so that `import everyspan` is light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everyspan import adk, testing  # noqa: F401 - `__all__` would load them
    from everyspan.context import carry, current_span, extract, inject, use_span
    from everyspan.errors import EverySpanError, ExportError, SettingsError
    from everyspan.jobs import job
    from everyspan.ledger import DestinationStats, FlushResult, Stats
    from everyspan.log_filter import TraceContextFilter
    from everyspan.model.freeze import register
    from everyspan.model.span import SPAN_ERROR_KEY, Span, SpanEventType, SpanStatus, SpanType
    from everyspan.model.span_error import get_span_error, set_span_error
    from everyspan.model.w3c import RemoteParent
    from everyspan.pipeline import (
        add_tracing_processor_config,
        aflush,
        ashutdown,
        configure,
        flush,
        get_async_tracing_processors,
        get_default_span_queue,
        get_sync_tracing_processors,
        set_tracing_processor_configs,
        shutdown,
        shutdown_default_span_queue,
        stats,
    )
    from everyspan.processors.agentex import (
        AgentexAsyncTracingProcessor,
        AgentexTracingProcessorConfig,
    )
    from everyspan.processors.base import (
        AsyncTracingProcessor,
        SyncTracingProcessor,
        TracingProcessorConfig,
    )
    from everyspan.processors.console import (
        ConsoleTracingProcessor,
        ConsoleTracingProcessorConfig,
    )
    from everyspan.processors.file import FileTracingProcessor, FileTracingProcessorConfig
    from everyspan.processors.memory import InMemoryTracingProcessor
    from everyspan.processors.otlp import OTLPTracingProcessor, OTLPTracingProcessorConfig
    from everyspan.processors.sgp import SGPAsyncTracingProcessor, SGPTracingProcessorConfig
    from everyspan.queue.span_queue import AsyncSpanQueue
    from everyspan.sync import AgentexSyncTracingProcessor, SGPSyncTracingProcessor
    from everyspan.trace import AsyncTrace, AsyncTracer, Trace, Tracer
    from everyspan.tracer import span, traced

__version__ = "0.1.0"

_HOMES = {
    "everyspan.context": ("carry", "current_span", "extract", "inject", "use_span"),
    "everyspan.errors": ("EverySpanError", "ExportError", "SettingsError"),
    "everyspan.jobs": ("job",),
    "everyspan.ledger": ("DestinationStats", "FlushResult", "Stats"),
    "everyspan.log_filter": ("TraceContextFilter",),
    "everyspan.model.freeze": ("register",),
    "everyspan.model.span": ("SPAN_ERROR_KEY", "Span", "SpanEventType", "SpanStatus", "SpanType"),
    "everyspan.model.span_error": ("get_span_error", "set_span_error"),
    "everyspan.model.w3c": ("RemoteParent",),
    "everyspan.pipeline": (
        "add_tracing_processor_config",
        "aflush",
        "ashutdown",
        "configure",
        "flush",
        "get_async_tracing_processors",
        "get_default_span_queue",
        "get_sync_tracing_processors",
        "set_tracing_processor_configs",
        "shutdown",
        "shutdown_default_span_queue",
        "stats",
    ),
    "everyspan.processors.agentex": (
        "AgentexAsyncTracingProcessor",
        "AgentexTracingProcessorConfig",
    ),
    "everyspan.processors.base": (
        "AsyncTracingProcessor",
        "SyncTracingProcessor",
        "TracingProcessorConfig",
    ),
    "everyspan.processors.console": ("ConsoleTracingProcessor", "ConsoleTracingProcessorConfig"),
    "everyspan.processors.file": ("FileTracingProcessor", "FileTracingProcessorConfig"),
    "everyspan.processors.memory": ("InMemoryTracingProcessor",),
    "everyspan.processors.otlp": ("OTLPTracingProcessor", "OTLPTracingProcessorConfig"),
    "everyspan.processors.sgp": ("SGPAsyncTracingProcessor", "SGPTracingProcessorConfig"),
    "everyspan.queue.span_queue": ("AsyncSpanQueue",),
    "everyspan.sync": ("AgentexSyncTracingProcessor", "SGPSyncTracingProcessor"),
    "everyspan.trace": ("AsyncTrace", "AsyncTracer", "Trace", "Tracer"),
    "everyspan.tracer": ("span", "traced"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "SPAN_ERROR_KEY",
    "AgentexAsyncTracingProcessor",
    "AgentexSyncTracingProcessor",
    "AgentexTracingProcessorConfig",
    "AsyncSpanQueue",
    "AsyncTrace",
    "AsyncTracer",
    "AsyncTracingProcessor",
    "ConsoleTracingProcessor",
    "ConsoleTracingProcessorConfig",
    "DestinationStats",
    "EverySpanError",
    "ExportError",
    "FileTracingProcessor",
    "FileTracingProcessorConfig",
    "FlushResult",
    "InMemoryTracingProcessor",
    "OTLPTracingProcessor",
    "OTLPTracingProcessorConfig",
    "RemoteParent",
    "SGPAsyncTracingProcessor",
    "SGPSyncTracingProcessor",
    "SGPTracingProcessorConfig",
    "SettingsError",
    "Span",
    "SpanEventType",
    "SpanStatus",
    "SpanType",
    "Stats",
    "SyncTracingProcessor",
    "Trace",
    "TraceContextFilter",
    "Tracer",
    "TracingProcessorConfig",
    "add_tracing_processor_config",
    "aflush",
    "ashutdown",
    "carry",
    "configure",
    "current_span",
    "extract",
    "flush",
    "get_async_tracing_processors",
    "get_default_span_queue",
    "get_span_error",
    "get_sync_tracing_processors",
    "inject",
    "job",
    "register",
    "set_span_error",
    "set_tracing_processor_configs",
    "shutdown",
    "shutdown_default_span_queue",
    "span",
    "stats",
    "traced",
    "use_span",
]


# Whoever says `import everyspan` may say `everyspan.testing.capture()`.
_SUBMODULES = ("adk", "testing")


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"everyspan.{name}")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'everyspan' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
