"""Verify webhooks that are signed with a shared secret, in Grafana's format.

The signature is the HMAC-SHA256 of the body, in lower-case hex. If the request has a timestamp
header, the signature is the HMAC-SHA256 of `timestamp:body`. An attacker who intercepts a
notification with a timestamp can replay it only until that timestamp is too old.
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
"""The name of Grafana's signature header, unless the contact point sets another."""
TIMESTAMP_HEADER = "X-Grafana-Alerting-Timestamp"
"""The name in Grafana's examples. Grafana sends a timestamp only if the contact point sets one."""
MAX_CLOCK_DIFFERENCE = 300
"""Maximum seconds between a timestamp and this machine's clock, in either direction."""
MAX_UNVERIFIED = 16
"""Maximum number of unverified bodies that are read concurrently.

Each of them takes memory and keeps a connection busy.
"""
# Hashing a larger body would block the other green threads for too long.
_LARGE_BODY = 64 << 10
_MAX_DIGITS = 12


class StaleSignatureError(Exception):
    """The signature is valid, but its timestamp is malformed, too old or too far in the future."""


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
    """Verify signed webhooks.

    Args:
        credentials: The configured credentials. Only those of the kind HMAC are used.
        check_before_body: Raises ProblemError if the header of a webhook shows that its body cannot
            be used. The body is then not read.
    """

    def __init__(
        self, credentials: Sequence[Credential], check_before_body: Callable[[HTTPRequest], None]
    ) -> None:
        self._credentials = [c for c in credentials if c.kind == Kind.HMAC]
        self._check_before_body = check_before_body
        self._unverified_slots = threading.BoundedSemaphore(MAX_UNVERIFIED)

    def is_signed(self, request: HTTPRequest) -> bool:
        """Return True if a webhook has a signature and an HMAC credential is configured."""
        has_signature = SIGNATURE_HEADER.lower() in request.headers
        return has_signature and bool(self._credentials) and request.method == "POST"

    def verify(self, request: HTTPRequest) -> HTTPRequest | None:
        """Return a signed webhook with its body and credential, or None if no secret matches.

        Raises:
            ProblemError: The body cannot be used, or too many other signed bodies are being read.
            StaleSignatureError: The timestamp is invalid, or too far from this machine's clock.
            ClientGoneError: The body did not arrive.
        """
        self._check_before_body(request)
        if not self._unverified_slots.acquire(blocking=False):
            raise ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{MAX_UNVERIFIED} signed bodies are being read; send the request again",
            )
        try:
            body = request.body.read()
        finally:
            self._unverified_slots.release()
        credential = self._matching_credential(request, body)
        if credential is None:
            return None
        _check_timestamp(request.headers.get(TIMESTAMP_HEADER.lower()))
        return replace(request, body=_ReadBody(body), credential=credential.name)

    def _matching_credential(self, request: HTTPRequest, body: bytes) -> Credential | None:
        signature = request.headers[SIGNATURE_HEADER.lower()].strip().encode("latin-1")
        timestamp = request.headers.get(TIMESTAMP_HEADER.lower())
        prefix = b"" if timestamp is None else timestamp.strip().encode("latin-1") + b":"
        # Compare with every credential, each in constant time, to prevent timing attacks.
        matches = [
            credential
            for credential in self._credentials
            if hmac.compare_digest(signature, _signature(credential.secret, prefix, body))
        ]
        return matches[0] if matches else None


def _signature(secret: str, prefix: bytes, body: bytes) -> bytes:
    if len(body) > _LARGE_BODY:
        signature: bytes = native.run_in_native_thread(_compute_signature, secret, prefix, body)
        return signature
    return _compute_signature(secret, prefix, body)


def _compute_signature(secret: str, prefix: bytes, body: bytes) -> bytes:
    digest = hmac.new(secret.encode(), prefix, "sha256")
    digest.update(body)
    return digest.hexdigest().encode()


def _check_timestamp(timestamp: str | None) -> None:
    if timestamp is None:
        return
    text = timestamp.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise StaleSignatureError(f"{TIMESTAMP_HEADER} must be a Unix time in seconds")
    if abs(time.time() - int(text)) > MAX_CLOCK_DIFFERENCE:
        raise StaleSignatureError(
            f"{TIMESTAMP_HEADER} is more than {MAX_CLOCK_DIFFERENCE // 60} minutes from this "
            "machine's clock: correct the clocks; if they are right, this is a replay"
        )
