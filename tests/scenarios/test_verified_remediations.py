"""Remediations whose conditions and verification query a real Prometheus."""

from __future__ import annotations

import pytest
import requests

from tests import services
from tests.cluster.world import Exporter, Prometheus
from tests.conftest import start
from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification, unique

# The workflows do not depend on the kind of database, so one is enough.
pytestmark = [
    pytest.mark.services,
    pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package"),
]
WORK = "poundcake_scenarios.work"
NAME = "ScenarioVerified"
HOSTS = [unique("web") + ".test" for _ in range(9)]


def entry(name, **keys):
    return {
        "name": name,
        "match": [f"alertname={NAME}", f"remedy={name}"],
        "mode": "live",
        "action": WORK,
        "with": {"note": "$note"},
        **keys,
    }


ENTRIES = [
    entry("verified-by-alert", check=["alert"], only_if="vector(1)", verify="alert", wait=40),
    entry("verified-by-expression", check=["expression"], verify="expression", wait=40),
    entry("not-verified", verify="alert", wait=0),
    entry("never", check=["alert"], only_if="vector(0)"),
    entry("checked-twice", check=["alert"]),
    entry("reported", mode="dry_run", check=["alert"]),
]


@pytest.fixture(scope="module")
def exporter():
    new_exporter = Exporter(HOSTS)
    yield new_exporter
    new_exporter.close()


@pytest.fixture(scope="module")
def prometheus(exporter):
    server = start(Prometheus, NAME, exporter.port, [])
    yield f"http://{services.LOOPBACK}:{server.port}"
    server.close()


@pytest.fixture(scope="module")
def verifying_stack(armed_stack, prometheus):
    """Return a stack with these remediations and this Prometheus."""
    with armed_stack.configured_remediations(ENTRIES, prometheus=[{"url": prometheus}]):
        yield armed_stack


@pytest.fixture
def host(exporter):
    """Return a host whose alert fires in Prometheus."""
    name = HOSTS.pop()
    exporter.faulty[name] = True
    return name


def wait_for_alert(stack, prometheus, host, is_firing=True):
    """Wait until the alert of a host fires in Prometheus, or no longer fires."""

    def hosts_with_the_alert():
        groups = requests.get(prometheus + "/api/v1/rules", timeout=10).json()["data"]["groups"]
        alerts = [
            alert_state
            for group in groups
            for rule in group["rules"]
            for alert_state in rule["alerts"]
        ]
        return [alert_state["labels"]["instance"] for alert_state in alerts]

    stack.wait_until(hosts_with_the_alert, lambda firing_hosts: (host in firing_hosts) == is_firing)


def send(stack, remedy, host):
    """Send an alert about a host, and return its request_id and note."""
    note = unique("note")
    labels = {"alertname": NAME, "instance": host, "job": "exporter", "note": note}
    sent_alert = alert(NAME, labels={**labels, "remedy": remedy})
    return stack.send(notification(sent_alert)), note


def only_execution(stack, request_id):
    """Return the only execution of a completed request."""
    (execution,) = stack.wait_until_completed(request_id)["stackstorm_executions"]
    return execution


def executed_actions(stack, execution):
    return [
        child["action"]["ref"]
        for child in stack.api(f"/executions/{execution['st2_execution_id']}/children")
    ]


@pytest.mark.parametrize(
    "remedy, message",
    [
        ("verified-by-alert", "the alert is cleared in two evaluations"),
        ("verified-by-expression", "its expression is false in two evaluations"),
    ],
)
def test_a_change_that_helps_is_verified(
    verifying_stack, prometheus, exporter, host, remedy, message
):
    """Case A34."""
    wait_for_alert(verifying_stack, prometheus, host)
    request_id, note = send(verifying_stack, remedy, host)
    verifying_stack.wait_until(lambda: verifying_stack.work_executions(note))
    exporter.faulty[host] = False  # the change helped
    execution = only_execution(verifying_stack, request_id)
    assert (execution["status"], execution["stage"]) == ("succeeded", "done")
    assert (execution["mutated"], execution["verified"]) == (True, True)
    assert message in execution["message"]
    assert len(verifying_stack.work_executions(note)) == 1
    (change,) = verifying_stack.rows(
        "SELECT result FROM poundcake_changes WHERE st2_execution_id = :id",
        id=execution["st2_execution_id"],
    )
    assert change["result"] == "verified"


