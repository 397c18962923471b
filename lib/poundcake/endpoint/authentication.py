"""Who may send a request: tokens, passwords, signed bodies and client certificates."""

from __future__ import annotations

import base64
import hmac
import logging
from dataclasses import replace
from http import HTTPStatus
from typing import Callable

from poundcake.config import Config
from poundcake.credentials import Credential, Kind, Scope
from poundcake.endpoint.body_signatures import BodySignatures, StaleSignatureError
from poundcake.endpoint.http_messages import HTTPRequest
from poundcake.endpoint.metrics import Metrics
from poundcake.endpoint.problems import ProblemError
from poundcake.endpoint.rate_limited_logger import RateLimitedLogger

# The ways of Config.authentication that have a scheme in HTTP; the others have none.
_SCHEMES = ("bearer", "basic")
_KINDS = {"bearer": Kind.TOKEN, "basic": Kind.BASIC}


class Authentication:
    """The credentials of the configuration, any one of which is enough for what its scope allows.

    Args:
        config: Its credentials.
        check_before_body: Raises ProblemError if the header of a webhook says that its body cannot
            be used. A signed body has to be read before its sender is known.
    """

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        log: logging.Logger,
        check_before_body: Callable[[HTTPRequest], None],
    ) -> None:
        self._metrics = metrics
        self._log = RateLimitedLogger(log)
        self._ways = config.authentication
        self._sent = [c for c in config.all_credentials if c.kind in _KINDS.values()]
        self._signatures = BodySignatures(config.all_credentials, check_before_body)

    @property
    def is_required(self) -> bool:
        """Whether there is a way to authenticate, so that every request must."""
        return bool(self._ways)

    def authenticate(self, request: HTTPRequest, needed: Scope) -> HTTPRequest:
        """Return a request with the name of the credential that allows it.

        Without credentials in the configuration, everybody may do everything.

        Args:
            needed: The scope that it needs.

        Raises:
            ProblemError: It has no valid credential, or only one that does not allow this.
            ClientGoneError: Its body is signed and did not arrive.
        """
        if not self._ways:
            return request
        valid = self._valid_credentials(request)
        allowing = [credential for credential in valid if credential.scope.allows(needed)]
        if allowing:
            return replace(request, credential=allowing[0].name)
        if request.certificate_name:
            return replace(request, credential=request.certificate_name)
        if needed == Scope.POST and self._signatures.is_signed(request):
            return self._verified(request)
        if valid:
            raise self._forbidden(request, valid[0], needed)
        raise self._unauthenticated(
            request,
            "missing or invalid credentials; this endpoint accepts: " + ", ".join(self._ways),
        )

    def _valid_credentials(self, request: HTTPRequest) -> list[Credential]:
        """Return the credentials that the Authorization field proves."""
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        kind = _KINDS.get(scheme.lower())
        given = text.strip().encode("latin-1")
        if kind == Kind.BASIC:
            try:
                given = base64.b64decode(given, validate=True)
            except ValueError:
                given = b""
        # Compare with every credential, each in constant time, so that the time tells nothing.
        return [
            known
            for known in self._sent
            if hmac.compare_digest(given, known.secret.encode()) and kind == known.kind
        ]

    def _verified(self, request: HTTPRequest) -> HTTPRequest:
        try:
            verified = self._signatures.verify(request)
        except StaleSignatureError as error:
            raise self._unauthenticated(request, str(error)) from None
        if verified is None:
            raise self._unauthenticated(
                request, "the signature does not fit the body with any hmac_sha256 of credentials"
            )
        return verified

    def _unauthenticated(self, request: HTTPRequest, detail: str) -> ProblemError:
        self._metrics.failed_authentications.inc()
        self._log.warning("missing or invalid credentials from %s", request.client_host)
        challenges = [
            f'{way.capitalize()} realm="poundcake"' for way in self._ways if way in _SCHEMES
        ]
        return ProblemError(
            HTTPStatus.UNAUTHORIZED,
            detail,
            {"WWW-Authenticate": ", ".join(challenges)} if challenges else None,
        )

    def _forbidden(
        self, request: HTTPRequest, credential: Credential, needed: Scope
    ) -> ProblemError:
        self._log.warning(
            "%s used the credential %s without the scope that the request needs",
            request.client_host,
            credential.name,
        )
        return ProblemError(
            HTTPStatus.FORBIDDEN,
            f"the credential {credential.name} has the scope {credential.scope}, and this needs "
            f"{needed}: use a credential with the scope {needed} or both",
        )
