"""logfire: a span in progress, then done; a log, a tag, an error.

Arguments: the server, then `own` for its own exporter or `otlp` for OpenTelemetry's. Prints the id
of the trace, and what the server shows while the outer span is still open.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request

base_url, way = sys.argv[1:]
if way == "otlp":
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = base_url

import logfire  # noqa: E402  # The environment is read then.

logfire.configure(
    send_to_logfire=way == "own",
    token="any" if way == "own" else None,
    advanced=logfire.AdvancedOptions(base_url=base_url),
    service_name="shop",
    console=False,
    inspect_arguments=False,
    metrics=False,
)


def stored(trace_id: str) -> list[list[object]]:
    """Return name, and whether it has ended, of each span that the server shows."""
    request = urllib.request.Request(
        f"{base_url}/v5/spans/search",
        json.dumps({"trace_ids": [trace_id]}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as reply:
        return [[span["name"], "end_timestamp" in span] for span in json.load(reply)["items"]]


with logfire.span("order {thing}", thing={"name": "tea"}, _tags=["t1"]) as span:
    context = span.get_span_context()
    assert context is not None
    trace_id = f"{context.trace_id:032x}"
    logfire.force_flush()
    open_spans = stored(trace_id)
    logfire.info("half {done}", done=True)
    try:
        with logfire.span("fails"):
            raise KeyError("k")
    except KeyError:
        pass

logfire.shutdown()
print(trace_id)
print(json.dumps(open_spans))
