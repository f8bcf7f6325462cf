"""An answer in JSON, from a struct that is its schema too."""

from __future__ import annotations

import msgspec
from starlette.responses import Response


def json_reply(answer: object) -> Response:
    """Return a 200 with `answer`, which msgspec can encode."""
    return Response(msgspec.json.encode(answer), media_type="application/json")
