"""Accept a webhook: check it, store it in the journal, and only then answer 202."""

from __future__ import annotations

import threading
import uuid
from datetime import datetime, timezone
from http import HTTPStatus
from typing import Mapping

from poundcake import alertmanager
from poundcake.alertmanager import PayloadError, Webhook
from poundcake.announcement import Request
from poundcake.config import Config
from poundcake.endpoint import native
from poundcake.endpoint.app_service import Service
from poundcake.endpoint.http_messages import HTTPRequest, HTTPResponse
from poundcake.endpoint.journal import JournalError
from poundcake.endpoint.problems import ProblemError
from poundcake.request_ids import body_sha256

# The request headers that are stored. Never add one that contains credentials.
STORED_HEADERS = (
    "User-Agent",
    "Content-Type",
    "Content-Length",
    "X-Request-ID",
    "X-Forwarded-For",
    "Traceparent",
)
_MAX_HEADER_CHARACTERS = 1024
# Parsing a larger body would block the other green threads for too long.
_LARGE_BODY = 64 << 10


class WebhookReceiver:
    """The handler of POST /api/v1/webhook."""

    def __init__(self, config: Config, service: Service) -> None:
        self._config = config
        self._service = service
        # Python parses one body at a time anyway. Parsing in several threads would only use more
        # memory and slow down the other connections.
        self._parsing_large_body = threading.Lock()

    def accept(self, request: HTTPRequest, _: str) -> HTTPResponse:
        """Store a notification in the journal.

        Raises:
            ProblemError: The webhook is invalid (4xx), or cannot be accepted at present (503).
            ClientGoneError: The body did not arrive. No response is sent, so that Alertmanager
                retries; after a 408 it would not.
        """
        self.check_before_body(request)
        received_at = datetime.now(timezone.utc)
        raw = request.body.read()
        webhook = self._parse(raw)
        new_request = Request(
            request_id="",
            received_at=received_at,
            client_host=request.client_host,
            client_request_id="",
            method=request.method,
            path=request.path,
            headers=_stored_headers(request.headers),
            body=raw.decode("utf-8-sig"),  # without a byte order mark
            credential=request.credential,
        )
        alert_count = len(webhook.alerts)
        request_id = self._store(new_request, _sender_request_id(request.headers), alert_count)
        self._service.metrics.alerts_received.inc(alert_count)
        return HTTPResponse.json(
            HTTPStatus.ACCEPTED,
            {
                "status": "accepted",
                "request_id": request_id,
                "alerts_received": alert_count,
                "message": f"{alert_count} alert{'' if alert_count == 1 else 's'} accepted",
            },
            {"X-Request-ID": request_id},
        )

    def _parse(self, raw: bytes) -> Webhook:
        try:
            if len(raw) <= _LARGE_BODY:
                return alertmanager.parse(raw, None)
            with self._parsing_large_body:
                webhook: Webhook = native.run_in_native_thread(alertmanager.parse, raw, None)
            return webhook
        except PayloadError as error:
            raise ProblemError(HTTPStatus.BAD_REQUEST, str(error), field=error.field) from None

    def check_before_body(self, request: HTTPRequest) -> None:
        """Raise ProblemError if the webhook cannot be accepted, regardless of its body."""
        self._check_headers(request)
        self._check_backlog()

    def _check_headers(self, request: HTTPRequest) -> None:
        """Raise ProblemError if the headers show that the body cannot be accepted."""
        length, max_length = request.body.length, self._config.max_body_bytes
        if length is None:
            raise ProblemError(HTTPStatus.LENGTH_REQUIRED, "send the body with Content-Length")
        if length > max_length:
            raise ProblemError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the body has {length} bytes, but max_body_bytes is {max_length}: raise it in the "
                "pack's configuration, or set max_alerts in Alertmanager's webhook_config",
            )
        if not _is_json(request.headers.get("content-type", "")):
            raise ProblemError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "send the body as JSON in UTF-8, with Content-Type: application/json",
            )
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise ProblemError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "send the body uncompressed, without Content-Encoding",
            )

    def _check_backlog(self) -> None:
        journal, limit = self._service.journal, self._config.backlog_limit
        if journal is None:
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, self._service.journal_problem())
        if journal.backlog >= limit:
            raise ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"too many requests are waiting to be recorded: {journal.backlog}, and "
                f"backlog_limit is {limit}",
            )

    def _store(self, request: Request, sender_request_id: str, alert_count: int) -> str:
        journal = self._service.journal
        if journal is None:  # closed while the body was read
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, self._service.journal_problem())
        try:
            request_id = journal.accept(
                request, sender_request_id, body_sha256(request.body), alert_count
            )
        except JournalError as error:
            self._service.note_journal_failure(str(error))
            raise ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE, f"the journal cannot be written now: {error}"
            ) from None
        self._service.note_accepted()
        return request_id


def _is_json(content_type: str) -> bool:
    """Return True for application/json in UTF-8, with or without a charset parameter."""
    media_type, *parameters = content_type.lower().split(";")
    charsets = [p.split("=", 1)[1].strip(' "') for p in parameters if "charset=" in p]
    return media_type.strip() == "application/json" and charsets in ([], ["utf-8"])


def _stored_headers(headers: Mapping[str, str]) -> dict[str, str]:
    values = {name: headers.get(name.lower(), "") for name in STORED_HEADERS}
    return {name: value[:_MAX_HEADER_CHARACTERS] for name, value in values.items() if value}


def _sender_request_id(headers: Mapping[str, str]) -> str:
    """Return the sender's X-Request-ID if it is a lower-case UUID, otherwise an empty string.

    A UUID of version 5 is ignored as well. `request_ids` derives ids of that version, so a sender
    could otherwise claim the id of another sender's replay or confirmation.
    """
    sender_id = headers.get("x-request-id", "")
    try:
        parsed = uuid.UUID(sender_id)
    except ValueError:
        return ""
    return sender_id if str(parsed) == sender_id and parsed.version != 5 else ""
