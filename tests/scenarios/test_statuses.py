"""Executions that have not ended, or that StackStorm gave up, as `status` and `why` show them.

How an execution ended is in test_rules. Of what StackStorm has for a moment only, most is held here
by a runner that has no room left.
"""

import contextlib
import threading

import pytest

from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification

# What StackStorm says now is merged into what is on record, wherever that is: one kind is enough.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")


class Followed:
    """An alert whose rule started an execution, and what the views say of that."""

    def __init__(self, stack, name):
        one = alert(name)
        self.stack, self.fingerprint = stack, one["fingerprint"]
        self.request_id = stack.accepted(notification(one))
        (found,) = stack.trail_when(self.request_id, lambda trail: trail["stackstorm_executions"])[
            "stackstorm_executions"
        ]
        self.path = "/executions/" + found["st2_execution_id"]

    def execution(self):
        trail = self.stack.run("poundcake.status", request_id=self.request_id)
        (execution,) = trail["stackstorm_executions"]
        return execution

    def is_shown_as(self, status):
        self.stack.wait_until(self.execution, lambda found: found["status"] == status)
        asked = self.stack.run("poundcake.why", fingerprint=self.fingerprint)
        (execution,) = asked["episodes"][0]["stackstorm_executions"]
        assert execution["status"] == status
        said = self.stack.run("poundcake.why", fingerprint=self.fingerprint, format="text")
        assert "): " + status in said

    def put(self, status):
        """As `st2 execution pause`, `resume` and `cancel` do."""
        self.stack.api(self.path, "PUT", {"status": status})

    @contextlib.contextmanager
    def kept(self, status):
        """Puts it again and again, as StackStorm moves on from it after a while."""
        over = threading.Event()

        def keep():
            while not over.wait(0.1):
                self.put(status)

        keeper = threading.Thread(target=keep)
        keeper.start()
        try:
            yield
        finally:
            over.set()
            keeper.join()


def test_an_execution_that_waits_for_its_turn_is_delayed(stack):
    first = Followed(stack, "ScenarioInTurn")
    first.is_shown_as("running")
    second = Followed(stack, "ScenarioInTurn")
    second.is_shown_as("delayed")
    with second.kept("requested"):  # the scheduler looks at it again every 2.5 seconds
        second.is_shown_as("requested")
    second.put("canceled")
    first.put("canceled")
    second.is_shown_as("canceled")


def test_a_workflow_is_canceled_once_its_task_has_ended(stack):
    followed = Followed(stack, "ScenarioLasting")
    stack.wait_until(lambda: stack.api(followed.path)["status"] == "running")
    followed.put("canceled")
    followed.is_shown_as("canceling")


def test_a_workflow_that_is_paused_goes_on_where_the_runner_has_room(stack):
    followed = Followed(stack, "ScenarioLasting")
    stack.wait_until(lambda: stack.api(followed.path)["status"] == "running")
    followed.put("paused")
    followed.is_shown_as("pausing")  # until its task has ended
    followed.is_shown_as("paused")
    assert not stack.trail(followed.request_id)["completed_at"]
    stack.fill(90 if stack.live else 20)
    followed.put("resuming")
    fresh = Followed(stack, "ScenarioLasting")
    followed.is_shown_as("resuming")
    fresh.is_shown_as("scheduled")
    followed.is_shown_as("succeeded")


def test_a_question_is_pending_until_it_is_answered(stack):
    followed = Followed(stack, "ScenarioQuestion")
    followed.is_shown_as("pending")
    asked = followed.path.rpartition("/")[2]
    stack.api("/inquiries/" + asked, "PUT", {"id": asked, "response": {"continue": True}})
    # StackStorm is asked for the view; the tables hear of it later, as of all that waits long.
    followed.is_shown_as("succeeded")


def test_what_a_runner_was_stopped_at_is_abandoned(stack):
    """As StackStorm marks what its action runner leaves behind when it ends."""
    followed = Followed(stack, "ScenarioQuestion")
    followed.is_shown_as("pending")
    followed.put("abandoned")
    followed.is_shown_as("abandoned")
