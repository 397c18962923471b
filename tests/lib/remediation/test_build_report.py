"""The report of a remediation workflow is built from the executions of its tasks."""

from __future__ import annotations

import pytest

from poundcake.remediation.build_report import build_report
from poundcake.stackstorm import Execution


class FakeApi:
    """StackStorm's API with the executions of a workflow's tasks.

    A task is defined by the result of its action, by its status, or by fields of its execution.
    """

    def __init__(self, actions_on_hosts=(), **tasks):
        self.tasks = tasks
        self.actions_on_hosts = actions_on_hosts

    def get_children(self, execution_id):
        if execution_id == "remediate_host":
            return [Execution.parse(self._execution("run", e)) for e in self.actions_on_hosts]
        assert execution_id == "the-workflow"
        return [
            Execution.parse(self._execution(task, definition))
            for task, definition in self.tasks.items()
        ]

    @staticmethod
    def _execution(task, definition):
        execution = {
            "id": task,
            "status": "succeeded",
            "context": {"orquesta": {"task_name": task}},
            "action": {"ref": "poundcake.x"},
            "result": {"result": definition},
        }
        if isinstance(definition, str):
            execution["status"] = definition
        elif "status" in definition:
            execution.update(definition)
        return execution


LINK_RESULT = {"claimed": True, "reason": ""}
NOT_CLAIMED = {"claimed": False, "reason": "execution e1 has this episode"}
DRY_RUN = {
    "host": "web-1",
    "may_check": True,
    "action": "linux.service",
    "may_change": False,
    "may_reserve": False,
    "dry_run": True,
    "stage": "dry_run",
    "message": "would run x",
}
ALLOWED = {
    "host": "web-1",
    "may_check": True,
    "action": "linux.service",
    "may_change": True,
    "may_reserve": True,
    "dry_run": False,
    "stage": "remediate",
    "message": "",
}
BEGIN_RESULT = {"claimed": True, "reason": "", **ALLOWED}
REFUSED = dict(
    ALLOWED,
    may_change=False,
    may_reserve=False,
    stage="refused",
    message="allowed_hosts does not contain web-1",
)
REFUSED_IN_DRY_RUN = dict(REFUSED, dry_run=True)
ENDED = dict(
    ALLOWED,
    may_change=False,
    may_reserve=False,
    stage="ended",
    message="the incident ended at 12:00",
)
NO_ACTION = dict(
    DRY_RUN, action="", message="the rule names no action, so nothing would be changed"
)
UP = {"state": "answers", "port": 22, "seconds": 0.1, "detail": "web-1 answers on port 22"}
DOWN = {"state": "no_answer", "port": 0, "seconds": 60, "detail": "web-1 does not answer"}
REFUSES_CONNECTIONS = {"state": "refused", "port": 22, "seconds": 60, "detail": "web-1 is up"}
UNRESOLVABLE = {"state": "unresolvable", "port": 0, "seconds": 60, "detail": "web-1 has no address"}
UP_IN_0_2_0 = {"reachable": True, "port": 22, "seconds": 0.1}
DOWN_IN_0_2_0 = {"reachable": False, "port": 0, "seconds": 100.954}
ALLOWED_IN_0_2_0 = {
    "host": "web-1",
    "port": 0,
    "may_change": True,
    "dry_run": False,
    "stage": "remediate",
    "message": "",
}
DRY_RUN_IN_0_2_0 = dict(ALLOWED_IN_0_2_0, may_change=False, dry_run=True, stage="dry_run")
RAN = {"status": "succeeded", "action": {"ref": "linux.service"}, "result": {"stdout": "{{x}}"}}
RAN_AND_FAILED = dict(RAN, status="failed")
RAN_AND_TIMED_OUT = dict(RAN, status="timeout")


def report(**tasks):
    return build_report(FakeApi(**tasks), "the-workflow").as_dict()


