"""The stand-in runs workflows with the real Orquesta."""

from __future__ import annotations

import json

import pytest


def children_by_task(standalone, execution):
    children = standalone.get("/executions/{}/children".format(execution["id"]))
    return {child["context"]["orquesta"]["task_name"]: child for child in children}


def test_a_workflow_has_its_context_and_returns_its_output(standalone):
    instance = standalone.dispatch("probe.flow", {"name": "moon"}, "flow-tag")
    (enforcement,) = standalone.enforcements(instance)
    execution = standalone.wait_for_end(enforcement["execution_id"])
    assert execution["status"] == "succeeded", json.dumps(execution["result"], indent=1)
    output = execution["result"]["output"]
    assert output["shown_text"] == "hello moon"
    assert output["tag"] == "flow-tag" and output["rule"] == "flow"
    st2 = output["st2"]
    assert st2["action"] == "probe.flow" and st2["runner"] == "orquesta"
    assert st2["action_execution_id"] == execution["id"]
    assert st2["user"] == "stanley" and st2["pack"] == "probe" and st2["workflow_execution_id"]
    children = children_by_task(standalone, execution)
    assert set(children) == {"first", "second"}
    first = children["first"]
    assert first["parent"] == execution["id"] and "rule" not in first
    assert set(first["context"]) == {"pack", "user", "parent", "orquesta"}
    assert set(first["context"]["parent"]) == {"execution_id", "user", "pack"}
    assert set(execution["children"]) == {child["id"] for child in children.values()}
    # The defaults of a task's parameters can contain the workflow's id, but not the trace tag.
    assert first["result"]["result"]["parameters"]["workflow_id"] == execution["id"]
    assert first["result"]["result"]["parameters"]["tag"] == ""
    assert children["second"]["result"]["stdout"] == "moon"
    trace = standalone.get("/traces?trace_tag=flow-tag")[0]
    assert len(trace["action_executions"]) == 3


def test_a_failed_workflow_still_returns_its_output(standalone):
    execution = standalone.run("probe.fails")
    assert execution["status"] == "failed"
    assert execution["result"].get("output") == {"stage": "begun"}, execution["result"]
    assert execution["result"]["errors"][0]["task_id"] == "first"


def test_a_workflow_fails_as_requested_after_a_handled_failure(standalone):
    execution = standalone.run("probe.fails_as_requested")
    assert execution["status"] == "failed"
    assert execution["result"].get("output") == {"stage": "handled"}, execution["result"]
    assert set(children_by_task(standalone, execution)) == {"first", "report"}


def test_a_failed_task_is_retried(standalone, tmp_path):
    execution = standalone.run("probe.retries", name=str(tmp_path / "tries"))
    assert execution["status"] == "succeeded" and execution["result"]["output"] == {"done": True}
    assert len(execution["children"]) == 3


def test_a_task_runs_once_for_each_item_or_not_at_all(standalone):
    execution = standalone.run("probe.items")
    assert execution["status"] == "succeeded", json.dumps(execution["result"], indent=1)
    assert execution["result"].get("output") == {"all": ["a", "b", "c", "d"]}, execution["result"]
    assert len(execution["children"]) == 4


def test_parallel_tasks_are_joined(standalone):
    execution = standalone.run("probe.joins")
    assert execution["result"].get("output") == {"left": "l", "right": "r"}, execution["result"]
    assert len(execution["children"]) == 4


