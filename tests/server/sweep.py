"""Every route of the server's application, whoever added it, for tests that hold for all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from starlette.routing import BaseRoute, Mount, Route

from everyspan.server.envelope import Envelope

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def every_request(app: Envelope) -> list[tuple[str, str]]:
    """Return method and path for each route and each method, those that it does not take too."""
    paths = sorted(set(_paths(app.routes, "")))
    # That the walk finds what is there: one of each kind.
    assert {"/healthz", "/v5/spans/batch", "/public/v5/spans/batch", "/spans/x"} <= set(paths)
    return [(method, path) for path in [*paths, "/", "/nowhere"] for method in METHODS]


def _paths(routes: Iterable[BaseRoute], prefix: str) -> Iterator[str]:
    for route in routes:
        if isinstance(route, Mount):
            yield from _paths(route.routes, prefix + route.path)
        else:
            assert isinstance(route, Route)
            yield prefix + re.sub(r"\{[^}]*\}", "x", route.path)
