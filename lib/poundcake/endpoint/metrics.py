"""The endpoint's Prometheus metrics, in their own registry.

No client or alert can choose the value of a label: routes are templates, the pack defines the
triggers and components, and all other values come from fixed sets or the configuration.
"""

from __future__ import annotations

import platform
import threading
import time
from datetime import datetime, timezone
from typing import Any, Callable, Iterable, Iterator, Mapping, Tuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

import poundcake
from poundcake.endpoint.bus import Publisher
from poundcake.endpoint.routes import WEBHOOK_PATH
from poundcake.endpoint.triggers import LIMIT_REACHED
from poundcake.timestamps import parse_timestamp
from poundcake.trail.open_counts import OpenCounts
from poundcake.trail.outbox import EndResult, Limit
from poundcake.trail.outcomes import Outcome

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OUTCOMES = tuple(str(outcome) for outcome in Outcome)
END_RESULTS = tuple(str(result) for result in EndResult)
LIMITS = tuple(str(limit) for limit in Limit)
OTHER = "other"

_NAMESPACE = "poundcake"
_JOURNAL_STATES = ("accepted", "announced", "recorded", "done")
# {key in the journal's health report: (name after poundcake_journal_, help)}
_JOURNAL_GAUGES = {
    "oldest_seconds": (
        "oldest_waiting_seconds",
        "Time the oldest request has waited to be recorded.",
    ),
    "stuck": ("stuck_requests", "Requests that cannot be recorded although others can."),
    "waiting": ("backlog_requests", "Requests waiting to be recorded, excluding stuck ones."),
    "backlog_limit": ("backlog_limit_requests", "Backlog at which webhooks are refused."),
}
# {field of OpenCounts: (name after poundcake_, help)}
_OPEN_GAUGES = {
    "incidents": ("incidents_open", "Incidents that are open."),
    "stale_incidents": (
        "incidents_stale",
        "Incidents without a notification for stale_after_hours that nobody handles.",
    ),
    "waiting_workflows": (
        "workflows_waiting",
        "Workflows that wait for an approval, or that a person paused.",
    ),
    "open_breakers": (
        "breakers_open",
        "Remediations that their breaker stops, because their last changes failed.",
    ),
    "oldest_running_seconds": (
        "oldest_running_execution_seconds",
        "Time since the oldest execution that is running was started.",
    ),
    "oldest_lost_seconds": (
        "oldest_lost_alert_seconds",
        "Time since the oldest alert that StackStorm keeps losing was recorded.",
    ),
    "oldest_event_seconds": (
        "oldest_unpublished_event_seconds",
        "Time since the oldest event that is not published yet.",
    ),
}
# {key in the journal's health report: (name after poundcake_state_dir_, help)}
_DISK_GAUGES = {
    "disk_size_bytes": ("size_bytes", "Size of the file system of state_dir."),
    "disk_free_bytes": ("free_bytes", "Bytes that the endpoint can still write to state_dir."),
}
# Seconds.
_RESPONSE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_CLEAR_BUCKETS = (15, 30, 60, 120, 180, 300, 600, 900, 1800, 3600, 7200, 21600)
_RECORD_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
_HEALTH_REUSE_SECONDS = 1.0
# Building the health view reads the journal, which blocks new requests. With this factor, it takes
# at most a twentieth of the time, however often Prometheus scrapes.
_HEALTH_REUSE_FACTOR = 20
_MAX_ACCEPT_CHARACTERS = 1024
_OPEN_COUNTS_SECONDS = 120.0

# (open, closed because there were too many, failed TLS handshakes)
ConnectionCounts = Tuple[int, int, int]

# The _created series double the number of series, and nothing reads them.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the function is untyped


