"""Keep account of the webhooks that were refused: Alertmanager does not send them again."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from http import HTTPStatus
from typing import Any

from poundcake.endpoint.metrics import Metrics
from poundcake.endpoint.rate_limited_logger import RateLimitedLogger
from poundcake.timestamps import format_timestamp


class RefusalReason(str, Enum):
    """Why a webhook was refused; the label `reason` of the metric."""

    INVALID_HTTP = "invalid_http"
    INVALID_PAYLOAD = "invalid_payload"
    UNAUTHENTICATED = "unauthenticated"
    CROSS_SITE = "cross_site"
    WRONG_SCOPE = "wrong_scope"
    WRONG_METHOD = "wrong_method"
    NO_LENGTH = "no_length"
    TOO_LARGE = "too_large"
    MEDIA_TYPE = "media_type"

    @classmethod
    def of_status(cls, status: HTTPStatus) -> RefusalReason:
        """Return the reason for which the application answers a webhook with this status."""
        return _OF_STATUS.get(status, cls.INVALID_HTTP)

    @classmethod
    def of_framing(cls, status: HTTPStatus) -> RefusalReason:
        """Return the reason for which a webhook with broken framing has this status."""
        return cls.INVALID_HTTP if status == HTTPStatus.BAD_REQUEST else cls.of_status(status)


_OF_STATUS = {
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
        status: What it was answered with, a 4xx.
        detail: What its sender was told.
        sender: The IP address that it came from.
    """

    reason: RefusalReason
    status: HTTPStatus
    detail: str
    sender: str
    refused_at: datetime


class RefusedWebhooks:
    """Counts refused webhooks, logs them, and remembers the last. Safe to use from any thread."""

    def __init__(self, metrics: Metrics, log: logging.Logger) -> None:
        self._counter = metrics.refused_webhooks
        self._log = RateLimitedLogger(log)
        self._lock = threading.Lock()
        self._count = 0
        self._last: RefusedWebhook | None = None
        for reason in RefusalReason:
            self._counter.labels(reason.value)  # a rate needs a zero to begin at

    def add(self, reason: RefusalReason, status: HTTPStatus, detail: str, sender: str) -> None:
        """Take note of a webhook that was refused just now."""
        refused = RefusedWebhook(reason, status, detail, sender, datetime.now(timezone.utc))
        with self._lock:
            self._count += 1
            self._last = refused
        self._counter.labels(reason.value).inc()
        # A text for each reason, so that one that is frequent does not hide the others.
        self._log.warning(
            f"refused a webhook ({reason.value}), and Alertmanager does not send it again: "
            "answered %s to %s: %s",
            status.value,
            sender,
            detail,
        )

    @property
    def last(self) -> RefusedWebhook | None:
        """The webhook that was refused last, or None."""
        return self._last

    def report(self) -> dict[str, Any]:
        """Return what the health view shows: how many since the start, and the last."""
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
            },
        }
