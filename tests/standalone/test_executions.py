"""Executions of Python and shell actions are started through the API, as by `st2 run`."""

from __future__ import annotations

import time

import pytest

from tests.standalone.conftest import is_running
from tests.waiting import wait_for


def test_a_python_action_gets_the_same_context_as_in_stackstorm(standalone):
    execution = standalone.run("probe.show", text="hi", data={"a": [1]}, number="12", flag="true")
    assert execution["status"] == "succeeded", execution["result"]
    assert set(execution["result"]) == {"result", "exit_code", "stdout", "stderr"}
    assert execution["result"]["exit_code"] == 0
    assert execution["result"]["stdout"] == "a line on stdout\n"
    action_context = execution["result"]["result"]
    parameters = dict(action_context["parameters"])
    assert parameters.pop("workflow_id") == "" and parameters.pop("tag") == ""
    expected = {"text": "hi", "data": {"a": [1]}, "number": 12, "flag": True}
    assert parameters == dict(expected, items=None, secret=None)
    assert action_context["config"]["greeting"] == "hello"
    assert action_context["lib"] == "probe_lib"
    environment = action_context["environment"]
    assert environment["ST2_ACTION_EXECUTION_ID"] == execution["id"]
    assert environment["ST2_ACTION_PACK_NAME"] == "probe"
    assert environment["ST2_API_URL"] == environment["ST2_ACTION_API_URL"] == standalone.api
    assert environment["ST2_AUTH_TOKEN"] and environment["ST2_ACTION_AUTH_TOKEN"]
    assert "open-sesame" not in " ".join(action_context["argv"])


def test_an_execution_has_the_same_fields_as_in_stackstorm(standalone):
    execution = standalone.run("probe.show", text="hi")
    for key in ("id", "start_timestamp", "end_timestamp", "elapsed_seconds", "web_url", "log"):
        assert execution[key]
    assert len(execution["id"]) == 24 and execution["liveaction"]["action"] == "probe.show"
    assert execution["start_timestamp"].endswith("Z") and len(execution["end_timestamp"]) == 27
    assert execution["action"]["runner_type"] == execution["runner"]["name"] == "python-script"
    assert [entry["status"] for entry in execution["log"]] == [
        *("requested", "scheduled", "running", "succeeded"),
    ]


@pytest.mark.parametrize(
    "how, status, result, code, error",
    [
        ("value", "succeeded", ["a", "value"], 0, ""),
        ("false", "failed", "no", 0, ""),
        ("raise", "failed", "None", 1, "ValueError: as requested"),
        ("exit", "failed", "None", 3, ""),
        ("status", "failed", "None", 1, "must either be True or False"),
    ],
)
def test_the_result_of_a_python_action_depends_on_how_it_ends(
    standalone, how, status, result, code, error
):
    execution = standalone.run("probe.behave", how=how)
    assert execution["status"] == status
    output = execution["result"]
    assert output["result"] == result and output["exit_code"] == code and error in output["stderr"]


def test_a_result_that_is_not_json_becomes_text(standalone):
    execution = standalone.run("probe.behave", how="object")
    assert execution["status"] == "succeeded" and "object object" in execution["result"]["result"]


def test_a_timeout_kills_the_action(standalone, tmp_path):
    path = tmp_path / "notes"
    # The timeout includes the start of the process.
    execution = standalone.run("probe.behave", how="sleep", seconds=60, timeout=4, path=str(path))
    assert execution["status"] == "timeout"
    assert execution["result"]["error"] == "Action failed to complete in 4 seconds"
    event, _, pid = path.read_text().split()
    assert event == "start" and not is_running(int(pid))


