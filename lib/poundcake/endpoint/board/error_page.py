"""Show an error on a page of its own, because a browser does not show problem documents well."""

from __future__ import annotations

from datetime import datetime, timezone
from http import HTTPStatus

from poundcake.endpoint.board import templates
from poundcake.endpoint.board.page_headers import PAGE_HEADERS
from poundcake.endpoint.http_messages import HTTPResponse
from poundcake.endpoint.problems import ProblemError

RETRY_SECONDS = 5
"""Seconds after which a browser may ask again for a page that cannot be shown now."""

_TITLES = {
    HTTPStatus.BAD_REQUEST: "This address has a parameter that cannot be used",
    HTTPStatus.UNAUTHORIZED: "Sign in to see this page",
    HTTPStatus.FORBIDDEN: "You may not see this page",
    HTTPStatus.NOT_FOUND: "Not found",
    HTTPStatus.SERVICE_UNAVAILABLE: "This page cannot be shown now",
}


def render_error(problem: ProblemError, request_id: str) -> HTTPResponse:
    """Return the page that tells a person why a request was refused.

    Args:
        problem: The problem.
        request_id: The id of the request in the log.
    """
    content = {
        "title": _TITLES.get(problem.status, problem.status.phrase),
        "status": problem.status.value,
        "detail": problem.detail,
        "field": problem.field,
        "request_id": request_id,
        # The script loads the page again only if that may help.
        "is_final": problem.status < HTTPStatus.INTERNAL_SERVER_ERROR,
        # Without credentials, the browser cannot load the files that pages have.
        "has_files": problem.status != HTTPStatus.UNAUTHORIZED,
    }
    page = templates.render("error.html", datetime.now(timezone.utc), content)
    headers = {**PAGE_HEADERS, "Cache-Control": "no-store", "X-Request-ID": request_id}
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_SECONDS)
    return HTTPResponse(problem.status, page.body, {**headers, **problem.headers})
