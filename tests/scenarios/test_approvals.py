"""Remediations that need an approval before they change anything."""

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
SILENT_HOST = "198.51.100.3"  # reserved for documentation, so no host has it
FACTS_NAME = "ScenarioApprovalWithFacts"
FACTS_ENTRY = {
    **ENTRY,
    "name": "scenario-ask-with-facts",
    "match": [f"alertname={FACTS_NAME}"],
    "check": ["tcp:22"],
    "evidence": [WORK],
}


@pytest.fixture(scope="module")
def asking_stack(armed_stack):
    """Return a stack with a remediation that waits a minute for an approval."""
    if armed_stack.is_live and not armed_stack.user_tokens:
        pytest.skip("live: POUNDCAKE_USER_TOKENS is not set")
    with armed_stack.configured_remediations([ENTRY, FACTS_ENTRY], approval_minutes=1):
        yield armed_stack


class PendingApproval:
    """A remediation that waits for an approval."""

    def __init__(self, stack, name=NAME, host="", waits=True):
        self.stack, self.note = stack, unique("note")
        instance = (host or unique("web") + ".test") + ":9100"
        labels = {"alertname": name, "instance": instance, "note": self.note}
        self.alert = alert(name, labels=labels)
        self.request_id = stack.send(notification(self.alert))
        if waits:
            self.wait_until_asked()

    def wait_until_asked(self):
        trail = self.stack.wait_for_trail(
            self.request_id,
            lambda t: [e for e in t["stackstorm_executions"] if e["status"] == "paused"],
        )
        self.execution_view = trail["stackstorm_executions"][-1]
        children = self.stack.api(f"/executions/{self.execution_view['st2_execution_id']}/children")
        (self.inquiry,) = [child for child in children if child["action"]["ref"] == "core.ask"]

    @property
    def service_user(self):
        """The user that StackStorm itself runs as, who may answer but not approve."""
        return self.inquiry["result"]["users"][-1]

    def respond(self, approve, user):
        body = {"id": self.inquiry["id"], "response": {"approve": approve}}
        self.stack.api(f"/inquiries/{self.inquiry['id']}", "PUT", body, user=user)

    def payloads(self, trigger):
        """Return the payloads of this trigger that are about the remediation."""
        instances = self.stack.list_all("/triggerinstances", trigger=f"poundcake.{trigger}")
        payloads = [instance["payload"] for instance in instances]
        return [p for p in payloads if p["request_id"] == self.request_id]

    def wait_for_end(self):
        """Wait until the workflow has ended, and return its execution."""
        self.stack.wait_until_ended(self.execution_view["st2_execution_id"])
        (execution,) = self.stack.wait_until_completed(self.request_id)["stackstorm_executions"]
        return execution

    def wait_for_refusal(self):
        """Wait for the end, check that the change was refused, and return the message."""
        execution = self.wait_for_end()
        assert (execution["status"], execution["mutated"]) == ("succeeded", False)
        assert execution["stage"] == "refused"
        assert self.stack.work_executions(self.note) == []
        return execution["message"]


@pytest.fixture(scope="module")
def unanswered_approval(asking_stack):
    """Return an approval that nobody answers while the other scenarios run."""
    return PendingApproval(asking_stack)


@pytest.fixture
def approval(asking_stack, unanswered_approval):
    return PendingApproval(asking_stack)


def test_an_approved_change_is_made_once(asking_stack, approval):
    """Case A36: a second approval is rejected."""
    approval.respond(True, "anna")
    with pytest.raises(AssertionError, match="already been responded to"):
        approval.respond(True, "ben")
    execution = approval.wait_for_end()
    assert (execution["status"], execution["stage"]) == ("succeeded", "done")
    assert execution["message"] == "approved by anna; the action succeeded"
    assert len(asking_stack.work_executions(approval.note)) == 1


