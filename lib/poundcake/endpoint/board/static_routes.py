"""Serve the files that the pages load, and the redirect to the first page."""

from __future__ import annotations

from http import HTTPStatus

from poundcake.endpoint.board import templates
from poundcake.endpoint.board.paths import STATIC_PATH
from poundcake.endpoint.http_messages import HTTPRequest, HTTPResponse
from poundcake.endpoint.problems import ProblemError
from poundcake.endpoint.routes import BOARD_PATH, Route

_MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


def static_routes() -> list[Route]:
    """Return the routes."""
    return [Route("GET", "/", _redirect), Route("GET", f"{STATIC_PATH}{{name}}", _serve_file)]


def _redirect(request: HTTPRequest, _: str) -> HTTPResponse:
    return HTTPResponse(HTTPStatus.FOUND, b"", {"Location": BOARD_PATH})


def _serve_file(request: HTTPRequest, name: str) -> HTTPResponse:
    content = templates.static_file(name)
    if content is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, "the board has no such file")
    headers = {
        "Content-Type": _MEDIA_TYPES[name.rpartition(".")[2]],
        # Its URL on the pages changes with its content.
        "Cache-Control": "private, max-age=31536000",
    }
    return HTTPResponse(HTTPStatus.OK, content, headers)
