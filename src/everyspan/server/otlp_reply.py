"""What the OTLP endpoint answers, in the request's encoding: Status and partial success.

Both messages have two fields, so they are written by hand, without the protobuf runtime: what is
refused before a body is read needs none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from everyspan.server.problem import Detail, ProblemReply

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
RETRY_AFTER_S_MAX = 2.0
"""An exporter gives a batch ten seconds in all (`otlp:H2`)."""

_GRPC_CODES = {
    400: 3,
    401: 16,
    403: 7,
    404: 5,
    405: 12,
    408: 4,
    413: 8,
    415: 3,
    500: 13,
    503: 14,
}
_UNKNOWN = 2


class _Status(msgspec.Struct):
    code: int
    message: str


class _Partial(msgspec.Struct, rename="camel"):
    rejected_spans: str
    error_message: str


class _Response(msgspec.Struct, rename="camel"):
    partial_success: _Partial | msgspec.UnsetType = msgspec.UNSET


def media_type(request: Request) -> str:
    """Return the media type of a request's body, in lower case, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def success(request: Request, *, refused: int, reason: str) -> Response:
    """Return the reply to a request whose spans are stored, but for those refused (`otlp:H5`)."""
    if media_type(request) != PROTOBUF:
        reply = _Response()
        if refused:
            # A 64-bit integer is text in JSON.
            reply.partial_success = _Partial(rejected_spans=str(refused), error_message=reason)
        return Response(msgspec.json.encode(reply), media_type=JSON)
    body = b""
    if refused:
        partial = b"\x08" + _varint(refused) + _text_field(2, reason)
        body = b"\x0a" + _varint(len(partial)) + partial
    return Response(body, media_type=PROTOBUF)


def otlp_problem(request: Request) -> ProblemReply:
    """Return how an error is worded for this request; in JSON if its type is unknown."""
    is_protobuf = media_type(request) == PROTOBUF

    def reply(
        status: int,
        code: str,
        message: str,
        *,
        details: Sequence[Detail] = (),
        headers: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> Response:
        del code, details  # A Status has neither.
        if request_id is not None and status == 500:
            message = f"{message} (request {request_id})"
        more = dict(headers or {})
        if "retry-after" in more:
            after_s = min(max(float(more["retry-after"]), 1.0), RETRY_AFTER_S_MAX)
            more["retry-after"] = f"{after_s:.0f}"
        grpc_code = _GRPC_CODES.get(status, _UNKNOWN)
        if is_protobuf:
            body = b"\x08" + _varint(grpc_code) + _text_field(2, message)
            return Response(body, status, more, media_type=PROTOBUF)
        body = msgspec.json.encode(_Status(grpc_code, message))
        return Response(body, status, more, media_type=JSON)

    return reply


def _text_field(number: int, text: str) -> bytes:
    encoded = text.encode()
    return bytes([number << 3 | 2]) + _varint(len(encoded)) + encoded


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