def test_an_approver_answers_by_episode_as_a_chat_does(asking_stack, approval):
    """The action poundcake.approve answers as the user who runs it, and names the chat user."""
    (alert_view,) = asking_stack.get_trail(approval.request_id)["alerts"]
    episode, instance = alert_view["episode"], alert_view["instance"]

    def run_as(user, **parameters):
        """Run poundcake.approve as a user, as the API does for an alias."""
        body = {
            "action": "poundcake.approve",
            "parameters": parameters or {"episode": episode},
            "context": {"api_user": "carol"},
        }
        if asking_stack.is_live:
            execution = asking_stack.api("/executions", "POST", body, user=user)
        else:
            execution = asking_stack.api("/executions", "POST", {**body, "user": user})
        return asking_stack.wait_until_ended(execution["id"])

    for user in (approval.service_user, "eve"):
        refused = run_as(user)
        assert refused["status"] == "failed"
        assert f"{user} is not one of the approvers of this change (anna, ben)" in str(
            refused["result"]["result"]
        )
    answered = run_as("anna", instance=instance, comment="seen in #ops")
    assert answered["status"] == "succeeded", answered["result"]
    result = answered["result"]["result"]
    assert (result["state"], result["by"], result["episode"]) == ("approved", "anna", episode)
    assert WORK in result["change"]
    execution = approval.wait_for_end()
    assert execution["message"] == "approved by anna; the action succeeded"
    trail = asking_stack.get_trail(approval.request_id)
    (entry,) = [entry for entry in trail["audit"] if entry["action"] == "approve"]
    assert (entry["st2_user"], entry["comment"]) == ("anna", "seen in #ops (carol in chat)")
    assert run_as("ben")["status"] == "failed", "nothing waits any more"


def test_a_workflow_that_is_cancelled_while_it_waits_changes_nothing(asking_stack, approval):
    """Case A36."""
    path = f"/executions/{approval.execution_view['st2_execution_id']}"
    asking_stack.api(path, "PUT", {"status": "canceled"})
    execution = approval.wait_for_end()
    assert execution["status"] == "canceled"
    assert not execution["mutated"]
    assert "may have been made" not in execution["message"]
    assert asking_stack.work_executions(approval.note) == []
    assert approval.payloads("remediation_ended") == []


def test_a_refused_change_is_not_made(asking_stack, approval):
    """Case A36: the views say who may approve and how, and an approver refuses."""
    expected = "waits for the approval of anna, ben until "
    assert expected in approval.execution_view["message"]
    assert f"st2 inquiry respond {approval.inquiry['id']}" in approval.execution_view["message"]
    instance = approval.alert["labels"]["instance"]
    why = asking_stack.run("poundcake.why", format="text", instance=instance)
    assert "anna or ben may answer until " in " ".join(why.split())
    assert why.lstrip().startswith("WAITING FOR YOU  ")
    assert f"\n  run: st2 inquiry respond {approval.inquiry['id']}\n" in why
    assert asking_stack.work_executions(approval.note) == []
    approval.respond(False, "ben")
    assert "ben rejected the change" in approval.wait_for_refusal()


def test_the_request_for_approval_shows_what_the_checks_saw(asking_stack):
    """Case A36: the conditions are checked and the evidence is collected before the request."""
    approval = PendingApproval(asking_stack, FACTS_NAME, SILENT_HOST)
    seen = approval.execution_view["message"].partition("; seen: ")[2]
    assert seen.startswith("port 22 does not answer; poundcake_scenarios.work: (")
    asking_stack.run("poundcake.sync")
    (approval_wanted,) = asking_stack.wait_until(lambda: approval.payloads("approval_wanted"))
    assert "; ".join(approval_wanted["evidence"]) == seen
    episode = approval_wanted["episode"]
    alert_view = asking_stack.run(
        "poundcake.get_alert", request_id=approval.request_id, episode=episode
    )
    assert alert_view["evidence"] == approval_wanted["evidence"]
    approval.respond(True, "anna")
    assert approval.wait_for_end()["message"] == "approved by anna; the action succeeded"
    assert len(asking_stack.work_executions(approval.note)) == 1


def test_triggers_report_the_request_for_approval_and_its_end(asking_stack, approval):
    """Case A36: operators build their notifications on these triggers."""
    payloads = approval.payloads
    asking_stack.run("poundcake.sync")
    (approval_wanted,) = asking_stack.wait_until(lambda: payloads("approval_wanted"))
    assert approval_wanted["inquiry_id"] == approval.inquiry["id"]
    assert approval_wanted["command"] == f"st2 inquiry respond {approval.inquiry['id']}"
    assert approval_wanted["approvers"] == ["anna", "ben"]
    assert f"{WORK} with note={approval.note}" in approval_wanted["change"]
    assert payloads("remediation_ended") == []
    approval.respond(False, "ben")
    approval.wait_for_end()
    (remediation_ended,) = asking_stack.wait_until(lambda: payloads("remediation_ended"))
    assert (remediation_ended["result"], remediation_ended["refusal"]) == (
        "refused",
        "approval_missing",
    )
    assert (remediation_ended["remediation"], remediation_ended["action"]) == ("scenario-ask", WORK)
    assert "ben rejected the change" in remediation_ended["message"]


