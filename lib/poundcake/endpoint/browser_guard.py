"""Refuse requests that a web page makes through a browser on this machine.

Without credentials the endpoint listens on loopback only, but a browser on the same machine can
reach loopback too. Any page can post to it (cross-site request forgery), and a page whose domain
resolves to 127.0.0.1 can also read the responses (DNS rebinding). The Origin field reveals the
first attack and the Host field the second; a page can set neither field.
"""

from __future__ import annotations

import re
from http import HTTPStatus

from poundcake.config import is_loopback
from poundcake.endpoint.http_messages import HTTPRequest
from poundcake.endpoint.problems import ProblemError

_HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<name>[^:]*))(?::[0-9]*)?\Z")


def refuse_cross_site_request(request: HTTPRequest) -> None:
    """Raise ProblemError if the request may come from a page of another site.

    Only an endpoint without credentials needs this check, because a page does not know them.
    """
    # An HTTP/1.0 client may omit Host; a browser never does.
    if request.host and not is_loopback(_host_name(request.host)):
        raise ProblemError(
            HTTPStatus.FORBIDDEN,
            "this endpoint has no credentials, so it answers only to loopback names: use "
            "http://127.0.0.1 or http://localhost, configure the reverse proxy to send "
            "127.0.0.1 or localhost as the Host field, or set credentials",
        )
    origin = request.headers.get("origin")
    if origin is not None and not _is_own_origin(origin, request.host):
        raise ProblemError(
            HTTPStatus.FORBIDDEN,
            "this endpoint has no credentials, so it accepts no requests from web pages of another "
            "origin: send the request without an Origin field, or set credentials",
        )


def _is_own_origin(origin: str, host: str) -> bool:
    scheme, _, authority = origin.lower().partition("://")
    return scheme in ("http", "https") and authority != "" and authority == host.lower()


def _host_name(authority: str) -> str:
    match = _HOST_AND_PORT.match(authority)
    if not match:
        return ""
    return (match["v6"] or match["name"]).lower()
