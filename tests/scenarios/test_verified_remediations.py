"""Remediations with conditions and a verification, beside a real Prometheus."""

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
    found = Exporter(HOSTS)
    yield found
    found.close()


@pytest.fixture(scope="module")
def prometheus(exporter):
    server = start(Prometheus, NAME, exporter.port, [])
    yield f"http://{services.LOOPBACK}:{server.port}"
    server.close()


@pytest.fixture(scope="module")
def stack(armed, prometheus):
    """Return a stack with these remediations and this Prometheus."""
    values = (armed.api("/configs/poundcake", show_secrets="true") or {"values": {}})["values"]
    changed = {"remediations": ENTRIES, "prometheus": [{"url": prometheus}]}
    with armed.configured(**changed):
        armed.wait_until(
            lambda: armed.get("/health").json()["configuration"]["in_force"],
            lambda found: len(found.get("remediations", [])) == len(ENTRIES),
        )
        yield armed
    armed.wait_until(
        lambda: armed.get("/health").json()["configuration"]["in_force"],
        lambda found: found["remediations"] == values.get("remediations", []),
    )


@pytest.fixture
def host(exporter):
    """Return a host whose alert fires in Prometheus."""
    name = HOSTS.pop()
    exporter.faulty[name] = True
    return name


def wait_until_firing(stack, prometheus, host, fires=True):
    def states():
        groups = requests.get(prometheus + "/api/v1/rules", timeout=10).json()["data"]["groups"]
        alerts = [one for group in groups for rule in group["rules"] for one in rule["alerts"]]
        return [one["labels"]["instance"] for one in alerts]

    stack.wait_until(states, lambda found: (host in found) == fires)


def send(stack, remedy, host):
    """Send the alert of a host, and return its request_id and its note."""
    note = unique("note")
    labels = {"alertname": NAME, "instance": host, "job": "exporter", "note": note}
    sent = alert(NAME, labels={**labels, "remedy": remedy})
    return stack.accepted(notification(sent)), note


def outcome(stack, request_id):
    """Return the only execution of a completed request."""
    (execution,) = stack.completed(request_id)["stackstorm_executions"]
    return execution


def tasks(stack, execution):
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
def test_a_change_that_helps_is_verified(stack, prometheus, exporter, host, remedy, message):
    """A34."""
    wait_until_firing(stack, prometheus, host)
    request_id, note = send(stack, remedy, host)
    stack.wait_until(lambda: stack.done(note))
    exporter.faulty[host] = False  # the work helped
    execution = outcome(stack, request_id)
    assert (execution["status"], execution["stage"]) == ("succeeded", "done")
    assert (execution["mutated"], execution["verified"]) == (True, True)
    assert message in execution["message"]
    assert len(stack.done(note)) == 1
    (change,) = stack.rows(
        "SELECT result FROM poundcake_changes WHERE st2_execution_id = :id",
        id=execution["st2_execution_id"],
    )
    assert change["result"] == "verified"


def test_a_change_that_does_not_help_is_not_verified(stack, prometheus, host):
    """A34: the alert fires on."""
    wait_until_firing(stack, prometheus, host)
    request_id, _ = send(stack, "not-verified", host)
    execution = outcome(stack, request_id)
    assert (execution["status"], execution["stage"]) == ("failed", "verify")
    assert (execution["mutated"], execution["verified"]) == (True, False)
    assert f"not verified within 0 s: {prometheus}: the alert is firing" in execution["message"]


def test_without_prometheus_nothing_counts_as_verified_or_permitted(stack, prometheus, host):
    """A34, A35: Prometheus does not answer."""
    wait_until_firing(stack, prometheus, host)
    away = f"http://{services.LOOPBACK}:{services.free_port()}"
    with stack.configured(prometheus=[{"url": away}]):
        first, _ = send(stack, "not-verified", host)
        # Another host: a change to the first one may be in flight.
        second, note = send(stack, "never", HOSTS.pop())
        changed, refused = outcome(stack, first), outcome(stack, second)
    assert (changed["stage"], changed["verified"]) == ("verify", False)
    assert f"prometheus, {away}: " in changed["message"]
    assert (refused["stage"], refused["mutated"]) == ("refused", False)
    assert f"prometheus, {away}: " in refused["message"]
    assert stack.done(note) == []


def test_a_condition_that_is_not_fulfilled_costs_one_task(stack, prometheus, host):
    """A35."""
    wait_until_firing(stack, prometheus, host)
    request_id, note = send(stack, "never", host)
    execution = outcome(stack, request_id)
    assert (execution["status"], execution["stage"]) == ("succeeded", "refused")
    assert "the expression vector(0) is not true" in execution["message"]
    assert stack.done(note) == []
    assert tasks(stack, execution) == ["poundcake.begin"]


def test_a_dry_run_says_that_a_condition_is_not_fulfilled(stack, exporter):
    """A35: in mode dry_run."""
    request_id, _ = send(stack, "reported", HOSTS.pop())
    execution = outcome(stack, request_id)
    assert execution["stage"] == "dry_run"
    assert "but not now: the alert is not firing in Prometheus: cleared" in execution["message"]


def test_a_condition_that_ends_before_the_change_prevents_it(stack, prometheus, exporter, host):
    """A35: the alert ends while the incident settles."""
    wait_until_firing(stack, prometheus, host)
    with stack.configured(settle_seconds=15):
        request_id, note = send(stack, "checked-twice", host)
        trail = stack.trail_when(request_id, lambda t: t["stackstorm_executions"])
        (execution,) = trail["stackstorm_executions"]
        stack.wait_until(lambda: tasks(stack, execution), lambda found: len(found) == 2)
        exporter.faulty[host] = False
        wait_until_firing(stack, prometheus, host, fires=False)
        execution = outcome(stack, request_id)
    assert (execution["status"], execution["stage"]) == ("succeeded", "refused")
    assert "the alert is not firing in Prometheus: cleared" in execution["message"]
    assert stack.done(note) == []
    assert tasks(stack, execution) == ["poundcake.begin", "poundcake.reserve", "poundcake.report"]
