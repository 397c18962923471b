"""An alert is silenced in a real Alertmanager while its target is changed."""

from __future__ import annotations

import json

import pytest

from tests import services
from tests.conftest import start
from tests.scenarios import conftest
from tests.scenarios.notifications import ago, alert, notification, unique

# Silences do not depend on the kind of database, so one is enough.
pytestmark = [
    pytest.mark.services,
    pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package"),
]
SLOW = "poundcake_scenarios.slow"
NAME = unique("ScenarioSilenced")
ENTRY = {
    "name": "silenced",
    "match": [f"alertname={NAME}"],
    "mode": "live",
    "action": SLOW,
    "host_parameter": "",
    "silence_minutes": 5,
}


@pytest.fixture(scope="module")
def alertmanager():
    server = start(services.Alertmanager, "http://127.0.0.1:9/no-receiver")
    yield server
    server.close()


@pytest.fixture(scope="module")
def silencing_stack(armed_stack, alertmanager):
    """Return a stack with the entry and the Alertmanager."""
    keys = {"allowed_actions": [SLOW], "settle_seconds": 0}
    servers = [{"url": alertmanager.url}]
    with armed_stack.configured_remediations([ENTRY], alertmanagers=servers, **keys):
        yield armed_stack


@pytest.fixture
def change(silencing_stack, alertmanager):
    return SilencedChange(silencing_stack, alertmanager)


class SilencedChange:
    """A change that takes 20 seconds, and the silence of its alert."""

    def __init__(self, stack, alertmanager):
        self.stack, self.alertmanager = stack, alertmanager
        self.labels = alert(NAME, labels={"alertname": NAME})["labels"]
        # Alertmanager holds the alert. Otherwise, sync would close the incident.
        alertmanager.post({"labels": self.labels})
        sent_alert = alert(NAME, labels=self.labels)
        self.request_id = stack.send(notification(sent_alert))
        stack.wait_until(self.silences)

    def silences(self):
        """Return the silences whose matchers are exactly the labels of the alert."""
        return [
            silence
            for silence in json.loads(self.alertmanager.request("/api/v2/silences"))
            if {m["name"]: m["value"] for m in silence["matchers"]} == self.labels
            and not any(m["isRegex"] for m in silence["matchers"])
        ]

    def state(self):
        (silence,) = self.silences()
        return silence["status"]["state"]

    def workflow(self):
        """Return the workflow's execution as `status` shows it."""
        trail = self.stack.get_trail(self.request_id)
        (execution,) = trail["stackstorm_executions"]
        return execution


def test_the_plan_finds_no_problem_with_the_silence_of_an_entry(silencing_stack):
    (entry,) = silencing_stack.run("poundcake.plan")["remediations"]
    assert (entry["name"], entry["problems"]) == ("silenced", [])


def test_the_silence_ends_with_the_change(change):
    """Case A40."""
    assert change.state() == "active"
    (silence,) = change.silences()
    assert change.workflow()["st2_execution_id"] in silence["comment"]
    change.stack.wait_until(change.state, lambda state: state == "expired")
    assert change.workflow()["status"] in ("running", "succeeded")
    change.stack.wait_until(change.workflow, lambda workflow: workflow["mutated"])
    assert change.workflow()["message"] == "the action succeeded"


def test_the_silence_of_a_cancelled_workflow_ends_when_its_change_has_ended(change):
    """Case A40."""
    path = "/executions/" + change.workflow()["st2_execution_id"]
    change.stack.api(path, "PUT", {"status": "canceled"})
    change.stack.wait_until(change.workflow, lambda workflow: workflow["status"] == "canceling")
    assert change.state() == "active"
    change.stack.wait_until(change.state, lambda state: state == "expired")
    assert change.workflow()["status"] == "canceled"


def refuse(stack):
    """Post an alert, wait until its change is refused, and return the change."""
    request_id = stack.send(notification(alert(NAME, labels={"alertname": NAME})))
    trail = stack.wait_until_completed(request_id)
    (execution,) = trail["stackstorm_executions"]
    assert (execution["stage"], execution["mutated"]) == ("refused", False)
    (change,) = trail["changes"]
    return change


def test_nothing_is_changed_while_alertmanager_does_not_answer(silencing_stack, alertmanager):
    """Case A40."""
    alertmanager.stop()
    try:
        change = refuse(silencing_stack)
    finally:
        alertmanager.start()
    assert change["refusal"] == "alertmanager_unavailable"
    assert "so a person may have silenced the alert (alertmanagers, http://" in change["reason"]


def test_a_silence_of_a_person_prevents_the_change_at_once(silencing_stack, alertmanager):
    """Case A40: a regular expression of the silence matches the alert."""
    silence = {
        "matchers": [{"name": "alertname", "value": NAME[:-2] + ".*", "isRegex": True}],
        "startsAt": ago(),
        "endsAt": ago(-10),
        "createdBy": "anna",
        "comment": "a new disk",
    }
    created = json.loads(alertmanager.request("/api/v2/silences", silence))
    try:
        change = refuse(silencing_stack)
    finally:
        alertmanager.request(f"/api/v2/silence/{created['silenceID']}", method="DELETE")
    assert (change["refusal"], "by anna" in change["reason"]) == ("silenced", True)
