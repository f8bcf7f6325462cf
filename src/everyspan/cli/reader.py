"""Read spans from any server of the SGP spans API (`sgp` §7).

R1  Uses search alone, with the cursors its own client uses (the id of the last item), so that any
    compatible server will do.
R2  Never ends early without saying so, and never goes on for ever: a page that comes twice, or a
    search the server cut short, is an error.
R3  Whatever the server does, the caller gets spans or a `ReaderError` of one line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from everyspan.cli.connection import Answer, Connection, ReaderError

SEARCH_PATH = "/v5/spans/search"
PAGE_SPANS_MAX = 500


class SpanReader(Connection):
    """A connection to one server, and its spans."""

    def search(
        self,
        filters: Mapping[str, Any],
        *,
        from_ts: str | None = None,
        to_ts: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield every span that matches, the earliest start first, read a page at a time.

        Args:
            filters: The body of a search.
            from_ts, to_ts: Earliest and latest start, ISO-8601; None means any.

        Raises:
            ReaderError: The server is not there, refuses, or answers something else.
        """
        for line in self.search_lines(filters, from_ts=from_ts, to_ts=to_ts):
            span = json.loads(line, parse_constant=lambda _: None)
            yield span

    def search_lines(
        self,
        filters: Mapping[str, Any],
        *,
        from_ts: str | None = None,
        to_ts: str | None = None,
    ) -> Iterator[bytes]:
        """As `search`, but yield the JSON text of each span as the server sent it."""
        query = {"sort_order": "asc"}
        query |= {} if from_ts is None else {"from_ts": from_ts}
        query |= {} if to_ts is None else {"to_ts": to_ts}
        first_of_last_page: tuple[object, object] | None = None
        while True:
            page = self._page(filters, query)
            items = page.items
            if items:
                first, last = _key(items[0]), _key(items[-1])
                if first == first_of_last_page:
                    raise ReaderError(f"{self.shown_url} sends the same page again and again")
                first_of_last_page = first
                yield from map(bytes, items)
            if not items or page.has_more is False:
                break
            query["starting_after"] = last[1]
        if page.search_status == "partial":
            raise ReaderError(f"{self.shown_url} searched only a part of its spans in its time")

    def newest(self, filters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return one page of spans that match, the latest start first; empty where none do.

        Raises:
            ReaderError: As `search`.
        """
        page = self._page(filters, {"sort_order": "desc"})
        return [json.loads(bytes(item), parse_constant=lambda _: None) for item in page.items]

    def _page(self, filters: Mapping[str, Any], query: Mapping[str, str]) -> _Page:
        """Return a page, as large as the server can send."""
        page_spans = PAGE_SPANS_MAX
        while True:
            params = {**query, "limit": str(page_spans), "sort_by": "start_timestamp"}
            answer = self.request(
                "POST", SEARCH_PATH, params=params, body=json.dumps(dict(filters)).encode()
            )
            if answer.status == 200:
                return self._to_page(answer.body)
            if not _is_too_large(answer):
                raise self.refusal(answer, SEARCH_PATH)
            if page_spans == 1:
                raise ReaderError(f"{self.shown_url} cannot send even one span: too large")
            page_spans = max(1, page_spans // 4)

    def _to_page(self, body: bytes) -> _Page:
        try:
            page = _decode_page(body)
            for item in page.items:
                _key(item)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            raise ReaderError(
                f"{self.shown_url} answers {SEARCH_PATH} with something else than spans"
            ) from None
        return page


class _Page(msgspec.Struct):
    items: list[msgspec.Raw]
    has_more: bool | None = None
    search_status: str | None = None


class _Key(msgspec.Struct):
    id: str
    trace_id: str | None = None


_decode_page = msgspec.json.Decoder(_Page).decode
_decode_key = msgspec.json.Decoder(_Key).decode


def _key(item: msgspec.Raw) -> tuple[str | None, str]:
    key = _decode_key(item)
    return key.trace_id, key.id


def _is_too_large(answer: Answer) -> bool:
    # The page would be over the server's budget: ask for fewer spans.
    return answer.status == 400 and b"SEARCH_RESULT_TOO_LARGE" in answer.body[:4096]
