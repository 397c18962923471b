"""The endpoint's numbers as Prometheus reads them, on a registry of their own.

No label takes what a client sends or an alert brings: routes are templates, methods and outcomes
come from fixed sets, and triggers and components have the pack's own names.
"""

from __future__ import annotations

import platform
import threading
import time
from datetime import datetime, timezone
from typing import Any, Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

import poundcake
from poundcake.timestamps import parse_timestamp
from poundcake.trail.outcomes import Outcome

WEBHOOK_ROUTE = "/api/v1/webhook"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OTHER = "other"
OUTCOMES = (
    Outcome.MALFORMED,
    Outcome.RESOLVED,
    Outcome.DUPLICATE,
    Outcome.COOLDOWN,
    Outcome.RATE_LIMITED,
    Outcome.ADMITTED,
)
_STATES = ("accepted", "announced", "recorded", "done")
# {of the journal's health: (what follows poundcake_journal_, help)}
_JOURNAL = {
    "oldest_seconds": ("oldest_waiting_seconds", "How long the oldest waits to be recorded."),
    "stuck": ("stuck_requests", "Requests that alone cannot be recorded."),
    "waiting": ("backlog_requests", "Requests that wait to be recorded, without the stuck ones."),
    "backlog_limit": ("backlog_limit_requests", "From how many on webhooks are refused."),
}
# Seconds.
_ANSWER_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_RECORD_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
_KEEP = 1.0
# Counting a journal of millions takes a while, during which nothing is accepted: with this it takes
# a twentieth of the time at most, however often somebody asks.
_KEEP_TIMES = 20

# A series more for each counter and histogram, which Prometheus makes no use of in this format.
disable_created_metrics()


class Metrics:
    """What is counted, and how it is at the moment of a scrape.

    health() gives what the health view gives, connections() how many are open, were closed for
    want of room, and did not come to TLS. All methods may be called from any (green) thread, but
    from none in native.run_in_native_thread().
    """

    def __init__(
        self, health: Callable[[], dict[str, Any]], connections: Callable[[], tuple[int, int, int]]
    ):
        self._registry = CollectorRegistry()
        ours: dict[str, Any] = {"namespace": "poundcake", "registry": self._registry}
        Info("build", "The running release.", **ours).info(
            {"version": poundcake.__version__, "python_version": platform.python_version()}
        )
        self._requests = Counter(
            "http_requests",
            "HTTP requests answered, by route, method and status code.",
            ["route", "method", "code"],
            **ours,
        )
        self._durations = Histogram(
            "http_request_duration_seconds",
            "From the end of a request's header to its answer, by route.",
            ["route"],
            buckets=_ANSWER_BUCKETS,
            **ours,
        )
        self.failed_authentications = Counter(
            "failed_authentications", "Requests refused for want of a valid credential.", **ours
        )
        self.alerts_received = Counter(
            "alerts_received", "Alerts in the requests that were accepted.", **ours
        )
        self._requests_recorded = Counter(
            "requests_recorded", "Accepted requests seen in the tracking database.", **ours
        )
        self._record_times = Histogram(
            "accept_to_record_seconds",
            "From a request's acceptance until it was seen in the tracking database.",
            buckets=_RECORD_BUCKETS,
            **ours,
        )
        self._alerts_recorded = Counter(
            "alerts_recorded",
            "Alerts of recorded requests by outcome, counted when the request is first emitted.",
            ["outcome"],
            **ours,
        )
        self._alerts_emitted = Counter(
            "alerts_emitted",
            "Alerts handed to StackStorm's rules: first, or again because StackStorm lost them.",
            ["emission"],
            **ours,
        )
        self._publishes = Counter(
            "publishes",
            "Triggers published to RabbitMQ, by trigger and whether it took them.",
            ["trigger", "result"],
            **ours,
        )
        self.announcement_misses = Counter(
            "announcement_misses", "Announcements that were not recorded in time.", **ours
        )
        self.syncs_asked = Counter(
            "syncs_asked",
            "Times that StackStorm was to be asked what became of what is open.",
            **ours,
        )
        # A rate needs a zero to begin at.
        self._requests.labels(WEBHOOK_ROUTE, "POST", "202")
        self._durations.labels(WEBHOOK_ROUTE)
        for outcome in OUTCOMES:
            self._alerts_recorded.labels(outcome)
        for emission in ("first", "again"):
            self._alerts_emitted.labels(emission)
        self._registry.register(_Now(health))
        self._registry.register(_Connections(connections))

    def answered(self, route: str, method: str, code: int, seconds: float) -> None:
        """A request was answered. route: the template that its path fits, or OTHER."""
        method = method if method in METHODS else OTHER
        self._requests.labels(route, method, str(code)).inc()
        self._durations.labels(route).observe(seconds)

    def recorded(self, received_at: Iterable[datetime]) -> None:
        """Requests accepted at these times were seen in the tracking database."""
        now = datetime.now(timezone.utc)
        for accepted in received_at:
            self._requests_recorded.inc()
            # The clock may have been set back.
            self._record_times.observe(max(0.0, (now - accepted).total_seconds()))

    def emitted(self, outcomes: dict[str, int], count: int, again: bool) -> None:
        """A request was emitted, with so many alerts. outcomes: how many of its alerts have
        each; counted the first time only."""
        self._alerts_emitted.labels("again" if again else "first").inc(count)
        if not again:
            for outcome, number in outcomes.items():
                outcome = outcome if outcome in OUTCOMES else OTHER
                self._alerts_recorded.labels(outcome).inc(number)

    def published(self, trigger: str, taken: bool) -> None:
        """A trigger was handed to the broker, which took it or did not."""
        self._publishes.labels(trigger, "ok" if taken else "failed").inc()

    def text(self, accept: str) -> tuple[bytes, str]:
        """(the numbers in a format that the Accept header takes, its media type)."""
        try:
            encode, media_type = choose_encoder(accept)
            return encode(self._registry), media_type
        # The library compares the version asked for without a look whether it is one.
        except (TypeError, ValueError):
            encode, media_type = choose_encoder("")
            return encode(self._registry), media_type


