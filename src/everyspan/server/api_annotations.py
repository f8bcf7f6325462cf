"""What people say of spans on the page: thumbs, ratings, notes.

They are assessments of the SGP spans API, in the page's words: whatever one of the two stores, the
other shows, and the same rules hold.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from everyspan.errors import RequestError
from everyspan.model.w3c import trace_hex
from everyspan.server import json_text
from everyspan.server.account import account_of, caller_of
from everyspan.server.api_operation import Operation, Param, Values
from everyspan.server.assessments import (
    RATING_MAX,
    Assessment,
    Content,
    Draft,
    author_of,
    check_content,
    redacted,
)
from everyspan.server.body import Bodies
from everyspan.server.checks import ID_MAX, TRACE_ID_MAX, Checks
from everyspan.server.json_body import decode_json
from everyspan.server.json_reply import json_reply
from everyspan.server.stores.base import Store
from everyspan.server.timestamps import format_timestamp

COMMENT_MAX = 20_000

Approval = Literal["approved", "rejected"]


class AnnotationDraft(msgspec.Struct, kw_only=True):
    """A new annotation; without a span it is about the root. A comment may go with any kind."""

    trace_id: Annotated[str, msgspec.Meta(min_length=1, max_length=TRACE_ID_MAX)]
    span_id: Annotated[str, msgspec.Meta(min_length=1, max_length=ID_MAX)] | None = None
    kind: Literal["approval", "comment", "rating"]
    approval: Approval | None = None
    comment: Annotated[str, msgspec.Meta(max_length=COMMENT_MAX)] | None = None
    rating: Annotated[int, msgspec.Meta(ge=1, le=RATING_MAX)] | None = None


class AnnotationItem(msgspec.Struct, kw_only=True, frozen=True):
    """What somebody said of a span. `kind` may be any of the SGP spans API."""

    id: str
    trace_id: str
    span_id: str
    kind: str
    approval: str | None
    comment: str | None
    rating: int | None
    by: str
    made: str
    changed: str


class AnnotationList(msgspec.Struct, frozen=True):
    """Annotations of a trace's spans, the oldest first."""

    items: list[AnnotationItem]


_decode_draft = msgspec.json.Decoder(AnnotationDraft).decode


def annotation_operations(store: Store, bodies: Bodies) -> list[Operation]:
    """Return the operations on annotations."""
    api = _Annotations(store, bodies)
    return [
        Operation(
            path="/api/traces/{trace_id}/annotations",
            handler=api.list_,
            summary="What was said of the spans of a trace, the oldest first",
            params=(
                Param(
                    name="trace_id", where="path", length_max=TRACE_ID_MAX, help="As for a trace."
                ),
            ),
            answer=AnnotationList,
        ),
        Operation(
            path="/api/annotations",
            method="POST",
            handler=api.add,
            summary="Say something of a span",
            body=AnnotationDraft,
            answer=AnnotationItem,
            statuses=(409, 413, 415),
        ),
        Operation(
            path="/api/annotations/{id}",
            method="DELETE",
            handler=api.delete,
            summary="Delete an annotation for good",
            params=(Param(name="id", where="path", help="Which."),),
            answer=None,
        ),
    ]


class _Annotations:
    def __init__(self, store: Store, bodies: Bodies) -> None:
        self._store = store
        self._bodies = bodies

    async def list_(self, request: Request, values: Values) -> Response:
        account = account_of(request)
        key = bytes.fromhex(trace_hex(values["trace_id"]))
        trace = await self._store.get_trace(account, key)
        if trace is None:
            raise RequestError(404, "TRACE_NOT_FOUND", "no trace has this id")
        found = await self._store.assessments(account, trace_id=trace.summary.trace_id)
        return json_reply(AnnotationList([_item(one) for one in found]))

    async def add(self, request: Request, _values: Values) -> Response:
        async with self._bodies.read(request) as body:
            draft = _draft(body)
        made = await self._store.add_assessment(
            account_of(request), draft, author_of(caller_of(request))
        )
        return json_reply(_item(made))

    async def delete(self, request: Request, values: Values) -> Response:
        author = author_of(caller_of(request))
        if not await self._store.delete_assessment(account_of(request), values["id"], author):
            raise RequestError(404, "ANNOTATION_NOT_FOUND", "no annotation has this id")
        return Response(status_code=204)


def _draft(body: bytes) -> Draft:
    body, marker = json_text.mark_unsafe(body)
    item = decode_json(_decode_draft, body)
    check = Checks(marker, has_long_number=False)
    draft = Draft(
        type=item.kind,
        trace_id=check.identity(item.trace_id, ("body",), "trace_id", TRACE_ID_MAX) or "",
        span_id=check.identity(item.span_id, ("body",), "span_id", ID_MAX),
        content=redacted(
            Content(
                comment=check.optional(item.comment), rating=item.rating, approval=item.approval
            )
        ),
    )
    check.finish()
    check_content(draft.type, draft.content)
    return draft


def _item(assessment: Assessment) -> AnnotationItem:
    content = assessment.content
    return AnnotationItem(
        id=assessment.id,
        trace_id=assessment.trace_id,
        span_id=assessment.span_id,
        kind=assessment.type,
        approval=content.approval,
        comment=content.comment,
        rating=content.rating,
        by=assessment.created_by,
        made=format_timestamp(assessment.created_ns),
        changed=format_timestamp(assessment.updated_ns),
    )
