"""StackStorm's variant of JSON Schema, in which a property contains `required: true` itself."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema


def to_draft4(schema: dict, allow_null: bool = False) -> dict:
    """Convert a schema to standard draft 4. With `allow_null`, optional properties may be null."""
    schema = {key: value for key, value in schema.items() if key != "required"}
    if isinstance(schema.get("properties"), dict):
        properties = schema["properties"] = dict(schema["properties"])
        required = [n for n, s in properties.items() if s.get("required") is True]
        if required:
            schema["required"] = required
        for name, item in properties.items():
            is_optional = item.get("default") is None and (
                "default" in item or name not in required
            )
            properties[name] = to_draft4(item, allow_null)
            if allow_null and is_optional:
                properties[name] = {"anyOf": [properties[name], {"type": "null"}]}
    if isinstance(schema.get("items"), dict):
        schema["items"] = to_draft4(schema["items"], allow_null)
    return schema


def check(value: Any, schema: dict, allow_null: bool = False) -> None:
    """Raise ValueError with the first error if a value does not conform to a schema."""
    for error in jsonschema.Draft4Validator(to_draft4(schema, allow_null)).iter_errors(value):
        # For "anyOf: [schema, null]", report the error of the schema.
        cause = error.context[0] if error.validator == "anyOf" and error.context else error
        path = ".".join(map(str, cause.absolute_path))
        raise ValueError(f"{path}: {cause.message}" if path else cause.message)


def apply_defaults(value: dict, schema: dict) -> dict:
    """Return an object in which the schema's defaults replace missing values."""
    value = dict(value)
    for name, item in schema.get("properties", {}).items():
        if value.get(name) is None and "default" in item:
            value[name] = copy.deepcopy(item["default"])
        if item.get("type") == "object" and isinstance(value.get(name), dict):
            value[name] = apply_defaults(value[name], item)
    return value
