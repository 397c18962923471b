"""Check JSON Schemas in StackStorm's dialect: draft 4 with `required: true` on each property."""

from __future__ import annotations

import copy

import jsonschema

from tests.content.stackstorm import KEYS

STRUCTURES = ("properties", "patternProperties", "definitions")
SINGLE = ("items", "additionalProperties", "not")
LISTS = ("allOf", "anyOf", "oneOf", "items")
# StackStorm's development branch (3.10dev) takes these for texts in the outermost level of an
# output_schema, and aborts the installation.
REFUSED_IN_OUTPUT = (
    *("allOf", "anyOf", "oneOf", "not", "minLength", "maxLength"),
    *("minItems", "maxItems", "minProperties", "maxProperties"),
)
INVALID_REQUIRED = (
    "has a `required` that is not true or false; with a list, StackStorm drops every payload; "
    "set `required: true` on each property instead"
)


def check_schema(where, schema):
    """Yield the problems of a schema, at all of its levels."""
    if not isinstance(schema, dict):
        yield f"{where} is not a schema"
        return
    key_problems = list(find_key_problems(schema))
    yield from (f"{where} {text}" for text in key_problems)
    for name, subschema in find_subschemas(schema):
        yield from check_schema(f"{where}.{name}", subschema)
    if not key_problems:
        try:
            jsonschema.Draft4Validator.check_schema(to_draft4(schema))
        except jsonschema.SchemaError as error:
            yield f"{where}: {error.message}"


def check_output_schema(schema):
    """Yield the problems of the outermost level of an output_schema."""
    if not isinstance(schema, dict):
        return
    for key in schema:
        if key in REFUSED_IN_OUTPUT:
            yield f"output_schema has {key}, with which StackStorm 3.10dev refuses the pack"
    if not schema.get("type") and not schema.get("properties"):
        yield "output_schema has neither type nor properties, so it says nothing"


def find_key_problems(schema):
    """Yield the problems of the keys of one level."""
    for key, value in schema.items():
        if key not in KEYS["schema"].split():
            yield f"has the unknown key {key!r}"
        elif key == "required" and not isinstance(value, bool):
            yield INVALID_REQUIRED
        elif key == "type" and not isinstance(value, str):
            yield "has a list of types; use anyOf"


def check_default(where, schema):
    """Yield the problems of a schema's default. A default that is an expression is not checked."""
    default = schema.get("default")
    if default is None or (isinstance(default, str) and "{{" in default):
        return
    try:
        jsonschema.Draft4Validator(to_draft4(schema)).validate(default)
    except (jsonschema.ValidationError, jsonschema.SchemaError) as error:
        yield f"{where}: the default does not match the schema: {error.message}"


def check_values(where, properties, values):
    """Yield the problems of a mapping, given the schemas of all its allowed keys."""
    object_schema = {"type": "object", "properties": properties, "additionalProperties": False}
    try:
        for error in jsonschema.Draft4Validator(to_draft4(object_schema)).iter_errors(values):
            location = ".".join([where, *map(str, error.absolute_path)]).strip(".")
            yield f"{location} {error.message}".strip()
    except jsonschema.SchemaError:
        pass  # check_schema() reports this


def fill_in_defaults(properties, values):
    """Return the configuration that StackStorm passes to a pack for the values of its file.

    This is ContentPackConfigLoader._assign_default_values() of StackStorm 3.8 and 3.9. It adds an
    empty object or list for each key whose schema says what that contains, even without a default.
    """
    values = copy.deepcopy(values)
    for name, schema in properties.items():
        if "default" in schema and name not in values:
            values[name] = copy.deepcopy(schema["default"])
        value = values.get(name)
        if schema.get("type") == "object":
            inner = schema.get("properties") or {}
            if inner or schema.get("patternProperties") or schema.get("additionalProperties"):
                values[name] = fill_in_defaults(inner, value or {})
        elif schema.get("type") == "array" and schema.get("items"):
            items = schema["items"]
            values[name] = [
                fill_in_defaults(items.get("properties") or {}, item)
                if isinstance(item, dict)
                else item
                for item in value or []
            ]
    return values


def find_subschemas(schema):
    """Yield (name, schema) of each schema inside a schema."""
    for key in STRUCTURES:
        if isinstance(schema.get(key), dict):
            yield from schema[key].items()
    for key in SINGLE:
        if isinstance(schema.get(key), dict):
            yield key, schema[key]
    for key in LISTS:
        if isinstance(schema.get(key), list):
            for number, subschema in enumerate(schema[key]):
                yield f"{key}[{number}]", subschema


def to_draft4(schema):
    """Convert a schema to plain draft 4, where an object lists its required properties."""
    schema = copy.deepcopy(schema)
    for key in ("secret", "immutable", "position", "required"):
        schema.pop(key, None)
    for key in STRUCTURES:
        subschemas = schema.get(key)
        if not isinstance(subschemas, dict):
            continue
        required = sorted(
            n for n, s in subschemas.items() if isinstance(s, dict) and s.get("required")
        )
        if key == "properties" and required:
            schema["required"] = required
        schema[key] = {name: to_draft4(part) for name, part in subschemas.items()}
    for key in SINGLE:
        if isinstance(schema.get(key), dict):
            schema[key] = to_draft4(schema[key])
    for key in LISTS:
        if isinstance(schema.get(key), list):
            schema[key] = [to_draft4(part) for part in schema[key]]
    return schema
