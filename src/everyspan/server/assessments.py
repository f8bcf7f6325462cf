"""What people say of a span: a comment, a rating, a correction (`sgp` §8).

A1  An assessment has the one content field that its type names; a comment may go with any.
A2  It belongs to a span, wherever that is moved, and goes when the span goes.
A3  A span has at most one overwrite, whoever's.
A4  Who made it may change and delete it, and whoever may do everything.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

from everyspan.errors import RequestError
from everyspan.model.credentials import redact_json, redact_text
from everyspan.server.account import LOCAL_ACCOUNT, Caller
from everyspan.server.keys import EVERY_ACCOUNT
from everyspan.server.problem import Detail, InvalidRequestError

AssessmentType = Literal["comment", "rating", "approval", "rubric", "metadata", "overwrite"]
ASSESSMENT_TYPES: tuple[AssessmentType, ...] = get_args(AssessmentType)
OF_ONE_SPAN_MAX = 1_000
"""Assessments of one span; chosen."""
LISTED_MAX = 10_000
"""Assessments in one list, which the API does not page; chosen."""
RATING_MAX = 5


class Content(msgspec.Struct, frozen=True):
    """What an assessment says, None for what it does not. Bytes are an object as JSON text."""

    comment: str | None = None
    rating: int | None = None
    approval: str | None = None
    rubric: bytes | None = None
    metadata: bytes | None = None
    overwrite: bytes | None = None

    def members(self) -> dict[str, Any]:
        """Return what it says, by field, fit to be encoded as JSON."""
        return {
            field: msgspec.Raw(value) if isinstance(value, bytes) else value
            for field, value in msgspec.structs.asdict(self).items()
            if value is not None
        }


class Assessment(msgspec.Struct, kw_only=True, frozen=True):
    """One assessment, as it is stored."""

    id: str
    account: str
    type: AssessmentType
    trace_id: str
    span_id: str
    content: Content
    created_by: str
    created_ns: int
    updated_ns: int


class Draft(msgspec.Struct, kw_only=True, frozen=True):
    """A new assessment; without a span it is about the root of the trace."""

    type: AssessmentType
    trace_id: str
    span_id: str | None
    content: Content


class Change(msgspec.Struct, kw_only=True, frozen=True):
    """What to change in an assessment; None leaves a field alone."""

    type: AssessmentType | None
    content: Content


class Author(msgspec.Struct, frozen=True):
    """Who makes, changes or deletes an assessment."""

    id: str
    may_all: bool


def author_of(caller: Caller) -> Author:
    """Return a caller as an author. Where no key is asked for, everybody is the same one."""
    key = caller.key
    if key is None:
        return Author(LOCAL_ACCOUNT, may_all=True)
    # A browser's session speaks for the key that it was made with.
    return Author(key.parent or key.id, may_all=EVERY_ACCOUNT in key.accounts)


def check_author(assessment: Assessment, author: Author) -> None:
    """Return if the author may touch the assessment (A4).

    Raises:
        RequestError: 403.
    """
    if not author.may_all and assessment.created_by != author.id:
        raise RequestError(403, "NOT_YOURS", "another key made this assessment")


def check_content(kind: AssessmentType, content: Content) -> None:
    """Return if the content is that of an assessment of this type (A1).

    Raises:
        InvalidRequestError: 422, naming the fields.
    """
    errors: list[Detail] = []
    for field in ASSESSMENT_TYPES:
        value = getattr(content, field)
        if field == kind and value is None:
            errors.append(Detail(("body", field), f"a {kind} needs {field}", "missing"))
        elif value is not None and field not in (kind, "comment"):
            errors.append(Detail(("body", field), f"a {kind} has no {field}", "exclusive"))
    if content.rating is not None and not 1 <= content.rating <= RATING_MAX:
        errors.append(Detail(("body", "rating"), f"rating is not 1 to {RATING_MAX}", "range"))
    if errors:
        raise InvalidRequestError(422, errors)


def changed(assessment: Assessment, change: Change, now_ns: int) -> Assessment:
    """Return the assessment with the fields given.

    Raises:
        InvalidRequestError: 422; together they break the rule of the type.
    """
    fields: dict[str, Any] = {
        field: value
        for field, value in msgspec.structs.asdict(change.content).items()
        if value is not None
    }
    content = msgspec.structs.replace(assessment.content, **fields)
    kind = change.type or assessment.type
    check_content(kind, content)
    return msgspec.structs.replace(assessment, type=kind, content=content, updated_ns=now_ns)


def redacted(content: Content) -> Content:
    """Return the content without credentials, as spans are stored (`sgp` §6)."""

    def text(value: bytes | None) -> bytes | None:
        return None if value is None else redact_json(value)

    return Content(
        comment=None if content.comment is None else redact_text(content.comment),
        rating=content.rating,
        approval=content.approval,
        rubric=text(content.rubric),
        metadata=text(content.metadata),
        overwrite=text(content.overwrite),
    )


def overwrite_exists() -> RequestError:
    """Return the refusal of a second overwrite (A3)."""
    return RequestError(
        409, "OVERWRITE_EXISTS", "the span has an overwrite; change or delete that one"
    )
