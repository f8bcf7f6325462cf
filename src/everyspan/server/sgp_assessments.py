"""Assessments over the SGP spans API (`sgp` §8): bodies, routes and replies."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from everyspan.errors import RequestError
from everyspan.server import json_text
from everyspan.server.account import account_of, caller_of
from everyspan.server.assessments import (
    ASSESSMENT_TYPES,
    Assessment,
    AssessmentType,
    Change,
    Content,
    Draft,
    author_of,
    check_content,
    redacted,
)
from everyspan.server.body import Bodies
from everyspan.server.checks import ID_MAX, TRACE_ID_MAX, Checks
from everyspan.server.json_body import Loc, decode_json
from everyspan.server.json_reply import json_reply
from everyspan.server.problem import Detail, InvalidRequestError
from everyspan.server.sgp_project import refuse_project
from everyspan.server.stores.base import Store
from everyspan.server.timestamps import format_timestamp

PATH = "/v5/span-assessments"
_BODY: Loc = ("body",)


class _ChangeIn(msgspec.Struct, kw_only=True):
    assessment_type: AssessmentType | None = None
    comment: str | None = None
    rating: int | None = None
    approval: Literal["approved", "rejected"] | None = None
    rubric: Raw = Raw()
    metadata: Raw = Raw()
    overwrite: Raw = Raw()


class _DraftIn(_ChangeIn, kw_only=True):
    assessment_type: AssessmentType
    trace_id: str
    span_id: str | None = None


class _AssessmentOut(msgspec.Struct, tag_field="object", tag="span.assessment"):
    assessment_id: str
    assessment_type: str
    span_id: str
    trace_id: str
    account_id: str
    created_by: str
    created_at: str
    updated_at: str
    comment: str | UnsetType = UNSET
    rating: int | UnsetType = UNSET
    approval: str | UnsetType = UNSET
    rubric: Raw | UnsetType = UNSET
    metadata: Raw | UnsetType = UNSET
    overwrite: Raw | UnsetType = UNSET


class _ListOut(msgspec.Struct, tag_field="object", tag="list"):
    items: list[_AssessmentOut]


class _DeletedOut(msgspec.Struct, tag_field="object", tag="span.assessment"):
    id: str
    deleted: bool = True


_decode_draft = msgspec.json.Decoder(_DraftIn).decode
_decode_change = msgspec.json.Decoder(_ChangeIn).decode
_decode_rubric = msgspec.json.Decoder(dict[str, str]).decode


def assessment_routes(store: Store, bodies: Bodies) -> list[BaseRoute]:
    """Return the routes under `/v5/span-assessments`."""
    assessments = _Assessments(store, bodies)
    one = f"{PATH}/{{assessment_id:path}}"
    return [
        Route(PATH, assessments.create, methods=["POST"]),
        Route(PATH, assessments.list, methods=["GET"]),
        Route(one, assessments.retrieve, methods=["GET"]),
        Route(one, assessments.update, methods=["PATCH"]),
        Route(one, assessments.delete, methods=["DELETE"]),
    ]


class _Assessments:
    def __init__(self, store: Store, bodies: Bodies) -> None:
        self._store = store
        self._bodies = bodies

    async def create(self, request: Request) -> Response:
        """POST /v5/span-assessments: say something of a span."""
        async with self._bodies.read(request) as body:
            draft = decode_draft(body)
        made = await self._store.add_assessment(
            account_of(request), draft, author_of(caller_of(request))
        )
        return json_reply(_to_out(made))

    async def retrieve(self, request: Request) -> Response:
        """GET /v5/span-assessments/{id}."""
        refuse_project(request)
        id_ = request.path_params["assessment_id"]
        return _one_or_404(await self._store.assessment(account_of(request), id_))

    async def update(self, request: Request) -> Response:
        """PATCH /v5/span-assessments/{id}: change the fields given."""
        async with self._bodies.read(request) as body:
            change = decode_change(body)
        id_, author = request.path_params["assessment_id"], author_of(caller_of(request))
        return _one_or_404(
            await self._store.change_assessment(account_of(request), id_, change, author)
        )

    async def delete(self, request: Request) -> Response:
        """DELETE /v5/span-assessments/{id}: for good."""
        id_, author = request.path_params["assessment_id"], author_of(caller_of(request))
        if not await self._store.delete_assessment(account_of(request), id_, author):
            raise _not_found()
        return json_reply(_DeletedOut(id_))

    async def list(self, request: Request) -> Response:
        """GET /v5/span-assessments: those of a span, or of all spans of a trace."""
        refuse_project(request)
        params = request.query_params
        span_id, trace_id = params.get("span_id") or None, params.get("trace_id") or None
        if (span_id is None) == (trace_id is None):
            detail = Detail(
                ("query", "span_id"), "give span_id or trace_id, one of them", "missing"
            )
            raise InvalidRequestError(400, [detail])
        kind = params.get("assessment_type") or None
        if kind is not None and kind not in ASSESSMENT_TYPES:
            message = f"not one of {', '.join(ASSESSMENT_TYPES)}"
            raise InvalidRequestError(422, [Detail(("query", "assessment_type"), message, "enum")])
        found = await self._store.assessments(
            account_of(request), span_id=span_id, trace_id=trace_id, kind=kind
        )
        return json_reply(_ListOut([_to_out(each) for each in found]))


def decode_draft(body: bytes) -> Draft:
    """Return a new assessment, without credentials.

    Raises:
        InvalidRequestError: 422 or 400.
    """
    body, marker = json_text.mark_unsafe(body)
    item = decode_json(_decode_draft, body)
    check = Checks(marker, has_long_number=json_text.has_long_number(body))
    draft = Draft(
        type=item.assessment_type,
        trace_id=check.identity(item.trace_id, _BODY, "trace_id", TRACE_ID_MAX) or "",
        span_id=check.identity(item.span_id or None, _BODY, "span_id", ID_MAX),
        content=_content(item, check),
    )
    check.finish()
    check_content(draft.type, draft.content)
    return draft


def decode_change(body: bytes) -> Change:
    """Return changes to an assessment, without credentials.

    Raises:
        InvalidRequestError: 422 or 400.
    """
    body, marker = json_text.mark_unsafe(body)
    item = decode_json(_decode_change, body)
    check = Checks(marker, has_long_number=json_text.has_long_number(body))
    change = Change(type=item.assessment_type, content=_content(item, check))
    check.finish()
    return change


def _content(item: _ChangeIn, check: Checks) -> Content:
    rubric = check.payload(item.rubric, _BODY, "rubric")
    if rubric is not None:
        try:
            _decode_rubric(rubric)
        except msgspec.ValidationError:
            check.say(_BODY, "rubric", "rubric is not an object of texts", "type")
    return redacted(
        Content(
            comment=check.optional(item.comment),
            rating=item.rating,
            approval=item.approval,
            rubric=rubric,
            metadata=check.payload(item.metadata, _BODY, "metadata"),
            overwrite=check.payload(item.overwrite, _BODY, "overwrite"),
        )
    )


def _to_out(assessment: Assessment) -> _AssessmentOut:
    return _AssessmentOut(
        assessment_id=assessment.id,
        assessment_type=assessment.type,
        span_id=assessment.span_id,
        trace_id=assessment.trace_id,
        account_id=assessment.account,
        created_by=assessment.created_by,
        created_at=format_timestamp(assessment.created_ns),
        updated_at=format_timestamp(assessment.updated_ns),
        **assessment.content.members(),
    )


def _one_or_404(assessment: Assessment | None) -> Response:
    if assessment is None:
        raise _not_found()
    return json_reply(_to_out(assessment))


def _not_found() -> RequestError:
    return RequestError(404, "ASSESSMENT_NOT_FOUND", "no assessment has this id")
