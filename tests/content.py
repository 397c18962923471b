"""The pack's YAML against what StackStorm takes, and against this pack's own rules.

    python -m tests.content [PACK_DIRECTORY]

StackStorm's own check (st2-validate-pack) reads fewer files and nothing of what joins them: a rule
that names an action or a parameter that is not there, an entry point that is registered and then
refused at run time, a payload_schema by which every trigger is silently dropped. Each of these has
its line here, and so has what keeps alert text out of the expressions that StackStorm evaluates.

`problems(directory)` gives one sentence a fault, each beginning with the file.
"""

import ast
import copy
import os
import re
import sys

import jsonschema
import yaml

PACK_KEYS = """name ref uid description keywords version stackstorm_version python_versions author
    email contributors files dependencies system path""".split()
ACTION_KEYS = """name runner_type entry_point pack description enabled parameters output_schema
    tags notify""".split()
PARAMETER_KEYS = """title description default multipleOf maximum exclusiveMaximum minimum
    exclusiveMinimum maxLength minLength pattern additionalItems items maxItems minItems uniqueItems
    maxProperties minProperties required secret additionalProperties definitions properties
    patternProperties dependencies enum type position immutable allOf anyOf oneOf not""".split()
SENSOR_KEYS = """class_name pack description entry_point enabled trigger_types poll_interval
    artifact_uri""".split()
TRIGGER_KEYS = "name pack description payload_schema parameters_schema tags".split()
RULE_KEYS = "name pack description type trigger criteria action enabled context tags".split()
ALIAS_KEYS = """name pack description enabled action_ref formats ack result extra
    immutable_parameters""".split()
POLICY_KEYS = "name pack description enabled resource_ref policy_type parameters".split()
WORKFLOW_KEYS = "version description input vars tasks output".split()
TASK_KEYS = "action input with delay join retry next".split()

SEMVER = re.compile(
    r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$"
)
EMAIL = re.compile(r"^[A-Za-z0-9._%+-]+@([A-Za-z0-9-]+\.)+[A-Za-z]{2,}$")
REF = re.compile(r"^[a-z0-9_]+$")
STACKSTORM_VERSION = re.compile(r"^((>=?|<=?|=|!=)\s*\d+\.\d+\.\d+(\s*,\s*|$))+$")

OPERATORS = """matchwildcard matchregex regex iregex eq equals neq nequals ieq iequals contains
    icontains ncontains incontains startswith istartswith endswith iendswith lt lessthan gt
    greaterthan td_lt timediff_lt td_gt timediff_gt exists nexists in inside nin ninside
    search""".split()

# What a caller may pass besides an action's own parameters.
SHELL = "cwd env kwarg_op sudo sudo_password timeout".split()
REMOTE = (
    SHELL
    + """bastion_host hosts parallel passphrase password port private_key username
    dir""".split()
)
RUNNER_PARAMETERS = {
    "python-script": "content_version env log_level timeout".split(),
    "orquesta": "content_version context notify".split(),
    "local-shell-cmd": SHELL + ["cmd"],
    "local-shell-script": SHELL + ["content_version"],
    "remote-shell-cmd": REMOTE + ["cmd"],
    "remote-shell-script": REMOTE + ["content_version"],
    "inquirer": "roles route schema tag ttl users".split(),
    "announcement": "experimental route".split(),
    "noop": [],
}
CORE_ACTIONS = {
    "core.ask": "inquirer",
    "core.local": "local-shell-cmd",
    "core.local_sudo": "local-shell-cmd",
    "core.noop": "noop",
    "core.remote": "remote-shell-cmd",
    "core.remote_sudo": "remote-shell-cmd",
}
# Runners whose result is what this pack's own code made of things.
OWN_RESULT = ("python-script", "orquesta")

POLICIES = {
    "action.concurrency": {"threshold", "action"},
    "action.concurrency.attr": {"threshold", "action", "attributes"},
    "action.retry": {"retry_on", "max_retry_count", "delay"},
}

