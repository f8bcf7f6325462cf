"""Print docs/metrics.md from the rows of metrics/instruments.py; `make docs` writes it."""

from __future__ import annotations

from everyspan.metrics.instruments import BOOKS, ORIGINALS, Instrument

HEAD = """\
# Metrics

Written by `make docs` from the rows of `src/everyspan/metrics/instruments.py`; change those.

An agent that has set up metrics of OpenTelemetry gets those of everyspan with them. There is
nothing to switch on; `AGENTEX_TRACING_METRICS=0` switches them off. everyspan itself never loads
OpenTelemetry. A provider of meters is noticed with the next batch that is sent, whenever it was
set. Counters then show what was counted since the process began, histograms what comes.

```python
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import everyspan

reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
everyspan.configure()

with everyspan.span("turn"):
    pass

everyspan.flush(timeout=5)
for scope in reader.get_metrics_data().resource_metrics[0].scope_metrics:
    for metric in scope.metrics:
        if metric.name == "everyspan.span.delivered":
            print(metric.name, metric.data.data_points[0].value)
```

```text
everyspan.span.delivered 1
```

Nothing is recorded on an agent's thread. Counters are read when a reader collects, histograms are
recorded by the thread that sends. A forked child counts for itself.
"""

BOOKS_HEAD = """
## The books

Meter `everyspan`: what [`everyspan.stats()`](guarantees.md#the-books) tells of the destinations
of the process, those that `configure` replaced included, so that no counter goes back. What is
shown in one collection balances. What `everyspan.testing.capture` records is left out.

Worth an alert: `everyspan.span.dropped` and `everyspan.span.rejected` that grow,
`everyspan.span.oldest_age` near `max_age_s`, and any `everyspan.span.residual`.
"""

ORIGINALS_HEAD = """
## By the original's names

Meter `agentex.tracing`: of every queue of the process, named as the original's for dashboards that
know them. `processor` is `sgp` or `other`, `event_type` and `phase` are `start` or `end`. Where
the original counted less, these count what it left out: attempts that are made again, and events
that a shutdown had to give up.
"""


def main() -> None:
    print(HEAD + BOOKS_HEAD)
    table(BOOKS)
    print(ORIGINALS_HEAD)
    table(ORIGINALS)


def table(rows: tuple[Instrument, ...]) -> None:
    print("| instrument | kind, unit | attributes | meaning |")
    print("| --- | --- | --- | --- |")
    for row in rows:
        attributes = " ".join(f"`{name}`" for name in row.attributes)
        print(f"| `{row.name}` | {row.kind}, {row.unit} | {attributes} | {row.help} |")


if __name__ == "__main__":
    main()
