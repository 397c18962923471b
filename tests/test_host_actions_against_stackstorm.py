r"""StackStorm's own code passes the parameters of host actions safely to their scripts.

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

_SKIP_REASON = "StackStorm is not installed here: use the Python of a StackStorm installation"
param = pytest.importorskip("st2common.util.param", reason=_SKIP_REASON)
util_schema = pytest.importorskip("st2common.util.schema", reason=_SKIP_REASON)
action_db_util = pytest.importorskip("st2common.util.action_db", reason=_SKIP_REASON)
script_action = pytest.importorskip(
    "st2common.models.system.paramiko_script_action", reason=_SKIP_REASON
)
runners = pytest.importorskip("st2common.runners.base", reason=_SKIP_REASON)

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
# {parameter: a value that every action accepts}
VALID_VALUES = {
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
    """Let StackStorm read a configuration with a hostile secret instead of its database.

    StackStorm renders a template before it checks the pattern of the parameter.
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


def validate(action, parameters):
    """Return the parameters as the API would accept them. Raise an exception if it refuses them."""
    context = {"user": "stanley", "pack": "poundcake"}
    live_parameters = param.render_live_params(RUNNER, action.parameters, parameters, context)
    schema = util_schema.get_schema_for_action_parameters(action, action)
    util_schema.validate(
        live_parameters,
        schema,
        util_schema.get_validator(),
        use_default=True,
        allow_default_none=True,
    )
    return live_parameters


def render(action, parameters):
    """Return the parameters of the runner and the parameters of the script."""
    context = {"user": "stanley", "pack": "poundcake"}
    live_parameters = validate(action, parameters)
    return param.render_final_params(RUNNER, action.parameters, live_parameters, context)


def build_command(action, script, parameters, sudo=False):
    """Return the command that StackStorm would send to the host."""
    runner_parameters, script_parameters = render(action, parameters)
    positional, named = action_db_util.get_args(script_parameters, action)
    return script_action.ParamikoRemoteScriptAction(
        action.name,
        "id",
        str(script),
        str(script.parent / "lib"),
        named_args={runner_parameters["kwarg_op"] + name: value for name, value in named.items()},
        positional_args=positional,
        env_vars=dict(runner_parameters["env"], ST2_ACTION_EXECUTION_ID="id"),
        user="stanley",
        remote_dir=str(script.parent),
        hosts=runner_parameters["hosts"],
        sudo=sudo,
        timeout=runner_parameters["timeout"],
        cwd=str(script.parent),
    ).get_full_command_string()


def valid_parameters(action):
    return {name: VALID_VALUES[name] for name in action.parameters if name in VALID_VALUES}


def test_the_list_of_actions_is_not_empty():
    assert "clean_disk" in NAMES


def test_an_execution_runs_on_a_single_host(action):
    runner_parameters, _ = render(action, valid_parameters(action))
    assert runner_parameters["hosts"].split(",") == ["web-1.example.org"]


@pytest.mark.parametrize("host", ["10.0.0.7", "2001:db8::7", "web_1", "WEB-1.example.org"])
def test_valid_hosts_are_accepted(action, host):
    runner_parameters, _ = render(action, {**valid_parameters(action), "host": host})
    assert runner_parameters["hosts"] == host


@pytest.mark.parametrize(
    "host",
    ["a,b", "a b", "root@a", "a:22", "[::1]:22", "-a", "a\n", "", ".", "a/b", "a;b", "a\tb", "a%b"],
)
def test_invalid_hosts_are_refused(action, host):
    with pytest.raises(Exception, match="host|does not match|Failed validating"):
        validate(action, {**valid_parameters(action), "host": host})


@pytest.mark.parametrize("name", ["hosts", "env", "kwarg_op", "directory_list"])
def test_parameters_that_the_action_sets_are_immutable(action, name):
    """StackStorm refuses a value for an immutable parameter."""
    schema = {**RUNNER.get(name, {}), **action.parameters.get(name, {})}
    assert schema.get("immutable") or name not in {**RUNNER, **action.parameters}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_refused_by_every_parameter(action, text):
    for name, schema in action.parameters.items():
        if name in RUNNER or schema.get("immutable"):
            continue
        value = [text] if schema["type"] == "array" else text
        with pytest.raises(Exception):  # noqa: B017 - jsonschema or the cast to a number raises it
            validate(action, {**valid_parameters(action), name: value})


@pytest.mark.parametrize("shell", ["bash", "dash"])
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_would_be_a_single_argument_of_the_script(action, text, shell, tmp_path):
    """Even without the patterns, StackStorm's quoting would keep it a single argument."""
    program = shutil.which(shell)
    if not program:
        pytest.skip(f"{shell} is not installed")
    probe = tmp_path / "probe.sh"
    probe.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    probe.chmod(0o755)
    named = {f"--{name}": text for name in action.parameters if name not in RUNNER}
    sent_command = script_action.ParamikoRemoteScriptAction(
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
    completed = subprocess.run(
        [program, "-c", sent_command], check=True, stdout=subprocess.PIPE, cwd=tmp_path
    )
    arguments = completed.stdout.decode().split("\0")[:-1]
    assert arguments == [f"{name}={text}" for name in named]
    assert not (tmp_path / "canary").exists()


def test_the_script_understands_the_arguments(action, tmp_path):
    """Run, in a shell on this machine, the command that StackStorm would send."""
    parameters = valid_parameters(action)
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
    sent_command = build_command(action, folder / f"{action.name}.sh", parameters)
    completed = subprocess.run(
        ["sh", "-c", sent_command], check=False, stdout=subprocess.PIPE, timeout=60
    )
    output = completed.stdout.decode()
    assert "unknown argument" not in output
    assert completed.returncode in (0, 2), output


def test_a_dry_run_reaches_the_script(tmp_path):
    text = (ROOT / "actions" / "clean_disk.yaml").read_text(encoding="utf-8")
    action = types.SimpleNamespace(
        **{**yaml.safe_load(text), "ref": "poundcake.clean_disk", "runner_parameters": RUNNER}
    )
    script = tmp_path / "clean_disk.sh"
    parameters = valid_parameters(action)
    assert " --dry_run" not in build_command(action, script, {**parameters, "dry_run": False})
    assert " --dry_run" in build_command(action, script, {**parameters, "dry_run": True})
    assert "--directory_list=/var/log/app:/srv/a_b" in build_command(action, script, parameters)
