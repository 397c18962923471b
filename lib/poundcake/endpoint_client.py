"""Query the endpoint from an action.

Only the endpoint can read its journal and knows whether its connection to RabbitMQ works.
"""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass
from typing import Any, Mapping, Sequence, Union
from urllib.parse import quote, urlencode

import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth

from poundcake.config import Config
from poundcake.credentials import Kind, Scope

_TIMEOUT = (2, 8)  # seconds to connect, and seconds to wait for each chunk of the response
# The same for requests that a view does not depend on. A person is waiting for the view.
_SHORT_TIMEOUT = (1, 3)
_OK, _SERVICE_UNAVAILABLE = 200, 503


@dataclass(frozen=True)
class Answered:
    """The endpoint answered.

    Attributes:
        document: The JSON object in the response.
    """

    document: dict[str, Any]


@dataclass(frozen=True)
class Refused:
    """The endpoint refused the request, or another server answered at its URL.

    Attributes:
        url: The endpoint's URL.
        status: The HTTP status of the response.
        detail: The explanation in the response, or '' if there is none.
    """

    url: str
    status: int
    detail: str = ""

    def __str__(self) -> str:
        if self.status in (401, 403):
            hint = (
                "the credentials in this pack's configuration are not those of the endpoint, or "
                "none of them has the scope read"
            )
        else:
            hint = self.detail or "the response is not from a PoundCake endpoint"
        return f"{self.url} answered {self.status} (endpoint_url): {hint}"


@dataclass(frozen=True)
class Unreachable:
    """Nothing answered at the endpoint's URL.

    Attributes:
        url: The endpoint's URL.
        reason: Why the request failed.
    """

    url: str
    reason: str

    def __str__(self) -> str:
        return f"no answer from {self.url} (endpoint_url): {self.reason}"


Result = Union[Answered, Refused, Unreachable]


def status(config: Config, request_id: str) -> Result:
    """Return the trail of a request; for an unknown request, a Refused with status 404."""
    return _get(config, f"/api/v1/status/{quote(request_id, safe='')}", "request_id", (_OK,))


def waiting_requests(config: Config, filters: Mapping[str, str], limit: int = 20) -> Result:
    """Return the newest requests that wait to be recorded and contain a matching alert.

    Args:
        config: The configuration.
        filters: The filters on alerts, as the endpoint's URL takes them.
        limit: The maximum number of requests.
    """
    query = urlencode({**filters, "limit": limit})
    path = f"/api/v1/requests/waiting?{query}"
    return _get(config, path, "requests", (_OK,), _SHORT_TIMEOUT)


def health(config: Config) -> Result:
    """Return the endpoint's own health view."""
    return _get(config, "/api/v1/health", "components", (_OK, _SERVICE_UNAVAILABLE))


def _get(
    config: Config,
    path: str,
    expected_key: str,
    statuses: Sequence[int],
    timeout: tuple[float, float] = _TIMEOUT,
) -> Result:
    """Send a GET request. A response without `expected_key` did not come from an endpoint."""
    url = config.endpoint
    try:
        with _create_session(config) as session:
            response = session.get(url + path, timeout=timeout, allow_redirects=False)
    # A failed request or an unreadable certificate file raises OSError. An invalid URL or a file
    # without a certificate raises ValueError.
    except (OSError, ValueError) as error:
        return Unreachable(url, failure_reason(error))
    document = _read_json_object(response)
    if response.status_code in statuses and expected_key in document:
        return Answered(document)
    return Refused(url, response.status_code, str(document.get("detail", ""))[:300])


def _create_session(config: Config) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # a proxy from the environment must not see the credentials
    read_credentials = [c for c in config.all_credentials if c.scope.allows(Scope.READ)]
    if read_credentials and read_credentials[0].kind == Kind.TOKEN:
        session.headers["Authorization"] = f"Bearer {read_credentials[0].secret}"
    elif read_credentials:
        user, _, password = read_credentials[0].secret.partition(":")
        session.auth = HTTPBasicAuth(user.encode(), password.encode())
    if config.tls_certificate and not config.endpoint_url:
        session.verify = False  # the adapter pins the certificate instead
        session.mount("https://", _PinnedCertificate(config.tls_certificate))
    return session


class _PinnedCertificate(HTTPAdapter):
    """Accept only the endpoint's own certificate, regardless of its issuer and names.

    The certificate might not list the address that actions use for the endpoint.
    """

    def __init__(self, path: str) -> None:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        begin, end = text.index("-----BEGIN CERTIFICATE"), text.index("-----END CERTIFICATE")
        first_certificate = text[begin:end] + "-----END CERTIFICATE-----"
        self._fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(first_certificate)).hexdigest()
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        kwargs.update(assert_fingerprint=self._fingerprint, assert_hostname=False)
        super().init_poolmanager(*args, **kwargs)


def _read_json_object(response: requests.Response) -> dict[str, Any]:
    """Return the JSON object in a response, or an empty one."""
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def failure_reason(error: Exception) -> str:
    """Return why a request failed: the operating system's error, if `requests` wraps one."""
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, OSError) and cause.strerror:
            return f"{cause.filename}: {cause.strerror}" if cause.filename else cause.strerror
        cause = cause.__context__
    if isinstance(error, requests.Timeout):
        return "it did not answer in time"
    return str(error)[:300]
