"""Only an approver's approval permits a change."""

from __future__ import annotations

import pytest

from poundcake.remediation.approval import Approval, read_approval
from poundcake.stackstorm import Execution, StackStormError

APPROVERS = ("anna", "ben")


class FakeApi:
    """StackStorm's API with a workflow w1, whose task change has requested an approval.

    StackStorm records who answered only in the execution of that task, w2.
    """

    def __init__(
        self, response=None, answered_by="anna", status="succeeded", error=None, **overrides
    ):
        result = {"response": response, "route": "poundcake.approval"}
        inquiry = Execution(
            "i1", status, "core.ask", task_name="approve", parent_id="w2", result=result
        )
        self.requests, self.error = overrides.get("requests", [inquiry]), error
        self.workflow = overrides.get(
            "workflow", Execution("w2", "running", "poundcake.change", resumed_by=answered_by)
        )

    def get_children(self, execution_id):
        if self.error:
            raise self.error
        return {"w1": [Execution("w2", action="poundcake.change")], "w2": self.requests}[
            execution_id
        ]

    def get_execution(self, execution_id):
        return {"w1": Execution("w1", "running"), "w2": self.workflow}[execution_id]


YES, NO = {"approve": True}, {"approve": False}


def test_an_approval_by_an_approver_permits_the_change():
    assert read_approval(FakeApi(YES), "w1", APPROVERS) == Approval("", "anna")


@pytest.mark.parametrize(
    "api, problem",
    [
        (FakeApi(NO), "anna rejected the change"),
        (FakeApi(NO, "stanley"), "the approval expired, because none of the approvers answered"),
        (FakeApi(YES, "stanley"), "stanley approved, but is not one of the approvers (anna, ben)"),
        (FakeApi(YES, ""), "somebody approved, but is not one of the approvers (anna, ben)"),
        (FakeApi({"approve": "true"}), "anna rejected the change"),
        (FakeApi({}), "anna rejected the change"),
        (FakeApi(None), "the request for approval was not answered (anna, ben)"),
        (FakeApi(YES, status="pending"), "the request for approval was not answered (anna, ben)"),
        (FakeApi(YES, status="timeout"), "the request for approval was not answered (anna, ben)"),
        (FakeApi(YES, requests=[]), "nobody was asked for approval (anna, ben)"),
        (FakeApi(YES, workflow=None), "nobody was asked for approval (anna, ben)"),
        (
            FakeApi(error=StackStormError("503")),
            "the answer to the request for approval could not be",
        ),
    ],
)
def test_every_other_answer_prevents_the_change(api, problem):
    approval = read_approval(api, "w1", APPROVERS)
    assert approval.problem.startswith(problem)
    assert approval.by == ""


def test_nobody_can_approve_without_approvers():
    assert read_approval(FakeApi(YES), "w1", ()).problem
