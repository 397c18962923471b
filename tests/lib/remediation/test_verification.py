"""Whether a change helped, as Prometheus and the host show."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest

from poundcake.monitoring import AlertReading, AlertState
from poundcake.remediation.errors import RemediationError
from poundcake.remediation.polls import Change, Subject, poll, read_change
from poundcake.remediation.verification import Verification
from poundcake.remediations import read_remediations
from poundcake.stackstorm import Execution
from tests import services
from tests.lib.fake_prometheus import LABELS, RULE, FakePrometheus
from tests.lib.samples import NOON, iso, later

SINCE = timedelta(seconds=100)


def look(*servers, check="alert", age=SINCE, wait=300, before=(), labels=LABELS):
    return poll(check, wait, Subject(labels, "web-1"), servers, Change(age, before))


def looked_twice(first, second, check="alert"):
    """Return the second of two polls."""
    return look(second, check=check, before=look(first, check=check).evaluations)


@pytest.mark.parametrize("check", ["alert", "expression"])
def test_two_evaluations_without_the_alert_confirm_a_change(check):
    first = look(FakePrometheus(evaluated=40), check=check)
    assert (first.done, first.cleared) == (False, False)
    assert "in one evaluation, at " in first.detail
    found = looked_twice(FakePrometheus(evaluated=40), FakePrometheus(evaluated=10), check)
    assert (found.done, found.cleared) == (True, True)
    assert found.detail.endswith(f"in two evaluations, the last at {iso(later(-10))}")


def test_the_same_evaluation_twice_does_not_confirm_a_change():
    found = looked_twice(FakePrometheus(evaluated=10), FakePrometheus(evaluated=10))
    assert (found.done, found.cleared) == (False, False)


def test_an_alert_that_came_back_between_two_polls_starts_over():
    gone = look(FakePrometheus(evaluated=60))
    back = look(FakePrometheus("pending", evaluated=40), before=gone.evaluations)
    again = look(FakePrometheus(evaluated=20), before=back.evaluations)
    assert (again.done, again.cleared) == (False, False)


@pytest.mark.parametrize(
    "first, detail",
    [
        (FakePrometheus("firing"), "the alert is firing"),
        (FakePrometheus("pending"), "the alert is pending"),
        (FakePrometheus("unknown"), "the state of the alert is unknown: no data"),
        (FakePrometheus("absent"), "no Prometheus has an alerting rule DiskFull"),
        (FakePrometheus(evaluated=100), "its rule has not been evaluated since the change"),
        (FakePrometheus(evaluated=200), "its rule has not been evaluated since the change"),
        (FakePrometheus(up=0.0), "the target of the alert is not scraped: its `up` is not 1"),
        (FakePrometheus(error="prometheus, x: refused"), "prometheus, x: refused"),
    ],
)
def test_what_is_no_cure(first, detail):
    """Nor is it one if a second Prometheus says that the alert is gone."""
    for servers in ([first], [first, FakePrometheus()], [FakePrometheus(), first]):
        if first.state == "absent" and len(servers) == 2:
            continue
        found = look(*servers)
        assert (found.done, found.cleared, found.evaluations) == (False, False, ())
        assert found.detail.endswith(detail)
        late = look(*servers, wait=100)
        assert (late.done, late.cleared) == (True, False)
        assert late.detail == f"not verified within 100 s: {found.detail}"


def test_a_prometheus_without_the_rule_does_not_matter_beside_one_that_has_it():
    other = FakePrometheus("absent")
    before = look(other, FakePrometheus(evaluated=40)).evaluations
    assert look(other, FakePrometheus(), before=before).cleared


def test_a_prometheus_without_up_for_the_target_confirms_a_change():
    assert looked_twice(FakePrometheus(evaluated=40, up=None), FakePrometheus(up=None)).cleared


def test_without_a_prometheus_nothing_is_verified():
    found = look(age=timedelta(seconds=300))
    assert (found.done, found.cleared) == (True, False)
    assert "no Prometheus is configured" in found.detail


@pytest.mark.parametrize(
    "series, is_still_true",
    [
        ({"__name__": "free", "instance": "web-1:9100", "job": "node"}, True),
        ({"instance": "web-1:9100", "severity": "other"}, True),  # the rule replaces severity
        ({"instance": "web-1:9100", "replica": "a"}, True),  # a label that was dropped on the way
        ({}, True),
        ({"instance": "web-2:9100", "job": "node"}, False),
    ],
)
def test_the_expression_is_that_of_the_alerts_own_series(series, is_still_true):
    prometheus = FakePrometheus(series=[series])
    found = look(prometheus, check="expression")
    assert ("the expression of the alert is still true" in found.detail) == is_still_true
    assert prometheus.expressions[0] == RULE.expression


def test_up_is_asked_for_the_target_of_the_alert():
    labels = {"alertname": "DiskFull", "instance": 'a"b\\c', "job": "ü"}
    prometheus = FakePrometheus()
    prometheus.alert_state = lambda _: AlertReading(AlertState.CLEARED, later(-1), NOON)
    look(prometheus, labels=labels)
    assert prometheus.expressions == ['up{job="ü",instance="a\\"b\\\\c"}']


@pytest.fixture
def listener():
    with socket.create_server((services.LOOPBACK, 0)) as found:
        yield found


def test_a_host_that_answers_confirms_a_change(listener, monkeypatch):
    monkeypatch.setattr("poundcake.remediation.checks.refusal_of_target", lambda host: "")
    monkeypatch.setattr("poundcake.remediation.checks.refusal_of_address", lambda address: "")
    port = listener.getsockname()[1]
    subject = Subject(LABELS, services.LOOPBACK)
    found = poll(f"tcp:{port}", 60, subject, [], Change(SINCE))
    assert (found.done, found.cleared) == (True, True)
    assert found.detail == f"{services.LOOPBACK} answers on port {port}"
    closed = services.free_port()
    refused = poll(f"tcp:{closed}", 300, subject, [], Change(SINCE))
    assert (refused.done, refused.cleared) == (False, False)
    assert "refuses connections" in refused.detail


def test_a_host_that_must_not_be_checked_is_not_verified():
    found = poll("tcp:22", 60, Subject(LABELS, "localhost"), [], Change(SINCE))
    assert (found.done, found.cleared) == (True, False)
    assert "not verified within 60 s: host:" in found.detail


class Api:
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


def test_the_change_of_a_workflow_and_the_poll_before():
    ended = ("remediate_host", "succeeded", later(-30), {})
    earlier = ("verify", "succeeded", later(-20), {"evaluations": ["a"]})
    last = ("verify", "succeeded", later(-10), {"evaluations": ["b"]})
    running = ("verify", "running", None, None)
    assert read_change(Api(ended), "w") == Change(timedelta(seconds=30), ())
    assert read_change(Api(ended, earlier, last, running), "w").evaluations == ["b"]
    failed = ("verify", "failed", later(-5), "no database")
    assert read_change(Api(ended, last, failed, running), "w").evaluations == ()
    with pytest.raises(RemediationError, match="has made no change that has ended"):
        read_change(Api(("remediate", "running", None, None)), "w")


@pytest.mark.parametrize(
    "keys, wait",
    [
        ({"action": "ipmi.power_cycle"}, 900),
        ({"action": "mypack.scale", "target": ["deployment"]}, 600),
        ({"action": "poundcake.clean_disk"}, 180),
        ({"action": "linux.service"}, 300),
        ({"action": "linux.service", "wait": 0}, 0),
        ({"action": "linux.service", "wait": 3600}, 3600),
    ],
)
def test_the_time_that_a_verification_may_take(keys, wait):
    entry = {"name": "x", "match": ["a=b"], "mode": "live", "verify": "alert", **keys}
    (found,), errors = read_remediations([entry])
    assert not errors
    verification = Verification.of(found)
    assert verification.wait == wait
    # The polls last longer than the time, and end it.
    assert verification.pause * verification.polls >= wait
    assert 2 <= verification.pause <= 30


@pytest.mark.parametrize("verify", [None, "none"])
def test_an_entry_that_is_not_verified(verify):
    entry = {"name": "x", "match": ["a=b"], "mode": "live", "action": "a.b", "verify": verify}
    (found,), errors = read_remediations([entry])
    assert not errors
    assert Verification.of(found).check == ""
