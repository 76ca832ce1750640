"""The studio's files: the page in the browser, and the module by which it and the reports draw fronts."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

from paretune import reports
from paretune.serving.api_errors import ApiError
from paretune.serving.service import Service

FOLDERS = (Path(__file__).parent.parent / "studio", Path(reports.__file__).parent / "plot")


def router(_: Service) -> APIRouter:
    """Return the routes of the studio's files."""
    routes = APIRouter(include_in_schema=False)

    def answer(request: Request, name: str) -> Response:
        files = {file.name: file for folder in FOLDERS for file in folder.glob("*") if file.is_file()}
        if name not in files:
            raise ApiError(404, "the studio has no such file", "not_found")
        raw, packed, kind, tag = _content(files[name], files[name].stat().st_mtime_ns)
        headers = {"etag": tag, "cache-control": "no-cache", "vary": "accept-encoding"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(packed, media_type=kind, headers={**headers, "content-encoding": "gzip"})
        return Response(raw, media_type=kind, headers=headers)

    @routes.get("/")
    def index(request: Request) -> Response:
        return answer(request, "index.html")

    @routes.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    @routes.get("/studio/{name}")
    def file(request: Request, name: str) -> Response:
        return answer(request, name)

    return routes


@lru_cache(maxsize=64)
def _content(file: Path, modified: int) -> tuple[bytes, bytes, str, str]:
    """Return bytes, compressed bytes, media type and tag of a file; ``modified`` is its time in ns, which renews them."""
    raw = file.read_bytes()
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return raw, gzip.compress(raw, 6), kind, f'"{hashlib.sha256(raw).hexdigest()[:20]}"'
