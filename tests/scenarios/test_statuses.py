"""Every status of an unfinished execution, as `status` and `why` show it.

test_rules tests how executions end. StackStorm leaves some of these statuses immediately, so some
tests set a status repeatedly or fill the action runner.
"""

from __future__ import annotations

import contextlib
import threading

import pytest

from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification

# The statuses come from StackStorm and do not depend on the kind of database, so one is enough.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")


class StartedExecution:
    """The execution that a rule started for an alert."""

    def __init__(self, stack, name):
        sent_alert = alert(name)
        self.stack, self.fingerprint = stack, sent_alert["fingerprint"]
        self.request_id = stack.send(notification(sent_alert))
        (execution,) = stack.wait_for_trail(
            self.request_id, lambda trail: trail["stackstorm_executions"]
        )["stackstorm_executions"]
        self.path = "/executions/" + execution["st2_execution_id"]

    def execution(self):
        """Return the execution as `status` shows it."""
        trail = self.stack.run("poundcake.status", request_id=self.request_id)
        (execution,) = trail["stackstorm_executions"]
        return execution

    def wait_until_shown_as(self, status):
        """Wait until `status` shows this status of the execution, and check that `why` agrees."""
        self.stack.wait_until(self.execution, lambda execution: execution["status"] == status)
        why = self.stack.run("poundcake.why", fingerprint=self.fingerprint)
        (execution,) = why["episodes"][0]["stackstorm_executions"]
        assert execution["status"] == status
        text = self.stack.run("poundcake.why", fingerprint=self.fingerprint, format="text")
        words = " ".join(text.split())
        assert f"({execution['st2_execution_id']}) " in words and status in words

    def set_status(self, status):
        """Set the status, as `st2 execution pause`, `resume` and `cancel` do."""
        self.stack.api(self.path, "PUT", {"status": status})

    def cancel(self):
        """Cancel the execution, unless it has already ended."""
        if not self.stack.api(self.path).get("end_timestamp"):
            self.set_status("canceled")

    @contextlib.contextmanager
    def holding_status(self, status):
        """Set a status repeatedly in the context, because StackStorm changes it after a while."""
        stop_requested = threading.Event()

        def set_repeatedly():
            while not stop_requested.wait(0.1):
                self.set_status(status)

        thread = threading.Thread(target=set_repeatedly)
        thread.start()
        try:
            yield
        finally:
            stop_requested.set()
            thread.join()


def test_an_execution_that_a_policy_delays_is_delayed(stack):
    running_execution = StartedExecution(stack, "ScenarioInTurn")
    running_execution.wait_until_shown_as("running")
    delayed_execution = StartedExecution(stack, "ScenarioInTurn")
    delayed_execution.wait_until_shown_as("delayed")
    with delayed_execution.holding_status("requested"):  # the scheduler retries every 2.5 seconds
        delayed_execution.wait_until_shown_as("requested")
    delayed_execution.set_status("canceled")
    running_execution.cancel()
    delayed_execution.wait_until_shown_as("canceled")


def test_a_canceled_workflow_is_canceling_until_its_task_has_ended(stack):
    canceled_execution = StartedExecution(stack, "ScenarioLasting")
    stack.wait_until(lambda: stack.api(canceled_execution.path)["status"] == "running")
    canceled_execution.set_status("canceled")
    canceled_execution.wait_until_shown_as("canceling")


def test_a_paused_workflow_resumes_when_the_action_runner_has_room(stack):
    paused_execution = StartedExecution(stack, "ScenarioLasting")
    stack.wait_until(lambda: stack.api(paused_execution.path)["status"] == "running")
    paused_execution.set_status("paused")
    paused_execution.wait_until_shown_as("pausing")  # until its task has ended
    paused_execution.wait_until_shown_as("paused")
    assert not stack.get_trail(paused_execution.request_id)["completed_at"]
    stack.fill_runner(90 if stack.is_live else 40)
    paused_execution.set_status("resuming")
    new_execution = StartedExecution(stack, "ScenarioLasting")
    paused_execution.wait_until_shown_as("resuming")
    new_execution.wait_until_shown_as("scheduled")
    paused_execution.wait_until_shown_as("succeeded")


def test_an_inquiry_is_pending_until_it_is_answered_or_abandoned(stack):
    """Case A10 of docs/CASES.md: StackStorm abandons an execution when its action runner stops."""
    answered_execution = StartedExecution(stack, "ScenarioQuestion")
    abandoned_execution = StartedExecution(stack, "ScenarioQuestion")
    answered_execution.wait_until_shown_as("pending")
    inquiry = answered_execution.path.rpartition("/")[2]
    stack.api("/inquiries/" + inquiry, "PUT", {"id": inquiry, "response": {"continue": True}})
    stack.wait_until(lambda: stack.api(abandoned_execution.path)["status"] == "pending")
    abandoned_execution.set_status("abandoned")
    # The view queries StackStorm. The tables are updated later: sync rarely polls waiting work.
    answered_execution.wait_until_shown_as("succeeded")
    abandoned_execution.wait_until_shown_as("abandoned")