class Metrics:
    """The counters, and the metrics that are read at each scrape.

    All methods may be called from any (green) thread, but not from a function that
    `native.run_in_native_thread` runs.

    Args:
        health: Returns the health view.
        connections: Returns the numbers of connections.

    Attributes:
        recent_health: Returns the health view, about a second old at most.
    """

    def __init__(
        self,
        health: Callable[[], dict[str, Any]],
        connections: Callable[[], ConnectionCounts],
    ) -> None:
        self._registry = CollectorRegistry()
        Info("build", "The running release.", namespace=_NAMESPACE, registry=self._registry).info(
            {"version": poundcake.__version__, "python_version": platform.python_version()}
        )
        self._requests = self._counter(
            "http_requests",
            "HTTP requests answered, by route, method and status code.",
            "route",
            "method",
            "code",
        )
        self._durations = self._histogram(
            "http_request_duration_seconds",
            "Time from the end of a request's header to its response, by route.",
            _RESPONSE_BUCKETS,
            "route",
        )
        self.failed_authentications = self._counter(
            "failed_authentications", "Requests refused for missing or invalid credentials."
        )
        self.refused_webhooks = self._counter(
            "refused_webhooks",
            "Webhooks answered with 4xx, which Alertmanager does not retry, by reason.",
            "reason",
        )
        self.alerts_received = self._counter(
            "alerts_received", "Alerts in the requests that were accepted."
        )
        self._requests_recorded = self._counter(
            "requests_recorded", "Accepted requests found in the tracking database."
        )
        self._record_times = self._histogram(
            "accept_to_record_seconds",
            "Time from accepting a request to finding it in the tracking database.",
            _RECORD_BUCKETS,
        )
        self._alerts_recorded = self._counter(
            "alerts_recorded",
            "Alerts of recorded requests by outcome, counted when the request is first emitted.",
            "outcome",
        )
        self._alerts_emitted = self._counter(
            "alerts_emitted",
            "Alerts emitted to rules, for the first time or again after StackStorm lost them.",
            "emission",
        )
        self._remediations = self._counter(
            "remediations",
            "Remediations that ended, by name and result, counted when their end is published.",
            "remediation",
            "result",
        )
        self._times_to_clear = self._histogram(
            "remediation_seconds_to_clear",
            "Time from receiving an alert until its incident ended, if a change cleared it.",
            _CLEAR_BUCKETS,
            "remediation",
        )
        self._emit_times = self._histogram(
            "accept_to_emit_seconds",
            "Time from accepting a request to emitting its alerts to rules for the first time.",
            _RECORD_BUCKETS,
        )
        self._limits_reached = self._counter(
            "limits_reached",
            "Limits that held back or refused remediations, by limit, counted when published.",
            "limit",
        )
        self._publishes = self._counter(
            "publishes",
            "Triggers published to RabbitMQ, by trigger and by whether RabbitMQ confirmed them.",
            "trigger",
            "result",
        )
        self.announcement_misses = self._counter(
            "announcement_misses", "Announcements whose requests were not all recorded in time."
        )
        self.syncs_requested = self._counter("syncs_asked", "Requests for a sync with StackStorm.")
        self.sync_lateness = Gauge(
            "sync_late_seconds",
            "Time since a sync was requested, if none has ended since.",
            namespace=_NAMESPACE,
            registry=self._registry,
        )
        self._create_fixed_series()
        self.recent_health = RecentHealth(health)
        self._registry.register(_HealthCollector(self.recent_health))
        self._registry.register(_ConnectionCollector(connections))
        self.open_counts = RecentOpenCounts()
        self._registry.register(self.open_counts)

    def count_response(self, route: str, method: str, code: int, seconds: float | None) -> None:
        """Count a response.

        Args:
            route: The template that the request's path matches, or OTHER.
            method: The method as the client wrote it.
            code: The status of the response.
            seconds: How long the request took, or None if it never reached the application.
        """
        method = method if method in METHODS else OTHER
        self._requests.labels(route, method, str(code)).inc()
        if seconds is not None:
            self._durations.labels(route).observe(seconds)

    def count_recorded(self, received_at: Iterable[datetime]) -> None:
        """Count requests that were found in the tracking database, and observe how long it took."""
        for moment in received_at:
            self._requests_recorded.inc()
            self._record_times.observe(_seconds_since(moment))

    def count_emission(
        self, outcomes: Mapping[str, int], count: int, is_repeat: bool, received_at: datetime
    ) -> None:
        """Count the emission of a request.

        Args:
            outcomes: How many of its alerts have each outcome. Counted on the first emission only.
            count: How many of its alerts were emitted.
            is_repeat: Whether the request was emitted before.
            received_at: When the request was received. Its delay is observed on the first emission
                only.
        """
        self._alerts_emitted.labels("again" if is_repeat else "first").inc(count)
        if not is_repeat:
            self._emit_times.observe(_seconds_since(received_at))
            for outcome, number in outcomes.items():
                label = str(outcome) if outcome in OUTCOMES else OTHER
                self._alerts_recorded.labels(label).inc(number)

    def create_remediation_series(self, remediations: Iterable[str]) -> None:
        """Create the series of remediations with the value 0."""
        for remediation in remediations:
            for result in END_RESULTS:
                self._remediations.labels(remediation, result)
            self._times_to_clear.labels(remediation)

    def count_remediation(
        self, remediation: str, result: str, seconds_to_clear: float | None = None
    ) -> None:
        """Count a remediation that ended.

        Args:
            remediation: The name of its entry or the reference of its action, or OTHER.
            result: How it ended.
            seconds_to_clear: The time from receiving the alert until its incident ended. None
                unless a change cleared it.
        """
        self._remediations.labels(remediation, result).inc()
        if seconds_to_clear is not None:
            self._times_to_clear.labels(remediation).observe(seconds_to_clear)

    def count_limit(self, limit: str) -> None:
        """Count a limit that was reported."""
        self._limits_reached.labels(limit if limit in LIMITS else OTHER).inc()

    def count_publish(self, trigger: str, is_confirmed: bool) -> None:
        """Count an attempt to publish a trigger."""
        self._publishes.labels(trigger, "ok" if is_confirmed else "failed").inc()

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their media type, in a format that the Accept header allows."""
        # The library copies the requested version into the media type.
        if not accept.isascii() or len(accept) > _MAX_ACCEPT_CHARACTERS:
            accept = ""
        try:
            encode, media_type = choose_encoder(accept)
            return encode(self._registry), media_type
        # The library does not check that the requested version is valid.
        except (TypeError, ValueError):
            encode, media_type = choose_encoder("")
            return encode(self._registry), media_type

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace=_NAMESPACE, registry=self._registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            name, text, labels, namespace=_NAMESPACE, registry=self._registry, buckets=buckets
        )

    def _create_fixed_series(self) -> None:
        """Create the series with known labels: rate() misses the first increase of a new series."""
        self._requests.labels(WEBHOOK_PATH, "POST", "202")
        self._durations.labels(WEBHOOK_PATH)
        for outcome in OUTCOMES:
            self._alerts_recorded.labels(outcome)
        for emission in ("first", "again"):
            self._alerts_emitted.labels(emission)
        for limit in LIMITS:
            self._limits_reached.labels(limit)


class RecentHealth:
    """The health view, built at most once a second.

    Args:
        health: Returns the health view.
    """

    def __init__(self, health: Callable[[], dict[str, Any]]) -> None:
        self._health = health
        self._lock = threading.Lock()
        self._last: dict[str, Any] = {}
        self._stale_at = 0.0

    def __call__(self) -> dict[str, Any]:
        """Return the health view, about a second old at most."""
        with self._lock:  # simultaneous callers share one health view
            started_at = time.monotonic()
            if started_at >= self._stale_at:
                self._last = self._health()
                now = time.monotonic()
                age = max(_HEALTH_REUSE_SECONDS, _HEALTH_REUSE_FACTOR * (now - started_at))
                self._stale_at = now + age
            return self._last


class CountedBus:
    """A publisher that counts its attempts in the metrics."""

    def __init__(self, bus: Publisher, metrics: Metrics) -> None:
        self._bus = bus
        self._metrics = metrics

    def publish(self, trigger: str, payload: dict[str, Any], trace_tag: str) -> None:
        """Publish a trigger, and count whether the broker confirmed it."""
        try:
            self._bus.publish(trigger, payload, trace_tag)
        except Exception:
            self._metrics.count_publish(trigger, False)
            raise
        self._metrics.count_publish(trigger, True)
        if trigger == LIMIT_REACHED:
            self._metrics.count_limit(str(payload.get("limit", "")))

    def close(self) -> None:
        """Close the bus."""
        self._bus.close()


class RecentOpenCounts(Collector):
    """Collect what is open: incidents, workflows, breakers, and what waits for StackStorm.

    A step of the pipeline reads the numbers from the tables. They are left out once they are too
    old.
    """

    def __init__(self) -> None:
        self._counts: OpenCounts | None = None
        self._expires_at = 0.0

    def set(self, counts: OpenCounts) -> None:
        """Set the numbers, as they are now."""
        self._counts, self._expires_at = counts, time.monotonic() + _OPEN_COUNTS_SECONDS

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, unless the numbers are too old."""
        counts = self._counts
        if counts is None or time.monotonic() > self._expires_at:
            return
        for field, (name, text) in _OPEN_GAUGES.items():
            yield GaugeMetricFamily(f"poundcake_{name}", text, getattr(counts, field))


