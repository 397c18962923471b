"""StackStorm's flavour of JSON Schema: `required: true` stands at the property itself."""

import copy

import jsonschema


def draft4(schema, nulls=False):
    """Return the schema in plain draft 4. With `nulls`, what has no default may also be null."""
    schema = copy.deepcopy(schema)
    schema.pop("required", None)
    properties = schema.get("properties")
    if isinstance(properties, dict):
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


def check(value, schema, nulls=False):
    """Raise ValueError with the first fault of a value."""
    for error in jsonschema.Draft4Validator(draft4(schema, nulls)).iter_errors(value):
        # The branch of an "or null" that says what was wrong, not the one that wanted null.
        if error.validator == "anyOf" and error.context:
            error = error.context[0]
        where = "".join("{}: ".format(".".join(map(str, error.absolute_path))) or "")
        raise ValueError((where if error.absolute_path else "") + error.message)


def with_defaults(value, schema):
    """Return an object with the schema's defaults where a value is missing."""
    value = dict(value)
    for name, item in schema.get("properties", {}).items():
        if value.get(name) is None and "default" in item:
            value[name] = copy.deepcopy(item["default"])
        if item.get("type") == "object" and isinstance(value.get(name), dict):
            value[name] = with_defaults(value[name], item)
    return value
