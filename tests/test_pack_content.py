"""The pack's YAML files are consistent, and the content check finds each kind of mistake.

To test the check, the tests make one mistake at a time in a small pack.
"""

from __future__ import annotations

import os
import re

import pytest
import yaml
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from st2client.utils.interactive import InteractiveForm

from tests import content

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OWN_PACK = content.Pack(ROOT)
INQUIRY_SCHEMAS = [
    pytest.param(task["input"]["schema"], id=f"{name}-{task_name}")
    for name, workflow in OWN_PACK.workflows.items()
    for task_name, task in workflow["tasks"].items()
    if task.get("action") == "core.ask"
]


def test_the_pack_has_no_problems():
    assert not OWN_PACK.problems, "\n".join(OWN_PACK.problems)


def test_each_example_alert_is_matched_by_a_rule():
    with open(os.path.join(ROOT, "etc", "alert-rules.yml")) as file:
        groups = yaml.safe_load(file)["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    criteria = [
        rule.get("criteria", {}).get("trigger.alert_name", {}) for rule in OWN_PACK.rules.values()
    ]
    matched_names = {name for criterion in criteria for name in alert_names(criterion)}
    assert alerts - matched_names == set()


def test_the_pack_asks_for_approval():
    assert len(INQUIRY_SCHEMAS) == 1


@pytest.mark.parametrize("schema", INQUIRY_SCHEMAS)
def test_the_st2_command_asks_the_questions_of_an_inquiry(schema):
    """The views show `st2 inquiry respond ID`. Its form fails on a `description`."""
    properties = schema["properties"]
    assert not [name for name, spec in properties.items() if "description" in spec]
    with create_pipe_input() as keyboard, create_app_session(keyboard, DummyOutput()):
        keyboard.send_text("yes\n")
        assert InteractiveForm(properties).initiate_dialog() == {"approve": True}


def alert_names(criterion):
    """Return the alert names in a criterion: its pattern is a list, a name or a regex."""
    pattern = criterion.get("pattern") or ""
    return pattern if isinstance(pattern, list) else re.findall(r"\w+", pattern)


