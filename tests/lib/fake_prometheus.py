"""An in-memory implementation of PrometheusApi."""

from __future__ import annotations

from poundcake.monitoring import (
    AlertReading,
    AlertRule,
    AlertState,
    LoadedRules,
    MonitoringError,
    Sample,
)
from tests.lib.samples import NOON, later

LABELS = {"alertname": "DiskFull", "instance": "web-1:9100", "job": "node", "cluster": "eu"}
RULE = AlertRule("free < 5", frozenset({"severity"}))


class FakePrometheus:
    """A Prometheus with one rule.

    Attributes:
        state: The state of the alert.
        evaluation_age: How many seconds ago its rule was last evaluated.
        series: The label sets for which its expression is true.
        up: The value of the series `up` of the target, or None if the series does not exist.
        error: The error that every query raises, or ''.
        expressions: The expressions that were queried.
        results: The values of other expressions.
        rules: All alerting rules.
        now: The time by its clock, when it returns these rules.
    """

    def __init__(self, state="cleared", evaluation_age=10, series=(), up=1.0, error=""):
        self.url = "http://prometheus.example"
        self.state, self.series = AlertState(state), list(series)
        self.evaluation_age = evaluation_age
        self.up, self.error, self.expressions, self.results = up, error, [], {}
        self.rules, self.now = [], NOON

    def alert_state(self, labels):
        assert labels == LABELS
        if self.error:
            raise MonitoringError(self.error)
        if self.state is AlertState.ABSENT:
            return AlertReading(self.state, now=NOON)
        evaluated_at = later(-self.evaluation_age)
        return AlertReading(self.state, evaluated_at, NOON, "no data", (RULE,))

    def alerting_rules(self):
        if self.error:
            raise MonitoringError(self.error)
        return LoadedRules(tuple(self.rules), self.now)

    def query(self, expression):
        self.expressions.append(expression)
        if expression.startswith("up{"):
            return [] if self.up is None else [Sample({"__name__": "up"}, self.up)]
        if self.error:
            raise MonitoringError(self.error)
        if expression in self.results:
            return [Sample({}, value) for value in self.results[expression]]
        assert expression == RULE.expression
        return [Sample(labels, 1.0) for labels in self.series]