@pytest.mark.parametrize(
    "tasks, status, stage, message",
    [
        ({}, "succeeded", "not_claimed", ""),
        ({"link": "failed"}, "succeeded", "not_claimed", ""),
        ({"link": NOT_CLAIMED}, "succeeded", "not_claimed", "execution e1 has this episode"),
        (
            {"link": LINK_RESULT},
            "failed",
            "alert",
            "the alert could not be read; the task alert says why",
        ),
        (
            {"link": LINK_RESULT, "alert": "failed"},
            "failed",
            "alert",
            "the alert could not be read; the task alert says why",
        ),
        (
            {"link": LINK_RESULT, "alert": ALLOWED, "evidence": "failed"},
            "failed",
            "evidence",
            "the host was not checked, so nothing was changed",
        ),
        (
            {"link": LINK_RESULT, "alert": DRY_RUN, "evidence": DOWN},
            "succeeded",
            "dry_run",
            "web-1 does not answer; would run x",
        ),
        (
            {"link": LINK_RESULT, "alert": REFUSED, "evidence": DOWN},
            "failed",
            "refused",
            "web-1 does not answer; allowed_hosts does not contain web-1",
        ),
        (
            {"link": LINK_RESULT, "alert": REFUSED_IN_DRY_RUN},
            "succeeded",
            "refused",
            "allowed_hosts does not contain web-1",
        ),
        (
            {"link": LINK_RESULT, "alert": ENDED, "evidence": DOWN},
            "succeeded",
            "ended",
            "web-1 does not answer; the incident ended at 12:00",
        ),
        (
            {"link": LINK_RESULT, "alert": ALLOWED, "evidence": REFUSES_CONNECTIONS},
            "failed",
            "evidence",
            "web-1 is up, so nothing was changed",
        ),
        (
            {"link": LINK_RESULT, "alert": ALLOWED, "evidence": UNRESOLVABLE},
            "failed",
            "evidence",
            "web-1 has no address, so nothing was changed",
        ),
        (
            {"link": LINK_RESULT, "alert": NO_ACTION, "evidence": UNRESOLVABLE},
            "succeeded",
            "dry_run",
            "web-1 has no address; the rule names no action, so nothing would be changed",
        ),
    ],
)
def test_the_report_of_a_workflow_that_changed_nothing(tasks, status, stage, message):
    """These workflows start with poundcake.link, as users' workflows and those of 0.2.0 do."""
    result = report(**tasks)
    assert (result["status"], result["stage"], result["message"]) == (status, stage, message)
    assert (result["mutated"], result["verified"]) == (False, False)


def test_a_host_that_answers_needs_no_change():
    assert report(link=LINK_RESULT, alert=DRY_RUN, evidence=UP) == {
        "status": "succeeded",
        "mutated": False,
        "dry_run": True,
        "verified": True,
        "stage": "evidence",
        "message": "web-1 answers on port 22",
        "evidence": {"before": UP},
    }


@pytest.mark.parametrize(
    "permission, check, status, stage, message, verified",
    [
        (
            ALLOWED_IN_0_2_0,
            UP_IN_0_2_0,
            "succeeded",
            "evidence",
            "the host answers on port 22",
            True,
        ),
        (
            ALLOWED_IN_0_2_0,
            None,
            "failed",
            "evidence",
            "the host was not checked, so nothing was changed",
            False,
        ),
        (
            dict(DRY_RUN_IN_0_2_0, message="would run x for web-1"),
            DOWN_IN_0_2_0,
            "succeeded",
            "dry_run",
            "the host does not answer; would run x for web-1",
            False,
        ),
    ],
)
def test_a_workflow_whose_tasks_ran_in_release_0_2_0_is_reported_after_the_upgrade(
    permission, check, status, stage, message, verified
):
    checks = {"evidence": check} if check else {}
    result = report(link=LINK_RESULT, alert=permission, **checks)
    assert (result["status"], result["stage"], result["message"]) == (status, stage, message)
    assert (result["mutated"], result["verified"]) == (False, verified)


@pytest.mark.parametrize(
    "change, check, status, stage, message, verified",
    [
        (
            RAN_AND_FAILED,
            None,
            "failed",
            "remediate",
            "linux.service ended with status failed",
            False,
        ),
        (
            RAN_AND_TIMED_OUT,
            None,
            "failed",
            "remediate",
            "linux.service ended with status timeout",
            False,
        ),
        (RAN, None, "succeeded", "done", "the action succeeded", False),
        (RAN, UP, "succeeded", "done", "web-1 answers on port 22", True),
        (RAN, DOWN, "failed", "verify", "web-1 does not answer", False),
        (RAN, REFUSES_CONNECTIONS, "failed", "verify", "web-1 is up", False),
        (RAN, UNRESOLVABLE, "failed", "verify", "web-1 has no address", False),
        # The check was made by 0.2.0, and the workflow ends after the upgrade.
        (RAN, UP_IN_0_2_0, "succeeded", "done", "the host answers on port 22", True),
        (RAN, DOWN_IN_0_2_0, "failed", "verify", "the host does not answer", False),
    ],
)
def test_the_report_of_a_workflow_that_changed_something(
    change, check, status, stage, message, verified
):
    checks = {"verify": check} if check else {}
    result = report(link=LINK_RESULT, alert=ALLOWED, remediate=change, **checks)
    assert (result["status"], result["stage"], result["message"]) == (status, stage, message)
    assert (result["mutated"], result["dry_run"], result["verified"]) == (True, False, verified)


REFUSED_BY_STACKSTORM = {
    "status": "failed",
    "action": {"ref": "poundcake.on_host"},
    "result": {
        "errors": [{"task_id": "run", "message": "The action has no parameter host."}],
        "output": None,
    },
}


