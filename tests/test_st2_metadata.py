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


def test_the_role_for_people_on_call_is_valid():
    from st2common.models.api.rbac import RoleDefinitionFileFormatAPI
    from st2common.rbac import types

    role = load("etc/rbac/roles/poundcake_on_call.yaml")
    check(RoleDefinitionFileFormatAPI, role)
    for grant in role["permission_grants"]:
        resource = grant.get("resource_uid", "").partition(":")[0]
        valid = (
            types.PermissionType.get_valid_permissions_for_resource_type(resource)
            if resource
            else types.GLOBAL_PERMISSION_TYPES
        )
        # rbac-definitions are applied as a whole: one invalid permission and nobody gets a role.
        invalid = set(grant["permission_types"]) - {str(getattr(t, "value", t)) for t in valid}
        assert not invalid, (resource, invalid)


def test_the_role_for_people_on_call_permits_no_action_that_changes_hosts_or_is_internal():
    role = load("etc/rbac/roles/poundcake_on_call.yaml")
    executable = {
        grant["resource_uid"]
        for grant in role["permission_grants"]
        if "action_execute" in grant["permission_types"]
    }
    names = {
        os.path.basename(file)[: -len(".yaml")] for model, file in FILES if "/actions/" in file
    }
    not_for_people = set(
        "begin clean_disk cpu_check default disk_cleanup host_down link memory_check migrate"
        " on_host purge record remediate report reserve restart_service service_restart sync"
        " verify".split()
    )
    assert executable == {f"action:poundcake:{name}" for name in names - not_for_people}


def test_the_role_of_the_endpoint_is_valid():
    from st2common.models.api.rbac import UserRoleAssignmentFileFormatAPI

    assignment = load("etc/rbac/assignments/sensor_service.yaml")
    check(UserRoleAssignmentFileFormatAPI, assignment)
    assert assignment["username"] == "sensor_service"


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
