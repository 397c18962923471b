"""A pack's files: read, checked, and refused at start where the stand-in would get them wrong."""

import copy
import glob
import hashlib
import os

import jinja2
import jsonschema
import yaml

from standalone import expressions, operators, schemas

ACTION_KEYS = set(
    "name pack description enabled runner_type entry_point parameters output_schema"
    " output_key tags notify metadata_file".split()
)
PARAMETER_KEYS = set(
    "type description default required enum secret immutable position pattern format minimum"
    " maximum exclusiveMinimum exclusiveMaximum minLength maxLength minItems maxItems uniqueItems"
    " minProperties maxProperties items properties patternProperties additionalProperties anyOf"
    " oneOf allOf title".split()
)
RULE_KEYS = set(
    "name pack description enabled trigger criteria action type tags context ref".split()
)
CHAIN_TASK_KEYS = {"name", "ref", "parameters", "on-success", "on-failure"}
COMPLETION_TRIGGER = "core.st2.generic.actiontrigger"
TIMERS = ("core.st2.CronTimer", "core.st2.DateTimer", "core.st2.IntervalTimer")
NO_TIMERS = "standalone runs no timers, and takes only a rule of theirs that has enabled: false"
POLICY_TYPES = ("action.concurrency", "action.concurrency.attr")


class ContentError(Exception):
    """A file of a pack that is wrong, or uses what the stand-in does not know."""


def _id(ref):
    return hashlib.sha1(ref.encode()).hexdigest()[:24]


def read_yaml(path):
    """Return what a YAML file holds; ContentError with the place of a mistake."""
    try:
        with open(path, encoding="utf-8") as stream:
            return yaml.safe_load(stream)
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ContentError("{}: {}".format(path, " ".join(str(error).split())))


