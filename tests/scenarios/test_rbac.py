"""What people on call may do with the role in etc/rbac, on a live StackStorm with RBAC."""

from __future__ import annotations

import pytest

from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification
from tests.scenarios.test_cli import st2_runner

pytestmark = [
    pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # st2client's
]
ROLE = "poundcake_on_call"


@pytest.fixture
def person(stack):
    """Return a user whose only role is the one for people on call."""
    if not stack.is_live:
        pytest.skip("the stand-in has no RBAC")
    if not stack.api("/user")["rbac"]["enabled"]:
        pytest.skip("live: RBAC is off")
    roles = {}
    for assignment in stack.api("/rbac/role_assignments"):
        roles.setdefault(assignment["user"], set()).add(assignment["role"])
    people = [user for user in stack.user_tokens if roles.get(user) == {ROLE}]
    if not people:
        pytest.skip(f"live: no user of POUNDCAKE_USER_TOKENS has only the role {ROLE}")
    return people[0]


@pytest.fixture
def st2(stack, person, monkeypatch, capsys):
    """Return a function that runs `st2` as that user."""
    run = st2_runner(stack, monkeypatch, capsys)
    monkeypatch.delenv("ST2_API_KEY", raising=False)
    monkeypatch.setenv("ST2_AUTH_TOKEN", stack.user_tokens[person])
    return run


@pytest.fixture
def remediated_alert(stack, person):
    """Return the instance of a firing alert, and the pack's workflow that ran for it."""
    instance = f"{stack.silent_host()}:9100"
    fired = alert("HostDown", labels={"alertname": "HostDown", "instance": instance})
    trail = stack.wait_until_completed(stack.send(notification(fired)))
    ids = {e["st2_workflow"]: e["st2_execution_id"] for e in trail["stackstorm_executions"]}
    return instance, ids["poundcake.host_down"]


def test_people_on_call_see_what_fired_and_what_ran(st2, remediated_alert):
    instance, execution_id = remediated_alert
    for action in ("alerts_active", "executions_recent", "st2_executions", "health", "stats"):
        assert "succeeded" in st2("run", f"poundcake.{action}", "format=text"), action
    answer = st2("run", "poundcake.why", "format=text", f"instance={instance}")
    assert execution_id in answer
    answer = st2("run", "poundcake.plan", "format=text", f"instance={instance}")
    assert "cannot be queried" not in answer and "rules unknown" not in answer
    assert execution_id in st2("execution", "get", execution_id)
    assert "poundcake.why" in st2("action", "list", "-p", "poundcake")
    assert "poundcake.sync" in st2("rule", "list", "-p", "poundcake")
    assert "poundcake.sync" in st2("rule", "get", "poundcake.sync")
    st2("inquiry", "list")


def test_people_on_call_act(st2, person, remediated_alert):
    instance, _ = remediated_alert
    incident = ("format=text", f"instance={instance}")
    assert f"{person} handles" in st2("run", "poundcake.acknowledge", *incident)
    assert "withdrawn" in st2("run", "poundcake.acknowledge", *incident, "undo=true").lower()
    assert "CLOSED" in st2("run", "poundcake.close", *incident, "comment=a test")


@pytest.mark.parametrize("ref", ["core.local", "poundcake.on_host", "poundcake.clean_disk"])
def test_people_on_call_cannot_run_actions_that_change_hosts(stack, person, remediated_alert, ref):
    body = {"action": ref, "parameters": {}}
    with pytest.raises(AssertionError, match="action_execute"):
        stack.api("/executions", "POST", body, user=person)


def test_people_on_call_cannot_start_the_workflow_whose_requests_they_answer(stack, person):
    inspections = [{"action": "core.local", "parameters": {"cmd": "true"}}]
    begun = {"next_task": "inspect", "settle_seconds": 0, "may_reserve": False}
    parameters = {
        "request_id": "00000000-0000-0000-0000-000000000000",
        "episode": "a-1",
        "begun": {**begun, "inspections": inspections, "host_checks": []},
    }
    body = {"action": "poundcake.change", "parameters": parameters}
    execution = stack.api("/executions", "POST", body, user=person)
    assert stack.wait_until_ended(execution["id"])["status"] == "failed"
    assert stack.api(f"/executions/{execution['id']}/children") == []