VALID_PACK = {
    "pack.yaml": {
        "ref": "cake",
        "name": "cake",
        "description": "A pack for this test",
        "version": "1.2.3-rc.1",
        "author": "A baker",
        "email": "baker@example.com",
        "python_versions": ["3"],
        "stackstorm_version": ">=3.8.0, <4.0.0",
    },
    "config.schema.yaml": {
        "port": {"type": "integer", "description": "Where to listen", "default": 8000},
        "tokens": {
            "type": "array",
            "description": "Who may post",
            "items": {"type": "string", "secret": True},
        },
    },
    "cake.yaml.example": {"port": 8001, "tokens": ["crumb"]},
    "sensors/oven.yaml": {
        "class_name": "Oven",
        "entry_point": "oven.py",
        "description": "Reports finished cakes",
        "trigger_types": [
            {
                "name": "done",
                "description": "A cake is done",
                "payload_schema": {
                    "type": "object",
                    "properties": {
                        "request_id": {"type": "string", "required": True},
                        "episode": {"type": "string"},
                        "alert_name": {"type": "string"},
                        "labels": {"type": "object"},
                    },
                },
            }
        ],
    },
    "sensors/oven.py": "class Oven:\n    pass\n",
    "actions/slice.yaml": {
        "name": "slice",
        "runner_type": "python-script",
        "entry_point": "slice.py",
        "description": "Cuts",
        "enabled": True,
        "parameters": {
            "request_id": {
                "type": "string",
                "description": "Which",
                "required": True,
            },
            "pieces": {
                "type": "integer",
                "description": "How many",
                "default": 8,
                "minimum": 1,
            },
            "timeout": {"default": 60},
        },
        "output_schema": {"type": "object", "properties": {"pieces": {"type": "integer"}}},
    },
    "actions/slice.py": "class Slice:\n    def run(self, request_id, pieces=8):\n        pass\n",
    "actions/knife.yaml": {
        "name": "knife",
        "runner_type": "remote-shell-cmd",
        "description": "Returns the output of a host unchanged",
        "parameters": {"cmd": {"default": "uptime", "immutable": True}},
    },
    "actions/scrape.yaml": {
        "name": "scrape",
        "runner_type": "remote-shell-script",
        "entry_point": "tools/scrape.sh",
        "description": "Cleans a host",
        "parameters": {
            "host": {"type": "string", "description": "Where", "required": True},
            "hosts": {"default": "{{ host }}", "immutable": True},
        },
    },
    "actions/tools/scrape.sh": "#!/bin/sh\n",
    "actions/scrape.sh": "#!/bin/sh\n",
    "actions/serve.yaml": {
        "name": "serve",
        "runner_type": "orquesta",
        "entry_point": "workflows/serve.yaml",
        "description": "Cuts and serves",
        "parameters": {
            "request_id": {"type": "string", "description": "Which", "required": True},
            "episode": {"type": "string", "description": "Of what", "default": ""},
        },
        "output_schema": {"type": "object", "properties": {}},
    },
    "workflows/serve.yaml": {
        "version": 1.0,
        "description": "Cuts and serves",
        "input": ["request_id", {"episode": ""}],
        "tasks": {
            "cut": {
                "action": "cake.slice",
                "input": {"request_id": "<% ctx().request_id %>"},
                "next": [
                    {
                        "when": "<% succeeded() and result().result.pieces > 0 %>",
                        "publish": [{"pieces": "<% result().result.pieces %>"}],
                        "do": "inspect",
                    },
                    {"when": "{{ failed() }}", "do": "fail"},
                ],
            },
            "inspect": {
                "action": "core.remote",
                "input": {"hosts": "localhost", "cmd": "uptime"},
                "next": [{"when": "<% succeeded() %>", "do": ["cut_again", "noop"]}],
            },
            "cut_again": {
                "action": "cake.slice",
                "input": {
                    "request_id": "<% ctx(request_id) %>",
                    "pieces": "<% task(cut).result.result.pieces %>",
                },
            },
        },
        "output": [{"pieces": "<% ctx().pieces %>"}, {"inspection": "<% task(inspect).status %>"}],
    },
    "rules/on_done.yaml": {
        "name": "on_done",
        "description": "Serves finished cakes",
        "enabled": True,
        "trigger": {"type": "cake.done"},
        "criteria": {"trigger.labels.kind": {"type": "equals", "pattern": "lemon"}},
        "action": {
            "ref": "cake.serve",
            "parameters": {
                "request_id": "{{ trigger.request_id }}",
                "episode": "{{ trigger.episode | default('') }}",
            },
        },
    },
    "rules/daily.yaml": {
        "name": "daily",
        "description": "Serves every day",
        "enabled": False,
        "trigger": {
            "type": "core.st2.CronTimer",
            "parameters": {"timezone": "UTC", "hour": 3, "minute": "*/30"},
        },
        "action": {"ref": "cake.serve", "parameters": {"request_id": "today"}},
    },
    "aliases/slice.yaml": {
        "name": "cake_slice",
        "description": "Cuts",
        "action_ref": "cake.slice",
        "formats": [
            {"display": "cut <which>", "representation": ["cut {{ request_id }} {{ pieces=8 }}"]}
        ],
    },
    "policies/one_knife.yaml": {
        "name": "one_knife",
        "resource_ref": "cake.slice",
        "policy_type": "action.concurrency.attr",
        "parameters": {"threshold": 1, "action": "delay", "attributes": ["request_id"]},
    },
}


