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
from types import TracebackType
from typing import Any, Self

import httpx2

from everyspan.errors import EverySpanError
from everyspan.model.text import visible
from everyspan.transport.client import LOOPBACK_HOSTS

DEFAULT_URL = "http://127.0.0.1:5003"
SEARCH_PATH = "/v5/spans/search"
PAGE_SPANS_MAX = 500
REPLY_BYTES_MAX = 256 << 20
TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5.0


class ReaderError(EverySpanError):
    """The server cannot be read; the text is one line for people."""


class SpanReader:
    """One connection pool to one server."""

    def __init__(self, url: str, *, api_key: str | None, account_id: str | None) -> None:
        """Connect to nothing yet.

        Args:
            url: Base URL of the server; a path prefix is kept.

        Raises:
            ReaderError: `url` is not an http or https URL.
        """
        try:
            base = httpx2.URL(url)
        except (httpx2.InvalidURL, ValueError):
            base = httpx2.URL("")
        if base.scheme not in ("http", "https") or not base.host:
            raise ReaderError(f"{visible(url)!r} is no URL of a server; {DEFAULT_URL} is one")
        self._loopback = base.host in LOOPBACK_HOSTS
        self._port = base.port
        # Shown in messages: without a password that the URL may hold.
        self.shown_url = visible(str(base.copy_with(username=None, password=None)).rstrip("/"))
        headers = {"x-api-key": api_key, "x-selected-account-id": account_id}
        self._account_id = account_id
        try:
            self._client = httpx2.Client(
                headers={name: value for name, value in headers.items() if value},
                timeout=httpx2.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                # A proxy of the environment cannot reach this machine's own loopback.
                trust_env=not self._loopback,
            )
        except (ValueError, UnicodeError):
            raise ReaderError("SGP_API_KEY and SGP_ACCOUNT_ID must be plain ASCII text") from None
        self._search_url = str(base).rstrip("/") + SEARCH_PATH

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.close()

    @property
    def whose(self) -> str:
        """The account and server that are read, for messages."""
        account = f"account {visible(self._account_id)} at " if self._account_id else ""
        return account + self.shown_url

    def search(
        self, filters: Mapping[str, Any], *, from_ts: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield every span that matches, the earliest start first, read a page at a time.

        Args:
            filters: The body of a search.
            from_ts: Earliest start, ISO-8601; None means any.

        Raises:
            ReaderError: The server is not there, refuses, or answers something else.
        """
        query = {"sort_order": "asc"} | ({} if from_ts is None else {"from_ts": from_ts})
        first_of_last_page: tuple[object, object] | None = None
        while True:
            page = self._page(filters, query)
            items: list[dict[str, Any]] = page["items"]
            if items:
                first = (items[0].get("trace_id"), items[0]["id"])
                if first == first_of_last_page:
                    raise ReaderError(f"{self.shown_url} sends the same page again and again")
                first_of_last_page = first
                yield from items
            if not items or page.get("has_more") is False:
                break
            query["starting_after"] = items[-1]["id"]
        if page.get("search_status") == "partial":
            raise ReaderError(f"{self.shown_url} searched only a part of its spans in its time")

    def newest(self, filters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return one page of spans that match, the latest start first; empty where none do.

        Raises:
            ReaderError: As `search`.
        """
        items: list[dict[str, Any]] = self._page(filters, {"sort_order": "desc"})["items"]
        return items

    def _page(self, filters: Mapping[str, Any], query: Mapping[str, str]) -> dict[str, Any]:
        """Return a page whose `items` are spans, as large as the server can send."""
        page_spans = PAGE_SPANS_MAX
        while True:
            params = {**query, "limit": str(page_spans), "sort_by": "start_timestamp"}
            try:
                page = self._post(params, filters)
            except _TooLargeError:
                if page_spans == 1:
                    raise ReaderError(
                        f"{self.shown_url} cannot send even one span: too large"
                    ) from None
                page_spans = max(1, page_spans // 4)
            else:
                self._check_items(page)
                return page

    def _post(self, params: Mapping[str, str], filters: Mapping[str, Any]) -> dict[str, Any]:
        try:
            with self._client.stream(
                "POST", self._search_url, params=params, json=dict(filters)
            ) as reply:
                body = self._body(reply)
        except httpx2.ConnectError as error:
            raise ReaderError(self._not_there(str(error))) from None
        except httpx2.TimeoutException:
            raise ReaderError(f"{self.shown_url} did not answer in time") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            reason = visible(str(error) or type(error).__name__)
            raise ReaderError(f"{self.shown_url} broke off: {reason}") from None
        if reply.status_code != 200:
            raise self._refusal(reply, body)
        try:
            page = json.loads(body, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            page = None
        if not isinstance(page, dict):
            raise self._no_spans()
        return page

    def _body(self, reply: httpx2.Response) -> bytes:
        body = bytearray()
        for piece in reply.iter_bytes():
            body += piece
            if len(body) > REPLY_BYTES_MAX:
                raise ReaderError(
                    f"{self.shown_url} sends more than {REPLY_BYTES_MAX >> 20} MiB in one page"
                )
        return bytes(body)

    def _check_items(self, page: dict[str, Any]) -> None:
        items = page.get("items")
        if not isinstance(items, list) or not all(
            isinstance(item, dict) and isinstance(item.get("id"), str) for item in items
        ):
            raise self._no_spans()

    def _no_spans(self) -> ReaderError:
        return ReaderError(f"{self.shown_url} answers {SEARCH_PATH} with something else than spans")

    def _not_there(self, reason: str) -> str:
        # The words of a resolver or a kernel, without Python's decoration.
        words = visible(reason.rpartition("] ")[2]).lower() or "no connection"
        if not self._loopback:
            return f"no server at {self.shown_url}: {words}"
        port = "" if self._port in (None, 5003) else f" --port {self._port}"
        return f"no server at {self.shown_url}: {words}; start one with: everyspan serve{port}"

    def _refusal(self, reply: httpx2.Response, body: bytes) -> Exception:
        status, words = reply.status_code, _words_of(body)
        if status == 400 and "SEARCH_RESULT_TOO_LARGE" in body[:4096].decode(errors="replace"):
            return _TooLargeError()
        said = f"{status}" + (f" {words}" if words else "")
        if status in (401, 403):
            return ReaderError(
                f"{self.shown_url} refuses the key or account ({said}); "
                "set SGP_API_KEY and SGP_ACCOUNT_ID"
            )
        if status in (404, 405, 501) or 300 <= status < 400:
            return ReaderError(
                f"{self.shown_url} is no server of the spans API: {said} for {SEARCH_PATH}"
            )
        return ReaderError(f"{self.shown_url} answered {said}")


class _TooLargeError(Exception):
    """The page would be over the server's budget: ask for fewer spans."""


def _words_of(body: bytes) -> str:
    """Return what an error reply says, on one line; empty where it says nothing readable."""
    try:
        problem = json.loads(body[: 64 << 10])
    except (ValueError, RecursionError):
        return ""
    if not isinstance(problem, dict):
        return ""
    for key in ("message", "detail", "error"):
        if problem.get(key):
            said = problem[key]
            return visible(said if isinstance(said, str) else json.dumps(said), chars_max=200)
    return ""