@pytest.mark.parametrize(
    "body, text",
    [
        ({"action": "probe.nowhere"}, 'Action "probe.nowhere" cannot be found.'),
        ({"action": "probe.show"}, "'text' is a required property"),
        ({"action": "probe.show", "parameters": {"text": "a", "b": 1}}, "'b' was unexpected"),
        ({"action": "probe.show", "parameters": {"text": "a", "number": "x"}}, "invalid literal"),
        ({"action": "probe.show", "parameters": {"text": "{{ nothing }}"}}, "Dependency unsat"),
        ({"action": "probe.behave", "parameters": {"how": "odd"}}, "is not one of"),
        ({"action": "core.echo", "parameters": {"message": "a", "cmd": "b"}}, "immutable"),
        ({"action": "probe.disabled"}, 'Action "probe.disabled" is disabled.'),
        ({"parameters": {}}, "'action' is a required property"),
        ([], "'action' is a required property"),
    ],
)
def test_an_invalid_request_is_refused_with_the_reason(standalone, body, text):
    status, document = standalone.call("POST", "/executions", body)
    assert status == 400 and text in document["faultstring"], document


def test_parameters_passed_through_the_api_are_rendered(standalone):
    """This is how alert text in a parameter could read StackStorm's datastore and configuration."""
    text = "{{ st2kv.system.word }} {{ config_context.secret_word }} {{ st2kv.system.none }}."
    execution = standalone.run("probe.show", text=text)
    shown = execution["result"]["result"]["parameters"]["text"]
    assert shown == "TOP-SECRET open-sesame ."
    raw_execution = standalone.run(
        "probe.show", text="{% raw %}{{ st2kv.system.word }}{% endraw %}"
    )
    assert raw_execution["result"]["result"]["parameters"]["text"] == "{{ st2kv.system.word }}"
    _, re_run = standalone.call("POST", "/executions/{}/re_run".format(raw_execution["id"]), {})
    re_run = standalone.wait_for_end(re_run["id"])
    assert re_run["result"]["result"]["parameters"]["text"] == "TOP-SECRET"


def test_secret_parameters_are_masked_in_the_execution(standalone):
    execution = standalone.run("probe.show", text="x", secret="s3cret")
    assert execution["parameters"]["secret"] == "********"
    assert execution["result"]["result"]["parameters"]["secret"] == "s3cret"


def test_shell_actions_return_their_output_and_exit_code(standalone):
    execution = standalone.run("core.local", cmd="echo out; echo err >&2; exit 4")
    assert execution["status"] == "failed"
    assert execution["result"] == {
        "failed": True,
        "succeeded": False,
        "return_code": 4,
        "stdout": "out",
        "stderr": "err",
    }
    assert standalone.run("core.local", cmd="echo '{\"a\": 1}'")["result"]["stdout"] == {"a": 1}
    assert standalone.run("core.echo", message="x y")["result"]["stdout"] == "x y"
    assert standalone.run("core.noop")["status"] == "succeeded"
    execution = standalone.run("core.local", cmd="sleep 5", timeout=1)
    assert execution["status"] == "timeout" and "1 seconds" in execution["result"]["error"]


def test_a_concurrency_policy_delays_executions_with_the_same_attribute(standalone, tmp_path):
    path = tmp_path / "notes"
    parameters = {"how": "sleep", "seconds": 0.5, "path": str(path)}
    ids = [standalone.start("probe.behave", host=host, **parameters) for host in "aab"]
    executions = [standalone.wait_for_end(id_) for id_ in ids]
    assert [execution["status"] for execution in executions] == ["succeeded"] * 3
    assert [
        "delayed" in [entry["status"] for entry in execution["log"]] for execution in executions
    ] == [False, True, False]
    notes = [line.split() for line in path.read_text().splitlines()]
    events_of_a = [event for event, host, _ in notes if host == "a"]
    assert events_of_a == ["start", "end", "start", "end"]


def test_a_canceled_action_keeps_running_and_stays_canceled(standalone, tmp_path):
    """Like StackStorm, the stand-in does not end the process, and ignores its result."""
    path = tmp_path / "notes"
    id_ = standalone.start("probe.behave", how="sleep", seconds=2, path=str(path))
    pid = int(wait_for(lambda: path.exists() and path.read_text().split())[2])
    assert standalone.call("DELETE", "/executions/" + id_)[0] == 200
    assert standalone.get("/executions/" + id_)["status"] == "canceled"
    wait_for(lambda: not is_running(pid))
    time.sleep(0.2)
    assert "end" in path.read_text()
    assert standalone.get("/executions/" + id_)["status"] == "canceled"
