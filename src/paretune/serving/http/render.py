"""The route that returns texts as HTML for the page: Markdown, tables, code and formulas."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from paretune.serving.api_errors import ApiError
from paretune.serving.body import Body, Text
from paretune.serving.http.json_body import JsonRoute
from paretune.serving.service import Service

MOST_TEXTS = 256
SECONDS = 3.0
"""Time for the texts of a request; those that are not reached within it are returned as plain text."""


class RenderRequest(Body):
    """Texts as policies and people wrote them."""

    texts: Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]


class Rendered(BaseModel):
    """The HTML of each text, which may be put into a page as it is."""

    html: list[str]


def router(_: Service) -> APIRouter:
    """Return the route; one text is read at a time, so that the server's other threads stay free."""
    routes = APIRouter(prefix="/api", tags=["front"], route_class=JsonRoute)
    reader = ThreadPoolExecutor(1, "render")

    @routes.post("/render")
    async def render(body: RenderRequest) -> Rendered:
        """Return texts as HTML: Markdown with tables, coloured code, and formulas as MathML. HTML in a text is shown as text.

        Links lead to the web and to mail alone, and a picture is shown as a link to it. Of a text that is too long, or that takes
        too long, the plain text is returned.
        """
        try:
            found = await asyncio.get_running_loop().run_in_executor(reader, _render_all, body.texts)
        except ImportError as error:
            message = f"this server cannot render texts ({error}); install 'paretune[serve]' again"
            raise ApiError(501, message, "not_installed") from error
        return Rendered(html=found)

    return routes


def _render_all(texts: list[str]) -> list[str]:
    from paretune.serving.rendering import plain, render

    end = time.monotonic() + SECONDS
    return [render(text) if time.monotonic() < end else plain(text) for text in texts]
