"""Jinja as StackStorm renders it: the functions it adds, its datastore, parameters and casts."""

import ast
import functools
import json
import os
import re

import jinja2
import jinja2.meta
import jinja2.sandbox
import jsonpath_rw
import yaml

NONE_MARK = "%*****__%NONE%__*****%"  # StackStorm's own: what `use_none` makes of a null


class ParameterError(ValueError):
    """A parameter cannot be rendered or cast."""


def jsonpath(expression, value):
    """Return every value that a jsonpath expression finds."""
    return [match.value for match in _jsonpath(expression).find(value)]


_jsonpath = functools.lru_cache(maxsize=1000)(jsonpath_rw.parse)


def to_complex(value):
    return json.dumps(value)


def to_json_string(value, indent=None, sort_keys=False):
    return json.dumps(value, indent=indent, sort_keys=sort_keys, separators=(",", ": "))


def from_json_string(value):
    return json.loads(str(value))


def to_yaml_string(value):
    return yaml.safe_dump(value, default_flow_style=False, allow_unicode=True)


def from_yaml_string(value):
    return yaml.safe_load(str(value))


def json_escape(value):
    return json.dumps(value).strip('"')


def jsonpath_query(value, query):
    return jsonpath(query, value) or None


def use_none(value):
    return NONE_MARK if value is None else value


def regex_match(value, pattern, ignorecase=False):
    return bool(re.match(pattern, str(value), re.I if ignorecase else 0))


def regex_search(value, pattern, ignorecase=False):
    return bool(re.search(pattern, str(value), re.I if ignorecase else 0))


def regex_replace(value, pattern, replacement, ignorecase=False):
    return re.sub(pattern, replacement, str(value), flags=re.I if ignorecase else 0)


def regex_substring(value, pattern, result_index=0, ignorecase=False):
    return re.findall(pattern, str(value), re.I if ignorecase else 0)[result_index]


def basename(path):
    return os.path.basename(path)


def dirname(path):
    return os.path.dirname(path)


# Filters of Jinja in rules and parameters, functions of YAQL and Jinja in workflows.
FUNCTIONS = {
    function.__name__: function
    for function in (
        *(to_complex, to_json_string, from_json_string, to_yaml_string, from_yaml_string),
        *(json_escape, jsonpath_query, use_none, basename, dirname),
        *(regex_match, regex_search, regex_replace, regex_substring),
    )
}

ENVIRONMENT = jinja2.sandbox.SandboxedEnvironment(
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
ENVIRONMENT.filters.update(FUNCTIONS)


class Datastore:
    """`st2kv.system` in Jinja: any path of names; what is not stored is the empty string."""

    def __init__(self, keys, path=""):
        self._keys, self._path = keys, path

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name):
        return Datastore(self._keys, self._path + "." + name if self._path else name)

    def __str__(self):
        return self._keys.get(self._path, "")


def is_template(value):
    """Say whether StackStorm would render a value."""
    if isinstance(value, (dict, list)):
        value = str(value)
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def render_parameters(given, schemas, scope):
    """Render parameters that may refer to each other and to the scope; defaults count too.

    `given` are the values passed, `schemas` the parameters' schemas by name. Returns every value
    by name, rendered and not yet cast. A missing or circular reference is a ParameterError.
    """
    sources = {name: schema.get("default") for name, schema in schemas.items()}
    sources.update(
        (name, value)
        for name, value in given.items()
        if value is not None or sources.get(name) is None
    )
    return _resolve(sources, scope)


def render_defaults(values, schemas, scope):
    """Fill in rendered defaults; the values given are taken as they are, never rendered again."""
    known = {name: value for name, value in values.items() if value is not None}
    sources = {n: s.get("default") for n, s in schemas.items() if n not in known}
    return dict(values, **dict(known, **_resolve(sources, dict(scope, **known))))


def render_values(values, scope):
    """Render values that refer to the scope alone, not to each other."""
    return {name: _render(name, value, scope.get) for name, value in values.items()}


def _resolve(sources, scope):
    done, open_names = {}, []

    def value_of(name):
        if name in done:
            return done[name]
        if name in open_names:
            raise ParameterError(f"Cyclic dependency found in the following variables: {name}")
        if name not in sources:
            if name in scope:
                return scope[name]
            raise ParameterError(f'Dependency unsatisfied in variable "{name}"')
        open_names.append(name)
        done[name] = _render(name, sources[name], value_of)
        open_names.pop()
        return done[name]

    return {name: value_of(name) for name in sources}


def _render(name, source, value_of):
    if not is_template(source):
        return source
    try:
        needs = jinja2.meta.find_undeclared_variables(ENVIRONMENT.parse(str(source)))
    except jinja2.TemplateSyntaxError:
        return source  # StackStorm, too, takes what does not parse for plain text
    context = {need: value_of(need) for need in needs}
    try:
        if isinstance(source, str):
            return ENVIRONMENT.from_string(source).render(context)
        template = re.sub(r'"{{([A-z0-9_-]+)}}"', r"{{\1 | to_complex}}", json.dumps(source))
        return json.loads(ENVIRONMENT.from_string(template).render(context))
    except Exception as error:
        raise ParameterError(f'Failed to render parameter "{name}": {error}')


def cast(value, schema):
    """Make a rendered value what the parameter's type says; ValueError where it cannot be."""
    kind = schema.get("type")
    value = None if value == NONE_MARK else value
    if value is None or not isinstance(kind, str):
        return value
    if kind == "integer":
        return int(value)
    if kind == "number":
        return float(value)
    if kind == "string":
        if not isinstance(value, str):
            text = 'Value "%s" must either be a string or None. Got "%s".'
            raise ValueError(text % (value, type(value).__name__))
        return value
    if kind == "boolean" and isinstance(value, str):
        return ast.literal_eval(value.capitalize())
    if kind in ("object", "array") and isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return ast.literal_eval(value)
    return value
