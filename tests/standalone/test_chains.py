"""The stand-in runs action chains."""

from __future__ import annotations

import pytest

from tests.waiting import wait_for


@pytest.mark.parametrize(
    "how, names, status",
    [
        ("value", ["first", "report_success"], "succeeded"),
        ("raise", ["first", "report_failure"], "succeeded"),
    ],
)
def test_the_next_task_of_a_chain_depends_on_the_result(standalone, how, names, status):
    execution = standalone.run("probe.chain", how=how)
    assert execution["status"] == status, execution["result"]
    tasks = execution["result"]["tasks"]
    assert [task["name"] for task in tasks] == names
    assert [task["execution_id"] for task in tasks] == execution["children"]
    children = standalone.get("/executions/{}/children".format(execution["id"]))
    assert {c["parent"] for c in children} == {execution["id"]}


def test_a_chain_fails_if_the_parameters_of_a_task_are_invalid(standalone):
    execution = standalone.run("probe.chain", how="no such way")
    assert execution["status"] == "failed" and "no such way" in str(execution["result"])


def test_a_canceled_chain_starts_no_more_tasks(standalone):
    id_ = standalone.start("probe.chain", how="sleep")
    (child,) = wait_for(lambda: standalone.get("/executions/" + id_)["children"])
    assert standalone.call("DELETE", "/executions/" + id_)[0] == 200
    assert standalone.call("DELETE", "/executions/" + child)[0] == 200
    assert standalone.wait_for_end(id_)["status"] == "canceled"
    later_execution = standalone.run("probe.chain", how="value")
    assert later_execution["status"] == "succeeded"
    assert standalone.get("/executions/" + id_)["children"] == [child]