# Fields of the triggers that hold what an alert said. Everything else is made or checked by us.
ALERT_TEXT = {"alert_name", "severity", "instance", "job", "labels", "receiver", "annotations"}


def cron_field(least=None, most=None):
    """A number within bounds, or a text such as */2."""
    bounds = {} if least is None else {"minimum": least, "maximum": most}
    return {"anyOf": [{"type": "string"}, {"type": "integer"}], **bounds}


# StackStorm's own triggers, each with the parameters that it takes.
TEXT = {"type": "string"}
CORE_TRIGGERS = {
    "core.st2.generic.actiontrigger": {},
    "core.st2.webhook": {"url": {"type": "string", "required": True}},
    "core.st2.CronTimer": {
        "timezone": TEXT,
        "year": cron_field(),
        "month": cron_field(1, 12),
        "day": cron_field(1, 31),
        "week": cron_field(1, 53),
        "day_of_week": cron_field(0, 6),
        "hour": cron_field(0, 23),
        "minute": cron_field(0, 59),
        "second": cron_field(0, 59),
    },
    "core.st2.DateTimer": {"timezone": TEXT, "date": {"type": "string", "required": True}},
    "core.st2.IntervalTimer": {
        "timezone": TEXT,
        "unit": {"enum": ["weeks", "days", "hours", "minutes", "seconds"], "required": True},
        "delta": {"type": "integer", "required": True},
    },
}

EXPRESSION = re.compile(r"<%(.*?)%>|\{\{(.*?)\}\}|\{%(.*?)%\}", re.DOTALL)
RESULT_CALL = re.compile(r"\bresult\s*\(")
TASK_CALL = re.compile(r"\btask\s*\(\s*(?:'([^']*)'|\"([^\"]*)\"|([^)]*?))\s*\)(\s*\.\s*status\b)?")
TRIGGER_FIELD = re.compile(r"\btrigger\b(?:\.(\w+)|\[\s*['\"](\w+)['\"]\s*\])?")


def problems(directory):
    return Pack(directory).problems


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML where a key that comes twice is an error, and not the last one's triumph."""


def unique_mapping(loader, node, deep=False):
    keys = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in keys:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} comes twice", key_node.start_mark
            )
        keys.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


UniqueKeyLoader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG,
    lambda loader, node: unique_mapping(loader, node, deep=True),
)


