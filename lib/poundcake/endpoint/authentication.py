"""Authenticate requests by token, password, signed body or client certificate.

A browser cannot send a token as other clients do. So a page of the board also accepts any token as
the password of HTTP Basic, with any user name, and the header of a reverse proxy, if configured.
"""

from __future__ import annotations

import base64
import hmac
from dataclasses import replace
from http import HTTPStatus
from typing import Callable, Sequence

from poundcake.config import Config
from poundcake.credentials import Credential, Kind, Scope
from poundcake.endpoint.body_signatures import BodySignatures, StaleSignatureError
from poundcake.endpoint.http_messages import HTTPRequest
from poundcake.endpoint.metrics import Metrics
from poundcake.endpoint.problems import ProblemError
from poundcake.endpoint.routes import is_page_request

# The methods in Config.authentication that are also HTTP authentication schemes.
_HTTP_SCHEMES = ("bearer", "basic")
# The name of the credential of a person whom the reverse proxy has signed in.
_PROXY_CREDENTIAL = "board_proxy"
_NO_READER = "the configuration has no credential for people; add one with the scope read"
_IN_ALERTMANAGER = "; in Alertmanager: http_config.authorization.credentials_file"
_KINDS = {"bearer": Kind.TOKEN, "basic": Kind.BASIC}


class Authentication:
    """Check that each request has a configured credential with the scope that it needs.

    Args:
        config: The configuration with the credentials.
        check_before_body: Raises ProblemError if the header of a webhook shows that its body cannot
            be used. Called before a signed body is read, because its sender is not yet known.
    """

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        check_before_body: Callable[[HTTPRequest], None],
    ) -> None:
        self._metrics = metrics
        self._methods = config.authentication
        self._schemes = [method for method in self._methods if method in _HTTP_SCHEMES]
        self._proxy = config.board_proxy
        self._header_credentials = [c for c in config.all_credentials if c.kind in _KINDS.values()]
        self._signatures = BodySignatures(config.all_credentials, check_before_body)

    @property
    def is_required(self) -> bool:
        """Whether requests must authenticate, because an authentication method is configured."""
        return bool(self._methods)

    def authenticate(self, request: HTTPRequest, needed_scope: Scope) -> HTTPRequest:
        """Return the request with the name of the credential that permits it.

        If no credentials are configured, every request is allowed, except for a page if people
        sign in to a proxy.

        Args:
            needed_scope: The scope that the request needs.

        Raises:
            ProblemError: The request has no valid credential that has the needed scope.
            ClientGoneError: The body is signed and did not arrive.
        """
        is_page = is_page_request(request)
        if is_page and self._proxy.is_configured:
            if self._is_signed_in_by_proxy(request):
                return replace(request, credential=_PROXY_CREDENTIAL)
        elif not self._methods:
            return request
        valid_credentials = self._valid_credentials(request)
        sufficient_credentials = [
            credential for credential in valid_credentials if credential.scope.allows(needed_scope)
        ]
        if sufficient_credentials:
            return replace(request, credential=sufficient_credentials[0].name)
        if request.certificate_name:
            return replace(request, credential=request.certificate_name)
        if needed_scope == Scope.POST and self._signatures.is_signed(request):
            return self._verify_signature(request)
        if valid_credentials:
            raise self._forbidden(valid_credentials[0], needed_scope)
        if is_page:
            raise self._signed_out(request)
        what = (
            "the credential in the request is none of the configured ones"
            if "authorization" in request.headers
            else "the request has no credential"
        )
        raise self._unauthenticated(
            f"{what}; this endpoint accepts: "
            + ", ".join(self._methods)
            + (
                _IN_ALERTMANAGER if needed_scope == Scope.POST and "bearer" in self._methods else ""
            ),
            self._schemes,
        )

    def _is_signed_in_by_proxy(self, request: HTTPRequest) -> bool:
        name = request.headers.get(self._proxy.header.lower(), "")
        return bool(name) and self._proxy.has_address(request.client_host)

    def _valid_credentials(self, request: HTTPRequest) -> list[Credential]:
        """Return the configured credentials that match the Authorization field."""
        scheme, _, parameters = request.headers.get("authorization", "").partition(" ")
        kind = _KINDS.get(scheme.lower())
        secret = parameters.strip().encode("latin-1")
        if kind == Kind.BASIC:
            try:
                secret = base64.b64decode(secret, validate=True)
            except ValueError:
                secret = b""
        secrets = {kind: secret}
        if kind == Kind.BASIC and is_page_request(request):
            secrets[Kind.TOKEN] = secret.partition(b":")[2]
        # Compare with every credential, each in constant time, to prevent timing attacks.
        return [
            credential
            for credential in self._header_credentials
            if hmac.compare_digest(secrets.get(credential.kind, secret), credential.secret.encode())
            and credential.kind in secrets
        ]

    def _verify_signature(self, request: HTTPRequest) -> HTTPRequest:
        try:
            signed_request = self._signatures.verify(request)
        except StaleSignatureError as error:
            raise self._unauthenticated(str(error), self._schemes) from None
        if signed_request is None:
            raise self._unauthenticated(
                "the signature does not match the body for any hmac_sha256 in credentials",
                self._schemes,
            )
        return signed_request

    def _signed_out(self, request: HTTPRequest) -> ProblemError:
        """Return the answer to a request for a page, which lets a browser ask for a password."""
        advice = []
        if self._header_credentials:
            advice.append(
                "enter any user name, and as the password a token with the scope read or both; or "
                "the user name and password of a basic credential"
            )
        if "client certificate" in self._methods:
            advice.append("use a client certificate")
        if self._proxy.is_configured:
            advice.append("open the board at the address of the reverse proxy that signs you in")
            if self._proxy.header.lower() in request.headers:
                advice.append(
                    f"the header {self._proxy.header} is believed only from the addresses in "
                    "board_proxy"
                )
        return self._unauthenticated(
            "missing or invalid credentials: " + "; or ".join(advice or [_NO_READER]),
            ["basic"] if self._header_credentials else [],
        )

    def _unauthenticated(self, detail: str, schemes: Sequence[str]) -> ProblemError:
        self._metrics.failed_authentications.inc()
        challenges = [f'{scheme.capitalize()} realm="poundcake"' for scheme in schemes]
        return ProblemError(
            HTTPStatus.UNAUTHORIZED,
            detail,
            {"WWW-Authenticate": ", ".join(challenges)} if challenges else None,
        )

    @staticmethod
    def _forbidden(credential: Credential, needed_scope: Scope) -> ProblemError:
        return ProblemError(
            HTTPStatus.FORBIDDEN,
            f"the credential {credential.name} has the scope {credential.scope}, but the request "
            f"needs {needed_scope}: use a credential with the scope {needed_scope} or both",
        )
