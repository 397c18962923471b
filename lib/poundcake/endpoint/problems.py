"""Problem documents (RFC 9457), which tell a client why its request was refused."""

from __future__ import annotations

from http import HTTPStatus
from typing import Mapping

from poundcake.endpoint.http_messages import HTTPResponse


class ProblemError(Exception):
    """A request that is refused.

    Alertmanager retries a notification only after a 5xx. After a 4xx, it sends what still fires
    again at the next group_interval.

    Args:
        status: 4xx if a retry cannot succeed, 503 for a temporary failure of the endpoint.
        detail: What is wrong and what to do instead.
        headers: Additional headers of the response.
        field: The field or parameter that is wrong, or '' if there is none.
        reason: What is wrong, for the log and the health view; the detail by default.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        headers: Mapping[str, str] | None = None,
        field: str = "",
        reason: str = "",
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.field = field
        self.reason = reason or detail

    def __reduce__(
        self,
    ) -> tuple[type[ProblemError], tuple[HTTPStatus, str, dict[str, str], str, str]]:
        """Return how to copy the error to another process."""
        return type(self), (self.status, self.detail, self.headers, self.field, self.reason)

    def response(self, request_id: str) -> HTTPResponse:
        """Return the response to the request that has this id in the log."""
        document = {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": self.status.value,
            "detail": self.detail,
            "request_id": request_id,
        }
        if self.field:
            document["field"] = self.field
        headers = {
            "Content-Type": "application/problem+json",
            "X-Request-ID": request_id,
            **self.headers,
        }
        return HTTPResponse.json(self.status, document, headers)
