"""Find the handler for a method and path."""

from __future__ import annotations

from http import HTTPStatus
from typing import Callable, NamedTuple, Sequence

from poundcake.credentials import Scope
from poundcake.endpoint.http_messages import HTTPRequest, HTTPResponse
from poundcake.endpoint.problems import ProblemError

WEBHOOK_PATH = "/api/v1/webhook"
LIVE_PATH = "/api/v1/health/live"
BOARD_PATH = "/board"
_SERVER_METHODS = ("GET", "HEAD", "POST")

# Called with the request and the part of the path that matches the template's placeholder.
Handler = Callable[[HTTPRequest, str], HTTPResponse]


class Route(NamedTuple):
    """A method and a path template, with at most one placeholder, at its end."""

    method: str
    template: str
    handler: Handler

    def argument(self, path: str) -> str | None:
        """Return the part of the path that matches the placeholder, or '' without a placeholder.

        Return None if the path does not match the template.
        """
        prefix, placeholder, _ = self.template.partition("{")
        if not placeholder:
            return "" if path == self.template else None
        return path[len(prefix) :] or None if path.startswith(prefix) else None

    def accepts(self, method: str) -> bool:
        """Return True if the route answers this method. A GET route also answers HEAD."""
        return method == self.method or (method == "HEAD" and self.method == "GET")


def answer(routes: Sequence[Route], request: HTTPRequest) -> HTTPResponse:
    """Return the response of the route that matches a request.

    Raises:
        ProblemError: No route has this path, or no route with this path accepts this method.
    """
    if not request.path.startswith("/"):
        return _answer_without_path(request)
    matching_routes = [route for route in routes if route.argument(request.path) is not None]
    if not matching_routes and is_page_request(request):
        raise ProblemError(HTTPStatus.NOT_FOUND, "the board has no page at this address")
    if not matching_routes:
        known_routes = ", ".join(f"{route.method} {route.template}" for route in routes)
        raise ProblemError(
            HTTPStatus.NOT_FOUND,
            f"unknown path; known: {known_routes}",
            reason=f"unknown path; post webhooks to {WEBHOOK_PATH}",
        )
    for route in matching_routes:
        if route.accepts(request.method):
            return route.handler(request, route.argument(request.path) or "")
    raise _wrong_method(request.path, request.method, [route.method for route in matching_routes])


def needed_scope(path: str) -> Scope:
    """Return the scope that a credential needs for a path, whether or not a route has it."""
    return Scope.POST if path == WEBHOOK_PATH else Scope.READ


def is_board_path(path: str) -> bool:
    """Return True for the paths of the pages for people, whether or not a route has the path."""
    return path in ("/", BOARD_PATH) or path.startswith(f"{BOARD_PATH}/")


def is_page_request(request: HTTPRequest) -> bool:
    """Return True for a request for a page, which a browser sends and a person reads."""
    return request.method in ("GET", "HEAD") and is_board_path(request.path)


def matching_template(routes: Sequence[Route], path: str) -> str | None:
    """Return the template that a path matches, or None."""
    return next((r.template for r in routes if r.argument(path) is not None), None)


def _answer_without_path(request: HTTPRequest) -> HTTPResponse:
    """Answer `OPTIONS *`, and refuse CONNECT."""
    if request.method != "OPTIONS":
        raise _wrong_method("this endpoint", request.method, _SERVER_METHODS)
    return HTTPResponse.json(
        HTTPStatus.OK, {"methods": _SERVER_METHODS}, {"Allow": ", ".join(_SERVER_METHODS)}
    )


def _wrong_method(target: str, method: str, allowed: Sequence[str]) -> ProblemError:
    hint = f"; post webhooks to {WEBHOOK_PATH}" if method == "POST" else ""
    return ProblemError(
        HTTPStatus.METHOD_NOT_ALLOWED,
        f"{target} accepts {' and '.join(allowed)}, not {method[:20]}{hint}",
        {"Allow": ", ".join(allowed)},
    )
