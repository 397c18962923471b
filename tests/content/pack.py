"""Read the files of a pack, and check each kind of file."""

from __future__ import annotations

import os
import re
from pathlib import Path

import yaml

from tests.content import code, evaluation, schemas
from tests.content.stackstorm import (
    CHANGEABLE_RUNNER_KEYS,
    CORE_ACTIONS,
    CORE_TRIGGERS,
    EMAIL,
    KEYS,
    OPERATORS,
    OWN_RESULT_RUNNERS,
    POLICIES,
    REF,
    RUNNERS,
    SEMVER,
    VERSIONS,
)

# PyYAML's parser in C, if it was built, is ten times as fast.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
ALIAS_PARAMETER = re.compile(r"\{\{\s*(\w+)")
CRITERION = re.compile(r"trigger(?:\.(\w+)|\[\s*['\"](\w+)['\"]\s*\])")


def find_problems(directory):
    """Return a sentence for each problem of a pack. Each starts with the file."""
    return Pack(directory).problems


class UniqueKeyLoader(LOADER):
    """A YAML loader that refuses duplicate keys; the plain loader uses the last one."""


def construct_unique_mapping(loader, node):
    """Construct a mapping, and refuse duplicate keys."""
    keys = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in keys:
            text = f"the key {key!r} is duplicated"
            raise yaml.constructor.ConstructorError(None, None, text, key_node.start_mark)
        keys.add(key)
    return loader.construct_mapping(node, deep=True)


UniqueKeyLoader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, construct_unique_mapping
)


