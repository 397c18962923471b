"""ProblemError documents (RFC 9457): how the endpoint says why it refuses a request."""

from __future__ import annotations

from http import HTTPStatus
from typing import Mapping

from poundcake.endpoint.http_messages import HTTPResponse


class ProblemError(Exception):
    """A request that is refused. Alertmanager retries 5xx alone and drops a notification on 4xx.

    Args:
        status: 4xx for what can never succeed, 503 for a state of our own that will pass.
        detail: What is wrong and what would be right.
        headers: More headers of the answer.
        field: The field or parameter that is wrong, if it is one.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        headers: Mapping[str, str] | None = None,
        field: str = "",
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.field = field

    def response(self, request_id: str) -> HTTPResponse:
        """Return the answer to the request that has this id in the log."""
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