class _ConnectionCollector(Collector):
    def __init__(self, connections: Callable[[], ConnectionCounts]) -> None:
        self._connections = connections

    def collect(self) -> Iterator[Metric]:
        open_count, evicted, failed_handshakes = self._connections()
        yield GaugeMetricFamily("poundcake_connections", "Connections that are open.", open_count)
        yield CounterMetricFamily(
            "poundcake_connections_evicted",
            "Connections closed because there were too many.",
            evicted,
        )
        yield CounterMetricFamily(
            "poundcake_failed_handshakes", "Failed TLS handshakes.", failed_handshakes
        )


class _HealthCollector(Collector):
    """Collect the metrics that come from the health view."""

    def __init__(self, health: Callable[[], dict[str, Any]]) -> None:
        self._health = health

    def collect(self) -> Iterator[Metric]:
        health = self._health()
        components = health["components"]
        yield from _component_metrics(components)
        yield GaugeMetricFamily(
            "poundcake_paused",
            "1 while all changes are paused with poundcake.pause.",
            int(bool(health.get("paused"))),
        )
        yield from _configuration_metrics(health)
        yield from _database_metrics(components.get("database") or {})
        journal = components["journal"]
        yield GaugeMetricFamily(
            "poundcake_journal_quarantined_files",
            "Damaged journals in quarantine.",
            len(journal.get("set_aside") or []),
        )
        yield GaugeMetricFamily(
            "poundcake_processing_problem",
            "1 while requests are not processed, or triggers of recorded ones are not published.",
            int(bool(journal.get("processing_problem"))),
        )
        for key, (name, text) in _DISK_GAUGES.items():
            if key in journal:  # missing if there is no state_dir
                yield GaugeMetricFamily(f"poundcake_state_dir_{name}", text, journal[key])
        if "waiting" in journal:  # missing if the journal cannot be read
            yield from _journal_metrics(journal)


