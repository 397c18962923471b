"""The data of recorded requests and alerts that the endpoint needs to emit them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime


@dataclass
class RecordedRequest:
    """A request in the tracking database.

    Attributes:
        call_id: The id of its row.
        request_id: The id that was returned to the sender.
        receiver: The receiver of Alertmanager's notification.
        group_status: The status of the notification's alert group.
        emitter: The id of the endpoint that has claimed it, or '' if none has.
        unexplained_alerts: Its alerts that are not emitted yet, and its emitted alerts whose
            outcome StackStorm has not reported yet.
    """

    call_id: int
    request_id: str
    receiver: str
    group_status: str
    emitter: str
    unexplained_alerts: list[UnexplainedAlert] = field(default_factory=list)


@dataclass(frozen=True)
class UnexplainedAlert:
    """An alert that is to be emitted or whose outcome is not known yet.

    Attributes:
        id: The id of its row.
        size: The size of its labels.
        is_lost: Whether StackStorm lost it, so that it has to be emitted again.
    """

    id: int
    size: int
    is_lost: bool


@dataclass(frozen=True)
class RecordedAlert:
    """An alert in the tracking database. `labels` is JSON text, and `host` is canonical."""

    id: int
    alert_name: str
    severity: str
    instance: str
    host: str
    status: str
    episode: str
    labels: str
    starts_at: datetime | None
    ends_at: datetime | None


@dataclass(frozen=True)
class LimitedAlert:
    """The first alert that was held back because its name reached max_remediations_per_hour."""

    id: int
    alert_name: str
    severity: str
    instance: str
    episode: str
    reason: str
    held_until: datetime | None
    host: str = ""
    created_at: datetime | None = None


@dataclass
class Summary:
    """The decisions about the alerts of a request.

    Attributes:
        outcomes: The number of alerts by outcome.
        limited_alerts: For each alert name that reached its limit, the first alert that was held
            back.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    limited_alerts: list[LimitedAlert] = field(default_factory=list)
