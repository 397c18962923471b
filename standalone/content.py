"""Load the files of packs: actions, rules, triggers, sensors and configurations.

`make lint` checks them against StackStorm's requirements (tests/content). This module only refuses
files that this process cannot run.
"""

from __future__ import annotations

import copy
import glob
import hashlib
import os
from typing import Any, Iterator

import yaml

from standalone import expressions, operators, schemas

HERE = os.path.dirname(os.path.abspath(__file__))
# PyYAML's C parser, if it was built, is ten times as fast.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ContentError(Exception):
    """A file of a pack cannot be read, or needs an unsupported feature."""


def content_id(ref: str) -> str:
    """Return the id of a piece of content, which depends only on its reference."""
    return hashlib.sha256(ref.encode()).hexdigest()[:24]


def read_yaml(path: str) -> Any:
    """Return the content of a YAML file, or raise ContentError with the position of the error."""
    try:
        with open(path, encoding="utf-8") as stream:
            return yaml.load(stream, Loader=LOADER)
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ContentError(f"{path}: {' '.join(str(error).split())}") from None


class Content:
    """The content of all packs, by reference.

    Args:
        folders: The folders of the packs. `config_file` and `overrides` apply to the first one.
        config_file: The configuration of the first pack, or None for the defaults.
        overrides: Values that replace those of the configuration. A value of None is ignored.
        keys: The keys of the datastore, which configurations may refer to.
        catalogues: YAML files with StackStorm's own runner types and actions.
    """

    def __init__(
        self,
        folders: list[str],
        config_file: str | None = None,
        overrides: dict[str, Any] | None = None,
        keys: dict[str, str] | None = None,
        catalogues: tuple[str, ...] = (os.path.join(HERE, "core.yaml"),),
    ):
        self.packs: dict[str, dict] = {}
        self.configs: dict[str, dict] = {}
        self._config_schemas: dict[str, dict] = {}
        # As registered: without defaults, and with unresolved references to the datastore.
        self.registered_configs: dict[str, dict] = {}
        self._keys = keys or {}
        self.runner_types: dict[str, dict] = {}
        self.actions: dict[str, dict] = {}
        self.rules: dict[str, dict] = {}
        self.triggers: dict[str, dict] = {}
        self.sensors: list[dict] = []
        # What only the API shows.
        self.metadata: dict[str, dict[str, dict]] = {"policies": {}, "aliases": {}}
        for path in catalogues:
            self._load_catalogue(path)
        for folder in map(os.path.abspath, folders):
            self._load_pack(folder, config_file, overrides or {})
            config_file, overrides = None, None
        for pack, meta in self.packs.items():
            for path, rule in read_documents(meta["path"], "rules"):
                self._add_rule(pack, path, rule)

    def get_parameter_schemas(self, action: dict) -> dict[str, dict]:
        """Return the schemas of an action's parameters, including those of its runner."""
        merged = copy.deepcopy(self.runner_types[action["runner_type"]])
        for name, schema in action["parameters"].items():
            merged[name] = {**merged.get(name, {}), **schema}
        return merged

    def _load_catalogue(self, path: str) -> None:
        catalogue = read_yaml(path)
        self.runner_types.update(catalogue["runner_types"])
        for action in catalogue["actions"]:
            self._add_action("core", HERE, path, action)

    def register_config(self, pack: str, values: dict) -> None:
        """Replace the configuration of a pack, or raise ContentError if its schema forbids that."""
        config = complete_config(self._config_schemas[pack], values, self._keys)
        self.configs[pack], self.registered_configs[pack] = config, copy.deepcopy(values)

    def read_config(self, pack: str) -> dict:
        """Return the configuration of a pack, with the current values in the datastore."""
        values = self.registered_configs[pack]
        return complete_config(self._config_schemas[pack], values, self._keys)

    def _load_pack(self, folder: str, config_file: Any, overrides: dict) -> None:
        meta = read_yaml(os.path.join(folder, "pack.yaml"))
        pack = meta.get("ref") or meta["name"]
        self.packs[pack] = {**meta, "ref": pack, "id": content_id(f"pack:{pack}"), "path": folder}
        schema_path = os.path.join(folder, "config.schema.yaml")
        properties = (read_yaml(schema_path) if os.path.exists(schema_path) else None) or {}
        self._config_schemas[pack] = {"type": "object", "properties": properties}
        for path, trigger in read_documents(folder, "triggers"):
            self._add_trigger(pack, path, trigger)
        for path, sensor in read_documents(folder, "sensors"):
            self._add_sensor(pack, folder, path, sensor)
        for path, action in read_documents(folder, "actions"):
            self._add_action(pack, folder, path, action)
        for kind, documents in self.metadata.items():
            for _, document in read_documents(folder, kind):
                ref = f"{pack}.{document['name']}"
                ids = {"ref": ref, "pack": pack, "id": content_id(f"{kind}:{ref}")}
                documents[ref] = {"enabled": True, **document, **ids}
        values = (read_yaml(config_file) if config_file else None) or {}
        values.update({name: value for name, value in overrides.items() if value is not None})
        try:
            self.register_config(pack, values)
        except ContentError as error:
            raise ContentError(f"{config_file or folder}: {error}") from None

    def _add_trigger(self, pack: str, path: str, trigger: dict) -> None:
        if trigger.get("parameters_schema"):
            raise ContentError(f"{path}: triggers with parameters are not supported")
        ref = f"{pack}.{trigger['name']}"
        ids = {"ref": ref, "pack": pack, "id": content_id(f"trigger:{ref}")}
        self.triggers[ref] = {**trigger, **ids}

    def _add_sensor(self, pack: str, folder: str, path: str, sensor: dict) -> None:
        if sensor.get("poll_interval"):
            raise ContentError(f"{path}: polling sensors are not supported")
        for trigger in sensor.get("trigger_types") or []:
            self._add_trigger(pack, path, trigger)
        ref = f"{pack}.{sensor['class_name']}"
        file_path = os.path.join(folder, "sensors", sensor["entry_point"])
        ids = {"ref": ref, "pack": pack, "id": content_id(f"sensor:{ref}"), "file_path": file_path}
        self.sensors.append({"enabled": True, **sensor, **ids})

    def _add_action(self, pack: str, folder: str, path: str, action: dict) -> None:
        if action["runner_type"] not in self.runner_types:
            raise ContentError(f"{path}: runner type {action['runner_type']!r} is not supported")
        ref = f"{pack}.{action['name']}"
        entry_point = action.get("entry_point") or ""
        self.actions[ref] = {
            "description": "",
            "enabled": True,
            "tags": [],
            **action,
            "ref": ref,
            "pack": pack,
            "id": content_id(f"action:{ref}"),
            "uid": f"action:{pack}:{action['name']}",
            "entry_point": entry_point,
            "parameters": action.get("parameters") or {},
            "file_path": os.path.join(folder, "actions", entry_point),
            "metadata_file": f"actions/{os.path.basename(path)}",
        }

    def _add_rule(self, pack: str, path: str, rule: dict) -> None:
        enabled = rule.get("enabled", False)
        criteria = rule.get("criteria") or {}
        if enabled and rule["trigger"]["type"] not in self.triggers:
            raise ContentError(f"{path}: trigger {rule['trigger']['type']!r} is not supported")
        for key, criterion in criteria.items():
            if criterion["type"] not in operators.OPERATORS:
                raise ContentError(f"{path}: {key}: {criterion['type']!r} is not supported")
        ref = f"{pack}.{rule['name']}"
        trigger = rule["trigger"]
        self.rules[ref] = {
            "description": "",
            "tags": [],
            "context": {},
            **rule,
            "ref": ref,
            "pack": pack,
            "id": content_id(f"rule:{ref}"),
            "uid": f"rule:{pack}:{rule['name']}",
            "enabled": enabled,
            "criteria": criteria,
            "type": {"ref": (rule.get("type") or {}).get("ref", "standard"), "parameters": {}},
            "trigger": {"parameters": {}, **trigger, "ref": trigger["type"]},
            "action": {"parameters": {}, **rule["action"]},
            "metadata_file": f"rules/{os.path.basename(path)}",
        }


def read_documents(folder: str, kind: str) -> Iterator[tuple[str, dict]]:
    """Yield the path and the content of each YAML file of one kind in a pack."""
    for path in sorted(glob.glob(os.path.join(folder, kind, "*.y*ml"))):
        document = read_yaml(path)
        if not isinstance(document, dict):
            raise ContentError(f"{path}: not a mapping")
        yield path, document


def complete_config(schema: dict, values: dict, keys: dict) -> dict:
    """Return a configuration with the defaults of its schema, and with values of the datastore."""
    config = _resolve_datastore_references(values, expressions.Datastore(keys))
    try:
        schemas.check(config, schema)
    except ValueError as error:
        raise ContentError(str(error)) from None
    return schemas.apply_defaults(config, schema)


def _resolve_datastore_references(value: Any, datastore: expressions.Datastore) -> Any:
    if isinstance(value, dict):
        return {k: _resolve_datastore_references(v, datastore) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolve_datastore_references(v, datastore) for v in value]
    if expressions.is_template(value):
        template = expressions.ENVIRONMENT.from_string(value)
        return template.render(st2kv={"system": datastore})
    return value
