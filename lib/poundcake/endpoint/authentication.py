"""Authenticate requests: bearer tokens, basic authentication and client certificates."""

from __future__ import annotations

import base64
import hmac
import logging
from http import HTTPStatus

from poundcake.config import Config
from poundcake.endpoint.http_messages import HTTPRequest
from poundcake.endpoint.metrics import Metrics
from poundcake.endpoint.problems import ProblemError
from poundcake.endpoint.rate_limited_logger import RateLimitedLogger

# The entries of Config.authentication with an HTTP scheme; a client certificate has none.
_SCHEMES = ("bearer", "basic")


class Authentication:
    """Check requests against the configured credentials, any one of which is enough."""

    def __init__(self, config: Config, metrics: Metrics, log: logging.Logger) -> None:
        self._metrics = metrics
        self._log = RateLimitedLogger(log)
        self._ways = config.authentication
        self._credentials = [("bearer", token.encode()) for token in config.auth_tokens]
        if config.basic_auth:
            self._credentials.append(("basic", config.basic_auth.encode()))

    @property
    def is_required(self) -> bool:
        """Whether there is a way to authenticate, so that every request must."""
        return bool(self._ways)

    def check(self, request: HTTPRequest) -> None:
        """Raise ProblemError unless the request has a valid credential or none is configured."""
        if not self._ways or request.has_client_certificate or self._has_credential(request):
            return
        self._metrics.failed_authentications.inc()
        self._log.warning("missing or invalid credentials from %s", request.client_host)
        challenges = [
            f'{way.capitalize()} realm="poundcake"' for way in self._ways if way in _SCHEMES
        ]
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED,
            "missing or invalid credentials; this endpoint accepts: " + ", ".join(self._ways),
            {"WWW-Authenticate": ", ".join(challenges)} if challenges else None,
        )

    def _has_credential(self, request: HTTPRequest) -> bool:
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        scheme = scheme.lower()
        given = text.strip().encode("latin-1")
        if scheme == "basic":
            try:
                given = base64.b64decode(given, validate=True)
            except ValueError:
                given = b""
        # Compare with every credential, each in constant time, so that timing reveals nothing.
        matches = [
            hmac.compare_digest(given, known) and scheme == known_scheme
            for known_scheme, known in self._credentials
        ]
        return any(matches)