def _seconds_since(moment: datetime) -> float:
    # The machine's clock may have been set back.
    return max(0.0, (datetime.now(timezone.utc) - moment).total_seconds())


def _component_metrics(components: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    down = GaugeMetricFamily(
        "poundcake_component_down", "1 while the component is down.", labels=["component"]
    )
    since = GaugeMetricFamily(
        "poundcake_component_since_timestamp_seconds",
        "When the component entered its current state.",
        labels=["component"],
    )
    for name, component in components.items():
        down.add_metric([name], component["state"] == "down")
        changed_at = parse_timestamp(component["since"])
        if changed_at:
            since.add_metric([name], changed_at.timestamp())
    yield down
    yield since


def _configuration_metrics(health: Mapping[str, Any]) -> Iterator[Metric]:
    configuration = health.get("configuration") or {}
    problems = configuration.get("problem"), configuration.get("remediation_errors")
    yield GaugeMetricFamily(
        "poundcake_configuration_problem",
        "1 while the newest configuration or an entry of remediations is not used.",
        int(any(problems)),
    )
    expiry = GaugeMetricFamily(
        "poundcake_certificate_expiry_timestamp_seconds", "When the TLS certificate expires."
    )
    expires_at = parse_timestamp(health.get("certificate_expires_at") or "")
    if expires_at:
        expiry.add_metric([], expires_at.timestamp())
    yield expiry


def _database_metrics(report: Mapping[str, Any]) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "poundcake_migration_pending",
        "1 while poundcake.migrate has to be run.",
        int(bool(report.get("pending"))),
    )
    if "clock_offset_seconds" in report:
        yield GaugeMetricFamily(
            "poundcake_clock_offset_seconds",
            "How far the clock of this machine is ahead of the database's.",
            report["clock_offset_seconds"],
        )


def _journal_metrics(journal: Mapping[str, Any]) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        "poundcake_journal_requests", "Requests in the journal by state.", labels=["state"]
    )
    for state in _JOURNAL_STATES:
        states.add_metric([state], journal[state])
    yield states
    for key, (name, text) in _JOURNAL_GAUGES.items():
        yield GaugeMetricFamily(f"poundcake_journal_{name}", text, journal[key])
