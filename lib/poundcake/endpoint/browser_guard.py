"""Refuse requests that a web page makes through the browser of somebody on this machine.

Without credentials the endpoint listens on loopback alone, but a browser there is on loopback too.
A page can post to it (cross-site request forgery), and a page whose name its owner points at
127.0.0.1 can read the answers as well (DNS rebinding). The first shows in the Origin field, the
second in the Host field; a page can set neither.
"""

from __future__ import annotations

import re
from http import HTTPStatus

from poundcake.config import is_loopback
from poundcake.endpoint.http_messages import HTTPRequest
from poundcake.endpoint.problems import ProblemError

_HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<name>[^:]*))(?::[0-9]*)?\Z")


def check_not_from_another_site(request: HTTPRequest) -> None:
    """Raise ProblemError if a page of another site may be behind the request.

    For an endpoint without credentials only: elsewhere a page does not have them.
    """
    # HTTP/1.0 clients may send no Host. No browser does that.
    if request.host and not is_loopback(_host_name(request.host)):
        raise ProblemError(
            HTTPStatus.FORBIDDEN,
            "this endpoint has no credentials, so it answers only to loopback names: ask for "
            "http://127.0.0.1 or http://localhost, have a proxy in front send that as the Host "
            "field, or set credentials",
        )
    origin = request.headers.get("origin")
    if origin is not None and not _is_own_origin(origin, request.host):
        raise ProblemError(
            HTTPStatus.FORBIDDEN,
            "this endpoint has no credentials, so it takes no requests from web pages of another "
            "origin: send the request without an Origin field, or set credentials",
        )


def _is_own_origin(origin: str, host: str) -> bool:
    scheme, _, authority = origin.lower().partition("://")
    return scheme in ("http", "https") and authority == host.lower() != ""


def _host_name(authority: str) -> str:
    match = _HOST_AND_PORT.match(authority)
    if not match:
        return ""
    return (match["v6"] or match["name"]).lower()
