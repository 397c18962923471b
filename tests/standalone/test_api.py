"""The stand-in's API answers direct requests and the real `st2` command."""

from __future__ import annotations

import pytest
from st2client.shell import Shell

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_executions_can_be_filtered_paged_and_reduced_to_some_attributes(standalone):
    ids = [standalone.run("core.echo", message=f"m{n}")["id"] for n in range(3)]
    executions = standalone.get("/executions?action=core.echo&limit=2")
    assert [e["id"] for e in executions] == ids[::-1][:2]
    executions = standalone.get("/executions?action=core.echo&limit=2&offset=2")
    assert executions[0]["id"] == ids[0]
    executions = standalone.get(f"/executions?id={ids[0]},{ids[2]}")
    assert {e["id"] for e in executions} == {ids[0], ids[2]}
    started_at = standalone.get("/executions/" + ids[1])["start_timestamp"]
    later_executions = standalone.get("/executions?action=core.echo&timestamp_gt=" + started_at)
    assert [e["id"] for e in later_executions] == [ids[2]]
    earlier_executions = standalone.get("/executions?action=core.echo&timestamp_lt=" + started_at)
    assert ids[0] in [e["id"] for e in earlier_executions]
    assert ids[1] not in [e["id"] for e in earlier_executions]
    partial_execution = standalone.get(f"/executions/{ids[0]}?include_attributes=status")
    assert set(partial_execution) == {"id", "action", "runner", "status"}
    assert "result" not in standalone.get("/executions?exclude_attributes=result")[0]
    assert standalone.get("/executions?action=core.echo&status=failed") == []


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("GET", "/executions/nowhere", 404),
        ("GET", "/executions?limit=1000", 403),
        ("GET", "/executions?limit=x", 400),
        ("GET", "/executions?timestamp_gt=never", 400),
        ("GET", "/traces/nowhere", 404),
        ("GET", "/rules/nowhere", 404),
        ("GET", "/elsewhere", 404),
        ("DELETE", "/rules/probe.show", 405),
        ("PUT", "/rules/probe.show", 400),
    ],
)
def test_errors_have_a_faultstring(standalone, method, path, status):
    code, document = standalone.call(method, path, {} if method == "PUT" else None)
    assert code == status
    assert document["faultstring"]


def test_actions_and_rules_are_shown_and_actions_can_be_enabled(standalone):
    refs = [a["ref"] for a in standalone.get("/actions?pack=probe")]
    assert "probe.show" in refs
    assert "core.noop" not in refs
    action = standalone.get("/actions/probe.show")
    assert action["parameters"]["text"]["required"]
    assert action["runner_type"] == "python-script"
    assert "class Show" in standalone.get("/actions/views/entry_point/probe.show")
    overview = standalone.get("/actions/views/overview/probe.show")
    assert overview["parameters"]["timeout"]["default"] == 600
    assert standalone.get("/rules/probe.off")["enabled"] is False
    url = "/actions/probe.disabled"
    assert standalone.call("PUT", url, {"enabled": True})[0] == 200
    assert standalone.run("probe.disabled")["status"] == "succeeded"
    standalone.call("PUT", url, {"enabled": False})


def test_keys_of_the_datastore_are_set_rendered_and_deleted(standalone):
    assert standalone.get("/keys/word")["value"] == "TOP-SECRET"
    assert standalone.call("PUT", "/keys/new", {"name": "new", "value": "1"})[0] == 200
    assert standalone.run("core.echo", message="{{ st2kv.system.new }}")["result"]["stdout"] == 1
    assert standalone.call("DELETE", "/keys/new")[0] == 204
    assert standalone.call("GET", "/keys/new")[0] == 404


@pytest.fixture
def st2(standalone, monkeypatch, capsys):
    """Return a function that runs the `st2` command and returns (exit code, output)."""
    monkeypatch.setenv("ST2_API_URL", standalone.api)
    monkeypatch.setenv("ST2_AUTH_TOKEN", "standalone")
    monkeypatch.setenv("HOME", str(standalone.folder))

    def run(*arguments):
        try:
            code = Shell().run(list(arguments))
        except SystemExit as exit_request:
            code = exit_request.code
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def test_st2_runs_actions_and_shows_executions(standalone, st2):
    code, text = st2("run", "probe.show", "text=from-the-cli", "number=5")
    assert code == 0, text
    assert "succeeded" in text
    assert "from-the-cli" in text
    code, text = st2("run", "probe.flow", "name=cli")
    assert code == 0, text
    assert "hello cli" in text
    assert "second" in text
    code, text = st2("run", "probe.behave", "how=raise")
    assert "failed" in text
    assert "as requested" in text
    code, text = st2("run", "--trace-tag", "cli-tag", "probe.show", "text=x")
    (trace,) = standalone.get("/traces?trace_tag=cli-tag")
    id_ = trace["action_executions"][0]["object_id"]
    for words in (
        ("execution", "get", id_),
        ("execution", "list", "-n", "5"),
        ("trace", "get", trace["id"]),
    ):
        code, text = st2(*words)
        assert code == 0, text
        assert id_ in text


def test_st2_shows_enables_and_disables_content(standalone, st2):
    code, text = st2("action", "list", "--pack=probe")
    assert code == 0, text
    assert "probe.show" in text
    code, text = st2("rule", "disable", "probe.missing")
    assert code == 0, text
    assert standalone.get("/rules/probe.missing")["enabled"] is False
    code, text = st2("rule", "enable", "probe.missing")
    assert standalone.get("/rules/probe.missing")["enabled"] is True, text
    code, text = st2("run", "probe.show", "-h")
    assert "text" in text
    code, text = st2("run", "probe.show")
    assert code != 0
    assert "required" in text