def test_a_task_can_be_delayed(standalone):
    execution = standalone.run("probe.delayed")
    assert execution["status"] == "succeeded" and execution["elapsed_seconds"] >= 1
    child = children_by_task(standalone, execution)["first"]
    assert "delayed" in [entry["status"] for entry in child["log"]]


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_inquiry_pauses_its_workflow_until_it_is_answered(standalone, wrapped):
    action = "probe.outer" if wrapped else "probe.asks"
    parameters = {"name": "probe.asks"} if wrapped else {}
    id_ = standalone.start(action, **parameters)
    standalone.wait_for_status(id_, "paused")
    (inquiry,) = standalone.get("/executions?action=core.ask&status=pending")
    url = "/inquiries/" + inquiry["id"]
    assert standalone.call("PUT", url, {"response": {"continue": "perhaps"}})[0] == 400
    assert standalone.call("PUT", url, {"response": {"continue": True}})[0] == 200
    execution = standalone.wait_for_end(id_)
    assert execution["status"] == "succeeded", json.dumps(execution["result"], indent=1)
    expected = {"answer": True}
    assert execution["result"].get("output") == ({"inner": expected} if wrapped else expected), (
        execution["result"]
    )
    assert standalone.call("PUT", url, {"response": {"continue": True}})[0] == 400


def test_an_unknown_status_and_a_change_after_the_end_are_refused(standalone):
    id_ = standalone.start("probe.asks")
    standalone.wait_for_status(id_, "paused")
    assert standalone.call("PUT", "/executions/" + id_, {"status": "paused"})[0] == 200
    code, document = standalone.call("PUT", "/executions/" + id_, {"status": "waiting"})
    assert code == 400 and "'waiting' is not one of requested, " in document["faultstring"]
    assert standalone.call("PUT", "/executions/" + id_, {"status": "canceled"})[0] == 200
    standalone.wait_for_end(id_)
    code, document = standalone.call("PUT", "/executions/" + id_, {"status": "resuming"})
    assert code == 400 and "already in completed state" in document["faultstring"]


def test_only_a_workflow_can_be_paused(standalone):
    id_ = standalone.start("core.ask")
    standalone.wait_for_status(id_, "pending")
    for status in ("paused", "resuming"):
        code, document = standalone.call("PUT", "/executions/" + id_, {"status": status})
        assert code == 400 and 'not supported by the "inquirer" runner' in document["faultstring"]
    for method, body in (("DELETE", None), ("PUT", {"status": "canceled"})):
        assert standalone.call(method, "/executions/" + id_, body)[0] == 500
    assert standalone.call("PUT", "/executions/" + id_, {"status": "abandoned"})[0] == 200
    standalone.wait_for_status(id_, "abandoned")


def test_the_action_of_a_task_may_be_an_expression(standalone):
    assert standalone.run("probe.dynamic", name="core.noop")["status"] == "succeeded"
    execution = standalone.run("probe.dynamic", name="core.nowhere")
    assert execution["status"] == "failed"
    assert 'Unable to find action "core.nowhere"' in execution["result"]["errors"][0]["message"]


@pytest.mark.parametrize(
    "action, text",
    [
        ("probe.wrong_action", 'The action "probe.nowhere" is not registered'),
        ("probe.wrong_input", 'Action "probe.show" has unexpected input "txt".'),
    ],
)
def test_static_actions_and_inputs_are_checked_before_any_task(standalone, action, text):
    execution = standalone.run(action)
    assert execution["status"] == "failed" and execution["children"] == []
    assert text in str(execution["result"]["errors"])


def test_alert_text_in_an_input_is_evaluated(standalone):
    """StackStorm does the same, so the pack must not pass alert text to a workflow."""
    hostile = '<% st2kv("system.word") %>'
    execution = standalone.run("probe.hostile", name=hostile)
    assert execution["result"].get("output") == {
        "word": "TOP-SECRET",
        "shown": "TOP-SECRET",
    }, execution["result"]
    execution = standalone.run(
        "probe.hostile", name='{% raw %}{{ st2kv("system.word") }}{% endraw %}'
    )
    assert execution["result"]["output"]["shown"] == "TOP-SECRET", execution


def test_a_paused_workflow_can_be_canceled(standalone):
    id_ = standalone.start("probe.outer", name="probe.asks")
    standalone.wait_for_status(id_, "paused")
    assert standalone.call("DELETE", "/executions/" + id_)[0] == 200
    assert standalone.wait_for_end(id_)["status"] == "canceled"
