"""Answer requests for the pages of the board. This runs in the process of `page_server`."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from http import HTTPStatus
from typing import Any, Callable, Mapping
from urllib.parse import unquote

from poundcake.config import Config
from poundcake.endpoint.board import automation_page, episodes_page, page_cache, templates
from poundcake.endpoint.board.board_service import BoardService
from poundcake.endpoint.board.episode_page import read_episode
from poundcake.endpoint.board.health_page import read_health
from poundcake.endpoint.board.now_page import parse_cursor, read_now
from poundcake.endpoint.board.page_cache import BusyError, Page, PageCache
from poundcake.endpoint.board.page_headers import PAGE_HEADERS
from poundcake.endpoint.board.paths import (
    AUTOMATION_PATH,
    EPISODE_TEMPLATE,
    EPISODES_PATH,
    HEALTH_PATH,
    REQUEST_TEMPLATE,
    with_parameters,
)
from poundcake.endpoint.board.request_page import read_request
from poundcake.endpoint.board.search_form import has_empty_parameter
from poundcake.endpoint.board.status_line import StatusLine
from poundcake.endpoint.http_messages import HTTPRequest, HTTPResponse
from poundcake.endpoint.problems import ProblemError
from poundcake.endpoint.query_parameters import parse_text, refuse_parameters
from poundcake.endpoint.routes import BOARD_PATH, Route
from poundcake.trail.remediation_history import HistoryReader
from poundcake.trail.search import FilterError

# Returns what a page shows.
Content = Callable[[], Mapping[str, Any]]


class BoardRoutes:
    """The routes of the pages.

    Args:
        config: The configuration.
        service: What the pages use of the endpoint.
    """

    def __init__(self, config: Config, service: BoardService) -> None:
        self._config = config
        self._service = service
        self._status_line = StatusLine(config, service)
        self._cache = PageCache(page_cache.KEEP_SECONDS, page_cache.WAIT_SECONDS)
        templates.load_templates()
        self._history_reader = HistoryReader()

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("GET", BOARD_PATH, self._now),
            Route("GET", EPISODES_PATH, self._episodes),
            Route("GET", EPISODE_TEMPLATE, self._episode),
            Route("GET", REQUEST_TEMPLATE, self._request),
            Route("GET", AUTOMATION_PATH, self._automation),
            Route("GET", HEALTH_PATH, self._health),
        ]

    def _now(self, request: HTTPRequest, _: str) -> HTTPResponse:
        filters = parse_cursor(request.query)
        return self._page(
            request, "now.html", lambda: read_now(self._config, self._service, filters)
        )

    def _automation(self, request: HTTPRequest, _: str) -> HTTPResponse:
        parameters = parse_text(request.query, automation_page.FILTERS)

        def read() -> Mapping[str, Any]:
            return automation_page.read_automation(
                self._config, self._service, self._history_reader, parameters
            )

        form = automation_page.invalid_form
        return self._search_page(request, "automation.html", parameters, read, form)

    def _episodes(self, request: HTTPRequest, _: str) -> HTTPResponse:
        parameters = episodes_page.read_parameters(request.query)

        def read() -> Mapping[str, Any]:
            return episodes_page.read_episodes(self._config, self._service, parameters)

        form = episodes_page.invalid_form
        return self._search_page(request, "episodes.html", parameters, read, form)

    def _episode(self, request: HTTPRequest, episode: str) -> HTTPResponse:
        refuse_parameters(request.query)
        name = unquote(episode)
        return self._page_or_missing(
            request,
            "episode.html",
            lambda: read_episode(self._config, self._service, name),
            {"kind": "episode", "name": name},
        )

    def _request(self, request: HTTPRequest, request_id: str) -> HTTPResponse:
        refuse_parameters(request.query)
        name = unquote(request_id)
        return self._page_or_missing(
            request,
            "request.html",
            lambda: read_request(self._config, self._service, name),
            {"kind": "request", "name": name},
        )

    def _health(self, request: HTTPRequest, _: str) -> HTTPResponse:
        refuse_parameters(request.query)
        return self._page(
            request,
            "health.html",
            lambda: read_health(self._config, self._service),
        )

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
        variables = {"status_line": self._status_line.read(), **content()}
        now = datetime.now(timezone.utc)
        return templates.render(template, now, variables)

    def _search_page(
        self,
        request: HTTPRequest,
        template: str,
        parameters: Mapping[str, str],
        read: Content,
        invalid_form: Callable[[Mapping[str, str], FilterError], Mapping[str, Any]],
    ) -> HTTPResponse:
        """Return a page with a form, or one that shows what is wrong with a filter.

        Args:
            request: The request.
            template: The template of the page.
            parameters: The parameters of the request.
            read: Returns what the page shows, or raises FilterError.
            invalid_form: Returns what the page shows if a filter is invalid.
        """
        if has_empty_parameter(request.query):
            location = with_parameters(request.path, parameters)
            return HTTPResponse(HTTPStatus.FOUND, b"", {"Location": location})
        try:
            return self._page(request, template, read)
        except FilterError as error:
            form = invalid_form(parameters, error)
            return self._unkept_page(HTTPStatus.BAD_REQUEST, template, form)

    def _page_or_missing(
        self,
        request: HTTPRequest,
        template: str,
        read: Callable[[], Mapping[str, Any] | None],
        wanted: Mapping[str, str],
    ) -> HTTPResponse:
        """Return a page, or one that says that what was asked for is unknown."""

        def content() -> Mapping[str, Any]:
            found = read()
            if found is None:
                raise _UnknownError
            return found

        try:
            return self._page(request, template, content)
        except _UnknownError:
            return self._unkept_page(HTTPStatus.NOT_FOUND, "missing.html", wanted)

    def _unkept_page(
        self, status: HTTPStatus, template: str, content: Mapping[str, Any]
    ) -> HTTPResponse:
        """Return a page that is not cached, because few people ask for it again."""
        # The script does not load it again, because the answer would be the same.
        variables = {"status_line": self._status_line.read(), "is_final": True, **content}
        now = datetime.now(timezone.utc)
        page = templates.render(template, now, variables)
        return HTTPResponse(status, page.body, {**PAGE_HEADERS, "Cache-Control": "no-store"})


class _UnknownError(Exception):
    """What a page is about is not known."""
