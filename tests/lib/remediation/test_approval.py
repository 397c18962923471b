"""The answer to a request for approval."""

from __future__ import annotations

import pytest

from poundcake.remediation.approval import Approval, read_approval
from poundcake.stackstorm import Execution, StackStormError

APPROVERS = ("anna", "ben")


class Api:
    """StackStorm's API with a workflow that has asked for an approval."""

    def __init__(self, response=None, by="anna", status="succeeded", error=None, **overrides):
        result = {"response": response, "route": "poundcake.approval"}
        inquiry = Execution("i1", status, "core.ask", task_name="approve", result=result)
        self.children, self.error = overrides.get("children", [inquiry]), error
        self.workflow = overrides.get("workflow", Execution("w1", "running", resumed_by=by))

    def get_children(self, execution_id):
        if self.error:
            raise self.error
        return self.children

    def get_execution(self, execution_id):
        return self.workflow


YES, NO = {"approve": True}, {"approve": False}


def test_the_approval_of_an_approver_permits_the_change():
    assert read_approval(Api(YES), "w1", APPROVERS) == Approval("", "anna")


@pytest.mark.parametrize(
    "api, problem",
    [
        (Api(NO), "anna refused the approval"),
        (Api(NO, "stanley"), "the approval expired, because none of its approvers answered"),
        (Api(YES, "stanley"), "stanley approved, but is not one of the approvers (anna, ben)"),
        (Api(YES, ""), "somebody approved, but is not one of the approvers (anna, ben)"),
        (Api({"approve": "true"}), "anna refused the approval"),
        (Api({}), "anna refused the approval"),
        (Api(None), "the request for approval was not answered (anna, ben)"),
        (Api(YES, status="pending"), "the request for approval was not answered (anna, ben)"),
        (Api(YES, status="timeout"), "the request for approval was not answered (anna, ben)"),
        (Api(YES, children=[]), "nobody was asked for approval (anna, ben)"),
        (Api(YES, workflow=None), "nobody was asked for approval (anna, ben)"),
        (Api(error=StackStormError("503")), "the answer to the request for approval could not be"),
    ],
)
def test_every_other_answer_prevents_the_change(api, problem):
    approval = read_approval(api, "w1", APPROVERS)
    assert approval.problem.startswith(problem)
    assert approval.by == ""


def test_without_approvers_nobody_can_approve():
    assert read_approval(Api(YES), "w1", ()).problem
