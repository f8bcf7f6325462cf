"""The web page: one document for all its addresses, and the files it loads.

G1  Files carry their content's hash in their name and may be kept for ever; the document may not.
G2  Each is held in memory in three forms, and sent in the smallest that the browser takes.
"""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

BUNDLE = Path(__file__).with_name("web")
_PATHS = ("/", "/overview", "/health", "/compare")
_FOLDERS = ("/traces/", "/conversations/")
_ASSETS = "/assets/"
_FORMS = (("br", ".br"), ("gzip", ".gz"))
_FOR_EVER = "public, max-age=31536000, immutable"
_NOT_BUILT = (
    "The web page is not built in this checkout: make web\n"
    "On the command line: everyspan traces list\n"
)


def page_routes(bundle: Path = BUNDLE) -> list[BaseRoute]:
    """Return the routes of the page; its addresses say so where it is not built."""
    files = _Files(bundle)
    return [
        *(Route(path, files.document, methods=["GET"]) for path in _PATHS),
        *(Route(f"{folder}{{rest:path}}", files.document, methods=["GET"]) for folder in _FOLDERS),
        Route(f"{_ASSETS}{{name}}", files.asset, methods=["GET"]),
    ]


def is_page(path: str) -> bool:
    """Whether a path is one of the page's, which tells nothing of anybody: data it asks for."""
    return path in _PATHS or path.startswith((*_FOLDERS, _ASSETS))


class _Files:
    def __init__(self, bundle: Path) -> None:
        assets = bundle / "assets"
        self._document = _File(bundle / "index.html") if bundle.is_dir() else None
        self._assets = {
            path.name: _File(path)
            for path in (assets.iterdir() if assets.is_dir() else ())
            if path.suffix in (".js", ".css")
        }

    async def document(self, request: Request) -> Response:
        """GET any page: the one document, which reads its address."""
        if self._document is None:
            return PlainTextResponse(_NOT_BUILT, 503)
        return self._document.reply(request, "no-cache")

    async def asset(self, request: Request) -> Response:
        """GET /assets/{name}: a file that the document names."""
        file = self._assets.get(request.path_params["name"])
        if file is None:
            raise HTTPException(404)
        return file.reply(request, _FOR_EVER)


class _File:
    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        self._forms = {"": content}
        for encoding, suffix in _FORMS:
            packed = path.with_name(path.name + suffix)
            if packed.exists():
                self._forms[encoding] = packed.read_bytes()
        self._type = mimetypes.guess_type(path.name)[0]
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    def reply(self, request: Request, cache: str) -> Response:
        headers = {"cache-control": cache, "etag": self._tag, "vary": "accept-encoding"}
        if request.headers.get("if-none-match") == self._tag:
            # With its type, by which it gets the policy of a page, which a browser takes anew.
            return Response(status_code=304, headers=headers, media_type=self._type)
        accepted = {
            encoding.partition(";")[0].strip()
            for encoding in request.headers.get("accept-encoding", "").split(",")
            if not encoding.replace(" ", "").endswith(";q=0")
        }
        form = next((name for name, _ in _FORMS if name in accepted and name in self._forms), "")
        if form:
            headers["content-encoding"] = form
        return Response(self._forms[form], headers=headers, media_type=self._type)
