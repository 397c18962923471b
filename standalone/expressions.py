"""Render Jinja as StackStorm does, with its filters, its datastore and parameters of actions."""

from __future__ import annotations

import ast
import functools
import json
import re
from typing import Any, Callable

import jinja2
import jinja2.meta
import jinja2.sandbox
import jsonpath_rw

NONE_MARK = "%*****__%NONE%__*****%"  # as in StackStorm: `use_none` replaces a null with it


class ParameterError(ValueError):
    """A parameter cannot be rendered or cast."""


def jsonpath(expression: str, value: Any) -> list[Any]:
    """Return every value that a JSONPath expression finds."""
    return [match.value for match in _parse_jsonpath(expression).find(value)]


_parse_jsonpath = functools.lru_cache(maxsize=1000)(jsonpath_rw.parse)


def _search(value: Any, pattern: str, ignorecase: bool = False) -> bool:
    return bool(re.search(pattern, str(value), re.IGNORECASE if ignorecase else 0))


def _match(value: Any, pattern: str, ignorecase: bool = False) -> bool:
    return bool(re.match(pattern, str(value), re.IGNORECASE if ignorecase else 0))


def _replace(value: Any, pattern: str, replacement: str, ignorecase: bool = False) -> str:
    return re.sub(pattern, replacement, str(value), flags=re.IGNORECASE if ignorecase else 0)


# Jinja filters in rules and parameters; YAQL and Jinja functions in workflows.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "to_complex": lambda value: json.dumps(value),  # noqa: PLW0108 - YAQL reads the signature
    "to_json_string": lambda value, indent=None: json.dumps(value, indent=indent),
    "from_json_string": lambda value: json.loads(str(value)),
    "json_escape": lambda value: json.dumps(value).strip('"'),
    "jsonpath_query": lambda value, query: jsonpath(query, value) or None,
    "use_none": lambda value: NONE_MARK if value is None else value,
    "regex_match": _match,
    "regex_search": _search,
    "regex_replace": _replace,
}

ENVIRONMENT = jinja2.sandbox.SandboxedEnvironment(
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
ENVIRONMENT.filters.update(FUNCTIONS)


class Datastore:
    """`st2kv.system` in Jinja: accepts any dotted name. A missing key renders as ''."""

    def __init__(self, keys: dict[str, str], path: str = ""):
        self._keys, self._path = keys, path

    def __getattr__(self, name: str) -> Datastore:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Datastore:
        return Datastore(self._keys, f"{self._path}.{name}" if self._path else name)

    def __str__(self) -> str:
        return self._keys.get(self._path, "")


def is_template(value: Any) -> bool:
    """Return True if StackStorm would render a value."""
    if isinstance(value, (dict, list)):
        value = str(value)
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def render_parameters(passed: dict, schemas: dict, scope: dict) -> dict:
    """Render parameters that may refer to each other and to the scope.

    Args:
        passed: The values that were passed, by name.
        schemas: The schemas of the parameters, by name. A default counts as a value.
        scope: The names that templates may use besides the parameters.

    Returns:
        All values by name, rendered but not cast.

    Raises:
        ParameterError: A template refers to itself, or to a name that does not exist.
    """
    sources = {name: schema.get("default") for name, schema in schemas.items()}
    for name, value in passed.items():
        if value is not None or sources.get(name) is None:
            sources[name] = value
    return _resolve(sources, scope)


def render_defaults(values: dict, schemas: dict, scope: dict) -> dict:
    """Add rendered defaults for missing values. Values that are present are not rendered again."""
    passed = {name: value for name, value in values.items() if value is not None}
    sources = {n: s.get("default") for n, s in schemas.items() if n not in passed}
    return {**values, **passed, **_resolve(sources, {**scope, **passed})}


def _resolve(sources: dict, scope: dict) -> dict:
    rendered: dict[str, Any] = {}
    in_progress: list[str] = []

    def look_up(name: str) -> Any:
        if name in rendered:
            return rendered[name]
        if name in in_progress:
            raise ParameterError(f"Cyclic dependency found in the following variables: {name}")
        if name not in sources:
            if name in scope:
                return scope[name]
            raise ParameterError(f'Dependency unsatisfied in variable "{name}"')
        in_progress.append(name)
        rendered[name] = render(name, sources[name], look_up)
        in_progress.pop()
        return rendered[name]

    return {name: look_up(name) for name in sources}


def render(name: str, source: Any, look_up: Callable[[str], Any]) -> Any:
    """Render one value. `look_up` returns the value of a name in its template."""
    if not is_template(source):
        return source
    try:
        names = jinja2.meta.find_undeclared_variables(ENVIRONMENT.parse(str(source)))
    except jinja2.TemplateSyntaxError:
        return source  # StackStorm treats an invalid template as plain text
    context = {other: look_up(other) for other in names}
    try:
        if isinstance(source, str):
            return ENVIRONMENT.from_string(source).render(context)
        template = re.sub(r'"{{([A-z0-9_-]+)}}"', r"{{\1 | to_complex}}", json.dumps(source))
        return json.loads(ENVIRONMENT.from_string(template).render(context))
    except Exception as error:
        raise ParameterError(f'Failed to render parameter "{name}": {error}') from error


def cast(value: Any, schema: dict) -> Any:
    """Convert a rendered value to its parameter's type. Raise ValueError if that fails."""
    kind = schema.get("type")
    value = None if value == NONE_MARK else value
    if value is None or not isinstance(kind, str):
        return value
    if kind == "string" and not isinstance(value, str):
        actual_type = type(value).__name__
        raise ValueError(f'Value "{value}" must either be a string or None. Got "{actual_type}".')
    if kind in ("integer", "number"):
        return int(value) if kind == "integer" else float(value)
    if kind == "boolean" and isinstance(value, str):
        return ast.literal_eval(value.capitalize())
    if kind in ("object", "array") and isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return ast.literal_eval(value)
    return value
