"""Serve the board: its pages, and the files that they load."""

from __future__ import annotations

import mimetypes
from datetime import datetime, timezone
from http import HTTPStatus
from typing import Any, Callable, Mapping

from poundcake.config import Config
from poundcake.endpoint.app_service import Service
from poundcake.endpoint.board import templates
from poundcake.endpoint.board.now_page import read_now
from poundcake.endpoint.board.page_cache import PageCache
from poundcake.endpoint.http_messages import HTTPRequest, HTTPResponse
from poundcake.endpoint.problems import ProblemError
from poundcake.endpoint.query_parameters import refuse_parameters
from poundcake.endpoint.routes import BOARD_PATH, Route

_STATIC_PATH = f"{BOARD_PATH}/static/"

# The pages load only their own style sheet and script. Nothing in the text of an alert can run,
# load anything, or send anything.
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    # A browser keeps the page, but asks each time whether it has changed.
    "Cache-Control": "private, no-cache",
}

# Returns what a page shows.
Content = Callable[[], Mapping[str, Any]]


class BoardRoutes:
    """The routes of the board."""

    def __init__(self, config: Config, service: Service) -> None:
        self._config = config
        self._service = service
        self._cache = PageCache()

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("GET", "/", self._redirect),
            Route("GET", BOARD_PATH, self._now),
            Route("GET", f"{_STATIC_PATH}{{name}}", self._static),
        ]

    def _redirect(self, request: HTTPRequest, _: str) -> HTTPResponse:
        return HTTPResponse(HTTPStatus.FOUND, b"", {"Location": BOARD_PATH})

    def _now(self, request: HTTPRequest, _: str) -> HTTPResponse:
        refuse_parameters(request.query)
        return self._page(request, "now.html", lambda: read_now(self._config, self._service))

    def _static(self, request: HTTPRequest, name: str) -> HTTPResponse:
        content = templates.static_file(name)
        if content is None:
            raise ProblemError(HTTPStatus.NOT_FOUND, "the board has no such file")
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        headers = {"Content-Type": media_type, "Cache-Control": "private, max-age=31536000"}
        return HTTPResponse(HTTPStatus.OK, content, headers)

    def _page(self, request: HTTPRequest, template: str, content: Content) -> HTTPResponse:
        """Return a page, or 304 if the client has it already."""
        page = self._cache.get(
            f"{request.path}?{request.query}",
            lambda: templates.render(template, datetime.now(timezone.utc), content()),
        )
        headers = {**_PAGE_HEADERS, "ETag": page.entity_tag}
        known_tags = request.headers.get("if-none-match", "").split(",")
        if page.entity_tag in (tag.strip() for tag in known_tags):
            return HTTPResponse(HTTPStatus.NOT_MODIFIED, b"", headers)
        return HTTPResponse(HTTPStatus.OK, page.body, headers)