@pytest.mark.parametrize(
    "task, actions_on_hosts, message",
    [
        (
            dict(RAN_AND_FAILED, result={"stderr": "warning\nno such unit"}),
            [],
            "linux.service ended with status failed: no such unit",
        ),
        (
            REFUSED_BY_STACKSTORM,
            [],
            "poundcake.on_host ended with status failed: "
            "task run: The action has no parameter host.",
        ),
        (
            dict(REFUSED_BY_STACKSTORM, result={}),
            [dict(RAN_AND_FAILED, result={"web-1": {"failed": True, "stderr": "no such unit"}})],
            "linux.service ended with status failed: no such unit",
        ),
    ],
)
def test_the_report_says_why_the_action_failed(task, actions_on_hosts, message):
    result = report(begin=BEGIN_RESULT, remediate_host=task, actions_on_hosts=actions_on_hosts)
    assert (result["stage"], result["message"]) == ("remediate", message)


def test_the_report_says_why_the_alert_was_not_silenced():
    reserve = {**GRANTED, "silenced": True, "silence_problem": "alertmanagers, http://am: refused"}
    result = report(begin=BEGIN_RESULT, reserve=reserve, remediate=RAN)
    assert result["message"] == (
        "the action succeeded; the alert could not be silenced: alertmanagers, http://am: refused"
    )
    assert "silenced" not in result


def test_the_evidence_of_both_checks_is_kept():
    result = report(link=LINK_RESULT, alert=ALLOWED, evidence=DOWN, remediate=RAN, verify=UP)
    assert result["evidence"] == {"before": DOWN, "after": UP}


def test_the_result_of_another_packs_action_is_not_passed_on():
    hostile_check = {
        "status": "succeeded",
        "action": {"ref": "core.remote"},
        "result": {"result": {"state": "answers", "port": "{{ st2kv.system.x }}"}},
    }
    result = report(link=LINK_RESULT, alert=ALLOWED, evidence=hostile_check, remediate=RAN)
    assert "st2kv" not in repr(result) and "{{" not in repr(result)


@pytest.mark.parametrize(
    "tasks, expected",
    [
        ({"remediate": RAN}, ("succeeded", "done", "the action succeeded")),
        ({"remediate_host": RAN}, ("succeeded", "done", "the action succeeded")),
        (
            {"remediate_host": RAN_AND_FAILED},
            ("failed", "remediate", "linux.service ended with status failed"),
        ),
    ],
)
def test_the_report_of_a_workflow_that_starts_with_poundcake_begin(tasks, expected):
    result = report(begin=BEGIN_RESULT, **tasks)
    assert (result["status"], result["stage"], result["message"]) == expected
    assert (result["mutated"], result["dry_run"]) == (True, False)


GRANTED = {"may_change": True, "stage": "remediate", "message": ""}
STORM = {"may_change": False, "stage": "refused", "message": "7 incidents are open: wait"}
INCIDENT_ENDED = {"may_change": False, "stage": "ended", "message": "the incident ended at 12:00"}


@pytest.mark.parametrize(
    "decision, stage, message",
    [
        (STORM, "refused", "web-1 does not answer; 7 incidents are open: wait"),
        (INCIDENT_ENDED, "ended", "web-1 does not answer; the incident ended at 12:00"),
    ],
)
def test_a_change_that_a_limit_refuses_is_not_a_failure(decision, stage, message):
    result = report(link=LINK_RESULT, alert=ALLOWED, evidence=DOWN, reserve=decision)
    assert (result["status"], result["stage"], result["mutated"]) == ("succeeded", stage, False)
    assert result["message"] == message


UNCONFIRMED = {**REFUSED, "refusal": "not_confirmed", "message": "web-1 answers on port 22"}


@pytest.mark.parametrize(
    "check, expected",
    [
        (UP, ("succeeded", True, "web-1 answers on port 22")),
        (REFUSES_CONNECTIONS, ("failed", False, "web-1 is up, so nothing was changed")),
        (UNRESOLVABLE, ("failed", False, "web-1 has no address, so nothing was changed")),
        (
            {"state": "unknown", "detail": "no route from this machine"},
            ("failed", False, "no route from this machine, so nothing was changed"),
        ),
    ],
)
def test_a_host_that_is_not_confirmed_down_is_not_changed(check, expected):
    result = report(begin=BEGIN_RESULT, reserve={**UNCONFIRMED, "host_check": check})
    assert (result["status"], result["verified"], result["message"]) == expected
    assert (result["stage"], result["mutated"]) == ("evidence", False)
    assert result["evidence"] == {"before": check}


