"""Prometheus's HTTP API."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any, Iterable, Mapping, Sequence

from poundcake.monitoring.api import (
    AlertingRule,
    AlertReading,
    AlertRule,
    AlertState,
    LoadedRules,
    MonitoringError,
    Sample,
)
from poundcake.monitoring.http_json import JsonClient, JsonResponse, Query
from poundcake.monitoring_servers import MonitoringServer
from poundcake.timestamps import parse_timestamp

_RULES, _QUERY = "/api/v1/rules", "/api/v1/query"
_ALERTNAME = "alertname"


class Prometheus:
    """The implementation of PrometheusApi over HTTP."""

    def __init__(self, server: MonitoringServer):
        self.url = server.url
        self._client = JsonClient("prometheus", server)

    def alert_state(self, labels: Mapping[str, str]) -> AlertReading:
        """Return the state of the alert with these labels, which include `alertname`.

        Prometheus adds its external labels only when it sends an alert. So `labels` may contain
        labels that the alert does not have in Prometheus.
        """
        name = labels.get(_ALERTNAME, "")
        # Releases before 2.45 ignore rule_name[], and return all rules.
        response, data = self._get(_RULES, {"type": "alert", "rule_name[]": [name]})
        try:
            rules = [
                rule
                for group in data["groups"]
                for rule in group["rules"]
                if rule["name"] == name and rule["type"] == "alerting"
            ]
            alert_rules = tuple(
                AlertRule(str(rule["query"]), frozenset(rule.get("labels") or {})) for rule in rules
            )
            return replace(_read_state(rules, labels, response.now), rules=alert_rules)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise self._unexpected_response(_RULES) from None

    def query(self, expression: str) -> Sequence[Sample]:
        """Return the instant vector of an expression at the current time.

        A scalar is returned as one sample without labels.
        """
        _, data = self._get(_QUERY, {"query": expression})
        try:
            if data["resultType"] == "scalar":
                return [Sample({}, float(data["result"][1]))]
            if data["resultType"] == "vector":
                return [Sample(item["metric"], float(item["value"][1])) for item in data["result"]]
        except (IndexError, KeyError, TypeError, ValueError):
            raise self._unexpected_response(_QUERY) from None
        raise self._client.error(f"the result is not an instant vector, but a {data['resultType']}")

    def alerting_rules(self) -> LoadedRules:
        """Return all alerting rules."""
        response, data = self._get(_RULES, {"type": "alert"})
        try:
            rules = tuple(
                AlertingRule(
                    str(rule["name"]),
                    dict(rule.get("labels") or {}),
                    str(rule.get("lastError") or rule["health"]) if rule["health"] == "err" else "",
                )
                for group in data["groups"]
                for rule in group["rules"]
                if rule["type"] == "alerting"
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise self._unexpected_response(_RULES) from None
        return LoadedRules(rules, response.now)

    def _get(self, path: str, query: Query) -> tuple[JsonResponse, Any]:
        """Return a response, and the data in it."""
        response = self._client.get(path, query)
        document = response.document
        if not isinstance(document, dict) or document.get("status") != "success":
            raise self._unexpected_response(path)
        return response, document.get("data")

    def _unexpected_response(self, path: str) -> MonitoringError:
        return self._client.error(f"{path}: not a response of Prometheus's API")


def _read_state(
    rules: Sequence[Mapping[str, Any]], labels: Mapping[str, str], now: datetime | None
) -> AlertReading:
    """Return the state of an alert from the rules with its name.

    If several rules have its name, the alert counts as cleared only if it is cleared in all of
    them.
    """
    if not rules:
        return AlertReading(AlertState.ABSENT, now=now)
    evaluations = [parse_timestamp(rule["lastEvaluation"]) for rule in rules]
    times = [moment for moment in evaluations if moment]
    evaluated_at = min(times, default=None)
    states = {
        alert["state"]
        for rule in rules
        for alert in rule["alerts"]
        if _contains_all(alert["labels"].items(), labels)
    }
    for state in (AlertState.FIRING, AlertState.PENDING):
        if state.value in states:
            return AlertReading(state, evaluated_at, now)
    failing_rules = [rule for rule in rules if rule["health"] != "ok"]
    if failing_rules or len(times) < len(rules):
        error = str(failing_rules[0].get("lastError") or "") if failing_rules else ""
        detail = error or "its rule has not been evaluated yet"
        return AlertReading(AlertState.UNKNOWN, evaluated_at, now, detail)
    return AlertReading(AlertState.CLEARED, evaluated_at, now)


def _contains_all(items: Iterable[tuple[str, str]], labels: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in items)
