"""The tasks of a remediation are those of its workflow and of poundcake.change."""

from __future__ import annotations

import pytest

from poundcake.trail.change_tasks import CHANGE_WORKFLOW, find_change, read_tasks
from tests.lib.fake_stackstorm import FakeStackStorm


@pytest.fixture
def stackstorm():
    """Return StackStorm with a remediation that restarts a service."""
    fake = FakeStackStorm()
    fake.run("e1", action="poundcake.remediate")
    for name, action in (("begin", "poundcake.begin"), ("change", CHANGE_WORKFLOW)):
        fake.run(name, action=action, parent="e1", task_name=name)
    for name, action in (("reserve", "poundcake.reserve"), ("remediate", "linux.service")):
        fake.run(name, action=action, parent="change", task_name=name)
    return fake


def test_the_tasks_of_the_second_workflow_follow_those_of_the_first(stackstorm):
    tasks = read_tasks(stackstorm, "e1")
    assert [task.id for task in tasks] == ["begin", "change", "reserve", "remediate"]
    assert find_change(stackstorm, tasks).action == "linux.service"


def test_a_workflow_that_started_before_an_upgrade_has_all_tasks_itself(stackstorm):
    tasks = read_tasks(stackstorm, "change")
    assert [task.id for task in tasks] == ["reserve", "remediate"]
    assert find_change(stackstorm, tasks).action == "linux.service"


def test_the_tasks_of_any_other_workflow_are_not_read(stackstorm):
    stackstorm.run("e2", action="poundcake.remediate")
    stackstorm.run("other", action="pack.workflow", parent="e2", task_name="remediate")
    stackstorm.run("inner", action="pack.action", parent="other", task_name="remediate")
    assert [task.id for task in read_tasks(stackstorm, "e2")] == ["other"]
