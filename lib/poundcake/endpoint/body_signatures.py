"""Webhooks whose body is signed with a shared secret, as Grafana's webhook contact points sign it.

The signature is the HMAC-SHA256 of the body, in lower-case hex. With a timestamp header it is that
of `timestamp:body`, and an old notification cannot be sent again by who overheard it.
"""

from __future__ import annotations

import hmac
import threading
import time
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Callable, Sequence

from poundcake.credentials import Credential, Kind
from poundcake.endpoint import native
from poundcake.endpoint.http_messages import HTTPRequest
from poundcake.endpoint.problems import ProblemError

SIGNATURE_HEADER = "X-Grafana-Alerting-Signature"
"""What Grafana calls it unless the contact point names another."""
TIMESTAMP_HEADER = "X-Grafana-Alerting-Timestamp"
"""Grafana sends none unless the contact point names one; this is the name in its examples."""
MAX_CLOCK_DIFFERENCE = 300
"""Seconds between a timestamp and this machine's clock, in either direction."""
MAX_UNVERIFIED = 16
"""Bodies that are read at a time from clients who have yet to prove anything: each takes memory
and keeps a connection busy."""
# Hashing this many bytes would stop every green thread for too long.
_LARGE_BODY = 64 << 10
_MOST_DIGITS = 12


class StaleSignatureError(Exception):
    """The signature is valid, but its timestamp is too old or in the future."""


@dataclass(frozen=True)
class _ReadBody:
    """A body that has been read."""

    content: bytes

    @property
    def length(self) -> int:
        return len(self.content)

    def read(self) -> bytes:
        return self.content


class BodySignatures:
    """Verifies signed webhooks.

    Args:
        credentials: Those of the configuration; the ones that sign count.
        check_before_body: Raises ProblemError if the header of a webhook says that its body cannot
            be used, so that it is not read.
    """

    def __init__(
        self, credentials: Sequence[Credential], check_before_body: Callable[[HTTPRequest], None]
    ) -> None:
        self._credentials = [c for c in credentials if c.kind == Kind.HMAC]
        self._check_before_body = check_before_body
        self._room = threading.BoundedSemaphore(MAX_UNVERIFIED)

    def is_signed(self, request: HTTPRequest) -> bool:
        """Return True if a webhook claims to be signed, and can be verified."""
        has_signature = SIGNATURE_HEADER.lower() in request.headers
        return has_signature and bool(self._credentials) and request.method == "POST"

    def verify(self, request: HTTPRequest) -> HTTPRequest | None:
        """Return a signed webhook with its body and its credential; None if no secret fits.

        Raises:
            ProblemError: Its body cannot be used, or too many others are being read.
            StaleSignatureError: Its timestamp is none, or too far from this machine's clock.
            ClientGoneError: Its body did not arrive.
        """
        self._check_before_body(request)
        if not self._room.acquire(blocking=False):
            raise ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{MAX_UNVERIFIED} signed bodies are being read; send the request again",
            )
        try:
            body = request.body.read()
        finally:
            self._room.release()
        fitting = self._fitting(request, body)
        if fitting is None:
            return None
        _check_time(request.headers.get(TIMESTAMP_HEADER.lower()))
        return replace(request, body=_ReadBody(body), credential=fitting.name)

    def _fitting(self, request: HTTPRequest, body: bytes) -> Credential | None:
        given = request.headers[SIGNATURE_HEADER.lower()].strip().encode("latin-1")
        timestamp = request.headers.get(TIMESTAMP_HEADER.lower())
        prefix = b"" if timestamp is None else timestamp.strip().encode("latin-1") + b":"
        # Compare with every credential, each in constant time, so that the time tells nothing.
        matches = [
            credential
            for credential in self._credentials
            if hmac.compare_digest(given, _signature(credential.secret, prefix, body))
        ]
        return matches[0] if matches else None


def _signature(secret: str, prefix: bytes, body: bytes) -> bytes:
    if len(body) > _LARGE_BODY:
        signature: bytes = native.run_in_native_thread(_compute, secret, prefix, body)
        return signature
    return _compute(secret, prefix, body)


def _compute(secret: str, prefix: bytes, body: bytes) -> bytes:
    computed = hmac.new(secret.encode(), prefix, "sha256")
    computed.update(body)
    return computed.hexdigest().encode()


def _check_time(timestamp: str | None) -> None:
    if timestamp is None:
        return
    text = timestamp.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise StaleSignatureError(f"{TIMESTAMP_HEADER} must be a Unix time in seconds")
    if abs(time.time() - int(text)) > MAX_CLOCK_DIFFERENCE:
        raise StaleSignatureError(
            f"{TIMESTAMP_HEADER} is more than {MAX_CLOCK_DIFFERENCE // 60} minutes from this "
            "machine's clock: set the clocks, or somebody sends an old notification again"
        )
