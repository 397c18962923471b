"""A change is made only if the conditions of its entry are met."""

from __future__ import annotations

import math

import pytest

from poundcake.config import ConfigError
from poundcake.remediation.checks import TcpResult, TcpState
from poundcake.remediation.conditions import CheckedAlert, check_conditions
from poundcake.remediations import read_remediations
from tests.lib.fake_prometheus import LABELS, FakePrometheus

SERIES = {"instance": "web-1:9100", "job": "node"}


def objection_to_change(*servers, **options):
    """Return the objection that an entry's conditions raise, or '' if they permit a change."""
    return check(*servers, **options).objection


def check(*servers, labels=LABELS, **conditions):
    entry = {"name": "x", "match": ["a=b"], "mode": "live", "action": "a.b", **conditions}
    (remediation,), errors = read_remediations([entry])
    assert not errors
    return check_conditions(remediation, CheckedAlert.of(labels, "instance"), lambda: servers)


@pytest.mark.parametrize(
    "servers, expected_objection",
    [
        ([FakePrometheus("firing")], ""),
        ([FakePrometheus("absent"), FakePrometheus("firing")], ""),
        ([FakePrometheus("pending")], "not firing in Prometheus: pending in http://prometheus.ex"),
        ([FakePrometheus("cleared")], "not firing in Prometheus: cleared in http://prometheus.ex"),
        ([FakePrometheus("absent")], "not firing in Prometheus: absent in http://prometheus.exam"),
        ([FakePrometheus("unknown")], "not firing in Prometheus: unknown in http://prometheus.ex"),
        ([FakePrometheus(error="prometheus, x: refused")], "prometheus, x: refused"),
        ([], "alert needs a Prometheus, and none is configured"),
    ],
)
def test_the_alert_must_be_firing(servers, expected_objection):
    objection = objection_to_change(*servers, check=["alert"])
    assert expected_objection in objection
    assert bool(objection) == bool(expected_objection)


@pytest.mark.parametrize(
    "values, is_true",
    [([1], True), ([0, 0.5], True), ([-1], True), ([], False), ([0], False), ([math.nan], False)],
)
@pytest.mark.parametrize("key", ["only_if", "check"])
def test_an_expression_is_true_if_any_value_is_neither_0_nor_nan(values, is_true, key):
    prometheus = FakePrometheus()
    prometheus.results["a < 1"] = values
    conditions = {"only_if": "a < 1"} if key == "only_if" else {"check": ["expression:a < 1"]}
    objection = objection_to_change(prometheus, **conditions)
    assert ("the expression a < 1 is not true in http://prometheus.example" in objection) != is_true
    assert bool(objection) != is_true


def test_an_expression_must_be_true_in_every_prometheus():
    true_server, false_server = FakePrometheus(), FakePrometheus()
    true_server.results["a"], false_server.results["a"] = [1], []
    assert objection_to_change(true_server, true_server, only_if="a") == ""
    assert "is not true" in objection_to_change(true_server, false_server, only_if="a")
    assert (
        objection_to_change(true_server, FakePrometheus(error="refused"), only_if="a") == "refused"
    )


@pytest.mark.parametrize(
    "series, is_true",
    [(SERIES, True), ({**SERIES, "replica": "a"}, False), ({"instance": "web-2:9100"}, False)],
)
def test_the_expression_of_the_alert_must_be_true_for_its_labels(series, is_true):
    objection = objection_to_change(
        FakePrometheus("pending", series=[series]), check=["expression"]
    )
    assert (objection == "") == is_true


@pytest.mark.parametrize(
    "state, expected_objection",
    [
        (TcpState.NO_ANSWER, ""),
        (TcpState.ANSWERS, "web-1: answers"),
        (TcpState.REFUSED, "web-1: refused"),
        (TcpState.UNRESOLVABLE, "web-1: unresolvable"),
    ],
)
def test_only_a_host_that_does_not_answer_permits_a_change(monkeypatch, state, expected_objection):
    calls = []

    def check_host(host, ports, wait):
        calls.append((host, ports, wait))
        return TcpResult(state, 22, 0.1, f"web-1: {state}")

    monkeypatch.setattr("poundcake.remediation.conditions.check_host", check_host)
    assert objection_to_change(check=["tcp:2222"]) == expected_objection
    assert objection_to_change(check=["tcp"]) == expected_objection
    assert calls == [("web-1", [2222], 0), ("web-1", [22, 9100], 0)]


def test_a_change_that_needs_a_host_is_refused_for_an_alert_without_one():
    assert "must be a host name" in objection_to_change(check=["tcp:22"], labels={"alertname": "x"})


def test_all_conditions_must_be_met():
    firing_server = FakePrometheus("firing")
    firing_server.results["a"] = [0]
    assert objection_to_change(firing_server, check=["alert"]) == ""
    assert "the expression a is not true" in objection_to_change(
        firing_server, check=["alert"], only_if="a"
    )


def test_the_result_contains_what_each_check_saw(monkeypatch):
    result = TcpResult(TcpState.NO_ANSWER, 0, 3.0, "web-1 does not answer")
    monkeypatch.setattr("poundcake.remediation.conditions.check_host", lambda *_: result)
    server = FakePrometheus("firing", series=[SERIES])
    server.results["a"] = [2]
    conditions = ["alert", "tcp", "tcp:22", "expression", "expression:a"]
    assert check(server, check=conditions).evidence == (
        "the alert is firing in http://prometheus.example",
        "ports 22 and 9100 do not answer",
        "port 22 does not answer",
        "the expression of the alert is true in http://prometheus.example",
        "the expression a is true: 2",
    )
    server.results["a"] = []
    objection, evidence = check(server, check=["tcp:22"], only_if="a")
    assert evidence == ("port 22 does not answer", objection)


def test_an_unreadable_secret_prevents_a_change():
    def fail():
        raise ConfigError("prometheus, entry 1: /etc/secret: permission denied")

    (entry,), _ = read_remediations(
        [{"name": "x", "match": ["a=b"], "mode": "live", "action": "a.b", "check": ["alert"]}]
    )
    result = check_conditions(entry, CheckedAlert.of(LABELS, "instance"), fail)
    assert result.objection == "prometheus, entry 1: /etc/secret: permission denied"
