"""StackStorm's flavour of JSON Schema, in which `required: true` is part of the property."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema


def draft4(schema: dict, nulls: bool = False) -> dict:
    """Convert a schema to plain draft 4. With `nulls`, optional properties may be null."""
    schema = {key: value for key, value in schema.items() if key != "required"}
    if isinstance(schema.get("properties"), dict):
        properties = schema["properties"] = dict(schema["properties"])
        required = [n for n, s in properties.items() if s.get("required") is True]
        if required:
            schema["required"] = required
        for name, item in properties.items():
            optional = item.get("default") is None and ("default" in item or name not in required)
            properties[name] = draft4(item, nulls)
            if nulls and optional:
                properties[name] = {"anyOf": [properties[name], {"type": "null"}]}
    if isinstance(schema.get("items"), dict):
        schema["items"] = draft4(schema["items"], nulls)
    return schema


def check(value: Any, schema: dict, nulls: bool = False) -> None:
    """Raise ValueError with the first error of a value."""
    for error in jsonschema.Draft4Validator(draft4(schema, nulls)).iter_errors(value):
        # For "anyOf: [schema, null]", report the error of the schema.
        cause = error.context[0] if error.validator == "anyOf" and error.context else error
        path = ".".join(map(str, cause.absolute_path))
        raise ValueError(f"{path}: {cause.message}" if path else cause.message)


def with_defaults(value: dict, schema: dict) -> dict:
    """Return an object with the schema's defaults in place of missing values."""
    value = dict(value)
    for name, item in schema.get("properties", {}).items():
        if value.get(name) is None and "default" in item:
            value[name] = copy.deepcopy(item["default"])
        if item.get("type") == "object" and isinstance(value.get(name), dict):
            value[name] = with_defaults(value[name], item)
    return value
