"""Every status of an execution that has not ended, as `status` and `why` show it.

test_rules tests how executions end. StackStorm leaves some of these statuses immediately, so most
tests keep an execution in a status by filling the action runner.
"""

from __future__ import annotations

import contextlib
import threading

import pytest

from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification

# StackStorm's data is merged into the recorded trail, so one kind of database is enough.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")


class FollowedExecution:
    """An alert whose rule started an execution."""

    def __init__(self, stack, name):
        sent = alert(name)
        self.stack, self.fingerprint = stack, sent["fingerprint"]
        self.request_id = stack.accepted(notification(sent))
        (execution,) = stack.trail_when(
            self.request_id, lambda trail: trail["stackstorm_executions"]
        )["stackstorm_executions"]
        self.path = "/executions/" + execution["st2_execution_id"]

    def execution(self):
        """Return the execution as `status` shows it."""
        trail = self.stack.run("poundcake.status", request_id=self.request_id)
        (execution,) = trail["stackstorm_executions"]
        return execution

    def wait_until_shown_as(self, status):
        """Wait until `status` shows the execution with a status, and check that `why` does too."""
        self.stack.wait_until(self.execution, lambda found: found["status"] == status)
        why = self.stack.run("poundcake.why", fingerprint=self.fingerprint)
        (execution,) = why["episodes"][0]["stackstorm_executions"]
        assert execution["status"] == status
        text = self.stack.run("poundcake.why", fingerprint=self.fingerprint, format="text")
        assert "): " + status in text

    def put(self, status):
        """Change the status, as `st2 execution pause`, `resume` and `cancel` do."""
        self.stack.api(self.path, "PUT", {"status": status})

    def cancel(self):
        """Cancel the execution, unless it has already ended."""
        if not self.stack.api(self.path).get("end_timestamp"):
            self.put("canceled")

    @contextlib.contextmanager
    def kept_at(self, status):
        """Set a status repeatedly, because StackStorm changes it after a while."""
        over = threading.Event()

        def hold():
            while not over.wait(0.1):
                self.put(status)

        holder = threading.Thread(target=hold)
        holder.start()
        try:
            yield
        finally:
            over.set()
            holder.join()


def test_an_execution_that_a_policy_delays_is_delayed(stack):
    first = FollowedExecution(stack, "ScenarioInTurn")
    first.wait_until_shown_as("running")
    second = FollowedExecution(stack, "ScenarioInTurn")
    second.wait_until_shown_as("delayed")
    with second.kept_at("requested"):  # the scheduler polls it every 2.5 seconds
        second.wait_until_shown_as("requested")
    second.put("canceled")
    first.cancel()
    second.wait_until_shown_as("canceled")


def test_a_canceled_workflow_is_canceling_until_its_task_has_ended(stack):
    followed = FollowedExecution(stack, "ScenarioLasting")
    stack.wait_until(lambda: stack.api(followed.path)["status"] == "running")
    followed.put("canceled")
    followed.wait_until_shown_as("canceling")


def test_a_paused_workflow_resumes_when_the_action_runner_has_room(stack):
    followed = FollowedExecution(stack, "ScenarioLasting")
    stack.wait_until(lambda: stack.api(followed.path)["status"] == "running")
    followed.put("paused")
    followed.wait_until_shown_as("pausing")  # until its task has ended
    followed.wait_until_shown_as("paused")
    assert not stack.trail(followed.request_id)["completed_at"]
    stack.fill(90 if stack.live else 40)
    followed.put("resuming")
    fresh = FollowedExecution(stack, "ScenarioLasting")
    followed.wait_until_shown_as("resuming")
    fresh.wait_until_shown_as("scheduled")
    followed.wait_until_shown_as("succeeded")


def test_an_inquiry_is_pending_until_it_is_answered(stack):
    followed = FollowedExecution(stack, "ScenarioQuestion")
    followed.wait_until_shown_as("pending")
    inquiry = followed.path.rpartition("/")[2]
    stack.api("/inquiries/" + inquiry, "PUT", {"id": inquiry, "response": {"continue": True}})
    # The view queries StackStorm. The tables are updated later, as for all long-waiting work.
    followed.wait_until_shown_as("succeeded")


def test_an_execution_whose_action_runner_stopped_is_abandoned(stack):
    """Case A10 of docs/CASES.md: StackStorm sets this status when its action runner stops."""
    followed = FollowedExecution(stack, "ScenarioQuestion")
    followed.wait_until_shown_as("pending")
    followed.put("abandoned")
    followed.wait_until_shown_as("abandoned")