class Pack:
    """Reads and checks a pack. `problems` contains a sentence for each problem."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.problems = []
        self.metadata = self.load("pack.yaml") or {}
        self.ref = self.metadata.get("ref") or self.metadata.get("name") or ""
        self.actions = self.load_named("actions")
        self.rules = self.load_named("rules")
        self.workflows = self.load_folder("workflows")
        self.triggers = {}
        # Sensors are checked before rules, because they declare the triggers of the rules.
        for check, files in (
            (self.check_pack, {"pack.yaml": self.metadata}),
            (self.check_sensor, self.load_folder("sensors")),
            (self.check_trigger, self.load_folder("triggers")),
            (self.check_action, self.actions),
            (self.check_workflow, self.workflows),
            (self.check_rule, self.rules),
            (self.check_alias, self.load_folder("aliases")),
            (self.check_policy, self.load_folder("policies")),
            (self.check_config, {"config.schema.yaml": self.load_config_schema()}),
        ):
            for file, content in files.items():
                self.problems += [f"{file}: {text}" for text in check(content)]
        self.check_example(f"{self.ref}.yaml.example")

    # -- reading

    def load(self, file):
        """Return the mapping in a file. If there is none, record a problem and return None."""
        try:
            with open(self.directory / file, encoding="utf-8") as stream:
                content = yaml.load(stream, Loader=UniqueKeyLoader)
        except FileNotFoundError:
            self.problems.append(f"{file}: does not exist")
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            self.problems.append(f"{file}: cannot be read: {' '.join(str(error).split())}")
        else:
            if isinstance(content, dict):
                return content
            self.problems.append(f"{file}: is not a mapping")
        return None

    def load_folder(self, folder):
        """Return {path relative to the pack: content} for each file in a folder."""
        loaded = {}
        path = self.directory / folder
        for name in sorted(os.listdir(path)) if path.is_dir() else ():
            file = f"{folder}/{name}"
            if name.endswith(".yml"):
                self.problems.append(f"{file}: ends in .yml; all other files end in .yaml")
            if name.endswith(".yaml"):
                content = self.load(file)
                if content is not None:
                    loaded[file] = content
        return loaded

    def load_named(self, folder):
        """Load the files of a folder, and check that the `name` in each is the name of the file.

        Therefore, the names are unique.
        """
        loaded = self.load_folder(folder)
        for file, content in loaded.items():
            name = content.get("name")
            if name != Path(file).stem:
                self.problems.append(
                    f"{file}: has the name {name!r} instead of {Path(file).stem!r}"
                )
        return loaded

    def load_config_schema(self):
        """Return the configuration schema, or {} if the pack has no schema."""
        file = "config.schema.yaml"
        return (self.load(file) or {}) if (self.directory / file).exists() else {}

    def find_action(self, ref):
        """Return an action of this pack by its reference, or None."""
        pack, _, name = str(ref).partition(".")
        return self.actions.get(f"actions/{name}.yaml") if pack == self.ref else None

    def find_runner(self, ref):
        """Return the runner of an action of this pack or of core, or None."""
        return CORE_ACTIONS.get(ref) or (self.find_action(ref) or {}).get("runner_type")

    def check_keys(self, kind, content, required):
        """Yield a problem for each unknown key, and for each required key that is missing."""
        for key in content:
            if key not in KEYS[kind].split():
                yield f"has the unknown key {key!r}"
        for key in required:
            if content.get(key) in (None, ""):
                yield f"has no {key}"
        if content.get("pack", self.ref) != self.ref:
            yield f"belongs to the pack {content['pack']!r}"

    # -- each kind of file

    def check_pack(self, pack):
        """Check pack.yaml."""
        yield from self.check_keys("pack", pack, ())
        for key in ("name", "description", "version", "author", "email"):
            if not isinstance(pack.get(key), str):
                yield f"needs {key} as a string"
        for pattern, key, text in (
            (REF, "ref", "needs a ref of lower-case letters, digits and _"),
            (SEMVER, "version", "the version is not a semantic version"),
            (EMAIL, "email", "the email is not an address that StackStorm accepts"),
            (
                VERSIONS,
                "stackstorm_version",
                "stackstorm_version does not have the form '>=3.8.0, <4.0.0'",
            ),
        ):
            if not pattern.match(str(pack.get(key))):
                yield text
        versions = pack.get("python_versions", ["3"])
        if not isinstance(versions, list) or not set(map(repr, versions)) <= {"'2'", "'3'"}:
            yield 'python_versions may contain only the strings "2" and "3"'

    def check_sensor(self, sensor):
        """Check a sensor and the triggers that it declares."""
        yield from self.check_keys("sensor", sensor, ["class_name", "entry_point", "description"])
        name = str(sensor.get("entry_point"))
        path = self.directory / "sensors" / name
        if os.path.basename(name) != name or not path.exists():
            yield f"the entry point {name} is not in sensors/"
        elif sensor.get("class_name") not in code.find_classes(path):
            yield f"no class {sensor.get('class_name')} in {name}"
        for trigger in sensor.get("trigger_types", []):
            yield from self.check_trigger(trigger)

    def check_trigger(self, trigger):
        """Check a trigger type."""
        yield from self.check_keys("trigger", trigger, ["name", "description", "payload_schema"])
        ref = f"{self.ref}.{trigger.get('name')}"
        if ref in self.triggers:
            yield f"declares the trigger {ref} again"
        self.triggers[ref] = trigger
        schema = trigger.get("payload_schema")
        if schema is not None:
            where = f"{ref}'s payload_schema"
            yield from schemas.check_schema(where, schema)
            if schema.get("type") != "object":
                yield f"{where} is not of type object"

    def check_action(self, action):
        """Check an action, its parameters and its code."""
        yield from self.check_keys("action", action, ["name", "runner_type", "description"])
        runner = action.get("runner_type")
        if runner not in RUNNERS:
            yield f"this pack does not use the runner {runner!r}"
        for name, schema in action.get("parameters", {}).items():
            yield from self.check_parameter(name, schema, name in RUNNERS.get(runner, ()))
        if "output_schema" in action:
            schema = action["output_schema"]
            yield from schemas.check_schema("output_schema", schema)
            yield from schemas.check_output_schema(schema)
        elif runner in OWN_RESULT_RUNNERS:
            yield "has no output_schema"
        if runner in (*OWN_RESULT_RUNNERS, "remote-shell-script"):
            yield from self.check_entry_point(action)

    def check_parameter(self, name, schema, is_runner_parameter):
        """Check a parameter of an action."""
        where = f"the parameter {name}"
        yield from schemas.check_schema(where, schema)
        if not isinstance(schema, dict):
            return
        if is_runner_parameter:
            for key in sorted(set(schema) - set(CHANGEABLE_RUNNER_KEYS)):
                yield f"{where} belongs to the runner, and StackStorm refuses a change to its {key}"
        else:
            if not schema.get("description"):
                yield f"{where} has no description"
            if not {"type", "anyOf", "oneOf", "enum"} & set(schema):
                yield f"{where} has no type"
        if schema.get("immutable") and "default" not in schema:
            yield f"{where} is immutable and has no default"
        if schema.get("required") and "default" in schema:
            yield f"{where} is required and has a default"
        yield from schemas.check_default(where, schema)

    def check_entry_point(self, action):
        """Check that the code of an action exists and matches its parameters."""
        name = action.get("entry_point")
        if not isinstance(name, str):
            yield "has no entry_point"
            return
        path = self.directory / "actions" / name
        if os.path.isabs(name) or os.path.normpath(name) != name or name.startswith(".."):
            yield f"the entry point {name} is refused at run time"
        elif not path.is_file():
            yield f"the entry point {name} is not in actions/"
        elif self.directory.resolve() not in path.resolve().parents:
            yield f"the entry point {name} points outside the pack"
        elif action["runner_type"] == "orquesta":
            yield from self.check_inputs(action, name)
        elif action["runner_type"] == "remote-shell-script":
            if path.parent == self.directory / "actions":
                yield f"{name} is in actions/, so StackStorm copies actions/lib to every host"
        else:
            folders = [self.directory / "actions", self.directory / "lib"]
            entry_points = code.find_entry_points(path, folders)
            if len(entry_points) != 1:
                yield f"its code has {len(entry_points)} classes with a run method"
            else:
                parameters = set(action.get("parameters", {})) - set(RUNNERS["python-script"])
                yield from code.check_signature(entry_points[0], parameters)

    def check_inputs(self, action, entry_point):
        """Check the parameters of a workflow's action against the inputs of the workflow."""
        workflow = self.workflows.get(entry_point)
        if workflow is None:
            yield "the workflow is not in workflows/"
            return
        inputs = workflow.get("input", [])
        optional_inputs = {name for item in inputs if isinstance(item, dict) for name in item}
        required_inputs = {item for item in inputs if not isinstance(item, dict)}
        parameters = set(action.get("parameters", {}))
        for name in sorted(required_inputs - parameters):
            yield f"{entry_point} requires the input {name}"
        for name in sorted(
            parameters - optional_inputs - required_inputs - set(RUNNERS["orquesta"])
        ):
            yield f"{entry_point} has no input {name}"

    def check_call(self, where, ref, arguments):
        """Check that a called action exists, and that the arguments match its parameters."""
        pack = str(ref).partition(".")[0]
        action = self.find_action(ref)
        if ref in CORE_ACTIONS:
            parameters, runner = {}, CORE_ACTIONS[ref]
        elif action is not None:
            parameters, runner = action.get("parameters", {}), action.get("runner_type")
        elif pack in self.metadata.get("dependencies", []):
            return
        else:
            yield f"{where}: there is no action {ref}"
            return
        arguments = arguments or {}
        for name in sorted(set(arguments) - set(RUNNERS.get(runner, ())) - set(parameters)):
            yield f"{where}: {ref} has no parameter {name}"
        for name, schema in sorted(parameters.items()):
            if name in arguments and schema.get("immutable"):
                yield f"{where}: {name} of {ref} is immutable"
            if name not in arguments and schema.get("required"):
                yield f"{where}: {ref} needs {name}"

    def check_workflow(self, workflow):
        """Check a workflow: its tasks, their actions, and the results that its expressions use."""
        yield from self.check_keys("workflow", workflow, ["version", "description", "tasks"])
        tasks = workflow.get("tasks") or {}
        for name, task in tasks.items():
            for text in self.check_keys("task", task, ()):
                yield f"task {name} {text}"
            action, parameters = task.get("action"), task.get("input")
            is_dynamic = isinstance(parameters, str) or evaluation.EXPRESSION.search(str(action))
            if action and not is_dynamic:
                yield from self.check_call(f"task {name}", action, parameters)
            for transition in task.get("next", []):
                for target in find_targets(transition.get("do")):
                    if target not in (*tasks, "noop", "fail", "continue", "retry"):
                        yield f"task {name} continues with {target}, which is not a task"
        yield from evaluation.check_workflow(self, workflow)

    def check_rule(self, rule):
        """Check a rule: its trigger, its criteria, its action and its parameters."""
        yield from self.check_keys("rule", rule, ["name", "description", "trigger", "action"])
        if not isinstance(rule.get("enabled"), bool):
            yield "does not set enabled: true or false, and StackStorm's default is false"
        if (rule.get("type") or {}).get("ref", "standard") not in ("standard", "backstop"):
            yield "has an unknown type"
        trigger = rule.get("trigger") or {}
        ref = trigger.get("type")
        if ref in CORE_TRIGGERS:
            parameters = trigger.get("parameters") or {}
            yield from schemas.check_values("trigger", CORE_TRIGGERS[ref], parameters)
        elif ref not in self.triggers:
            yield f"there is no trigger {ref}"
        declared = self.triggers.get(ref, {}).get("payload_schema", {}).get("properties")
        for key, criterion in (rule.get("criteria") or {}).items():
            yield from check_criterion(key, criterion, declared)
        action = rule.get("action") or {}
        yield from self.check_call("action", action.get("ref"), action.get("parameters"))
        yield from evaluation.check_rule(self, action, declared)

    def check_alias(self, alias):
        """Check an alias: its name, its action, and the parameters in its formats."""
        yield from self.check_keys("alias", alias, ["name", "description", "action_ref", "formats"])
        # StackStorm finds an alias by its name alone, so names of different packs must differ.
        if not str(alias.get("name")).startswith(f"{self.ref}_"):
            yield f"the name does not begin with {self.ref}_"
        action = self.find_action(alias.get("action_ref"))
        if action is None:
            yield f"there is no action {alias.get('action_ref')}"
            return
        fixed = alias.get("immutable_parameters") or {}
        for form in alias.get("formats") or []:
            representations = form.get("representation", []) if isinstance(form, dict) else [form]
            names = {name for text in representations for name in ALIAS_PARAMETER.findall(text)}
            for name in sorted(names & set(fixed)):
                yield f"{name} is both in a format and in immutable_parameters"
            parameters = dict.fromkeys([*names, *fixed], "")
            yield from self.check_call("action", alias["action_ref"], parameters)

    def check_policy(self, policy):
        """Check a policy."""
        yield from self.check_keys("policy", policy, ["name", "resource_ref", "policy_type"])
        ref, kind = policy.get("resource_ref"), policy.get("policy_type")
        action, parameters = self.find_action(ref), policy.get("parameters", {})
        if action is None:
            yield f"there is no action {ref}"
        if kind not in POLICIES:
            yield f"unknown policy type {kind!r}"
            return
        for name in sorted(set(parameters) - POLICIES[kind]):
            yield f"{kind} has no parameter {name}"
        if "threshold" in POLICIES[kind]:
            threshold = parameters.get("threshold")
            if not isinstance(threshold, int) or threshold < 1:
                yield "needs a threshold of 1 or more"
            if parameters.get("action", "delay") not in ("delay", "cancel"):
                yield "the action is neither delay nor cancel"
        for name in parameters.get("attributes", []):
            if action and name not in action.get("parameters", {}):
                yield f"{ref} has no parameter {name}"

    def check_config(self, schema):
        """Check the configuration schema."""
        for name, part in schema.items():
            yield from schemas.check_schema(name, part)
            if not isinstance(part, dict):
                continue
            if not part.get("description"):
                yield f"{name} has no description"
            yield from schemas.check_default(name, part)
            if part.get("secret") and part.get("type") == "array":
                yield f"{name}: set `secret` on the items; otherwise, the sensor gets ciphertext"

    def check_example(self, file):
        """Check the example configuration."""
        schema = self.load_config_schema()
        values = self.load(file) if schema else None
        if values is not None:
            problems = schemas.check_values("", schema, values)
            self.problems += [f"{file}: {text}" for text in problems]


def check_criterion(key, criterion, declared):
    """Check a criterion of a rule against the fields that its trigger declares."""
    if not isinstance(criterion, dict) or criterion.get("type") not in OPERATORS:
        yield f"{key} has no known operator"
        return
    if criterion.get("pattern") is None:
        yield f"{key} needs a pattern, even for `exists`"
    match = CRITERION.match(key)
    if not match:
        yield f"{key} does not begin with trigger."
    elif declared is not None and (match[1] or match[2]) not in declared:
        yield f"{key}: the trigger has no {match[1] or match[2]}"


def find_targets(do):
    """Return the names of the tasks to which a transition leads."""
    if do is None:
        return []
    return [name.strip() for name in do.split(",")] if isinstance(do, str) else do
