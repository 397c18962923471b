"""scripts/check_rules.py finds alert text in commands and in lists of hosts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scripts import check_rules

ROOT = Path(__file__).resolve().parent.parent


def find_mistakes(parameters, trigger="poundcake.alert"):
    action = {"ref": "core.remote", "parameters": parameters}
    return check_rules.check_rule({"trigger": {"type": trigger}, "action": action})


@pytest.mark.parametrize(
    "parameters, expected_field",
    [
        ({"cmd": "echo {{ trigger.labels.one }}"}, "trigger.labels.one"),
        ({"cmd": "echo {{trigger.labels['a.b/c']}}"}, "trigger.labels['a.b/c']"),
        ({"cmd": "echo {{ trigger['labels'].one }}"}, "trigger['labels'].one"),
        ({"cmd": 'echo {{ trigger [ "labels" ] }}'}, 'trigger [ "labels" ]'),
        ({"cmd": "{% for x in trigger.labels %}{{ x }}{% endfor %}"}, "trigger.labels"),
        ({"cmd": "{% set t = trigger %}{{ t.job }}"}, "trigger"),
        ({"cmd": "{{ trigger.get('job') }}"}, "trigger.get"),
        ({"cmd": "{{ trigger.annotations.summary | json_escape }}"}, "trigger.annotations.summary"),
        ({"cmd": "a\n{{\n trigger.instance\n}}"}, "trigger.instance"),
        ({"cmd": "logger {{ text }}", "text": "{{ trigger.job }}"}, "text"),
        ({"cmd": "logger {{ b }}", "b": "{{ a }}", "a": ["{{ trigger.job }}"]}, "b"),
        ({"hosts": "{{ trigger.instance }}"}, "trigger.instance"),
        ({"hosts": "web-1,{{ trigger.labels.node }}"}, "trigger.labels.node"),
        ({"hosts": ["{{ trigger.alert_name }}"]}, "trigger.alert_name"),
        ({"parameters": {"cmd": "{{ trigger.severity }}"}}, "trigger.severity"),
        ({"list": [{"deep": {"cmd": {"{{ trigger.receiver }}": 1}}}]}, "trigger.receiver"),
    ],
)
def test_alert_text_in_a_command_or_in_hosts_is_reported(parameters, expected_field):
    (mistake,) = find_mistakes(parameters)
    assert f" contains {expected_field}, text of an alert: " in mistake
    assert "use trigger.host" in mistake


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        {},
        {"cmd": "df -h"},
        {"cmd": "ping -c1 {{ trigger.host }}", "hosts": "{{ trigger['host'] }}"},
        {"cmd": "echo {{ trigger.request_id }} {{ trigger.episode }} {{ trigger.starts_at }}"},
        {"cmd": "echo {{ st2kv.system.trigger }} {{ action_context.trigger_instance }}"},
        {"cmd": "echo trigger.labels"},
        {"cmd": "ping {{ where }}", "where": "{{ trigger.host }}"},
        {"text": "{{ trigger.labels.one }}", "body": {"commands": "{{ trigger.job }}"}},
    ],
)
def test_safe_rules_pass(parameters):
    assert find_mistakes(parameters) == []


def test_only_poundcakes_triggers_are_checked():
    assert find_mistakes({"cmd": "{{ trigger.body.x }}"}, "core.st2.webhook") == []
    assert find_mistakes({"cmd": "{{ trigger.receiver }}"}, "poundcake.webhook") != []


@pytest.mark.parametrize("rule", [None, [], "text", {"trigger": "poundcake.alert"}, {"action": 1}])
def test_files_that_are_not_rules_pass(rule):
    assert check_rules.check_rule(rule) == []


def run(*arguments):
    command = [sys.executable, "scripts/check_rules.py", *map(str, arguments)]
    completed = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return completed.returncode, completed.stdout.decode()


def test_the_rules_of_the_pack_pass():
    for arguments in ((), ("rules", "tests/scenarios/pack/rules")):
        code, output = run(*arguments)
        assert code == 0, output
        assert output.startswith("no alert text in a command or a list of hosts: ")


def test_files_and_folders_on_the_command_line_are_checked(tmp_path):
    rule = {
        "trigger": {"type": "poundcake.alert"},
        "action": {"ref": "core.local", "parameters": {"cmd": "{{ trigger.job }}"}},
    }
    unsafe, safe, broken = (
        tmp_path / name for name in ("unsafe.yaml", "safe.yml", "sub/broken.yaml")
    )
    broken.parent.mkdir()
    unsafe.write_text(yaml.safe_dump(rule))
    safe.write_text(yaml.safe_dump({**rule, "action": {"ref": "core.noop"}}))
    broken.write_text("a: [")
    code, output = run(tmp_path)
    assert code == 1
    assert [line.split(": ")[0] for line in output.splitlines()] == [str(broken), str(unsafe)]
    assert "core.local: cmd contains trigger.job" in output and "cannot be read" in output
    assert run(safe)[0] == 0
    code, output = run(tmp_path / "missing.yaml")
    assert code == 1 and "cannot be read" in output
