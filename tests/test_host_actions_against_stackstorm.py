r"""StackStorm's own code passes the parameters of the actions on a host as inert arguments.

Skipped if StackStorm's code cannot be imported. To run these tests, use the Python of a StackStorm
installation that also has pytest, in the pack's folder:

PYTHONPATH=lib:. /opt/stackstorm/st2/bin/python -m pytest --noconftest \
    tests/test_host_actions_against_stackstorm.py
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import types

import pytest
import yaml

_WHY = "StackStorm is not installed here: run with the Python of an installation"
param = pytest.importorskip("st2common.util.param", reason=_WHY)
util_schema = pytest.importorskip("st2common.util.schema", reason=_WHY)
action_db_util = pytest.importorskip("st2common.util.action_db", reason=_WHY)
script_action = pytest.importorskip("st2common.models.system.paramiko_script_action", reason=_WHY)
runners = pytest.importorskip("st2common.runners.base", reason=_WHY)

ROOT = pathlib.Path(__file__).parents[1]
HOSTILE = (
    "$(touch canary)",
    "`touch canary`",
    "x; touch canary",
    "x | touch canary",
    "x\ntouch canary\n",
    "x\n",
    "' ; touch canary ; '",
    '" ; touch canary ; "',
    "\\'; touch canary; \\'",
    "${IFS}touch${IFS}canary",
    "-oProxyCommand=touch canary",
    "--dry_run=no",
    "/var/log/../../etc",
    "/var/log/x:/etc",
    "{{ config_context.secret }}",
    "{% raw %}{{ 7 * 7 }}{% endraw %}",
    "<% 7 * 7 %>",
    "~root",
    "*",
    "!!",
    "é\u2028x",
    "x" * 300,
)
# One value that each action takes, by parameter.
FITTING = {
    "host": "web-1.example.org",
    "service": "app@1",
    "directories": ["/var/log/app", "/srv/a_b"],
    "older_than_days": 7,
    "path": "/var/log",
}
NAMES = sorted(
    path.stem
    for path in (ROOT / "actions").glob("*.yaml")
    if yaml.safe_load(path.read_text(encoding="utf-8"))["runner_type"] == "remote-shell-script"
)
(RUNNER,) = [
    runner["runner_parameters"]
    for runner in runners.get_metadata("remote_runner")
    if runner["name"] == "remote-shell-script"
]


@pytest.fixture(autouse=True)
def no_database(monkeypatch):
    """Give templates a secret to read, and no database.

    StackStorm renders a template before it checks the pattern, so what it yields is hostile here.
    """
    monkeypatch.setattr(param, "get_config", lambda pack, user: {"secret": "$(touch canary)"})


@pytest.fixture(params=NAMES)
def action(request):
    """Return an action as StackStorm's code reads it from its database."""
    text = (ROOT / "actions" / f"{request.param}.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    return types.SimpleNamespace(
        **{**content, "ref": f"poundcake.{request.param}", "runner_parameters": RUNNER}
    )


def validated(action, given):
    """Return parameters as the API takes them. Raise an exception if it refuses them."""
    context = {"user": "stanley", "pack": "poundcake"}
    live = param.render_live_params(RUNNER, action.parameters, given, context)
    schema = util_schema.get_schema_for_action_parameters(action, action)
    util_schema.validate(
        live,
        schema,
        util_schema.get_validator(),
        use_default=True,
        allow_default_none=True,
    )
    return live


def final(action, given):
    """Return the parameters of the runner and of the script, as the action runner gets them."""
    context = {"user": "stanley", "pack": "poundcake"}
    live = validated(action, given)
    return param.render_final_params(RUNNER, action.parameters, live, context)


def command(action, script, given, sudo=False):
    """Return the command that StackStorm would send to the host."""
    of_runner, own = final(action, given)
    positional, named = action_db_util.get_args(own, action)
    return script_action.ParamikoRemoteScriptAction(
        action.name,
        "id",
        str(script),
        str(script.parent / "lib"),
        named_args={of_runner["kwarg_op"] + name: value for name, value in named.items()},
        positional_args=positional,
        env_vars=dict(of_runner["env"], ST2_ACTION_EXECUTION_ID="id"),
        user="stanley",
        remote_dir=str(script.parent),
        hosts=of_runner["hosts"],
        sudo=sudo,
        timeout=of_runner["timeout"],
        cwd=str(script.parent),
    ).get_full_command_string()


