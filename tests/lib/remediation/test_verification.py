"""Prometheus or a check of the host confirms that a change helped."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest

from poundcake.monitoring import AlertReading, AlertState
from poundcake.remediation.errors import RemediationError
from poundcake.remediation.polls import Change, CheckedAlert, poll, read_change
from poundcake.remediation.verification import Verification
from poundcake.remediations import read_remediations
from poundcake.stackstorm import Execution
from tests import services
from tests.lib.fake_prometheus import LABELS, RULE, FakePrometheus
from tests.lib.samples import NOON, iso, later

AGE = timedelta(seconds=100)


def poll_alert(*servers, check="alert", age=AGE, wait=300, previous_evaluations=(), labels=LABELS):
    return poll(
        check, wait, CheckedAlert(labels, "web-1"), servers, Change(age, previous_evaluations)
    )


def poll_twice(first_prometheus, second_prometheus, check="alert"):
    """Poll twice, and return the result of the second poll."""
    return poll_alert(
        second_prometheus,
        check=check,
        previous_evaluations=poll_alert(first_prometheus, check=check).evaluations,
    )


@pytest.mark.parametrize("check", ["alert", "expression"])
def test_two_evaluations_without_the_alert_confirm_a_change(check):
    first_result = poll_alert(FakePrometheus(evaluation_age=40), check=check)
    assert (first_result.done, first_result.cleared) == (False, False)
    assert "in one evaluation, at " in first_result.detail
    result = poll_twice(FakePrometheus(evaluation_age=40), FakePrometheus(evaluation_age=10), check)
    assert (result.done, result.cleared) == (True, True)
    assert result.detail.endswith(f"in two evaluations, the last at {iso(later(-10))}")


def test_the_same_evaluation_twice_does_not_confirm_a_change():
    result = poll_twice(FakePrometheus(evaluation_age=10), FakePrometheus(evaluation_age=10))
    assert (result.done, result.cleared) == (False, False)


def test_an_alert_that_returns_between_two_polls_restarts_the_verification():
    first_result = poll_alert(FakePrometheus(evaluation_age=60))
    second_result = poll_alert(
        FakePrometheus("pending", evaluation_age=40), previous_evaluations=first_result.evaluations
    )
    third_result = poll_alert(
        FakePrometheus(evaluation_age=20), previous_evaluations=second_result.evaluations
    )
    assert (third_result.done, third_result.cleared) == (False, False)


@pytest.mark.parametrize(
    "prometheus, detail",
    [
        (FakePrometheus("firing"), "the alert is firing"),
        (FakePrometheus("pending"), "the alert is pending"),
        (FakePrometheus("unknown"), "the state of the alert is unknown: no data"),
        (FakePrometheus("absent"), "no Prometheus has an alerting rule DiskFull"),
        (FakePrometheus(evaluation_age=100), "its rule has not been evaluated since the change"),
        (FakePrometheus(evaluation_age=200), "its rule has not been evaluated since the change"),
        (FakePrometheus(up=0.0), "Prometheus cannot scrape the alert's target: its `up` is not 1"),
        (FakePrometheus(error="prometheus, x: refused"), "prometheus, x: refused"),
    ],
)
def test_no_other_result_confirms_a_change(prometheus, detail):
    """A second Prometheus in which the alert is cleared makes no difference."""
    for servers in ([prometheus], [prometheus, FakePrometheus()], [FakePrometheus(), prometheus]):
        if prometheus.state == "absent" and len(servers) == 2:
            continue
        result = poll_alert(*servers)
        assert (result.done, result.cleared, result.evaluations) == (False, False, ())
        assert result.detail.endswith(detail)
        last_result = poll_alert(*servers, wait=100)
        assert (last_result.done, last_result.cleared) == (True, False)
        assert last_result.detail == f"not verified within 100 s: {result.detail}"


def test_a_prometheus_without_the_rule_is_ignored_if_another_has_it():
    prometheus_without_rule = FakePrometheus("absent")
    previous_evaluations = poll_alert(
        prometheus_without_rule, FakePrometheus(evaluation_age=40)
    ).evaluations
    assert poll_alert(
        prometheus_without_rule, FakePrometheus(), previous_evaluations=previous_evaluations
    ).cleared


def test_a_prometheus_without_up_for_the_target_confirms_a_change():
    assert poll_twice(FakePrometheus(evaluation_age=40, up=None), FakePrometheus(up=None)).cleared


def test_a_change_is_not_verified_without_a_prometheus():
    result = poll_alert(age=timedelta(seconds=300))
    assert (result.done, result.cleared) == (True, False)
    assert "no Prometheus is configured" in result.detail


@pytest.mark.parametrize(
    "series, is_still_true",
    [
        ({"__name__": "free", "instance": "web-1:9100", "job": "node"}, True),
        ({"instance": "web-1:9100", "severity": "other"}, True),  # the rule replaces severity
        ({"instance": "web-1:9100", "replica": "a"}, True),  # the alert has lost this label
        ({}, True),
        ({"instance": "web-2:9100", "job": "node"}, False),
    ],
)
def test_only_series_with_the_labels_of_the_alert_are_considered(series, is_still_true):
    prometheus = FakePrometheus(series=[series])
    result = poll_alert(prometheus, check="expression")
    assert ("the expression of the alert is still true" in result.detail) == is_still_true
    assert prometheus.expressions[0] == RULE.expression


def test_up_is_queried_for_the_target_of_the_alert():
    labels = {"alertname": "DiskFull", "instance": 'a"b\\c', "job": "ü"}
    prometheus = FakePrometheus()
    prometheus.alert_state = lambda _: AlertReading(AlertState.CLEARED, later(-1), NOON)
    poll_alert(prometheus, labels=labels)
    assert prometheus.expressions == ['up{job="ü",instance="a\\"b\\\\c"}']


@pytest.fixture
def listener():
    with socket.create_server((services.LOOPBACK, 0)) as server:
        yield server


def test_a_host_that_answers_confirms_a_change(listener, monkeypatch):
    monkeypatch.setattr("poundcake.remediation.checks.target_refusal", lambda host: "")
    monkeypatch.setattr("poundcake.remediation.checks.address_refusal", lambda address: "")
    port = listener.getsockname()[1]
    alert = CheckedAlert(LABELS, services.LOOPBACK)
    result = poll(f"tcp:{port}", 60, alert, [], Change(AGE))
    assert (result.done, result.cleared) == (True, True)
    assert result.detail == f"{services.LOOPBACK} answers on port {port}"
    closed_port = services.free_port()
    refused_result = poll(f"tcp:{closed_port}", 300, alert, [], Change(AGE))
    assert (refused_result.done, refused_result.cleared) == (False, False)
    assert "refuses connections" in refused_result.detail


def test_a_host_that_must_not_be_checked_is_not_verified():
    result = poll("tcp:22", 60, CheckedAlert(LABELS, "localhost"), [], Change(AGE))
    assert (result.done, result.cleared) == (True, False)
    assert "not verified within 60 s: host:" in result.detail


class FakeApi:
    """StackStorm's API with the tasks of one workflow."""

    def __init__(self, *tasks):
        self.tasks = tasks

    def now(self):
        return NOON

    def get_children(self, execution_id):
        return [
            Execution(
                id=name, status=status, task_name=name, ended_at=ended, result={"result": result}
            )
            for name, status, ended, result in self.tasks
        ]


