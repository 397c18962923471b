"""Count and log refused webhooks, which Alertmanager does not retry."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from http import HTTPStatus
from typing import Any

from poundcake.endpoint.metrics import Metrics
from poundcake.endpoint.rate_limited_logger import RateLimitedLogger
from poundcake.string_enum import StringEnum
from poundcake.timestamps import format_timestamp

# Alertmanager sends the alerts of a refused notification again at the next group_interval.
_RECURRENCE = timedelta(hours=1)


class RefusalReason(StringEnum):
    """Why a webhook was refused: the values of the metric's label `reason`."""

    INVALID_HTTP = "invalid_http"
    INVALID_PAYLOAD = "invalid_payload"
    UNAUTHENTICATED = "unauthenticated"
    CROSS_SITE = "cross_site"
    WRONG_SCOPE = "wrong_scope"
    WRONG_PATH = "wrong_path"
    WRONG_METHOD = "wrong_method"
    NO_LENGTH = "no_length"
    TOO_LARGE = "too_large"
    MEDIA_TYPE = "media_type"

    @classmethod
    def from_status(cls, status: HTTPStatus) -> RefusalReason:
        """Return why the application refused a webhook with this status."""
        return _REASONS.get(status, cls.INVALID_HTTP)

    @classmethod
    def from_framing_status(cls, status: HTTPStatus) -> RefusalReason:
        """Return why the server refused a malformed webhook with this status."""
        return cls.INVALID_HTTP if status == HTTPStatus.BAD_REQUEST else cls.from_status(status)


_REASONS = {
    HTTPStatus.BAD_REQUEST: RefusalReason.INVALID_PAYLOAD,
    HTTPStatus.UNAUTHORIZED: RefusalReason.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: RefusalReason.CROSS_SITE,
    HTTPStatus.METHOD_NOT_ALLOWED: RefusalReason.WRONG_METHOD,
    HTTPStatus.LENGTH_REQUIRED: RefusalReason.NO_LENGTH,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: RefusalReason.TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: RefusalReason.MEDIA_TYPE,
}


@dataclass(frozen=True)
class RefusedWebhook:
    """One webhook that was refused.

    Attributes:
        reason: Why it was refused.
        status: The status of the response, always 4xx.
        detail: What was wrong. The sender may have received a longer explanation.
        sender: The IP address of the sender.
        refused_at: When it was refused.
        accepted_at: When the first webhook from the same sender was accepted after it, or None.
        is_recurring: Whether others from the same sender were accepted between this one and an
            earlier one. The next accepted one then says nothing about the refused ones: several
            senders share a proxy, or only the large notifications of a sender are refused.
    """

    reason: RefusalReason
    status: HTTPStatus
    detail: str
    sender: str
    refused_at: datetime
    accepted_at: datetime | None = None
    is_recurring: bool = False


class RefusedWebhooks:
    """Count and log refused webhooks, and keep the last one. Safe to use from any thread."""

    def __init__(self, metrics: Metrics, log: logging.Logger) -> None:
        self._counter = metrics.refused_webhooks
        self._log = RateLimitedLogger(log)
        self._lock = threading.Lock()
        self._count = 0
        self._last: RefusedWebhook | None = None
        for reason in RefusalReason:
            self._counter.labels(reason.value)  # rate() needs the series to start at 0

    def add(self, reason: RefusalReason, status: HTTPStatus, detail: str, sender: str) -> None:
        """Count and log a webhook that was just refused."""
        now = datetime.now(timezone.utc)
        with self._lock:
            self._count += 1
            is_recurring = self._is_recurring(sender, now)
            self._last = RefusedWebhook(
                reason, status, detail, sender, now, is_recurring=is_recurring
            )
        self._counter.labels(reason.value).inc()
        # One format string per reason, so that a frequent reason does not suppress the others.
        self._log.warning(
            f"refused a webhook ({reason.value}), which Alertmanager does not retry: "
            "answered %s to %s: %s",
            status.value,
            sender,
            detail,
        )

    def _is_recurring(self, sender: str, now: datetime) -> bool:
        last = self._last
        if last is None or last.sender != sender or now - last.refused_at > _RECURRENCE:
            return False
        return last.is_recurring or last.accepted_at is not None

    def note_accepted(self, sender: str) -> None:
        """Note that a webhook from a sender was just accepted."""
        last = self._last
        if last is None or last.accepted_at or last.is_recurring or last.sender != sender:
            return  # without the lock, because almost every webhook ends here
        with self._lock:
            if self._last is last:
                self._last = replace(last, accepted_at=datetime.now(timezone.utc))

    @property
    def last(self) -> RefusedWebhook | None:
        """The last webhook that was refused, or None."""
        return self._last

    def report(self) -> dict[str, Any]:
        """Return a section for the health view: the count since the start, and the last one."""
        with self._lock:
            count, last = self._count, self._last
        if last is None:
            return {"count": count, "last": None}
        return {
            "count": count,
            "last": {
                "reason": last.reason.value,
                "status": last.status.value,
                "detail": last.detail,
                "sender": last.sender,
                "refused_at": format_timestamp(last.refused_at),
                "accepted_at": format_timestamp(last.accepted_at) if last.accepted_at else None,
            },
        }