class Pack:
    def __init__(self, directory):
        self.directory = directory
        self.problems = []
        self.metadata = self.load("pack.yaml") or {}
        self.ref = self.metadata.get("ref") or self.metadata.get("name") or ""
        self.actions = self.load_named("actions")
        self.sensors = self.load_folder("sensors")
        self.rules = self.load_named("rules")
        self.workflows = self.load_folder("workflows")
        self.aliases = self.load_named("aliases")
        self.policies = self.load_folder("policies")
        self.triggers = {}

        self.check_pack()
        for file, sensor in self.sensors.items():
            self.check_sensor(file, sensor)
        for file, trigger in self.load_folder("triggers").items():
            self.check_trigger(file, trigger)
        for file, action in self.actions.items():
            self.check_action(file, action)
        for file, workflow in self.workflows.items():
            self.check_workflow(file, workflow)
        for file, rule in self.rules.items():
            self.check_rule(file, rule)
        for file, alias in self.aliases.items():
            self.check_alias(file, alias)
        for file, policy in self.policies.items():
            self.check_policy(file, policy)
        self.check_config()

    # Reading

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def wrong(self, file, text):
        self.problems.append(f"{file}: {text}")

    def load(self, file):
        """A mapping, or None with the fault on record."""
        try:
            with open(self.path(file), encoding="utf-8") as stream:
                content = yaml.load(stream, Loader=UniqueKeyLoader)
        except FileNotFoundError:
            self.wrong(file, "is not there")
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            self.wrong(file, "cannot be read: " + " ".join(str(error).split()))
        else:
            if isinstance(content, dict):
                return content
            self.wrong(file, "is not a mapping")
        return None

    def load_folder(self, folder):
        """Each file of a folder, by its name from the pack's root."""
        loaded = {}
        for name in sorted(os.listdir(self.path(folder)) if self.has(folder) else ()):
            file = folder + "/" + name
            if name.endswith(".yml"):
                self.wrong(file, "is called .yml where all others are .yaml")
            if name.endswith(".yaml"):
                content = self.load(file)
                if content is not None:
                    loaded[file] = content
        return loaded

    def load_named(self, folder):
        """The same where a file is called as what it holds, so that no two can clash."""
        loaded = self.load_folder(folder)
        for file, content in loaded.items():
            stem = os.path.basename(file)[: -len(".yaml")]
            if content.get("name") != stem:
                self.wrong(file, "has the name {!r} and not {!r}".format(content.get("name"), stem))
        return loaded

    def has(self, name):
        return os.path.exists(self.path(name))

    def keys(self, file, content, allowed, required):
        """Only keys that StackStorm knows, and all that it or the reader needs."""
        for key in content:
            if key not in allowed:
                self.wrong(file, f"has the unknown key {key!r}")
        for key in required:
            if content.get(key) in (None, ""):
                self.wrong(file, f"has no {key}")
        if content.get("pack", self.ref) != self.ref:
            self.wrong(file, "belongs to the pack {!r}".format(content["pack"]))

    # pack.yaml

    def check_pack(self):
        file, pack = "pack.yaml", self.metadata
        for key in ("name", "description", "version", "author", "email"):
            if not isinstance(pack.get(key), str):
                self.wrong(file, f"needs {key} as text")
        for key in pack:
            if key not in PACK_KEYS:
                self.wrong(file, f"has the unknown key {key!r}")
        if not REF.match(str(self.ref)):
            self.wrong(file, "needs a ref of lower-case letters, digits and _")
        if not SEMVER.match(str(pack.get("version"))):
            self.wrong(file, "the version is not a semantic version")
        if not EMAIL.match(str(pack.get("email"))):
            self.wrong(file, "the email is not an address that StackStorm takes")
        versions = pack.get("python_versions", ["3"])
        if not isinstance(versions, list) or not set(map(repr, versions)) <= {"'2'", "'3'"}:
            self.wrong(file, 'python_versions can hold "2" and "3", as text, and nothing else')
        if not STACKSTORM_VERSION.match(str(pack.get("stackstorm_version", ">=3.0.0"))):
            self.wrong(file, "stackstorm_version is not like '>=3.8.0' or '>=3.8.0, <4.0.0'")
        for name in pack.get("contributors", []):
            if not isinstance(name, str) or len(name) > 100:
                self.wrong(file, "a contributor is not a text of at most 100 characters")

    # Schemas

    def check_schema(self, file, where, schema):
        """A schema as StackStorm reads it: draft 4 with `required` at each property, all levels."""
        if not isinstance(schema, dict):
            return self.wrong(file, f"{where} is not a schema")
        fine = True
        for key, value in schema.items():
            if key not in PARAMETER_KEYS:
                fine = False
                self.wrong(file, f"{where} has the unknown key {key!r}")
            elif key == "required" and not isinstance(value, bool):
                fine = False
                self.wrong(
                    file,
                    f"{where} has a `required` that is not true or false; a list there makes "
                    "StackStorm drop everything, so put `required: true` at each "
                    "property",
                )
            elif key == "type" and not isinstance(value, str):
                fine = False
                self.wrong(file, f"{where} has a list of types; use anyOf")
        for name, inner in inner_schemas(schema):
            self.check_schema(file, where + "." + name, inner)
        if fine:
            try:
                jsonschema.Draft4Validator.check_schema(to_draft4(schema))
            except jsonschema.SchemaError as error:
                self.wrong(file, f"{where}: {error.message}")

    def check_default(self, file, where, schema):
        default = schema.get("default")
        if default is None or (isinstance(default, str) and EXPRESSION.search(default)):
            return
        try:
            jsonschema.Draft4Validator(to_draft4(schema)).validate(default)
        except (jsonschema.ValidationError, jsonschema.SchemaError) as error:
            self.wrong(file, f"{where}: the default does not fit: {error.message}")

    # Sensors and triggers

    def check_sensor(self, file, sensor):
        self.keys(file, sensor, SENSOR_KEYS, ["class_name", "entry_point", "description"])
        entry_point = str(sensor.get("entry_point"))
        if os.path.basename(entry_point) != entry_point or not self.has("sensors/" + entry_point):
            self.wrong(file, f"the entry point {entry_point} is not in sensors/")
        elif sensor.get("class_name") not in classes(self.path("sensors", entry_point)):
            self.wrong(file, "no class {} in {}".format(sensor.get("class_name"), entry_point))
        for trigger in sensor.get("trigger_types", []):
            self.check_trigger(file, trigger)

    def check_trigger(self, file, trigger):
        self.keys(file, trigger, TRIGGER_KEYS, ["name", "description", "payload_schema"])
        ref = "{}.{}".format(self.ref, trigger.get("name"))
        if ref in self.triggers:
            self.wrong(file, f"declares the trigger {ref} once more")
        self.triggers[ref] = trigger
        for key in ("payload_schema", "parameters_schema"):
            if key in trigger:
                where = f"{ref}'s {key}"
                self.check_schema(file, where, trigger[key])
                if trigger[key].get("type") != "object":
                    self.wrong(file, where + " is not of type object")

    # Actions

    def check_action(self, file, action):
        self.keys(file, action, ACTION_KEYS, ["name", "runner_type", "description"])
        runner = action.get("runner_type")
        if runner not in RUNNER_PARAMETERS:
            self.wrong(file, f"the runner {runner!r} is not one that this pack uses")
        if not isinstance(action.get("enabled", True), bool):
            self.wrong(file, "enabled is not true or false")
        self.check_parameters(file, action)
        self.check_output_schema(file, action)
        if runner in ("python-script", "orquesta", "local-shell-script", "remote-shell-script"):
            self.check_entry_point(file, action)

    def check_parameters(self, file, action):
        parameters = action.get("parameters", {})
        inherited = RUNNER_PARAMETERS.get(action.get("runner_type"), ())
        positions = []
        for name, schema in parameters.items():
            where = f"the parameter {name}"
            self.check_schema(file, where, schema)
            if not isinstance(schema, dict):
                continue
            if name not in inherited:
                if not schema.get("description"):
                    self.wrong(file, where + " has no description")
                if not {"type", "anyOf", "oneOf", "enum"} & set(schema):
                    self.wrong(file, where + " has no type")
            if schema.get("immutable") and "default" not in schema:
                self.wrong(file, where + " is immutable and has no default")
            if schema.get("required") and "default" in schema:
                self.wrong(file, where + " is required and has a default")
            if "position" in schema:
                positions.append(schema["position"])
            self.check_default(file, where, schema)
        if positions and sorted(positions) != list(range(min(positions), max(positions) + 1)):
            self.wrong(file, f"the positions {sorted(positions)} have a gap or a double")

    def check_output_schema(self, file, action):
        if "output_schema" not in action:
            if action.get("runner_type") in OWN_RESULT:
                self.wrong(file, "has no output_schema")
            return
        schema = action["output_schema"]
        self.check_schema(file, "output_schema", schema)
        if isinstance(schema, dict) and not {"type", "anyOf"} & set(schema):
            self.wrong(file, "output_schema has neither type nor anyOf, so StackStorm ignores it")

    def check_entry_point(self, file, action):
        entry_point = action.get("entry_point")
        if not isinstance(entry_point, str):
            return self.wrong(file, "has no entry_point")
        if os.path.isabs(entry_point) or os.path.normpath(entry_point) != entry_point:
            return self.wrong(file, f"the entry point {entry_point} is refused at run time")
        if entry_point.startswith(".."):
            return self.wrong(file, f"the entry point {entry_point} is refused at run time")
        path = self.path("actions", entry_point)
        if not os.path.isfile(path):
            return self.wrong(file, f"the entry point {entry_point} is not in actions/")
        root = os.path.realpath(self.directory)
        if not os.path.realpath(path).startswith(root + os.sep):
            return self.wrong(file, f"the entry point {entry_point} leads out of the pack")
        if action.get("runner_type") == "python-script":
            self.check_run(file, action, path)
        elif action.get("runner_type") == "orquesta":
            self.check_inputs(file, action, entry_point)

    def check_run(self, file, action, path):
        """StackStorm takes the first class by name that has a run method, its own or a base's."""
        found = {
            name: methods
            for name, methods in classes(path).items()
            if "run" in methods or self.inherits_run(path, name)
        }
        if len(found) != 1:
            return self.wrong(file, f"its code has {len(found)} classes with a run")
        methods = list(found.values())[0]
        # A base's run hands its parameters on to the class's `work`.
        entry = methods.get("run") or methods.get("work")
        if entry is None:
            return self.wrong(file, "its class has neither run nor work")
        arguments = entry.args
        names = {argument.arg for argument in arguments.args[1:] + arguments.kwonlyargs}
        own = set(action.get("parameters", {})) - set(RUNNER_PARAMETERS["python-script"])
        if not arguments.kwarg:
            for name in sorted(own - names):
                self.wrong(file, f"its code does not take the parameter {name}")
        required = [argument.arg for argument in arguments.args[1:]]
        required = required[: len(required) - len(arguments.defaults)]
        for name in sorted(set(required) - own):
            self.wrong(file, f"its code needs {name}, which is not a parameter")

    def inherits_run(self, path, name):
        """From a base that the file imports out of actions/ or lib/."""
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read(), path)
        imported = {
            alias.asname or alias.name: (node.module, alias.name)
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                for base in node.bases:
                    module, original = imported.get(getattr(base, "id", None), ("", ""))
                    for folder in ("actions", "lib"):
                        source = self.path(folder, *module.split(".")) + ".py"
                        if os.path.isfile(source):
                            return "run" in classes(source).get(original, {})
        return False

    def check_inputs(self, file, action, entry_point):
        workflow = self.workflows.get(entry_point)
        if workflow is None:
            return self.wrong(file, "the workflow is not one of workflows/")
        inputs = {
            next(iter(item)) if isinstance(item, dict) else item: item
            for item in workflow.get("input", [])
        }
        parameters = action.get("parameters", {})
        for name in sorted(set(inputs) - set(parameters)):
            if not isinstance(inputs[name], dict):
                self.wrong(file, f"{entry_point} wants the input {name}")
        extra = set(parameters) - set(inputs) - set(RUNNER_PARAMETERS["orquesta"])
        for name in sorted(extra):
            self.wrong(file, f"{entry_point} has no input {name}")

    def runner_of(self, ref):
        """Of an action by its ref; None where it is neither the pack's nor known."""
        if ref in CORE_ACTIONS:
            return CORE_ACTIONS[ref]
        action = self.action_of(ref)
        return action.get("runner_type") if action else None

    def action_of(self, ref):
        pack, _, name = str(ref).partition(".")
        return self.actions.get(f"actions/{name}.yaml") if pack == self.ref else None

    def check_call(self, file, where, ref, given):
        """A call of an action: it is there, takes what it is given, is given what it needs."""
        given = given or {}
        if ref in CORE_ACTIONS:
            allowed, required = set(RUNNER_PARAMETERS[CORE_ACTIONS[ref]]), set()
        elif str(ref).partition(".")[0] != self.ref:
            if str(ref).partition(".")[0] not in self.metadata.get("dependencies", []):
                self.wrong(file, f"{where}: no action {ref} that pack.yaml depends on")
            return
        else:
            action = self.action_of(ref)
            if action is None:
                return self.wrong(file, f"{where}: there is no action {ref}")
            parameters = action.get("parameters", {})
            allowed = set(RUNNER_PARAMETERS.get(action.get("runner_type"), ())) | set(parameters)
            required = {
                name
                for name, schema in parameters.items()
                if isinstance(schema, dict) and schema.get("required")
            }
            for name in sorted(set(given) & set(parameters)):
                if isinstance(parameters[name], dict) and parameters[name].get("immutable"):
                    self.wrong(file, f"{where}: {name} of {ref} is immutable")
        for name in sorted(set(given) - allowed):
            self.wrong(file, f"{where}: {ref} takes no {name}")
        for name in sorted(required - set(given)):
            self.wrong(file, f"{where}: {ref} needs {name}")

    # Workflows

    def check_workflow(self, file, workflow):
        self.keys(file, workflow, WORKFLOW_KEYS, ["version", "description", "tasks"])
        tasks = workflow.get("tasks") or {}
        for name, task in tasks.items():
            where = f"task {name}"
            for key in task:
                if key not in TASK_KEYS:
                    self.wrong(file, f"{where} has the unknown key {key!r}")
            action = task.get("action")
            if action and not EXPRESSION.search(str(action)):
                given = task.get("input")
                if not isinstance(given, str):
                    self.check_call(file, where, action, given)
            for transition in task.get("next", []):
                for target in targets(transition.get("do")):
                    if target not in tasks and target not in ("noop", "fail", "continue", "retry"):
                        self.wrong(file, f"{where} goes on to {target}, which is no task")
        self.check_expressions(file, workflow)

    def check_expressions(self, file, workflow):
        """What a command printed, or another pack returned, is evaluated again wherever an
        expression names it: so no expression may."""
        tasks = workflow.get("tasks") or {}
        trusted = {
            name
            for name, task in tasks.items()
            if str(task.get("action")).startswith(self.ref + ".")
            and self.runner_of(task.get("action")) in OWN_RESULT
        }
        for key, value in workflow.items():
            if key != "tasks":
                self.check_text(file, key, value, None, trusted, tasks)
        for name, task in tasks.items():
            for key, value in task.items():
                # Only after the task is there a result() of its own.
                own = name if key in ("next", "retry") else None
                where = f"task {name}, {key}"
                self.check_text(file, where, value, own, trusted, tasks)

    def check_text(self, file, where, value, own_task, trusted, tasks):
        for expression in expressions(value):
            if RESULT_CALL.search(expression):
                if own_task is None:
                    self.wrong(file, f"{where}: result() of no task")
                elif own_task not in trusted:
                    self.wrong(
                        file,
                        "{}: an expression names the result of {}, which is evaluated "
                        "again; let an action of this pack read it through the API".format(
                            where, tasks[own_task].get("action", "a task without action")
                        ),
                    )
            for call in TASK_CALL.finditer(expression):
                name = call.group(1) or call.group(2) or call.group(3)
                if name not in tasks:
                    self.wrong(file, f"{where}: task({name}) names no task here")
                elif name not in trusted and not call.group(4):
                    self.wrong(
                        file,
                        "{}: an expression names the result of {} (task {}), which is evaluated "
                        "again; let an action of this pack read it through the API".format(
                            where, tasks[name].get("action", "no action"), name
                        ),
                    )

    # Rules

    def check_rule(self, file, rule):
        self.keys(file, rule, RULE_KEYS, ["name", "description", "trigger", "action"])
        if not isinstance(rule.get("enabled"), bool):
            self.wrong(file, "does not say enabled: true or false, and StackStorm's default is no")
        if (rule.get("type") or {}).get("ref", "standard") not in ("standard", "backstop"):
            self.wrong(file, "has an unknown type")
        trigger = rule.get("trigger") or {}
        ref = trigger.get("type")
        if ref in CORE_TRIGGERS:
            self.check_values(file, "trigger", CORE_TRIGGERS[ref], trigger.get("parameters") or {})
        elif ref not in self.triggers:
            self.wrong(file, f"there is no trigger {ref}")
        declared = self.triggers.get(ref, {}).get("payload_schema", {}).get("properties")
        for key, criterion in (rule.get("criteria") or {}).items():
            self.check_criterion(file, key, criterion, declared)
        action = rule.get("action") or {}
        for key in set(action) - {"ref", "description", "parameters"}:
            self.wrong(file, f"action has the unknown key {key!r}")
        self.check_call(file, "action", action.get("ref"), action.get("parameters"))
        self.check_rule_parameters(file, action, declared)

    def check_criterion(self, file, key, criterion, declared):
        if not isinstance(criterion, dict) or criterion.get("type") not in OPERATORS:
            return self.wrong(file, f"{key} has no known operator")
        if criterion.get("pattern") is None:
            self.wrong(file, f"{key} needs a pattern, for `exists` too")
        match = re.match(r"trigger(?:\.(\w+)|\[\s*['\"](\w+)['\"]\s*\])", key)
        if not match:
            return self.wrong(file, f"{key} does not begin with trigger.")
        field = match.group(1) or match.group(2)
        if declared is not None and field not in declared:
            self.wrong(file, f"{key}: the trigger has no {field}")

    def check_rule_parameters(self, file, action, declared):
        """An action by another pack, a command or a workflow gets ids: what an alert said is
        rendered again on its way through them."""
        own = (self.action_of(action.get("ref")) or {}).get("runner_type") == "python-script"
        for expression in expressions(action.get("parameters")):
            for match in TRIGGER_FIELD.finditer(
                re.sub(r"\baction_context\b[\w.]*", "", expression)
            ):
                field = match.group(1) or match.group(2)
                if declared is not None and field is not None and field not in declared:
                    self.wrong(file, f"the trigger has no {field}")
                if (field is None or field in ALERT_TEXT) and not own:
                    self.wrong(
                        file,
                        "passes {} to {}; pass request_id and episode, and let an action of this "
                        "pack read the rest".format(match.group(0), action.get("ref")),
                    )

    # Aliases, policies, configuration

    def check_alias(self, file, alias):
        self.keys(file, alias, ALIAS_KEYS, ["name", "description", "action_ref", "formats"])
        ref = alias.get("action_ref")
        action = self.action_of(ref)
        if action is None:
            return self.wrong(file, f"there is no action {ref}")
        used = set(alias.get("immutable_parameters", {}))
        for entry in alias.get("formats", []):
            texts = [entry] if isinstance(entry, str) else entry.get("representation", [])
            for text in texts if isinstance(texts, list) else [texts]:
                used.update(re.findall(r"\{\{\s*(\w+)", text))
        for name in sorted(used - set(action.get("parameters", {}))):
            self.wrong(file, f"{ref} has no parameter {name}")

    def check_policy(self, file, policy):
        self.keys(file, policy, POLICY_KEYS, ["name", "resource_ref", "policy_type"])
        action = self.action_of(policy.get("resource_ref"))
        if action is None:
            self.wrong(file, "there is no action {}".format(policy.get("resource_ref")))
        kind, given = policy.get("policy_type"), policy.get("parameters", {})
        if kind not in POLICIES:
            return self.wrong(file, f"unknown policy type {kind!r}")
        for name in sorted(set(given) - POLICIES[kind]):
            self.wrong(file, f"{kind} takes no {name}")
        if "threshold" in POLICIES[kind]:
            threshold = given.get("threshold")
            if not isinstance(threshold, int) or threshold < 1:
                self.wrong(file, "needs a threshold of 1 or more")
            if given.get("action", "delay") not in ("delay", "cancel"):
                self.wrong(file, "the action is neither delay nor cancel")
        for name in given.get("attributes", []):
            if action and name not in action.get("parameters", {}):
                self.wrong(file, "{} has no parameter {}".format(policy["resource_ref"], name))

    def check_config(self):
        file = "config.schema.yaml"
        if not self.has(file):
            return
        schema = self.load(file) or {}
        for name, part in schema.items():
            self.check_schema(file, name, part)
            if not isinstance(part, dict):
                continue
            if not part.get("description"):
                self.wrong(file, name + " has no description")
            self.check_default(file, name, part)
            if part.get("secret") and part.get("type") == "array":
                self.wrong(
                    file, name + ": secret belongs to the items, or the sensor gets ciphertext"
                )
        example = f"{self.ref}.yaml.example"
        values = self.load(example)
        if values is None:
            return
        self.check_values(example, "", schema, values)

    def check_values(self, file, where, properties, values):
        """A mapping against the schemas of all the keys that it may have."""
        whole = {"type": "object", "properties": properties, "additionalProperties": False}
        try:
            validator = jsonschema.Draft4Validator(to_draft4(whole))
            for error in validator.iter_errors(values):
                place = ".".join([where, *map(str, error.absolute_path)]).strip(".")
                self.wrong(file, f"{place} {error.message}".strip())
        except jsonschema.SchemaError:
            pass  # named above


def inner_schemas(schema):
    for key in ("properties", "patternProperties", "definitions"):
        if isinstance(schema.get(key), dict):
            yield from schema[key].items()
    for key in ("items", "additionalProperties", "not"):
        if isinstance(schema.get(key), dict):
            yield key, schema[key]
    for key in ("allOf", "anyOf", "oneOf", "items"):
        if isinstance(schema.get(key), list):
            for number, inner in enumerate(schema[key]):
                yield f"{key}[{number}]", inner


def to_draft4(schema):
    """`required: true` at a property becomes its object's list, as in StackStorm's validator."""
    schema = copy.deepcopy(schema)
    for key in ("secret", "immutable", "position"):
        schema.pop(key, None)
    schema.pop("required", None)
    for key in ("properties", "patternProperties", "definitions"):
        inner = schema.get(key)
        if isinstance(inner, dict):
            if key == "properties":
                required = sorted(
                    name
                    for name, part in inner.items()
                    if isinstance(part, dict) and part.get("required") is True
                )
                if required:
                    schema["required"] = required
            schema[key] = {name: to_draft4(part) for name, part in inner.items()}
    for key in ("items", "additionalProperties", "not"):
        if isinstance(schema.get(key), dict):
            schema[key] = to_draft4(schema[key])
    for key in ("allOf", "anyOf", "oneOf", "items"):
        if isinstance(schema.get(key), list):
            schema[key] = [to_draft4(part) for part in schema[key]]
    return schema


def classes(path):
    """The classes of a Python file, each with its methods, read without running it."""
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read(), path)
    return {
        node.name: {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }


def targets(do):
    if do is None:
        return []
    return [name.strip() for name in do.split(",")] if isinstance(do, str) else do


def expressions(value):
    """Every YAQL or Jinja expression in a value, however deep; keys count too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from expressions(key)
            yield from expressions(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from expressions(inner)
    elif isinstance(value, str):
        for match in EXPRESSION.finditer(value):
            yield next(group for group in match.groups() if group is not None)


def main():
    directory = sys.argv[1] if len(sys.argv) > 1 else "."
    pack = Pack(directory)
    for problem in pack.problems:
        print(problem)
    files = len(pack.actions) + len(pack.rules) + len(pack.workflows) + len(pack.sensors)
    files += len(pack.aliases) + len(pack.policies)
    print(f"the pack's content: {files} files, {len(pack.problems)} problems")
    return 1 if pack.problems else 0


if __name__ == "__main__":
    sys.exit(main())
