"""Recorded requests and their alerts, as far as the endpoint reads them back to emit them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime


@dataclass
class RecordedRequest:
    """A request as the tracking database has it.

    call_id: of its row. emitter: the endpoint that has claimed to emit it, '' for none.
    unexplained: its alerts that were or are to be emitted and of which StackStorm has not said
    what became of them.
    """

    call_id: int
    request_id: str
    receiver: str
    group_status: str
    emitter: str
    unexplained: list[UnexplainedAlert] = field(default_factory=list)


@dataclass(frozen=True)
class UnexplainedAlert:
    """The alert of a row. size: of its labels. is_lost: StackStorm lost it, emit it again."""

    id: int
    size: int
    is_lost: bool


@dataclass(frozen=True)
class RecordedAlert:
    """An alert as the tracking database has it. labels: JSON."""

    id: int
    alert_name: str
    severity: str
    instance: str
    status: str
    episode: str
    labels: str
    starts_at: datetime | None
    ends_at: datetime | None


@dataclass(frozen=True)
class LimitedAlert:
    """The alert with which its name reached max_remediations_per_hour."""

    id: int
    alert_name: str
    severity: str
    instance: str
    episode: str
    reason: str
    held_until: datetime | None


@dataclass
class Summary:
    """What was decided about the alerts of a request. limited: one alert for each name."""

    outcomes: Counter[str] = field(default_factory=Counter)
    limited: list[LimitedAlert] = field(default_factory=list)
