"""The pack's metadata is valid under the schemas of StackStorm's own API.

`st2-run-pack-tests` runs this file. It covers what `st2-validate-pack` covers, and also triggers,
the configuration and its example.
"""

from __future__ import annotations

import glob
import os

import pytest

pytest.importorskip("st2tests", reason="st2tests is part of StackStorm: run st2-run-pack-tests")

import jsonschema
import yaml
from st2common.models.api import action, pack, policy, rule, sensor, trigger
from st2common.util import schema
from st2common.util.pack import validate_config_against_schema

PACK = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODELS = {
    "actions": action.ActionAPI,
    "aliases": action.ActionAliasAPI,
    "policies": policy.PolicyAPI,
    "rules": rule.RuleAPI,
    "sensors": sensor.SensorTypeAPI,
}
FILES = [
    (model, file)
    for folder, model in MODELS.items()
    for file in sorted(glob.glob(os.path.join(PACK, folder, "*.yaml")))
]


def load(file):
    with open(os.path.join(PACK, file), encoding="utf-8") as stream:
        return yaml.safe_load(stream)


def name_parameter(value):
    """Return the path of a file in the pack, or the name of a class."""
    return getattr(value, "__name__", "") or os.path.relpath(value, PACK)


def check(model, content):
    schema.validate(content, model.schema, schema.CustomValidator, allow_default_none=True)


def test_pack_yaml_is_valid():
    check(pack.PackAPI, load("pack.yaml"))


@pytest.mark.parametrize("model, file", FILES, ids=name_parameter)
def test_each_file_is_valid(model, file):
    check(model, {"pack": "poundcake", **load(file)})


def test_the_triggers_of_the_sensor_are_valid():
    triggers = load("sensors/alertmanager_sensor.yaml")["trigger_types"]
    assert triggers
    for content in triggers:
        check(trigger.TriggerTypeAPI, {"pack": "poundcake", **content})
        schema.CustomValidator.check_schema(content["payload_schema"])


def test_the_example_configuration_is_valid():
    validate_config_against_schema(
        config_schema=load("config.schema.yaml"),
        config_object=load("poundcake.yaml.example") or {},
        config_path="poundcake.yaml.example",
        pack_name="poundcake",
    )


def test_a_wrong_value_in_the_configuration_is_refused():
    with pytest.raises(jsonschema.ValidationError, match="port"):
        validate_config_against_schema(
            config_schema=load("config.schema.yaml"),
            config_object={"port": "a port"},
            config_path="poundcake.yaml",
            pack_name="poundcake",
        )