def write(directory, file, value):
    """Write one file of a pack. A mapping becomes YAML."""
    path = directory / file
    path.parent.mkdir(parents=True, exist_ok=True)
    text = value if isinstance(value, str) else yaml.safe_dump(value, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def pack(tmp_path):
    for file, value in VALID_PACK.items():
        write(tmp_path, file, value)
    (tmp_path / "actions" / "workflows").symlink_to("../workflows")
    return tmp_path


REMOVED = object()


def with_change(file, path, value):
    """Return a file of the small pack, with the value at a path changed or removed."""
    document = yaml.safe_load(yaml.safe_dump(VALID_PACK[file]))
    steps = [int(step) if step.isdigit() else step for step in path.split("/")]
    parent = document
    for step in steps[:-1]:
        parent = parent[step]
    if value is REMOVED:
        del parent[steps[-1]]
    else:
        parent[steps[-1]] = value
    return document


def test_the_small_pack_has_no_problems(pack):
    assert content.find_problems(str(pack)) == []


PACK, CONFIG, EXAMPLE = "pack.yaml", "config.schema.yaml", "cake.yaml.example"
SENSOR, SLICE, SERVE = "sensors/oven.yaml", "actions/slice.yaml", "actions/serve.yaml"
SCRAPE = "actions/scrape.yaml"
KNIFE, WORKFLOW, RULE = "actions/knife.yaml", "workflows/serve.yaml", "rules/on_done.yaml"
DAILY = "rules/daily.yaml"
POLICY = "policies/one_knife.yaml"
ALIAS = "aliases/slice.yaml"
PAYLOAD = "trigger_types/0/payload_schema"

# (file, path of a key, new value, part of the expected problem)
MISTAKES = [
    (PACK, "email", REMOVED, "needs email"),
    (PACK, "email", "baker@localhost", "not an address"),
    (PACK, "version", "1.0", "semantic version"),
    (PACK, "version", "01.0.0", "semantic version"),
    (PACK, "ref", "pound-cake", "needs a ref"),
    (PACK, "python_versions", ["3.11"], "python_versions"),
    (PACK, "python_versions", [3], "python_versions"),
    (PACK, "stackstorm_version", "3.8", "stackstorm_version"),
    (PACK, "licence", "MIT", "unknown key 'licence'"),
    (CONFIG, "port/description", REMOVED, "no description"),
    (CONFIG, "port/default", "8000", "default does not match"),
    (CONFIG, "tokens/secret", True, "set `secret` on the items"),
    (CONFIG, "port/minimun", 1, "unknown key 'minimun'"),
    (ALIAS, "name", "slice", "does not begin with cake_"),
    (ALIAS, "action_ref", "cake.cut", "there is no action cake.cut"),
    (ALIAS, "formats/0/representation", ["cut {{ which }}"], "has no parameter which"),
    (ALIAS, "formats/0/representation", ["cut {{ pieces }}"], "needs request_id"),
    (ALIAS, "immutable_parameters", {"pieces": 4}, "pieces is both in a format"),
    (ALIAS, "results", {}, "unknown key 'results'"),
    (EXAMPLE, "port", "a port", "is not of type 'integer'"),
    (EXAMPLE, "prot", 1, "'prot' was unexpected"),
    (SENSOR, "entry_point", "hob.py", "hob.py is not in sensors"),
    (SENSOR, "class_name", "Hob", "no class Hob"),
    (SENSOR, PAYLOAD + "/required", ["request_id"], "drops every payload"),
    (SENSOR, PAYLOAD + "/properties/episode/type", ["string", "null"], "list of types"),
    (SENSOR, PAYLOAD + "/properties/episode/pattern", 7, "is not of type 'string'"),
    (SENSOR, "trigger_types/0/name", "ready", "no trigger cake.done"),
    (SLICE, "name", "cut", "the name 'cut'"),
    (SLICE, "runner", "x", "unknown key 'runner'"),
    (SLICE, "runner_type", "mistral-v2", "the runner 'mistral-v2'"),
    (SLICE, "pack", "bread", "belongs to the pack 'bread'"),
    (SLICE, "entry_point", "../slice.py", "refused at run time"),
    (SLICE, "entry_point", "./slice.py", "refused at run time"),
    (SLICE, "entry_point", "slices.py", "not in actions"),
    (SLICE, "parameters/pieces/description", REMOVED, "pieces has no description"),
    (SLICE, "parameters/pieces/type", REMOVED, "pieces has no type"),
    (SLICE, "parameters/pieces/default", 0, "default does not match"),
    (SLICE, "parameters/pieces/require", True, "unknown key 'require'"),
    (SLICE, "parameters/request_id/required", "yes", "not true or false"),
    (SLICE, "parameters/request_id/immutable", True, "immutable and has no default"),
    (SLICE, "parameters/size", {"type": "string", "description": "x"}, "not take the parameter"),
    (SLICE, "parameters/request_id", REMOVED, "needs request_id, which is not"),
    (SCRAPE, "parameters/hosts/pattern", "^x$", "refuses a change to its pattern"),
    (SCRAPE, "entry_point", "tools/scraper.sh", "not in actions"),
    (SCRAPE, "entry_point", "scrape.sh", "copies actions/lib to every host"),
    (SLICE, "output_schema", REMOVED, "no output_schema"),
    (SLICE, "output_schema", {"properties": {}}, "neither type nor properties"),
    (SLICE, "output_schema", {"anyOf": [{"type": "object"}, {"type": "string"}]}, "has anyOf"),
    (SLICE, "output_schema/maxProperties", 9, "has maxProperties"),
    (SLICE, "output_schema/type", ["object", "string"], "list of types"),
    (SLICE, "output_schema/required", ["pieces"], "drops every payload"),
    (SERVE, "entry_point", "workflows/server.yaml", "not in actions"),
    (SERVE, "parameters/size", {"type": "string", "description": "x"}, "has no input size"),
    (SERVE, "parameters/request_id", REMOVED, "requires the input request_id"),
    (WORKFLOW, "task", {}, "unknown key 'task'"),
    (WORKFLOW, "tasks/cut/on-success", "x", "unknown key 'on-success'"),
    (WORKFLOW, "tasks/cut/action", "cake.slize", "no action cake.slize"),
    (WORKFLOW, "tasks/cut/action", "bread.slice", "no action bread.slice"),
    (WORKFLOW, "tasks/cut/input/peaces", 1, "no parameter peaces"),
    (WORKFLOW, "tasks/cut/input/request_id", REMOVED, "needs request_id"),
    (WORKFLOW, "tasks/inspect/input/command", "id", "core.remote has no parameter command"),
    (WORKFLOW, "tasks/cut/next/0/do", "lock", "continues with lock"),
    (RULE, "action/ref", "cake.eat", "no action cake.eat"),
    (RULE, "action/parameters/size", 1, "no parameter size"),
    (RULE, "action/parameters/request_id", REMOVED, "needs request_id"),
    (RULE, "action/parameters/episode", "{{ trigger.epsiode }}", "the trigger has no epsiode"),
    (RULE, "enabled", REMOVED, "enabled: true or false"),
    (RULE, "criteria/trigger.labels.kind/type", "is", "no known operator"),
    (RULE, "criteria/trigger.labels.kind/pattern", None, "needs a pattern"),
    (RULE, "criteria/trigger.kind", {"type": "exists", "pattern": 1}, "the trigger has no kind"),
    (RULE, "criteria/labels.kind", {"type": "exists", "pattern": 1}, "begin with trigger."),
    (RULE, "type", {"ref": "fallback"}, "unknown type"),
    (DAILY, "trigger/type", "core.st2.CronTime", "no trigger core.st2.CronTime"),
    (DAILY, "trigger/type", "core.st2.IntervalTimer", "'unit' is a required property"),
    (DAILY, "trigger/parameters/hour", 24, "trigger.hour 24 is greater than"),
    (DAILY, "trigger/parameters/hours", 3, "trigger Additional properties"),
    (DAILY, "trigger/parameters/timezone", 0, "trigger.timezone 0 is not of type"),
    (POLICY, "resource_ref", "cake.eat", "no action cake.eat"),
    (POLICY, "policy_type", "action.mutex", "unknown policy type"),
    (POLICY, "parameters/threshold", 0, "threshold"),
    (POLICY, "parameters/action", "wait", "neither delay nor cancel"),
    (POLICY, "parameters/attributes", ["host"], "has no parameter host"),
]


@pytest.mark.parametrize("file, path, value, expected", MISTAKES)
def test_a_mistake_is_reported(pack, file, path, value, expected):
    write(pack, file, with_change(file, path, value))
    problems = content.find_problems(str(pack))
    assert any(expected in problem for problem in problems), problems


# With each change, StackStorm would evaluate the output of a host or the result of another pack.
UNSAFE_EXPRESSIONS = [
    ("tasks/inspect/next/0/when", "<% result().stdout != '' %>"),
    ("tasks/inspect/next/0/when", "{{ result().stdout }}"),
    ("tasks/inspect/next/0/when", "{% if result () %}x{% endif %}"),
    ("tasks/inspect/next/0/publish", [{"out": "<% result() %>"}]),
    ("tasks/inspect/next/0/publish", "out=<% result().stdout %>"),
    ("tasks/inspect/retry", {"when": "<% result().failed %>", "count": 3}),
    ("tasks/inspect/action", "cake.knife"),
    ("tasks/cut_again/input/pieces", "<% task(inspect).result.stdout %>"),
    ("tasks/cut_again/input/pieces", "<% task('inspect').get(result) %>"),
    ("tasks/cut_again/input/pieces", '{{ task("inspect")["result"] }}'),
    ("tasks/cut_again/input/pieces", "<% len(str(task( inspect ))) %>"),
    ("tasks/cut_again/input/pieces", "<% task(ctx().which).result %>"),
    ("tasks/cut_again/with", {"items": "<% task(inspect).result %>"}),
    ("tasks/cut_again/delay", "<% int(task(inspect).result.stdout) %>"),
    ("output", [{"result": "<% task(inspect).result %>"}]),
    ("output", [{"{{ task('inspect').result }}": 1}]),
    ("output", [{"nested": {"list": ["a", "<% task(cut).result %> <% task(inspect).result %>"]}}]),
    ("output", [{"result": "<% result() %>"}]),
    ("vars", [{"result": "<% task(inspect).result %>"}]),
]


@pytest.mark.parametrize("path, value", UNSAFE_EXPRESSIONS)
def test_no_expression_may_use_the_result_of_another_pack(pack, path, value):
    workflow = with_change(WORKFLOW, path, value)
    if value == "cake.knife":  # an action of this pack that returns the output of a host
        workflow["tasks"]["inspect"]["input"] = {"hosts": "localhost"}
        workflow["tasks"]["inspect"]["next"][0]["publish"] = [{"out": "<% result().stdout %>"}]
    write(pack, WORKFLOW, workflow)
    problems = content.find_problems(str(pack))
    expected = ("expression", "result() is not available", "is not a task of this workflow")
    assert any(text in problem for problem in problems for text in expected), problems


def test_a_task_whose_action_is_an_expression_counts_as_another_pack(pack):
    workflow = with_change(WORKFLOW, "tasks/cut/action", "<% ctx().request_id %>")
    write(pack, WORKFLOW, workflow)
    problems = content.find_problems(str(pack))
    assert any("uses the result of <% ctx().request_id %>" in problem for problem in problems), (
        problems
    )


@pytest.mark.parametrize(
    "expression",
    [
        "{{ trigger.alert_name }}",
        "{{ trigger['labels'] }}",
        "{{ trigger.labels.host }}",
        "{{ trigger | to_json_string }}",
        "{{ action_context.trace_context.trace_tag }} {{ trigger.alert_name }}",
    ],
)
def test_a_rule_may_not_pass_alert_text_to_a_workflow(pack, expression):
    write(pack, RULE, with_change(RULE, "action/parameters/episode", expression))
    assert any("passes trigger" in problem for problem in content.find_problems(str(pack)))


def test_a_rule_may_pass_the_trace_tag(pack):
    tag = "{{ action_context.trace_context.trace_tag }}"
    write(pack, RULE, with_change(RULE, "action/parameters/episode", tag))
    assert content.find_problems(str(pack)) == []


@pytest.mark.parametrize(
    "file, text, expected",
    [
        ("rules/twice.yaml", "name: twice\nname: twice\n", "is duplicated"),
        ("rules/deep.yaml", "name: deep\ntrigger: {type: a, type: b}\n", "is duplicated"),
        ("rules/broken.yaml", "name: [\n", "cannot be read"),
        ("rules/list.yaml", "- name\n", "not a mapping"),
        ("rules/short.yml", "name: short\n", ".yml"),
        (
            "actions/slice.py",
            "class A:\n    def run(self): pass\nclass B(A):\n    def run(self): pass\n",
            "2 classes with a run",
        ),
        ("actions/slice.py", "run = None\n", "0 classes with a run"),
    ],
)
def test_a_broken_file_is_reported(pack, file, text, expected):
    write(pack, file, text)
    problems = content.find_problems(str(pack))
    assert any(expected in problem for problem in problems), problems


BASE = "class Knife:\n    def run(self, **parameters):\n        return self.work(**parameters)\n"
DERIVED = (
    "from knife import Knife\n\n\nclass Slice(Knife):\n    def work(self, {}):\n        pass\n"
)


def test_a_base_class_may_define_run(pack):
    write(pack, "actions/knife.py", BASE)
    write(pack, "actions/slice.py", DERIVED.format("request_id, pieces=8"))
    assert content.find_problems(str(pack)) == []
    write(pack, "actions/slice.py", DERIVED.format("request_id"))
    assert any("not take the parameter pieces" in text for text in content.find_problems(str(pack)))


def test_a_symbolic_link_to_a_file_outside_the_pack_is_reported(pack, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "slice.py"
    outside.write_text(VALID_PACK["actions/slice.py"])
    (pack / "actions" / "slice.py").unlink()
    (pack / "actions" / "slice.py").symlink_to(outside)
    assert any("points outside the pack" in problem for problem in content.find_problems(str(pack)))
