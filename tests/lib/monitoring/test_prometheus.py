"""The client works with a real Prometheus, and interprets the responses of a fake one."""

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


def test_the_client_reads_the_state_of_an_alert_in_a_real_prometheus(exporter):
    server = start(PrometheusServer, "HostDown", exporter.port, [])
    try:
        url = f"http://127.0.0.1:{server.port}"
        (client,) = monitoring.prometheus_servers(Config(prometheus=(MonitoringServer(url),)))

        def read_state(instance, job="exporter"):
            labels = {"alertname": "HostDown", "instance": instance, "job": job}
            return client.alert_state(labels)

        def wait_for_state(state):
            return wait_for(lambda: (reading := read_state("web-1")).state == state and reading, 30)

        wait_for_state(AlertState.CLEARED)
        exporter.faulty["web-1"] = True
        firing_reading = wait_for_state(AlertState.FIRING)
        assert firing_reading.evaluated_at and firing_reading.now
        assert read_state("web-2").state == AlertState.CLEARED
        assert read_state("web-1", job="x").state == AlertState.CLEARED
        assert client.alert_state({"alertname": "Other"}).state == AlertState.ABSENT
        exporter.faulty["web-1"] = False
        cleared_reading = wait_for_state(AlertState.CLEARED)
        assert cleared_reading.evaluated_at > firing_reading.evaluated_at

        up_samples = client.query('up{job="exporter"}')
        assert [(sample.labels["job"], sample.value) for sample in up_samples] == [
            ("exporter", 1.0)
        ]
        assert client.query("absent(up)") == []
        assert [(sample.labels, sample.value) for sample in client.query("scalar(vector(2))")] == [
            ({}, 2.0)
        ]
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


def rule(*alerts, health="ok", evaluated=NOON, **fields):
    return {
        "name": "HostDown",
        "type": "alerting",
        "query": "up == 0",
        "health": health,
        "lastEvaluation": evaluated if isinstance(evaluated, str) else iso(evaluated),
        "alerts": list(alerts),
        **fields,
    }


def read_alert_state(fake_server, *rules, labels=LABELS):
    groups = [{"rules": [item]} for item in rules]
    fake_server.responses[RULES] = {"status": "success", "data": {"groups": groups}}
    return Prometheus(MonitoringServer(fake_server.url)).alert_state(labels)


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
def test_the_state_of_an_alert_depends_on_all_its_rules(fake_server, rules, state):
    assert read_alert_state(fake_server, *rules).state == state


def test_all_alerting_rules_are_listed_with_their_labels_and_errors(fake_server):
    rules = [
        rule(labels={"severity": "page"}),
        rule(name="Bad", health="err", lastError="no data"),
        rule(name="record", type="recording"),
    ]
    groups = [{"rules": [item]} for item in rules]
    fake_server.responses[RULES] = {"status": "success", "data": {"groups": groups}}
    fake_server.headers = {"Date": "Wed, 01 Jan 2020 00:10:00 GMT"}
    loaded = Prometheus(MonitoringServer(fake_server.url)).alerting_rules()
    assert [(item.name, item.labels, item.error) for item in loaded.rules] == [
        ("HostDown", {"severity": "page"}, ""),
        ("Bad", {}, "no data"),
    ]
    assert iso(loaded.now) == "2020-01-01T00:10:00Z"


def test_an_unknown_state_has_a_reason(fake_server):
    assert (
        read_alert_state(fake_server, rule(health="err", lastError="no data")).detail == "no data"
    )
    unevaluated_rule = rule(evaluated="0001-01-01T00:00:00Z", health="unknown")
    assert (
        read_alert_state(fake_server, unevaluated_rule).detail
        == "its rule has not been evaluated yet"
    )


def test_the_earliest_evaluation_of_several_rules_counts(fake_server):
    assert read_alert_state(fake_server, rule(), rule(evaluated=later(-30))).evaluated_at == later(
        -30
    )


def test_external_labels_of_prometheus_do_not_hide_an_alert(fake_server):
    labels = {**LABELS, "cluster": "eu-1"}
    assert read_alert_state(fake_server, rule(alert()), labels=labels).state == AlertState.FIRING


@pytest.mark.parametrize("value", ["NaN", "+Inf", "1.5"])
def test_special_values_of_a_query_are_read(fake_server, value):
    data = {"resultType": "vector", "result": [{"metric": {"a": "b"}, "value": [1.0, value]}]}
    fake_server.responses["/api/v1/query"] = {"status": "success", "data": data}
    (sample,) = Prometheus(MonitoringServer(fake_server.url)).query("x")
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
def test_an_unexpected_response_is_an_error_and_not_a_cleared_alert(fake_server, document):
    fake_server.responses[RULES] = fake_server.responses["/api/v1/query"] = document
    client = Prometheus(MonitoringServer(fake_server.url))
    for call in (lambda: client.alert_state(LABELS), lambda: client.query("up")):
        with pytest.raises(MonitoringError, match="not a response of Prometheus's API"):
            call()


@pytest.mark.parametrize("data", [None, {"groups": [1]}, {"groups": [{"rules": [{}]}]}])
def test_unexpected_rules_are_an_error(fake_server, data):
    fake_server.responses[RULES] = {"status": "success", "data": data}
    with pytest.raises(MonitoringError, match="not a response of Prometheus's API"):
        Prometheus(MonitoringServer(fake_server.url)).alerting_rules()