def test_the_change_of_a_workflow_is_read_with_the_last_successful_poll():
    change_task = ("remediate_host", "succeeded", later(-30), {})
    first_poll = ("verify", "succeeded", later(-20), {"evaluations": ["a"]})
    last_poll = ("verify", "succeeded", later(-10), {"evaluations": ["b"]})
    running_poll = ("verify", "running", None, None)
    assert read_change(FakeApi(change_task), "w") == Change(timedelta(seconds=30), ())
    assert read_change(
        FakeApi(change_task, first_poll, last_poll, running_poll), "w"
    ).evaluations == ["b"]
    failed_poll = ("verify", "failed", later(-5), "no database")
    assert (
        read_change(FakeApi(change_task, last_poll, failed_poll, running_poll), "w").evaluations
        == ()
    )
    with pytest.raises(RemediationError, match="has made no change, or its change has not ended"):
        read_change(FakeApi(("remediate", "running", None, None)), "w")


@pytest.mark.parametrize(
    "fields, expected_wait",
    [
        ({"action": "ipmi.power_cycle"}, 900),
        ({"action": "mypack.scale", "target": ["deployment"]}, 600),
        ({"action": "poundcake.clean_disk"}, 180),
        ({"action": "linux.service"}, 300),
        ({"action": "linux.service", "wait": 0}, 0),
        ({"action": "linux.service", "wait": 3600}, 3600),
    ],
)
def test_the_default_wait_depends_on_the_action(fields, expected_wait):
    entry = {"name": "x", "match": ["a=b"], "mode": "live", "verify": "alert", **fields}
    (remediation,), errors = read_remediations([entry])
    assert not errors
    verification = Verification.of(remediation)
    assert verification.wait == expected_wait
    # The polls last at least as long as the wait, so that the last poll ends the verification.
    assert verification.pause * verification.polls >= expected_wait
    assert 2 <= verification.pause <= 30


@pytest.mark.parametrize("verify", [None, "none"])
def test_an_entry_without_verify_is_not_verified(verify):
    entry = {"name": "x", "match": ["a=b"], "mode": "live", "action": "a.b", "verify": verify}
    (remediation,), errors = read_remediations([entry])
    assert not errors
    assert Verification.of(remediation).check == ""