def test_a_refusal_by_a_limit_shows_whether_the_host_is_down():
    result = report(begin=BEGIN_RESULT, reserve={**STORM, "host_check": DOWN})
    assert (result["status"], result["stage"]) == ("succeeded", "refused")
    assert result["message"] == "web-1 does not answer; 7 incidents are open: wait"


def test_a_condition_of_an_entry_does_not_count_as_a_check_of_the_host():
    result = report(begin=BEGIN_RESULT, reserve={**UNCONFIRMED, "host_check": {}})
    assert (result["status"], result["stage"]) == ("succeeded", "refused")


def test_a_users_workflow_needs_no_task_alert():
    decision = {**GRANTED, "dry_run": False}
    result = report(link=LINK_RESULT, reserve=decision, remediate=RAN)
    assert (result["status"], result["stage"], result["dry_run"]) == ("succeeded", "done", False)


def test_a_workflow_that_could_not_ask_for_approval_is_a_failure():
    result = report(begin=BEGIN_RESULT, approve="failed")
    assert (result["status"], result["stage"], result["mutated"]) == ("failed", "refused", False)
    assert result["message"].startswith(
        "nobody could be asked for approval, so nothing was changed"
    )


@pytest.mark.parametrize(
    "decision, status, message",
    [
        ({**STORM, "refusal": "not_confirmed"}, "succeeded", STORM["message"]),
        ("failed", "failed", "the change could not be reserved, so nothing was changed; the task"),
    ],
)
def test_a_change_that_is_refused_before_the_approval_is_reported(decision, status, message):
    result = report(begin=BEGIN_RESULT, inspect_first=RAN, preview=decision)
    assert (result["status"], result["stage"], result["mutated"]) == (status, "refused", False)
    assert result["message"].startswith(message)


def test_the_report_for_the_event_lists_the_checks_before_the_verification():
    seen = ["the alert is firing", "port 22 does not answer", "/var is 93% full"]
    poll = {"done": True, "cleared": True, "detail": "web-1 answers on port 22"}
    tasks = {"begin": BEGIN_RESULT, "reserve": {**GRANTED, "evidence": seen}, "remediate": RAN}
    assert build_report(FakeApi(**tasks), "the-workflow").seen == tuple(seen)
    verified_report = build_report(FakeApi(**tasks, verify=poll), "the-workflow")
    assert verified_report.seen == (*seen[:2], "web-1 answers on port 22")


def test_the_report_shows_who_approved_the_change():
    result = report(begin=BEGIN_RESULT, reserve={**GRANTED, "approved_by": "anna"}, remediate=RAN)
    assert result["message"] == "approved by anna; the action succeeded"


@pytest.mark.parametrize(
    "poll, expected",
    [
        ({"done": True, "cleared": True, "detail": "gone"}, ("succeeded", "done", "gone", True)),
        ({"done": True, "cleared": False, "detail": "fires"}, ("failed", "verify", "fires", False)),
        ({"done": False, "cleared": False, "detail": "once"}, ("failed", "verify", "once", False)),
        (
            "failed",
            (
                "failed",
                "verify",
                "the action succeeded but could not be verified; the task verify says why",
                False,
            ),
        ),
    ],
)
def test_the_last_poll_decides_whether_a_change_is_verified(poll, expected):
    result = report(begin=BEGIN_RESULT, reserve=GRANTED, remediate=RAN, verify=poll)
    assert (result["status"], result["stage"], result["message"], result["verified"]) == expected
    assert result["mutated"] is True


def test_a_change_that_could_not_be_reserved_is_a_failure():
    result = report(link=LINK_RESULT, alert=ALLOWED, reserve="failed")
    assert (result["status"], result["stage"], result["mutated"]) == ("failed", "refused", False)
    assert result["message"] == (
        "the change could not be reserved, so nothing was changed; the task reserve says why"
    )


@pytest.mark.parametrize(
    "tasks, expected",
    [
        ({"reserve": GRANTED, "remediate": RAN, "verify": UP}, "verified"),
        ({"reserve": GRANTED, "remediate": RAN}, "succeeded"),
        ({"reserve": GRANTED, "remediate": RAN, "verify": DOWN}, "not_verified"),
        ({"reserve": GRANTED, "remediate": RAN_AND_FAILED}, "failed"),
        ({"reserve": GRANTED, "remediate": RAN_AND_TIMED_OUT}, "failed"),
        ({"reserve": GRANTED}, "unknown"),
        ({"reserve": STORM}, None),
        ({"remediate": RAN}, None),
        ({}, None),
    ],
)
def test_the_result_of_a_change_is_derived_from_its_tasks(tasks, expected):
    """The action poundcake.report writes this to the tracking database."""
    result = build_report(FakeApi(link=LINK_RESULT, alert=ALLOWED, **tasks), "the-workflow")
    assert result.change_result == expected
    assert "change_result" not in result.as_dict()
