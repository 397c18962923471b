"""The messages between the HTTP server and the application: requests, responses, refusals."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Mapping, Protocol


class ClientGoneError(OSError):
    """The client disconnected or was too slow while sending a body, so no response is sent."""


class RequestBody(Protocol):
    """The body of a request. It is not received until the application reads it."""

    @property
    def length(self) -> int | None:
        """Its length in bytes, or None if the request has no Content-Length."""

    def read(self) -> bytes:
        """Return the whole body. May be called only once.

        Raises:
            ClientGoneError: The body did not arrive.
        """


class NoBody:
    """The body of a request that has none."""

    length = 0

    def read(self) -> bytes:
        """Return nothing."""
        return b""


@dataclass(frozen=True)
class HTTPRequest:
    """A request whose header is complete and valid.

    Attributes:
        method: As the client wrote it; methods are case-sensitive.
        path: As the client wrote it, not percent-decoded. `*` for OPTIONS on the whole server,
            empty for CONNECT.
        query: The part after the `?`, not decoded.
        host: The authority that the client requested: from the target if that is a URL, otherwise
            from the Host field. Empty if an HTTP/1.0 client sent neither.
        headers: By lower-case name. The values of repeated fields are joined with a comma.
        client_host: The IP address of the client.
        certificate_name: The name of the client's certificate, if the client authenticated with
            one that the configured client CA signed; otherwise empty.
        body: The body, not received yet.
        credential: The name of the credential that permits the request. Empty until the request is
            authenticated, or if no credential is needed.
    """

    method: str
    path: str
    query: str
    host: str
    headers: Mapping[str, str]
    client_host: str
    certificate_name: str
    body: RequestBody
    credential: str = ""


@dataclass(frozen=True)
class HTTPResponse:
    """A response. The server adds Content-Length, Date and Connection."""

    status: HTTPStatus
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(
        cls, status: HTTPStatus, document: Any, headers: Mapping[str, str] | None = None
    ) -> HTTPResponse:
        """Return a response whose body is `document` as JSON."""
        body = json.dumps(document).encode() + b"\n"
        return cls(status, body, {"Content-Type": "application/json", **(headers or {})})


class FramingError(Exception):
    """The bytes received are not a valid request. The connection is closed after the response.

    Attributes:
        status: The status of the response, always 4xx.
        detail: What is wrong. Never contains anything that the client sent.
        method: The first word of the request line, where the method belongs, or ''.
        target: The second word of the request line, where the target belongs, or ''.
    """

    def __init__(self, status: HTTPStatus, detail: str, head: bytes = b"") -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        self.method = words[0]
        self.target = words[1] if len(words) > 1 else ""


class Application(Protocol):
    """The interface of an application that the server can serve."""

    def __call__(self, request: HTTPRequest) -> HTTPResponse:
        """Answer a request.

        Raises:
            ClientGoneError: The body did not arrive.
        """

    def refuse(self, error: FramingError, client_host: str) -> HTTPResponse:
        """Return the response to bytes that are not a valid request."""
