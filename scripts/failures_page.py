"""Print docs/failures.md from the table of outcomes; `make docs` writes it, a test holds it."""

from __future__ import annotations

from collections.abc import Sequence

from everyspan.errors import (
    BatchRefusedError,
    BatchTooLargeError,
    DestinationRefusedError,
    ExportError,
    PermanentExportError,
    RetryableExportError,
)
from everyspan.transport.outcomes import OTLP_OUTCOMES, OUTCOMES, Outcome

HEAD = """\
# When a request fails

Written by `make docs` from `src/everyspan/transport/outcomes.py`; change that.

Every way in which a request to a span API can end, what the books call it (in `stats()`,
`FlushResult.left` and the log), and what becomes of the spans. Nothing is lost but what is said to
be: spans that wait are given up only when they are older than `max_age_s`, counted as
`expired after` the reason.

Where one of several requests under way is refused as too much (429, 503), without `Retry-After`,
fewer are sent at once from then on and the others go on; any other failure that is sent again also
holds back all that waits.
"""

WHAT_HAPPENS: dict[type[ExportError] | None, str] = {
    None: "delivered",
    RetryableExportError: "sent again after a pause: random, below a ceiling that doubles from "
    "0.5 s to 30 s, or as long as `Retry-After` asks",
    DestinationRefusedError: "all spans wait; after each such pause one of them is tried, another "
    "each time, until one is stored",
    BatchTooLargeError: "sent again in halves; a span that is too large by itself is rejected",
    BatchRefusedError: "the spans that the answer names are rejected; where it names none the "
    "batch is halved until the bad ones stand alone, and a lone span is rejected once others were "
    "stored since it was first sent. After 4·log2(n) + 8 refusals in a row no span is at fault, "
    "and all wait as above",
    PermanentExportError: "rejected",
}

OTLP = """
## OTLP endpoints

The same holds, but for what the protocol has otherwise: a failure that it does not name is not sent
again. `partial_success` says how many spans of a batch an endpoint refused, and perhaps why, but
not which: that many are counted as rejected, for the reason it gives (shortened, without
credentials, at most 16 different ones), and the others as delivered. So the numbers are those of
the endpoint; which trace lost a span can only be guessed, and of a batch that holds several traces
the last is told of the loss.
"""


def main() -> None:
    print(HEAD)
    table(OUTCOMES, OUTCOMES)
    print(
        "\n`x-should-retry: true` makes any failure one to be sent again; `false` makes one that "
        "would be sent again final: its spans are rejected."
    )
    print(OTLP)
    table(OTLP_OUTCOMES, [row for row in OTLP_OUTCOMES if row not in OUTCOMES])


def table(rows: Sequence[Outcome], shown: Sequence[Outcome]) -> None:
    """Print some of the rows of a table."""
    print("| what comes of a request | in the books | what happens |")
    print("| --- | --- | --- |")
    seen: set[int] = set()
    for row in rows:
        if row in shown:
            print(f"| {row.text} | {reason(row, seen)} | {WHAT_HAPPENS[row.error]} |")
        seen |= set(row.statuses)


def reason(row: Outcome, seen: set[int]) -> str:
    """The reasons, with the statuses that are left for this row."""
    if row.error is None:
        return "–"
    if row.reason:
        return f"`{row.reason}`"
    left = [status for status in row.statuses if status not in seen]
    if len(left) > 10:
        return f"`http {left[0] // 100}xx`, all others"
    return ", ".join(f"`http {status}`" for status in left)


if __name__ == "__main__":
    main()
