"""The interfaces of the monitoring servers, and the types that they return."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Mapping, Protocol, Sequence

from poundcake.errors import PoundCakeError
from poundcake.string_enum import StringEnum


class MonitoringError(PoundCakeError):
    """A server did not answer, or its response was unexpected.

    The message begins with the configuration key and the URL of the server.
    """


@dataclass(frozen=True)
class HeldAlert:
    """An active alert in Alertmanager.

    Attributes:
        labels: Its labels.
        silenced_by: The ids of the silences that mute it.
    """

    labels: Mapping[str, str]
    silenced_by: tuple[str, ...] = ()


class SilenceState(StringEnum):
    """The state of a silence."""

    PENDING = "pending"
    """It has not begun."""
    ACTIVE = "active"
    EXPIRED = "expired"


@dataclass(frozen=True)
class Matcher:
    """A condition of a silence on the value of one label."""

    name: str
    value: str
    is_regex: bool = False
    is_equal: bool = True


@dataclass(frozen=True)
class Silence:
    """A silence in Alertmanager.

    Attributes:
        id: Its id, or empty if it has not been created yet.
        matchers: The conditions, all of which an alert must meet.
        starts_at: When it begins, by Alertmanager's clock.
        ends_at: When it ends, by Alertmanager's clock.
        created_by: Who created it.
        comment: Why it was created.
        state: Its state when it was read.
    """

    id: str
    matchers: tuple[Matcher, ...]
    starts_at: datetime
    ends_at: datetime
    created_by: str
    comment: str
    state: SilenceState = SilenceState.ACTIVE


@dataclass(frozen=True)
class AlertmanagerStatus:
    """How long an Alertmanager has been running, and its current time, both by its own clock.

    Attributes:
        uptime: How long it has been running.
        now: Its current time.
    """

    uptime: timedelta
    now: datetime


class AlertState(StringEnum):
    """The state of an alert in one Prometheus."""

    FIRING = "firing"
    PENDING = "pending"
    """Its expression is true, but not yet for the duration that the rule requires."""
    CLEARED = "cleared"
    """A rule with the alert's name was evaluated, and the alert is neither pending nor firing."""
    ABSENT = "absent"
    """No rule of this Prometheus has the alert's name."""
    UNKNOWN = "unknown"
    """A rule with the alert's name could not be evaluated, or has not been evaluated yet."""


@dataclass(frozen=True)
class AlertRule:
    """An alerting rule of Prometheus.

    Attributes:
        expression: Its expression.
        labels: The names of the labels that it sets, which replace those of its expression.
    """

    expression: str
    labels: frozenset[str] = frozenset()


@dataclass(frozen=True)
class AlertingRule:
    """An alerting rule, as Prometheus has loaded it.

    Attributes:
        name: The name of its alerts.
        labels: The labels that it adds to its alerts.
        error: Why its last evaluation failed, or ''.
    """

    name: str
    labels: Mapping[str, str]
    error: str = ""


@dataclass(frozen=True)
class LoadedRules:
    """The alerting rules of a Prometheus.

    Attributes:
        rules: The rules.
        now: The current time by Prometheus's clock, or None if the response contains none.
    """

    rules: tuple[AlertingRule, ...]
    now: datetime | None


@dataclass(frozen=True)
class AlertReading:
    """The state of an alert, as of the last evaluation of its rule.

    Attributes:
        state: The state.
        evaluated_at: When its rule was last evaluated, by Prometheus's clock; the earliest time if
            several rules have the alert's name; None if none has been evaluated.
        now: The current time by Prometheus's clock, or None if the response contains none.
        detail: Why the state is unknown, or empty.
        rules: The rules with the alert's name.
    """

    state: AlertState
    evaluated_at: datetime | None = None
    now: datetime | None = None
    detail: str = ""
    rules: tuple[AlertRule, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One element of an instant vector."""

    labels: Mapping[str, str]
    value: float


class AlertmanagerApi(Protocol):
    """One Alertmanager. Each method raises MonitoringError if the server does not answer."""

    @property
    def url(self) -> str:
        """The base URL of its API."""

    @property
    def external_url(self) -> str:
        """The external URL in its notifications, without a trailing slash."""

    def alerts(self) -> list[HeldAlert]:
        """Return the alerts that have not ended, including silenced and inhibited ones."""

    def status(self) -> AlertmanagerStatus:
        """Return how long the Alertmanager has been running, and its current time."""

    def configuration(self) -> str:
        """Return its configuration in YAML, in which secrets are masked."""

    def silences(self) -> list[Silence]:
        """Return all silences, including those that ended recently."""

    def create_silence(self, silence: Silence) -> str:
        """Create a silence, or update it if it has an id. Return its id."""

    def expire_silence(self, silence_id: str) -> None:
        """End a silence now."""


class PrometheusApi(Protocol):
    """One Prometheus. Each method raises MonitoringError if the server does not answer."""

    @property
    def url(self) -> str:
        """The base URL of its API."""

    def alert_state(self, labels: Mapping[str, str]) -> AlertReading:
        """Return the state of the alert with these labels, which include `alertname`."""

    def query(self, expression: str) -> Sequence[Sample]:
        """Return the instant vector of an expression at the current time."""

    def alerting_rules(self) -> LoadedRules:
        """Return all alerting rules."""
