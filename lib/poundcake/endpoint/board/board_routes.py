"""Serve the board: its pages, and the files that they load."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from http import HTTPStatus
from typing import Any, Callable, Mapping

from poundcake.config import Config
from poundcake.endpoint import native
from poundcake.endpoint.app_service import Service
from poundcake.endpoint.board import automation_page, templates
from poundcake.endpoint.board.now_page import read_now
from poundcake.endpoint.board.page_cache import BusyError, Page, PageCache
from poundcake.endpoint.board.page_headers import PAGE_HEADERS
from poundcake.endpoint.http_messages import HTTPRequest, HTTPResponse
from poundcake.endpoint.problems import ProblemError
from poundcake.endpoint.query_parameters import parse_text, refuse_parameters
from poundcake.endpoint.routes import BOARD_PATH, Route
from poundcake.trail.remediation_history import HistoryReader

_STATIC_PATH = f"{BOARD_PATH}/static/"
_MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

# Returns what a page shows.
Content = Callable[[], Mapping[str, Any]]


class BoardRoutes:
    """The routes of the board."""

    def __init__(self, config: Config, service: Service) -> None:
        self._config = config
        self._service = service
        self._cache = PageCache()
        templates.load_templates()
        self._history_reader = HistoryReader()

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("GET", "/", self._redirect),
            Route("GET", BOARD_PATH, self._now),
            Route("GET", automation_page.AUTOMATION_PATH, self._automation),
            Route("GET", f"{_STATIC_PATH}{{name}}", self._static),
        ]

    def _redirect(self, request: HTTPRequest, _: str) -> HTTPResponse:
        return HTTPResponse(HTTPStatus.FOUND, b"", {"Location": BOARD_PATH})

    def _now(self, request: HTTPRequest, _: str) -> HTTPResponse:
        refuse_parameters(request.query)
        return self._page(request, "now.html", lambda: read_now(self._config, self._service))

    def _automation(self, request: HTTPRequest, _: str) -> HTTPResponse:
        parameters = parse_text(request.query, automation_page.FILTERS)
        if automation_page.has_empty_parameter(request.query):
            path = automation_page.path(parameters)
            return HTTPResponse(HTTPStatus.FOUND, b"", {"Location": path})
        return self._page(
            request,
            "automation.html",
            lambda: automation_page.read_automation(
                self._config, self._service, self._history_reader, parameters
            ),
        )

    def _static(self, request: HTTPRequest, name: str) -> HTTPResponse:
        content = templates.static_file(name)
        if content is None:
            raise ProblemError(HTTPStatus.NOT_FOUND, "the board has no such file")
        headers = {
            "Content-Type": _MEDIA_TYPES[name.rpartition(".")[2]],
            # Its URL on the pages changes with its content.
            "Cache-Control": "private, max-age=31536000",
        }
        return HTTPResponse(HTTPStatus.OK, content, headers)

    def _page(self, request: HTTPRequest, template: str, content: Content) -> HTTPResponse:
        """Return a page, or 304 if the client has it already."""
        # A digest, because a client may send long queries, and the cache keeps the key.
        key = hashlib.sha256(f"{request.path}?{request.query}".encode()).digest()
        try:
            page = self._cache.get(key, lambda: self._render(template, content))
        except BusyError as error:
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None
        headers = {**PAGE_HEADERS, "ETag": page.entity_tag}
        known_tags = request.headers.get("if-none-match", "").split(",")
        if page.entity_tag in (tag.strip() for tag in known_tags):
            return HTTPResponse(HTTPStatus.NOT_MODIFIED, b"", headers)
        return HTTPResponse(HTTPStatus.OK, page.body, headers)

    def _render(self, template: str, content: Content) -> Page:
        variables = content()
        now = datetime.now(timezone.utc)
        return native.run_in_native_thread(templates.render, template, now, variables)
