"""Serve the views of the trail: the status of one request, the lists, and the statistics."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Callable, Mapping, Sequence

from poundcake.config import Config
from poundcake.endpoint.app_service import Service
from poundcake.endpoint.http_messages import HTTPRequest, HTTPResponse
from poundcake.endpoint.problems import ProblemError
from poundcake.endpoint.query_parameters import (
    PageQuery,
    parse_page,
    parse_text,
    refuse_parameters,
)
from poundcake.endpoint.routes import Route
from poundcake.trail import queries, search, stats
from poundcake.trail.search import Filters

# A page that would exceed this has fewer rows, and its `next` continues after them.
MAX_PAGE_BYTES = 2 << 20
_FILTERS = (
    "since",
    "until",
    "severity",
    "alert_name",
    "instance",
    "status",
    "outcome",
    "fingerprint",
    "labels",
    "annotations",
    "before",
)
_INCIDENT_FILTERS = tuple(name for name in _FILTERS if name != "status")
# An execution's own status is a separate parameter, and executions have no outcome.
_EXECUTION_FILTERS = tuple(name for name in _INCIDENT_FILTERS if name != "outcome")
_WHY_FILTERS = (*_FILTERS, "episode", "request_id")
_STATS_FILTERS = tuple(name for name in _EXECUTION_FILTERS if name != "before")
# The outcome of an alert is decided when it is recorded, and the search has only one page.
_WAITING_FILTERS = (
    *(name for name in _FILTERS if name not in ("outcome", "before")),
    "request_id",
)


class TrailRoutes:
    """The routes that read the tracking database or the journal."""

    def __init__(self, config: Config, service: Service) -> None:
        self._config = config
        self._service = service

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("GET", "/api/v1/status/{request_id}", self._status),
            Route("GET", "/api/v1/requests/waiting", self._waiting_requests),
            Route("GET", "/api/v1/executions/recent", self._recent_requests),
            Route("GET", "/api/v1/alerts/active", self._active_alerts),
            Route("GET", "/api/v1/st2/executions", self._executions),
            Route("GET", "/api/v1/why", self._why),
            Route("GET", "/api/v1/stats", self._stats),
        ]

    def _status(self, request: HTTPRequest, request_id: str) -> HTTPResponse:
        refuse_parameters(request.query)
        trail = self._service.status(request_id.lower())
        if trail is None:
            raise ProblemError(HTTPStatus.NOT_FOUND, "no request with this request_id is known")
        return HTTPResponse.json(HTTPStatus.OK, trail)

    def _waiting_requests(self, request: HTTPRequest, _: str) -> HTTPResponse:
        page = parse_page(request.query, _WAITING_FILTERS, 20)
        filters = _parse_filters(page.text_values, _WAITING_FILTERS)
        document = self._service.waiting_requests(filters, page.limit, page.offset)
        return HTTPResponse.json(HTTPStatus.OK, document)

    def _recent_requests(self, request: HTTPRequest, _: str) -> HTTPResponse:
        page = parse_page(request.query, _FILTERS, 20)
        return self._page(queries.executions_recent, page, _FILTERS)

    def _active_alerts(self, request: HTTPRequest, _: str) -> HTTPResponse:
        page = parse_page(request.query, _INCIDENT_FILTERS, 100)
        return self._page(queries.read_incidents, page, _INCIDENT_FILTERS, config=self._config)

    def _executions(self, request: HTTPRequest, _: str) -> HTTPResponse:
        page = parse_page(request.query, ("status", *_EXECUTION_FILTERS), 20)
        return self._page(
            queries.st2_executions,
            page,
            _EXECUTION_FILTERS,
            status=page.text_values["status"],
            web_url=self._config.st2_web_url,
        )

    def _why(self, request: HTTPRequest, _: str) -> HTTPResponse:
        page = parse_page(request.query, _WHY_FILTERS, queries.DEFAULT_LIMIT)
        search.require_identifying_filter(_parse_filters(page.text_values, _WHY_FILTERS))
        return self._page(
            queries.read_episodes,
            page,
            _WHY_FILTERS,
            web_url=self._config.st2_web_url,
            config=self._config,
        )

    def _stats(self, request: HTTPRequest, _: str) -> HTTPResponse:
        text_values = parse_text(request.query, _STATS_FILTERS)
        document = self._service.read(
            stats.stats,
            filters=_parse_filters(text_values, _STATS_FILTERS),
            not_cleared_minutes=self._config.not_cleared_minutes,
        )
        return HTTPResponse.json(HTTPStatus.OK, document)

    def _page(
        self,
        view: Callable[..., Any],
        page: PageQuery,
        filter_names: tuple[str, ...],
        **view_arguments: Any,
    ) -> HTTPResponse:
        """Return a page of a list, with at most MAX_PAGE_BYTES unless it is a single row."""
        filters = _parse_filters(page.text_values, filter_names)
        limit = page.limit
        while True:
            document = self._service.read(
                view, filters=filters, limit=limit, offset=page.offset, **view_arguments
            )
            response = HTTPResponse.json(HTTPStatus.OK, document)
            size = len(response.body)
            if size <= MAX_PAGE_BYTES or limit == 1:
                return response
            limit = max(1, min(limit // 2, limit * MAX_PAGE_BYTES // size))


def _parse_filters(text_values: Mapping[str, str], names: Sequence[str]) -> Filters:
    return search.parse(None, **{name: text_values[name] for name in names})
