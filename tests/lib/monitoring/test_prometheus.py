"""Prometheus's API, against a real Prometheus and against a server of ours."""

from __future__ import annotations

import math

import pytest

from poundcake import monitoring
from poundcake.config import Config
from poundcake.monitoring import AlertState, MonitoringError, Prometheus
from poundcake.monitoring_servers import MonitoringServer
from tests.cluster.world import Exporter
from tests.cluster.world import Prometheus as PrometheusServer
from tests.conftest import start
from tests.lib.samples import NOON, iso, later
from tests.waiting import wait_for

RULES = "/api/v1/rules"
LABELS = {"alertname": "HostDown", "instance": "web-1", "severity": "critical"}


@pytest.fixture
def exporter():
    new_exporter = Exporter(["web-1", "web-2"])
    yield new_exporter
    new_exporter.close()


def test_the_state_of_an_alert_in_a_real_prometheus(exporter):
    server = start(PrometheusServer, "HostDown", exporter.port, [])
    try:
        url = f"http://127.0.0.1:{server.port}"
        (client,) = monitoring.prometheus_servers(Config(prometheus=(MonitoringServer(url),)))

        def state():
            return client.alert_state({"alertname": "HostDown", "instance": "web-1", "job": "x"})

        def state_of(instance):
            labels = {"alertname": "HostDown", "instance": instance, "job": "exporter"}
            return client.alert_state(labels)

        wait_for(lambda: state_of("web-1").state == AlertState.CLEARED, 30)
        exporter.faulty["web-1"] = True
        firing = wait_for(lambda: (one := state_of("web-1")).state == AlertState.FIRING and one, 30)
        assert firing.evaluated_at and firing.now
        assert state_of("web-2").state == AlertState.CLEARED
        assert state().state == AlertState.CLEARED  # another value of a label
        assert client.alert_state({"alertname": "Other"}).state == AlertState.ABSENT
        exporter.faulty["web-1"] = False
        cleared = wait_for(lambda: (o := state_of("web-1")).state == AlertState.CLEARED and o, 30)
        assert cleared.evaluated_at > firing.evaluated_at

        up = client.query('up{job="exporter"}')
        assert [(one.labels["job"], one.value) for one in up] == [("exporter", 1.0)]
        assert client.query("absent(up)") == []
        assert [(one.labels, one.value) for one in client.query("scalar(vector(2))")] == [({}, 2.0)]
        with pytest.raises(MonitoringError, match=f"prometheus, {url}: GET /api/v1/query: 400 inv"):
            client.query("up{")
        with pytest.raises(
            MonitoringError, match="the result is not an instant vector, but a matrix"
        ):
            client.query("up[1m]")
    finally:
        server.close()


def alert(state="firing", **labels):
    return {"state": state, "labels": {**LABELS, **labels}}


def rule(*alerts, health="ok", evaluated=NOON, **more):
    return {
        "name": "HostDown",
        "type": "alerting",
        "query": "up == 0",
        "health": health,
        "lastEvaluation": evaluated if isinstance(evaluated, str) else iso(evaluated),
        "alerts": list(alerts),
        **more,
    }


def read(fake, *rules, labels=LABELS):
    groups = [{"rules": [item]} for item in rules]
    fake.responses[RULES] = {"status": "success", "data": {"groups": groups}}
    return Prometheus(MonitoringServer(fake.url)).alert_state(labels)


@pytest.mark.parametrize(
    "rules, state",
    [
        ([], "absent"),
        ([rule(alert(), name="Other")], "absent"),
        ([rule(alert(), type="recording")], "absent"),
        ([rule()], "cleared"),
        ([rule(alert(instance="web-2"))], "cleared"),
        ([rule(alert("pending"))], "pending"),
        ([rule(alert())], "firing"),
        ([rule(), rule(alert("pending"))], "pending"),
        ([rule(alert("pending")), rule(alert())], "firing"),
        ([rule(health="err", lastError="no data")], "unknown"),
        ([rule(), rule(health="unknown", evaluated="0001-01-01T00:00:00Z")], "unknown"),
        ([rule(alert(), health="err")], "firing"),
    ],
)
def test_states(fake, rules, state):
    assert read(fake, *rules).state == state


def test_why_a_state_is_unknown(fake):
    assert read(fake, rule(health="err", lastError="no data")).detail == "no data"
    never = rule(evaluated="0001-01-01T00:00:00Z", health="unknown")
    assert read(fake, never).detail == "its rule has not been evaluated yet"


def test_the_earliest_evaluation_of_several_rules_counts(fake):
    assert read(fake, rule(), rule(evaluated=later(-30))).evaluated_at == later(-30)


def test_external_labels_of_prometheus_do_not_hide_an_alert(fake):
    labels = {**LABELS, "cluster": "eu-1"}
    assert read(fake, rule(alert()), labels=labels).state == AlertState.FIRING


@pytest.mark.parametrize("value", ["NaN", "+Inf", "1.5"])
def test_values_of_a_query(fake, value):
    data = {"resultType": "vector", "result": [{"metric": {"a": "b"}, "value": [1.0, value]}]}
    fake.responses["/api/v1/query"] = {"status": "success", "data": data}
    (sample,) = Prometheus(MonitoringServer(fake.url)).query("x")
    assert sample.labels == {"a": "b"}
    assert sample.value == float(value) or math.isnan(sample.value)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {"status": "error"},
        {"status": "success", "data": None},
        {"status": "success", "data": {"groups": [1]}},
        {"status": "success", "data": {"resultType": "vector", "result": [{}]}},
        {"status": "success", "data": {"groups": [{"rules": [{"name": "HostDown"}]}]}},
        {"status": "success", "data": {"groups": [{"rules": [rule(alerts=[{}])]}]}},
    ],
)
def test_another_answer_is_an_error_and_not_a_cleared_alert(fake, document):
    fake.responses[RULES] = fake.responses["/api/v1/query"] = document
    client = Prometheus(MonitoringServer(fake.url))
    for ask in (lambda: client.alert_state(LABELS), lambda: client.query("up")):
        with pytest.raises(MonitoringError, match="not a response of Prometheus's API"):
            ask()