class Content:
    """Everything the packs bring, by ref."""

    def __init__(self, pack_folders, config_file=None, overrides=None, keys=None):
        self.packs, self.configs = {}, {}
        self.actions, self.rules, self.triggers, self.policies = {}, {}, {}, {}
        self.sensors = []
        here = os.path.dirname(os.path.abspath(__file__))
        core = read_yaml(os.path.join(here, "core.yaml"))
        self.runner_types = core["runner_types"]
        for action in core["actions"]:
            self._add_action("core", here, os.path.join(here, "core.yaml"), action)
        for trigger in core["trigger_types"]:
            self._add_trigger("core", "core.yaml", trigger)
        folders = [os.path.abspath(folder) for folder in pack_folders]
        loaded = [self._load_pack(folder) for folder in folders]
        for index, (pack, folder) in enumerate(zip(loaded, folders)):
            given = (config_file, overrides) if index == 0 else (None, None)
            self.configs[pack] = self._config(folder, *given, keys=keys or {})
        for pack, folder in zip(loaded, folders):
            for path, rule in self._documents(folder, "rules"):
                self._add_rule(pack, path, rule)

    def parameters_of(self, action):
        """Return the schemas of an action's parameters, its runner's included."""
        merged = copy.deepcopy(self.runner_types[action["runner_type"]])
        for name, schema in action["parameters"].items():
            merged[name] = dict(merged.get(name, {}), **schema)
        return merged

    def _load_pack(self, folder):
        meta = read_yaml(os.path.join(folder, "pack.yaml"))
        pack = meta.get("ref") or meta.get("name")
        if not pack:
            raise ContentError(f"{folder}/pack.yaml: no name")
        self.packs[pack] = dict(meta, ref=pack, id=_id("pack:" + pack), path=folder)
        for path, trigger in self._documents(folder, "triggers"):
            self._add_trigger(pack, path, trigger)
        for path, sensor in self._documents(folder, "sensors"):
            self._add_sensor(pack, folder, path, sensor)
        for path, action in self._documents(folder, "actions"):
            self._add_action(pack, folder, path, action)
        for path, policy in self._documents(folder, "policies"):
            self._add_policy(pack, path, policy)
        return pack

    @staticmethod
    def _documents(folder, kind):
        for path in sorted(glob.glob(os.path.join(folder, kind, "*.y*ml"))):
            document = read_yaml(path)
            if not isinstance(document, dict):
                raise ContentError(f"{path}: not a mapping")
            yield path, document

    def _add_trigger(self, pack, path, trigger):
        if "name" not in trigger:
            raise ContentError(f"{path}: a trigger type without a name")
        if trigger.get("parameters_schema"):
            raise ContentError(f"{path}: triggers with parameters are not supported")
        ref = "{}.{}".format(pack, trigger["name"])
        if trigger.get("payload_schema"):
            try:
                jsonschema.Draft4Validator.check_schema(schemas.draft4(trigger["payload_schema"]))
            except (jsonschema.SchemaError, AttributeError) as error:
                raise ContentError(f"{path}: payload_schema of {ref}: {error}")
        self.triggers[ref] = dict(trigger, ref=ref, pack=pack, id=_id("trigger:" + ref))

    def _add_sensor(self, pack, folder, path, sensor):
        if sensor.get("poll_interval"):
            raise ContentError(f"{path}: polling sensors are not supported")
        for trigger in sensor.get("trigger_types") or []:
            self._add_trigger(pack, path, trigger)
        ref = "{}.{}".format(pack, sensor.get("class_name"))
        file_path = os.path.join(folder, "sensors", sensor.get("entry_point") or "")
        if not os.path.isfile(file_path):
            raise ContentError(f"{path}: no such entry_point: {file_path}")
        meta = dict(sensor, ref=ref, pack=pack, id=_id("sensor:" + ref), file_path=file_path)
        self.sensors.append(dict(meta, enabled=sensor.get("enabled", True)))

    def _add_action(self, pack, folder, path, action):
        unknown = set(action) - ACTION_KEYS
        if unknown or not action.get("name"):
            raise ContentError(f"{path}: unknown key {sorted(unknown)}")
        runner_type = action.get("runner_type")
        if runner_type not in self.runner_types:
            raise ContentError(f"{path}: runner type {runner_type!r} is not supported")
        parameters = action.get("parameters") or {}
        for name, schema in parameters.items():
            unknown = set(schema) - PARAMETER_KEYS
            if unknown:
                raise ContentError(f"{path}: parameter {name}: {sorted(unknown)}")
            self._check_templates(path, schema.get("default"))
        entry_point = action.get("entry_point") or ""
        if runner_type in ("python-script", "orquesta", "action-chain"):
            if entry_point != os.path.normpath(entry_point) or entry_point.startswith(".."):
                raise ContentError(f"{path}: StackStorm refuses entry_point {entry_point!r}")
            if not os.path.isfile(os.path.join(folder, "actions", entry_point)):
                raise ContentError(f"{path}: no such entry_point: {entry_point!r}")
        if runner_type == "action-chain":
            self._check_chain(os.path.join(folder, "actions", entry_point))
        ref = "{}.{}".format(pack, action["name"])
        self.actions[ref] = dict(
            {"description": "", "enabled": True, "entry_point": "", "tags": []},
            **dict(action, ref=ref, pack=pack, id=_id("action:" + ref), parameters=parameters),
            uid="action:{}:{}".format(pack, action["name"]),
            file_path=os.path.join(folder, "actions", entry_point),
            metadata_file="actions/" + os.path.basename(path),
        )

    @staticmethod
    def _check_chain(path):
        chain = read_yaml(path)
        if (
            not isinstance(chain, dict)
            or set(chain) - {"chain", "default"}
            or not chain.get("chain")
        ):
            raise ContentError(f"{path}: of a chain only chain and default are supported")
        for task in chain["chain"]:
            unknown = set(task) - CHAIN_TASK_KEYS
            if unknown:
                raise ContentError(f"{path}: {sorted(unknown)} of a task is not supported")

    def _add_policy(self, pack, path, policy):
        kind, parameters = policy.get("policy_type"), policy.get("parameters") or {}
        if kind not in POLICY_TYPES or parameters.get("action") not in ("delay", "cancel", None):
            text = "%s: policy_type %r, action %r is not supported"
            raise ContentError(text % (path, kind, parameters.get("action")))
        if not isinstance(parameters.get("threshold"), int) or not policy.get("resource_ref"):
            raise ContentError(f"{path}: a policy needs resource_ref and a threshold")
        if policy.get("enabled", True):
            self.policies["{}.{}".format(pack, policy.get("name"))] = policy

    def _add_rule(self, pack, path, rule):
        unknown = set(rule) - RULE_KEYS
        if unknown or not rule.get("name") or not rule.get("action", {}).get("ref"):
            raise ContentError(f"{path}: unknown key, no name or no action: {unknown}")
        trigger, kind = rule.get("trigger") or {}, rule.get("type") or {"ref": "standard"}
        timer = trigger.get("type") in TIMERS
        if timer and rule.get("enabled") is not False:
            text = "%s: trigger %r is not supported: %s"
            raise ContentError(text % (path, trigger["type"], NO_TIMERS))
        known = trigger.get("type") in self.triggers and not trigger.get("parameters")
        if not (known or timer):
            raise ContentError(
                "{}: trigger {!r} is not supported".format(path, trigger.get("type"))
            )
        if kind.get("ref") not in ("standard", "backstop"):
            raise ContentError("{}: rule type {!r} is not supported".format(path, kind.get("ref")))
        for key, criterion in (rule.get("criteria") or {}).items():
            self._check_criterion(path, key, criterion)
        parameters = rule["action"].get("parameters") or {}
        self._check_templates(path, parameters)
        ref = "{}.{}".format(pack, rule["name"])
        ids = {"ref": ref, "pack": pack, "id": _id("rule:" + ref)}
        self.rules[ref] = dict(
            {"description": "", "tags": [], "context": {}},
            **dict(rule, **ids, enabled=rule.get("enabled", False), criteria=rule.get("criteria")),
            uid="rule:{}:{}".format(pack, rule["name"]),
            metadata_file="rules/" + os.path.basename(path),
        )
        self.rules[ref].update(
            criteria=rule.get("criteria") or {},
            type={"ref": kind["ref"], "parameters": {}},
            action={"ref": rule["action"]["ref"], "parameters": parameters},
            trigger=dict(trigger, ref=trigger["type"], parameters=trigger.get("parameters") or {}),
        )

    def _check_criterion(self, path, key, criterion):
        operator = criterion.get("type")
        if operator not in operators.OPERATORS or criterion.get("pattern") is None:
            text = "%s: criterion %s: operator %r is not supported, or it has no pattern"
            raise ContentError(text % (path, key, operator))
        try:
            expressions.jsonpath(key.split("#")[0], {})
        except Exception as error:
            raise ContentError(f"{path}: criterion {key}: {error}")
        for child, nested in criterion["pattern"].items() if operator == "search" else ():
            self._check_criterion(path, child, nested)

    def _check_templates(self, path, value):
        if isinstance(value, (dict, list)):
            for item in value.values() if isinstance(value, dict) else value:
                self._check_templates(path, item)
        elif expressions.is_template(value):
            try:
                expressions.ENVIRONMENT.from_string(value)
            except jinja2.TemplateAssertionError as error:  # an unknown filter or test
                raise ContentError(f"{path}: {error}")
            except jinja2.TemplateSyntaxError:
                pass  # plain text to StackStorm

    def _config(self, folder, config_file, overrides, keys):
        path = os.path.join(folder, "config.schema.yaml")
        properties = (read_yaml(path) if os.path.exists(path) else None) or {}
        config = (read_yaml(config_file) if config_file else None) or {}
        config = self._from_datastore(config, expressions.Datastore(keys))
        config.update({k: v for k, v in (overrides or {}).items() if v is not None})
        try:
            schemas.check(config, {"type": "object", "properties": properties})
        except ValueError as error:
            raise ContentError(f"{config_file or path}: {error}")
        return schemas.with_defaults(config, {"properties": properties})

    def _from_datastore(self, value, datastore):
        if isinstance(value, dict):
            return {k: self._from_datastore(v, datastore) for k, v in value.items()}
        if isinstance(value, list):
            return [self._from_datastore(v, datastore) for v in value]
        if expressions.is_template(value):
            return expressions.ENVIRONMENT.from_string(value).render(st2kv={"system": datastore})
        return value
