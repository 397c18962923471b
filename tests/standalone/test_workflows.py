"""Workflows, driven by the real Orquesta."""

from __future__ import annotations

import json

import pytest


def _children(standalone, execution):
    children = standalone.get("/executions/{}/children".format(execution["id"]))
    return {child["context"]["orquesta"]["task_name"]: child for child in children}


def test_flow_and_its_context(standalone):
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
    children = _children(standalone, execution)
    assert set(children) == {"first", "second"}
    first = children["first"]
    assert first["parent"] == execution["id"] and "rule" not in first
    assert set(first["context"]) == {"pack", "user", "parent", "orquesta"}
    assert set(first["context"]["parent"]) == {"execution_id", "user", "pack"}
    assert set(execution["children"]) == {child["id"] for child in children.values()}
    # The default of the child's parameter found its workflow, but not the trace tag.
    assert first["result"]["result"]["parameters"]["workflow_id"] == execution["id"]
    assert first["result"]["result"]["parameters"]["tag"] == ""
    assert children["second"]["result"]["stdout"] == "moon"
    trace = standalone.get("/traces?trace_tag=flow-tag")[0]
    assert len(trace["action_executions"]) == 3


def test_failure_still_has_its_output(standalone):
    execution = standalone.run("probe.fails")
    assert execution["status"] == "failed"
    assert execution["result"].get("output") == {"stage": "begun"}, execution["result"]
    assert execution["result"]["errors"][0]["task_id"] == "first"


def test_do_fail_after_a_handled_failure(standalone):
    execution = standalone.run("probe.fails_as_requested")
    assert execution["status"] == "failed"
    assert execution["result"].get("output") == {"stage": "handled"}, execution["result"]
    assert set(_children(standalone, execution)) == {"first", "report"}


def test_retry(standalone, tmp_path):
    execution = standalone.run("probe.retries", name=str(tmp_path / "tries"))
    assert execution["status"] == "succeeded" and execution["result"]["output"] == {"done": True}
    assert len(execution["children"]) == 3


def test_items_with_concurrency_and_an_empty_list(standalone):
    execution = standalone.run("probe.items")
    assert execution["status"] == "succeeded", json.dumps(execution["result"], indent=1)
    assert execution["result"].get("output") == {"all": ["a", "b", "c", "d"]}, execution["result"]
    assert len(execution["children"]) == 4


def test_split_and_join(standalone):
    execution = standalone.run("probe.joins")
    assert execution["result"].get("output") == {"left": "l", "right": "r"}, execution["result"]
    assert len(execution["children"]) == 4


def test_delay(standalone):
    execution = standalone.run("probe.delayed")
    assert execution["status"] == "succeeded" and execution["elapsed_seconds"] >= 1
    child = _children(standalone, execution)["first"]
    assert "delayed" in [entry["status"] for entry in child["log"]]


@pytest.mark.parametrize("wrapped", [False, True])
def test_inquiry_pauses_and_resumes(standalone, wrapped):
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


def test_an_unknown_status_or_one_after_the_end_is_refused(standalone):
    id_ = standalone.start("probe.asks")
    standalone.wait_for_status(id_, "paused")
    assert standalone.call("PUT", "/executions/" + id_, {"status": "paused"})[0] == 200
    code, answer = standalone.call("PUT", "/executions/" + id_, {"status": "waiting"})
    assert code == 400 and "'waiting' is not one of requested, " in answer["faultstring"]
    assert standalone.call("PUT", "/executions/" + id_, {"status": "canceled"})[0] == 200
    standalone.wait_for_end(id_)
    code, answer = standalone.call("PUT", "/executions/" + id_, {"status": "resuming"})
    assert code == 400 and "already in completed state" in answer["faultstring"]


def test_only_a_workflow_can_be_paused(standalone):
    id_ = standalone.start("core.ask")
    standalone.wait_for_status(id_, "pending")
    for status in ("paused", "resuming"):
        code, answer = standalone.call("PUT", "/executions/" + id_, {"status": status})
        assert code == 400 and 'not supported by the "inquirer" runner' in answer["faultstring"]
    for method, body in (("DELETE", None), ("PUT", {"status": "canceled"})):
        assert standalone.call(method, "/executions/" + id_, body)[0] == 500
    assert standalone.call("PUT", "/executions/" + id_, {"status": "abandoned"})[0] == 200
    standalone.wait_for_status(id_, "abandoned")


def test_dynamic_action(standalone):
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
    """The stand-in reproduces StackStorm's hazard, which the pack has to avoid."""
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


def test_cancel(standalone):
    id_ = standalone.start("probe.outer", name="probe.asks")
    standalone.wait_for_status(id_, "paused")
    assert standalone.call("DELETE", "/executions/" + id_)[0] == 200
    assert standalone.wait_for_end(id_)["status"] == "canceled"