def fitting(action):
    return {name: FITTING[name] for name in action.parameters if name in FITTING}


def test_there_are_actions():
    assert "clean_disk" in NAMES


def test_one_host_per_execution(action):
    of_runner, _ = final(action, fitting(action))
    assert of_runner["hosts"].split(",") == ["web-1.example.org"]


@pytest.mark.parametrize("host", ["10.0.0.7", "2001:db8::7", "web_1", "WEB-1.example.org"])
def test_hosts_that_are_accepted(action, host):
    of_runner, _ = final(action, {**fitting(action), "host": host})
    assert of_runner["hosts"] == host


@pytest.mark.parametrize(
    "host",
    ["a,b", "a b", "root@a", "a:22", "[::1]:22", "-a", "a\n", "", ".", "a/b", "a;b", "a\tb", "a%b"],
)
def test_hosts_that_are_refused(action, host):
    with pytest.raises(Exception, match="host|does not match|Failed validating"):
        validated(action, {**fitting(action), "host": host})


@pytest.mark.parametrize("name", ["hosts", "env", "kwarg_op", "directory_list"])
def test_nobody_can_pass_what_the_action_sets(action, name):
    """StackStorm refuses every parameter that is immutable."""
    schema = {**RUNNER.get(name, {}), **action.parameters.get(name, {})}
    assert schema.get("immutable") or name not in {**RUNNER, **action.parameters}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_is_refused_by_every_parameter(action, text):
    for name, schema in action.parameters.items():
        if name in RUNNER or schema.get("immutable"):
            continue
        value = [text] if schema["type"] == "array" else text
        with pytest.raises(Exception):  # noqa: B017 - of jsonschema, or of the cast to a number
            validated(action, {**fitting(action), name: value})


@pytest.mark.parametrize("shell", ["sh", "bash", "dash"])
@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_would_reach_the_script_unchanged(action, text, shell, tmp_path):
    """The patterns refuse it; StackStorm's quoting alone keeps it one argument."""
    program = shutil.which(shell)
    if not program:
        pytest.skip(f"{shell} is not installed")
    probe = tmp_path / "probe.sh"
    probe.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    probe.chmod(0o755)
    named = {f"--{name}": text for name in action.parameters if name not in RUNNER}
    sent = script_action.ParamikoRemoteScriptAction(
        action.name,
        "id",
        str(probe),
        "",
        named,
        [],
        {},
        user="stanley",
        remote_dir=str(tmp_path),
        hosts="web-1",
        cwd=str(tmp_path),
    ).get_full_command_string()
    ended = subprocess.run([program, "-c", sent], check=True, stdout=subprocess.PIPE, cwd=tmp_path)
    arguments = ended.stdout.decode().split("\0")[:-1]
    assert arguments == [f"{name}={text}" for name in named]
    assert not (tmp_path / "canary").exists()


def test_the_script_understands_the_arguments(action, tmp_path):
    """The command that StackStorm would send, run in a shell of this machine."""
    parameters = fitting(action)
    if action.name in ("clean_disk", "restart_service"):
        parameters = {
            **parameters,
            "directories": ["/no/such_directory"],
            "service": "no-such-service",
        }
        parameters = {
            name: value for name, value in parameters.items() if name in action.parameters
        }
    folder = tmp_path / "hosts"
    shutil.copytree(str(ROOT / "actions" / "hosts"), str(folder))
    sent = command(action, folder / f"{action.name}.sh", parameters)
    ended = subprocess.run(["sh", "-c", sent], check=False, stdout=subprocess.PIPE, timeout=60)
    printed = ended.stdout.decode()
    assert "unknown argument" not in printed
    assert ended.returncode in (0, 2), printed


def test_a_dry_run_reaches_the_script(tmp_path):
    text = (ROOT / "actions" / "clean_disk.yaml").read_text(encoding="utf-8")
    action = types.SimpleNamespace(
        **{**yaml.safe_load(text), "ref": "poundcake.clean_disk", "runner_parameters": RUNNER}
    )
    script = tmp_path / "clean_disk.sh"
    parameters = fitting(action)
    assert " --dry_run" not in command(action, script, {**parameters, "dry_run": False})
    assert " --dry_run" in command(action, script, {**parameters, "dry_run": True})
    assert "--directory_list=/var/log/app:/srv/a_b" in command(action, script, parameters)
