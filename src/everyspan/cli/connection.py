"""Requests of commands to one server.

N1  Whatever the server does, the caller gets an answer or a `ReaderError` of one line.
N2  An answer is read up to REPLY_BYTES_MAX.
N3  What is said of the server shows neither key nor password.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx2

from everyspan.errors import EverySpanError
from everyspan.model.text import serve_command, visible
from everyspan.transport.client import LOOPBACK_HOSTS

DEFAULT_URL = "http://127.0.0.1:5003"
SERVER_HEADER = "x-everyspan"
REPLY_BYTES_MAX = 256 << 20
TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5.0


class ReaderError(EverySpanError):
    """The server cannot be read; the text is one line for people."""


class NotThereError(ReaderError):
    """Nobody answers at the address, or not in time, or the answer broke off: it may come back."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body's value, None where it is no JSON."""
        try:
            return json.loads(self.body, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            return None


class Connection:
    """One connection pool to one server, as one account.

    Args:
        url: Base URL of the server; a path prefix is kept.

    Raises:
        ReaderError: `url` is not an http or https URL.
    """

    def __init__(self, url: str, *, api_key: str | None, account_id: str | None) -> None:
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
            raise ReaderError(
                "key and account must be plain ASCII: EVERYSPAN_API_KEY and EVERYSPAN_ACCOUNT, or"
                " SGP_API_KEY and SGP_ACCOUNT_ID"
            ) from None
        self._base = str(base).rstrip("/")
        self._is_everyspan: bool | None = None

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
        """The account and server, for messages."""
        account = f"account {visible(self._account_id)} at " if self._account_id else ""
        return account + self.shown_url

    @property
    def is_everyspan(self) -> bool:
        """Whether the server says that it is an everyspan server, which has more to read.

        Raises:
            ReaderError: It says nothing at all.
        """
        if self._is_everyspan is None:
            said = self.request("GET", "/healthz").headers.get(SERVER_HEADER, "")
            # A version: what only stands in for a server has no more than spans.
            self._is_everyspan = said[:1].isdigit()
        return self._is_everyspan

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | list[str]] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return the answer to a request, whatever its status.

        Args:
            body: JSON, unless `headers` say otherwise.

        Raises:
            NotThereError: No answer came.
            ReaderError: It is over REPLY_BYTES_MAX.
        """
        content_type = {} if body is None else {"content-type": "application/json"}
        try:
            with self._client.stream(
                method,
                self._base + path,
                params=params,
                content=body,
                headers={**content_type, **(headers or {})},
            ) as reply:
                return Answer(reply.status_code, reply.headers, self._read(reply))
        except httpx2.HTTPError as error:
            raise self._failure(error) from None
        except httpx2.InvalidURL as error:
            raise ReaderError(f"{self.shown_url}: {visible(str(error))}") from None

    def lines(self, path: str, *, params: Mapping[str, str], silence_s_max: float) -> Iterator[str]:
        """Yield the lines of an answer as they come, until it ends.

        Args:
            silence_s_max: A server that says nothing for so long is gone.

        Raises:
            NotThereError: No answer came, or it broke off.
            ReaderError: The server refuses.
        """
        timeout = httpx2.Timeout(silence_s_max, connect=CONNECT_TIMEOUT_S)
        try:
            with self._client.stream(
                "GET", self._base + path, params=params, timeout=timeout
            ) as reply:
                if reply.status_code != 200:
                    answer = Answer(reply.status_code, reply.headers, self._read(reply))
                    raise self.refusal(answer, path)
                yield from reply.iter_lines()
        except httpx2.HTTPError as error:
            raise self._failure(error) from None

    def get_json(self, path: str, params: Mapping[str, str | list[str]] | None = None) -> Any:
        """Return what the server answers to a GET.

        Raises:
            ReaderError: No answer, a refusal, or no JSON object.
        """
        answer = self.request("GET", path, params=params)
        if answer.status != 200:
            raise self.refusal(answer, path)
        value = answer.json()
        if not isinstance(value, dict):
            raise ReaderError(f"{self.shown_url} answers {path} with something else than JSON")
        return value

    def refusal(self, answer: Answer, path: str) -> ReaderError:
        """Return what an answer of another status than 200 means, for people."""
        status, words = answer.status, words_of(answer.body)
        said = f"{status}" + (f" {words}" if words else "")
        if status in (401, 403):
            return ReaderError(
                f"{self.shown_url} refuses the key or account ({said}); "
                "set EVERYSPAN_API_KEY and EVERYSPAN_ACCOUNT, or SGP_API_KEY and SGP_ACCOUNT_ID"
            )
        if status in (404, 405, 501) or 300 <= status < 400:
            kind = (
                "everyspan server that knows this"
                if path[:5] == "/api/"
                else "server of the spans API"
            )
            return ReaderError(f"{self.shown_url} is no {kind}: {said} for {path}")
        if status in (429, 502, 503, 504):
            return NotThereError(f"{self.shown_url} answered {said}")
        return ReaderError(f"{self.shown_url} answered {said}")

    def _read(self, reply: httpx2.Response) -> bytes:
        body = bytearray()
        for piece in reply.iter_bytes():
            body += piece
            if len(body) > REPLY_BYTES_MAX:
                raise ReaderError(
                    f"{self.shown_url} sends more than {REPLY_BYTES_MAX >> 20} MiB in one page"
                )
        return bytes(body)

    def _failure(self, error: httpx2.HTTPError) -> NotThereError:
        if isinstance(error, httpx2.ConnectError):
            return NotThereError(self._not_there(str(error)))
        if isinstance(error, httpx2.TimeoutException):
            return NotThereError(f"{self.shown_url} did not answer in time")
        reason = visible(str(error) or type(error).__name__)
        return NotThereError(f"{self.shown_url} broke off: {reason}")

    def _not_there(self, reason: str) -> str:
        # The words of a resolver or a kernel, without Python's decoration.
        words = visible(reason.rpartition("] ")[2]).lower() or "no connection"
        if not self._loopback:
            return f"no server at {self.shown_url}: {words}"
        command = serve_command(self._port)
        return f"no server at {self.shown_url}: {words}; start one with: {command}"


def words_of(body: bytes) -> str:
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