def test_only_an_approver_can_approve(approval):
    """Case A36: StackStorm accepts an answer from its own user, who is not an approver."""
    with pytest.raises(AssertionError, match="does not have permission to respond"):
        approval.respond(True, "eve")
    approval.respond(True, approval.service_user)
    assert (
        f"{approval.service_user} approved, but is not one of the approvers (anna, ben)"
        in approval.wait_for_refusal()
    )


def test_an_approval_after_the_resolve_changes_nothing(asking_stack, approval):
    """Case A36: the alert is resolved before the approval."""
    resolved_alert = alert(NAME, status="resolved", labels=approval.alert["labels"])
    asking_stack.wait_until_recorded(asking_stack.send(notification(resolved_alert)))
    approval.respond(True, "anna")
    execution = approval.wait_for_end()
    assert (execution["stage"], execution["mutated"]) == ("ended", False)
    assert "the incident ended at" in execution["message"]
    assert asking_stack.work_executions(approval.note) == []


def test_an_approval_during_a_pause_changes_nothing(asking_stack, approval):
    """Case A36: changes are paused before the approval."""
    asking_stack.run("poundcake.pause", reason="maintenance")
    try:
        approval.respond(True, "anna")
        assert "all changes are paused" in approval.wait_for_refusal()
    finally:
        asking_stack.run("poundcake.resume")


def test_an_entry_that_no_longer_applies_changes_nothing_after_the_approval(asking_stack, approval):
    """Case A36: the entry is changed before the approval."""
    with asking_stack.configured(remediations=[{**ENTRY, "mode": "dry_run"}]):
        approval.respond(True, "anna")
        assert "the remediation scenario-ask is now in mode dry_run" in approval.wait_for_refusal()


def test_a_refusal_counts_even_if_the_entry_no_longer_asks(asking_stack, approval):
    """Case A36: the entry is changed before the refusal."""
    with asking_stack.configured(remediations=[{**ENTRY, "mode": "live"}]):
        approval.respond(False, "ben")
        assert "ben rejected the change" in approval.wait_for_refusal()


def test_an_approval_expires(asking_stack, unanswered_approval):
    """Case A36: nobody answers. Only the service user that runs sync may reject the change."""

    def read_status():
        return asking_stack.api("/executions/" + unanswered_approval.inquiry["id"])["status"]

    asking_stack.wait_until(read_status, lambda status: status == "succeeded", timeout=300)
    message = unanswered_approval.wait_for_refusal()
    assert "the approval expired, because none of the approvers answered (anna, ben)" in message


def test_a_request_for_approval_that_a_storm_prevented_is_made_later(
    asking_stack, unanswered_approval
):
    """Case A38: the new execution asks an approver, because everything is decided again."""
    with asking_stack.configured(retry_refused_minutes=1):
        with asking_stack.configured(storm_limit=1):
            approval = PendingApproval(asking_stack, waits=False)
            trail = asking_stack.wait_for_trail(approval.request_id, lambda t: t.get("changes"))
        (change,) = trail["changes"]
        assert change["refusal"] == "storm" and change["retry_at"]
        asking_stack.wait_until_ended(change["st2_execution_id"])
        if not asking_stack.is_live:  # do not wait a minute
            asking_stack.write(
                "UPDATE poundcake_changes SET retry_at = decided_at WHERE request_id = :id",
                id=approval.request_id,
            )
        asking_stack.wait_until(lambda: asking_stack.run("poundcake.sync")["retried"])
        approval.wait_until_asked()
        assert asking_stack.work_executions(approval.note) == []
        approval.respond(True, "anna")
        asking_stack.wait_until_ended(approval.execution_view["st2_execution_id"])
        assert len(asking_stack.work_executions(approval.note)) == 1