def test_a_change_that_does_not_help_is_not_verified(verifying_stack, prometheus, host):
    """Case A34: the alert keeps firing."""
    wait_for_alert(verifying_stack, prometheus, host)
    request_id, _ = send(verifying_stack, "not-verified", host)
    execution = only_execution(verifying_stack, request_id)
    assert (execution["status"], execution["stage"]) == ("failed", "verify")
    assert (execution["mutated"], execution["verified"]) == (True, False)
    assert f"not verified within 0 s: {prometheus}: the alert is firing" in execution["message"]


def test_without_prometheus_nothing_counts_as_verified_or_permitted(
    verifying_stack, prometheus, host
):
    """Cases A34 and A35: Prometheus does not answer."""
    wait_for_alert(verifying_stack, prometheus, host)
    unreachable_url = f"http://{services.LOOPBACK}:{services.free_port()}"
    with verifying_stack.configured(prometheus=[{"url": unreachable_url}]):
        first_request_id, _ = send(verifying_stack, "not-verified", host)
        # Another host, because a change to the first host may be in flight.
        second_request_id, note = send(verifying_stack, "never", HOSTS.pop())
        changed_execution = only_execution(verifying_stack, first_request_id)
        refused_execution = only_execution(verifying_stack, second_request_id)
    assert (changed_execution["stage"], changed_execution["verified"]) == ("verify", False)
    assert f"prometheus, {unreachable_url}: " in changed_execution["message"]
    assert (refused_execution["stage"], refused_execution["mutated"]) == ("refused", False)
    assert f"prometheus, {unreachable_url}: " in refused_execution["message"]
    assert verifying_stack.work_executions(note) == []


def test_an_unmet_condition_ends_the_workflow_after_one_task(verifying_stack, prometheus, host):
    """Case A35."""
    wait_for_alert(verifying_stack, prometheus, host)
    request_id, note = send(verifying_stack, "never", host)
    execution = only_execution(verifying_stack, request_id)
    assert (execution["status"], execution["stage"]) == ("succeeded", "refused")
    assert "the expression vector(0) is not true" in execution["message"]
    assert verifying_stack.work_executions(note) == []
    assert executed_actions(verifying_stack, execution) == ["poundcake.begin"]


def test_a_dry_run_reports_an_unmet_condition(verifying_stack, exporter):
    """Case A35: in mode dry_run."""
    request_id, _ = send(verifying_stack, "reported", HOSTS.pop())
    execution = only_execution(verifying_stack, request_id)
    assert execution["stage"] == "dry_run"
    assert "but not now: the alert is not firing in Prometheus: cleared" in execution["message"]


def test_a_condition_that_no_longer_holds_prevents_the_change(
    verifying_stack, prometheus, exporter, host
):
    """Case A35: the alert ends during settle_seconds."""
    wait_for_alert(verifying_stack, prometheus, host)
    with verifying_stack.configured(settle_seconds=15):
        request_id, note = send(verifying_stack, "checked-twice", host)
        trail = verifying_stack.wait_for_trail(request_id, lambda t: t["stackstorm_executions"])
        (execution,) = trail["stackstorm_executions"]
        verifying_stack.wait_until(
            lambda: executed_actions(verifying_stack, execution),
            lambda actions: "poundcake.reserve" in actions,
        )
        exporter.faulty[host] = False
        wait_for_alert(verifying_stack, prometheus, host, is_firing=False)
        execution = only_execution(verifying_stack, request_id)
    assert (execution["status"], execution["stage"]) == ("succeeded", "refused")
    assert "the alert is not firing in Prometheus: cleared" in execution["message"]
    assert verifying_stack.work_executions(note) == []
    assert executed_actions(verifying_stack, execution) == [
        "poundcake.begin",
        "poundcake.change",
        "poundcake.reserve",
        "poundcake.report",
    ]
