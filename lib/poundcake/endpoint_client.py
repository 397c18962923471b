"""The endpoint as actions ask it, for what only it knows: journal, broker, address."""

from __future__ import annotations

import hashlib
import ssl
from typing import Any
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter

from poundcake.config import Config

_TIMEOUT = (2, 8)  # seconds to connect, to answer


def status(config: Config, request_id: str) -> dict[str, Any] | None:
    """What the endpoint knows of a request; None where it knows nothing or cannot be reached."""
    answer = _get(config, f"/api/v1/status/{quote(request_id, safe='')}")
    return answer.json() if answer is not None and answer.status_code == 200 else None


def health(config: Config) -> dict[str, Any] | None:
    """The endpoint's own health; None where it cannot be reached."""
    answer = _get(config, "/api/v1/health")
    if answer is None or answer.status_code not in (200, 503):
        return None
    try:
        found = answer.json()
    except ValueError:
        return None
    return found if "components" in found else None


class _Pinned(HTTPAdapter):
    """Takes the endpoint's own certificate and no other, whoever has signed it, for whatever name:
    an action reaches the endpoint by an address that no certificate need have."""

    def __init__(self, path: str):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        begin, end = text.index("-----BEGIN CERTIFICATE"), text.index("-----END CERTIFICATE")
        first = text[begin:end] + "-----END CERTIFICATE-----"
        self._fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()
        super().__init__()

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        more.update(assert_fingerprint=self._fingerprint, assert_hostname=False)
        super().init_poolmanager(*args, **more)


def _get(config: Config, path: str) -> requests.Response | None:
    try:
        # A proxy of the environment is for other hosts than the endpoint's own.
        with requests.Session() as session:
            session.trust_env = False
            if config.auth_tokens:
                session.headers["Authorization"] = f"Bearer {config.auth_tokens[0]}"
            elif config.basic_auth:
                user, _, password = config.basic_auth.partition(":")
                session.auth = user.encode(), password.encode()
            if config.tls_certificate and not config.endpoint_url:
                session.verify = False
                session.mount("https://", _Pinned(config.tls_certificate))
            return session.get(config.endpoint + path, timeout=_TIMEOUT)
    # What requests raises is an OSError.
    except (OSError, ValueError):
        return None
