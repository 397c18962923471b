"""Remediations that ask people before their change."""

from __future__ import annotations

import pytest

from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification, unique

# The workflows do not depend on the kind of database, so one is enough.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")
WORK = "poundcake_scenarios.work"
NAME = "ScenarioApproval"
ENTRY = {
    "name": "scenario-ask",
    "match": [f"alertname={NAME}"],
    "mode": "ask",
    "approvers": ["anna", "ben"],
    "action": WORK,
    "with": {"note": "$note"},
}


@pytest.fixture(scope="module")
def stack(armed):
    """Return a stack with a remediation that asks, and waits for a minute."""
    if armed.live:
        pytest.skip("live: the scenarios cannot answer as other users")
    with armed.configured(remediations=[ENTRY], approval_minutes=1):
        armed.wait_until(
            lambda: armed.get("/health").json()["configuration"]["in_force"],
            lambda found: len(found.get("remediations", [])) == 1,
        )
        yield armed
    armed.wait_until(
        lambda: armed.get("/health").json()["configuration"]["in_force"],
        lambda found: not found["remediations"],
    )


class Asked:
    """A remediation that waits for an approval."""

    def __init__(self, stack):
        self.stack, self.note = stack, unique("note")
        labels = {"alertname": NAME, "instance": unique("web") + ".test:9100", "note": self.note}
        self.alert = alert(NAME, labels=labels)
        self.request_id = stack.accepted(notification(self.alert))
        trail = stack.trail_when(
            self.request_id,
            lambda t: [e for e in t["stackstorm_executions"] if e["status"] == "paused"],
        )
        self.shown, self.episode = trail["stackstorm_executions"][0], trail["alerts"][0]["episode"]
        children = stack.api(f"/executions/{self.shown['st2_execution_id']}/children")
        (self.inquiry,) = [one for one in children if one["action"]["ref"] == "core.ask"]

    def respond(self, approve, user):
        body = {"id": self.inquiry["id"], "response": {"approve": approve}}
        self.stack.api(f"/inquiries/{self.inquiry['id']}", "PUT", body, user=user)

    def ended(self):
        self.stack.ended(self.shown["st2_execution_id"])
        # While nothing but paused work is open, the next round is up to ten minutes away.
        self.stack.run("poundcake.sync")
        (execution,) = self.stack.completed(self.request_id)["stackstorm_executions"]
        return execution

    def refused(self):
        """Return the message of a remediation that changed nothing."""
        execution = self.ended()
        assert (execution["status"], execution["mutated"]) == ("succeeded", False)
        assert execution["stage"] == "refused"
        assert self.stack.done(self.note) == []
        return execution["message"]


@pytest.fixture(scope="module")
def forgotten(stack):
    """Return a remediation that nobody answers, while the other scenarios run."""
    return Asked(stack)


@pytest.fixture
def asked(stack, forgotten):
    return Asked(stack)


def test_while_a_remediation_waits_the_views_say_who_may_answer_and_how(stack, asked):
    """A36."""
    expected = "waits for the approval of anna, ben until "
    assert expected in asked.shown["message"]
    assert f"st2 inquiry respond {asked.inquiry['id']}" in asked.shown["message"]
    why = stack.run("poundcake.why", format="text", instance=asked.alert["labels"]["instance"])
    assert expected in " ".join(why.split())
    assert stack.done(asked.note) == []
    asked.respond(False, "anna")
    asked.ended()


def test_an_approved_change_is_made_once(stack, asked):
    """A36: approved, and approved again."""
    asked.respond(True, "anna")
    with pytest.raises(AssertionError, match="already been responded to"):
        asked.respond(True, "ben")
    execution = asked.ended()
    assert (execution["status"], execution["stage"]) == ("succeeded", "done")
    assert execution["message"] == "approved by anna; the action succeeded"
    assert len(stack.done(asked.note)) == 1


def test_a_refused_change_is_not_made(asked):
    """A36: refused."""
    asked.respond(False, "ben")
    assert "ben refused the approval" in asked.refused()


def test_nobody_else_can_approve(asked):
    """A36: answered by somebody else, whom StackStorm lets answer."""
    with pytest.raises(AssertionError, match="Insufficient permission"):
        asked.respond(True, "eve")
    asked.respond(True, "stanley")
    assert "stanley approved, but is not one of the approvers (anna, ben)" in asked.refused()


def test_an_approval_after_the_resolve_changes_nothing(stack, asked):
    """A36: resolved meanwhile."""
    resolved = alert(NAME, status="resolved", labels=asked.alert["labels"])
    stack.recorded(stack.accepted(notification(resolved)))
    asked.respond(True, "anna")
    execution = asked.ended()
    assert (execution["stage"], execution["mutated"]) == ("ended", False)
    assert "the incident ended at" in execution["message"]
    assert stack.done(asked.note) == []


def test_an_approval_during_a_pause_changes_nothing(stack, asked):
    """A36: paused meanwhile."""
    stack.run("poundcake.pause", reason="maintenance")
    try:
        asked.respond(True, "anna")
        assert "all changes are paused" in asked.refused()
    finally:
        stack.run("poundcake.resume")


def test_an_entry_that_no_longer_applies_changes_nothing_after_the_approval(stack, asked):
    """A36: the entry is changed meanwhile."""
    with stack.configured(remediations=[{**ENTRY, "mode": "dry_run"}]):
        asked.respond(True, "anna")
        assert "the remediation scenario-ask is now in mode dry_run" in asked.refused()


def test_a_refusal_counts_even_if_the_entry_no_longer_asks(stack, asked):
    """A36: the entry is changed meanwhile."""
    with stack.configured(remediations=[{**ENTRY, "mode": "live"}]):
        asked.respond(False, "ben")
        assert "ben refused the approval" in asked.refused()


def test_nobody_is_asked_for_what_would_be_refused_anyway(stack, forgotten):
    """A36: refused before anybody is asked."""
    with stack.configured(allowed_hosts=["db-*"]):
        labels = {"alertname": NAME, "instance": unique("web") + ".test", "note": unique("note")}
        sent = alert(NAME, labels=labels)
        (execution,) = stack.completed(stack.accepted(notification(sent)))["stackstorm_executions"]
    assert (execution["stage"], execution["mutated"]) == ("refused", False)
    children = stack.api(f"/executions/{execution['st2_execution_id']}/children")
    assert [child["action"]["ref"] for child in children] == ["poundcake.begin"]


def test_an_approval_expires(stack, forgotten):
    """A36: nobody answers."""

    def sync_until_answered():
        stack.run("poundcake.sync")
        return stack.api("/executions/" + forgotten.inquiry["id"])["status"]

    stack.wait_until(sync_until_answered, lambda status: status == "succeeded", timeout=120)
    message = forgotten.refused()
    assert "the approval expired, because none of its approvers answered (anna, ben)" in message
