"""Request JSON from a monitoring server, with limits on time and size."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Mapping, Union

import requests
from requests.auth import HTTPBasicAuth

from poundcake.endpoint_client import failure_reason
from poundcake.json_depth import is_too_deep
from poundcake.monitoring.api import MonitoringError
from poundcake.monitoring_servers import MonitoringServer
from poundcake.timestamps import parse_http_date

_TIMEOUT = (3, 10)  # seconds to connect, and to wait for each chunk of the response
_MAX_SECONDS = 20.0  # for the whole response
MAX_BYTES = 64 << 20
"""Maximum size of a response: about 50,000 alerts of 1.3 kB each."""
_CHUNK = 1 << 16
_DETAIL_CHARACTERS = 300

Query = Mapping[str, Union[str, "list[str]"]]


@dataclass(frozen=True)
class JsonResponse:
    """A response from the server.

    Attributes:
        document: Its JSON value, or None if it has no body.
        now: The time at which the server sent it, by the server's clock, or None if it is unknown.
    """

    document: Any
    now: datetime | None


class JsonClient:
    """A client of one server.

    Args:
        key: The configuration key that contains the server, for errors.
        server: The server.
    """

    def __init__(self, key: str, server: MonitoringServer):
        self._key = key
        self._server = server

    def get(self, path: str, query: Query | None = None) -> JsonResponse:
        """Return the response to a GET request."""
        return self._request("GET", path, query, None)

    def post(self, path: str, document: Any) -> JsonResponse:
        """Return the response to a POST request with a JSON document."""
        return self._request("POST", path, None, document)

    def delete(self, path: str) -> JsonResponse:
        """Return the response to a DELETE request."""
        return self._request("DELETE", path, None, None)

    def error(self, problem: str) -> MonitoringError:
        """Return an error that names the configuration key and the server."""
        return MonitoringError(f"{self._key}, {self._server.url}: {problem}")

    def _request(self, method: str, path: str, query: Query | None, document: Any) -> JsonResponse:
        """Return the response to a request.

        Raises:
            MonitoringError: The server did not answer in time, or answered with an error, a
                redirect, or something other than JSON.
        """
        deadline = time.monotonic() + _MAX_SECONDS
        try:
            with self._create_session() as session, session.request(
                method,
                self._server.url + path,
                params=query,
                json=document,
                timeout=_TIMEOUT,
                # A redirect could send the credentials to another server.
                allow_redirects=False,
                stream=True,
            ) as response:
                body = self._read(response, deadline)
        # A failed request, an unreadable certificate file and a body that cannot be decompressed
        # raise OSError. An invalid URL raises ValueError.
        except (OSError, ValueError) as error:
            raise self.error(failure_reason(error)) from None
        if response.is_redirect:
            target = response.headers.get("Location", "")[:_DETAIL_CHARACTERS]
            raise self.error(f"{path} redirects to {target}; set url to the final address")
        if response.status_code >= 400:
            raise self.error(f"{method} {path}: {response.status_code} {self._error_detail(body)}")
        return JsonResponse(self._parse(path, body), parse_http_date(response.headers.get("Date")))

    def _create_session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False  # a proxy from the environment must not see the credentials
        if self._server.token:
            session.headers["Authorization"] = f"Bearer {self._server.token}"
        elif self._server.basic:
            user, _, password = self._server.basic.partition(":")
            session.auth = HTTPBasicAuth(user.encode(), password.encode())
        if self._server.ca_file:
            session.verify = self._server.ca_file
        return session

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        body = bytearray()
        for chunk in response.iter_content(_CHUNK):
            body += chunk
            if len(body) > MAX_BYTES:
                raise self.error(f"the response is larger than {MAX_BYTES >> 20} MiB")
            if time.monotonic() > deadline:
                raise self.error(f"the response took longer than {_MAX_SECONDS:.0f} s")
        return bytes(body)

    def _parse(self, path: str, body: bytes) -> Any:
        if not body:
            return None
        try:
            if is_too_deep(body):
                raise ValueError
            return json.loads(body)
        except ValueError:
            raise self.error(f"{path}: the response is not JSON") from None

    def _error_detail(self, body: bytes) -> str:
        """Return the first line of the explanation in an error response, without secrets."""
        text = body.decode("utf-8", "replace")
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = text
        if isinstance(document, dict):
            document = document.get("error") or document.get("message") or text
        lines = str(document).splitlines() or [""]
        detail = lines[0][:_DETAIL_CHARACTERS]
        # A server could repeat the credentials that it received.
        for secret in (self._server.token, self._server.basic):
            detail = detail.replace(secret, "***") if secret else detail
        return detail
