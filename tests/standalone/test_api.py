"""The read side of the API, and the real `st2` command against it."""

import os
import pathlib
import subprocess
import sys

import pytest


def test_filters_pages_and_attributes(standalone):
    ids = [standalone.run("core.echo", message="m%d" % n)["id"] for n in range(3)]
    found = standalone.get("/executions?action=core.echo&limit=2")
    assert [e["id"] for e in found] == ids[::-1][:2]
    found = standalone.get("/executions?action=core.echo&limit=2&offset=2")
    assert found[0]["id"] == ids[0]
    found = standalone.get(f"/executions?id={ids[0]},{ids[2]}")
    assert {e["id"] for e in found} == {ids[0], ids[2]}
    middle = standalone.get("/executions/" + ids[1])
    later = standalone.get("/executions?action=core.echo&timestamp_gt=" + middle["start_timestamp"])
    assert [e["id"] for e in later] == [ids[2]]
    earlier = standalone.get(
        "/executions?action=core.echo&timestamp_lt=" + middle["start_timestamp"]
    )
    assert ids[0] in [e["id"] for e in earlier] and ids[1] not in [e["id"] for e in earlier]
    only = standalone.get(f"/executions/{ids[0]}?include_attributes=status")
    assert set(only) == {"id", "action", "runner", "status"}
    assert "result" not in standalone.get("/executions?exclude_attributes=result")[0]
    assert standalone.get("/executions?action=core.echo&status=failed") == []
    assert standalone.call("GET", "/executions?limit=1000")[0] == 403
    assert standalone.call("GET", "/executions?limit=x")[0] == 400
    assert standalone.call("GET", "/executions?timestamp_gt=never")[0] == 400


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("GET", "/executions/nowhere", 404),
        ("GET", "/executions/nowhere/children", 404),
        ("GET", "/traces/nowhere", 404),
        ("GET", "/rules/nowhere", 404),
        ("GET", "/elsewhere", 404),
        ("DELETE", "/rules/probe.show", 405),
        ("PUT", "/rules/probe.show", 400),
    ],
)
def test_errors_are_faultstrings(standalone, method, path, status):
    found, document = standalone.call(method, path, {} if method == "PUT" else None)
    assert found == status and document["faultstring"]


def test_content(standalone):
    refs = [a["ref"] for a in standalone.get("/actions?pack=probe")]
    assert "probe.show" in refs and "core.noop" not in refs
    action = standalone.get("/actions/probe.show")
    assert action["parameters"]["text"]["required"] and action["runner_type"] == "python-script"
    assert "class Show" in standalone.get("/actions/views/entry_point/probe.show")
    overview = standalone.get("/actions/views/overview/probe.show")
    assert overview["parameters"]["timeout"]["default"] == 600
    (runner,) = standalone.get("/runnertypes?name=orquesta")
    assert runner["name"] == "orquesta"
    assert standalone.get("/packs/probe")["version"] == "0.1.0"
    assert standalone.get("/sensortypes") == []
    assert standalone.get("/rules/probe.off")["enabled"] is False
    status, _ = standalone.call("PUT", "/actions/probe.disabled", {"enabled": True})
    assert status == 200 and standalone.run("probe.disabled")["status"] == "succeeded"
    standalone.call("PUT", "/actions/probe.disabled", {"enabled": False})


def test_keys(standalone):
    assert standalone.get("/keys/word")["value"] == "TOP-SECRET"
    assert standalone.call("PUT", "/keys/new", {"name": "new", "value": "1"})[0] == 200
    assert standalone.run("core.echo", message="{{ st2kv.system.new }}")["result"]["stdout"] == 1
    assert standalone.call("DELETE", "/keys/new")[0] == 204
    assert standalone.call("GET", "/keys/new")[0] == 404


def _st2(standalone, *arguments):
    command = pathlib.Path(sys.executable).parent / "st2"
    if not command.exists():
        pytest.skip("st2client is not installed beside this Python")
    environment = dict(os.environ, ST2_API_URL=standalone.api, ST2_AUTH_TOKEN="standalone")
    environment["HOME"] = str(standalone.folder)
    done = subprocess.run(
        [str(command), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def test_st2_run_and_look(standalone):
    code, text = _st2(standalone, "run", "probe.show", "text=from-the-cli", "number=5")
    assert code == 0 and "succeeded" in text and "from-the-cli" in text, text
    code, text = _st2(standalone, "run", "probe.flow", "name=cli")
    assert code == 0 and "hello cli" in text and "second" in text, text
    code, text = _st2(standalone, "run", "probe.behave", "how=raise")
    assert "failed" in text and "as told" in text, text
    code, text = _st2(standalone, "run", "--trace-tag", "cli-tag", "probe.show", "text=x")
    (trace,) = standalone.get("/traces?trace_tag=cli-tag")
    id_ = trace["action_executions"][0]["object_id"]
    assert code == 0 and id_ in text, text
    code, text = _st2(standalone, "execution", "get", id_)
    assert code == 0 and "succeeded" in text and id_ in text, text
    code, text = _st2(standalone, "execution", "list", "-n", "5")
    assert code == 0 and id_ in text, text
    code, text = _st2(standalone, "trace", "list", "--trace-tag", "cli-tag")
    assert code == 0 and "cli-tag" in text, text
    code, text = _st2(standalone, "trace", "get", trace["id"])
    assert code == 0 and id_ in text, text


def test_st2_content_commands(standalone):
    code, text = _st2(standalone, "action", "list", "--pack=probe")
    assert code == 0 and "probe.show" in text and "core.noop" not in text, text
    code, text = _st2(standalone, "action", "get", "probe.show")
    assert code == 0 and "Returns what it was given" in text, text
    code, text = _st2(standalone, "rule", "list")
    assert code == 0 and "probe.backstop" in text, text
    code, text = _st2(standalone, "rule", "disable", "probe.missing")
    assert code == 0 and standalone.get("/rules/probe.missing")["enabled"] is False, text
    code, text = _st2(standalone, "rule", "enable", "probe.missing")
    assert code == 0 and standalone.get("/rules/probe.missing")["enabled"] is True, text
    code, text = _st2(standalone, "run", "probe.show", "-h")
    assert code == 0 and "text" in text, text
    code, text = _st2(standalone, "run", "probe.show")
    assert code != 0 and "required" in text, text