class CountedBus:
    """A bus whose publishes are counted."""

    def __init__(self, bus: Any, metrics: Metrics):
        self._bus = bus
        self._metrics = metrics

    def publish(self, trigger: str, payload: dict[str, Any], trace_tag: str) -> None:
        """As the bus does it."""
        try:
            self._bus.publish(trigger, payload, trace_tag)
        except Exception:
            self._metrics.published(trigger, False)
            raise
        self._metrics.published(trigger, True)

    def close(self) -> None:
        """As the bus does it."""
        self._bus.close()


class _Connections:
    def __init__(self, connections: Callable[[], tuple[int, int, int]]):
        self._connections = connections

    def collect(self) -> Iterable[Metric]:
        connections, evicted, unsecured = self._connections()
        yield GaugeMetricFamily("poundcake_connections", "Connections that are open.", connections)
        yield CounterMetricFamily(
            "poundcake_connections_evicted", "Connections closed for want of room.", evicted
        )
        yield CounterMetricFamily(
            "poundcake_failed_handshakes", "Connections that did not come to TLS.", unsecured
        )


class _Now:
    """What is not counted but looked at, at most once a second."""

    def __init__(self, health: Callable[[], dict[str, Any]]):
        self._health = health
        self._lock = threading.Lock()
        self._looked: dict[str, Any] = {}
        self._look_at = 0.0

    def collect(self) -> Iterable[Metric]:
        components = self._look()["components"]
        down = GaugeMetricFamily(
            "poundcake_component_down", "1 while the component is down.", labels=["component"]
        )
        since = GaugeMetricFamily(
            "poundcake_component_since_timestamp_seconds",
            "Since when the component is in its present state.",
            labels=["component"],
        )
        for name, part in components.items():
            down.add_metric([name], part["state"] == "down")
            since.add_metric([name], parse_timestamp(part["since"]).timestamp())
        yield down
        yield since
        journal = components["journal"]
        if "waiting" not in journal:
            return  # it cannot be read
        states = GaugeMetricFamily(
            "poundcake_journal_requests", "Requests in the journal by state.", labels=["state"]
        )
        for state in _STATES:
            states.add_metric([state], journal[state])
        yield states
        for key, (name, text) in _JOURNAL.items():
            yield GaugeMetricFamily("poundcake_journal_" + name, text, journal[key])

    def _look(self) -> dict[str, Any]:
        with self._lock:  # who comes meanwhile takes what is found
            began = time.monotonic()
            if began >= self._look_at:
                self._looked = self._health()
                now = time.monotonic()
                self._look_at = now + max(_KEEP, _KEEP_TIMES * (now - began))
            return self._looked
