"""Read the rules and actions in StackStorm, and determine whether a rule matches a trigger."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any, Iterator, Mapping, NamedTuple, Protocol
from urllib.parse import quote

from poundcake.stackstorm import fields
from poundcake.stackstorm.operators import OPERATORS
from poundcake.string_enum import StringEnum

_PAGE = 100  # api.max_page_size; only administrators may request more
_BACKSTOP = "backstop"
# The operators that accept a null pattern.
_NULL_PATTERN_OPERATORS = ("nequals", "neq", "exists", "nexists")
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


class Api(Protocol):
    """The part of StackStorm's API that this module uses. It raises StackStormError."""

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON response for a path below /v1, or None for 404."""


class Matching(StringEnum):
    """Whether a rule matches a trigger."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"
    """A criterion has a template or an operator that only StackStorm evaluates."""
    FAILS = "fails"
    """A criterion cannot be evaluated: the rule does not start its action, and reports an error."""


class RuleMatch(NamedTuple):
    """Whether a rule matches a trigger, and if not, which criterion does not hold."""

    matching: Matching
    reason: str = ""


@dataclass(frozen=True)
class Rule:
    """A rule. Templates in its parameters are not rendered."""

    ref: str
    is_enabled: bool
    is_backstop: bool
    action: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    criteria: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def parse(cls, response: Any) -> Rule | None:
        """Return the rule in an API response, or None if the rule has no reference."""
        ref = fields.text(response, "ref")
        if not ref:
            return None
        parameters = fields.value(response, "action", "parameters")
        criteria = fields.value(response, "criteria")
        return cls(
            ref=ref,
            is_enabled=fields.value(response, "enabled") is True,
            is_backstop=fields.text(response, "type", "ref") == _BACKSTOP,
            action=fields.text(response, "action", "ref"),
            parameters=parameters if isinstance(parameters, dict) else {},
            criteria=criteria if isinstance(criteria, dict) else {},
        )

    def match(self, payload: Mapping[str, Any]) -> RuleMatch:
        """Evaluate the criteria for a trigger's payload, as StackStorm's rules engine does."""
        unknown = ""
        for key, criterion in self.criteria.items():
            result = _evaluate(key, criterion, payload)
            if result.matching in (Matching.NO, Matching.FAILS):
                return result
            unknown = unknown or result.reason
        return RuleMatch(Matching.UNKNOWN, unknown) if unknown else RuleMatch(Matching.YES)


@dataclass(frozen=True)
class Action:
    """An action with all its parameters, including those of its runner, by name."""

    ref: str
    is_enabled: bool
    parameters: Mapping[str, Mapping[str, Any]]

    def find_problems(self, values: Mapping[str, Any], unresolved: set[str]) -> list[str]:
        """Return why StackStorm would refuse to run the action with these parameters.

        Args:
            values: The values of the parameters, by name.
            unresolved: The names of the parameters whose values are not known yet.
        """
        problems = [] if self.is_enabled else [f"{self.ref} is disabled"]
        for name, value in values.items():
            schema = self.parameters.get(name)
            if schema is None:
                nearest = difflib.get_close_matches(name, list(self.parameters), n=1)
                hint = f"; did you mean {nearest[0]}?" if nearest else ""
                problems.append(f"{self.ref} takes no parameter {name}{hint}")
            elif schema.get("immutable"):
                problems.append(f"{self.ref} does not accept {name}, because it is immutable")
            elif name not in unresolved:
                problems += _find_type_problem(f"{self.ref}: {name}", schema, value)
        for name, schema in self.parameters.items():
            if schema.get("required") and schema.get("default") is None and name not in values:
                problems.append(f"{self.ref} needs the parameter {name}")
        return problems


def list_rules(api: Api, trigger: str) -> list[Rule]:
    """Return the rules for a trigger, enabled or not.

    Raises:
        StackStormError: The request failed.
    """
    return [
        rule
        for response in list_all(api, "/rules", trigger=trigger)
        if trigger in (fields.text(response, "trigger", "type"), fields.text(response, "trigger"))
        for rule in [Rule.parse(response)]
        if rule
    ]


def list_all(api: Api, path: str, **query: str) -> Iterator[Any]:
    """Yield every item of a list in StackStorm's API, page by page.

    Args:
        api: StackStorm's API.
        path: The path of the list below /v1.
        query: The filters of the list.

    Raises:
        StackStormError: The request failed.
    """
    offset = 0
    while True:
        page = api.get(path, **query, limit=_PAGE, offset=offset)
        page = page if isinstance(page, list) else []
        yield from page
        if len(page) < _PAGE:
            return
        offset += _PAGE


def find_action(api: Api, ref: str) -> Action | None:
    """Return an action, or None if StackStorm does not have it.

    Raises:
        StackStormError: The request failed.
    """
    response = api.get(f"/actions/views/overview/{quote(ref, safe='')}")
    parameters = fields.value(response, "parameters")
    if not isinstance(parameters, dict):
        return None
    schemas = {name: schema for name, schema in parameters.items() if isinstance(schema, dict)}
    return Action(ref, fields.value(response, "enabled") is not False, schemas)


def _evaluate(key: str, criterion: Mapping[str, Any], payload: Mapping[str, Any]) -> RuleMatch:
    # StackStorm includes this package. It is imported here because only plan needs it.
    import jsonpath_rw

    operator, pattern = str(criterion.get("type", "")).lower(), criterion.get("pattern")
    if operator not in OPERATORS:
        return RuleMatch(Matching.UNKNOWN, f"{key}: only StackStorm evaluates {operator}")
    if isinstance(pattern, str) and ("{{" in pattern or "{%" in pattern):
        return RuleMatch(Matching.UNKNOWN, f"{key}: only StackStorm renders its pattern")
    try:
        matches = jsonpath_rw.parse(key.split("#", 1)[0]).find({"trigger": payload})
        value = matches[0].value if matches else None
        is_null = pattern is None and operator not in _NULL_PATTERN_OPERATORS
        holds = not is_null and OPERATORS[operator](value, pattern)
    # Any part of a criterion may be invalid: its path, its regular expression, its types.
    except Exception as error:
        return RuleMatch(Matching.FAILS, f"{key}: {str(error) or type(error).__name__}")
    if holds:
        return RuleMatch(Matching.YES)
    expected = f"{operator} {pattern}" if operator not in ("eq", "equals") else str(pattern)
    return RuleMatch(Matching.NO, f"{key} is {_describe(value)}, wants {expected}")


def _find_type_problem(name: str, schema: Mapping[str, Any], value: Any) -> list[str]:
    kind, choices = schema.get("type"), schema.get("enum")
    if isinstance(choices, list) and value not in choices:
        return [f"{name} must be one of {', '.join(map(str, choices))}, but is {_describe(value)}"]
    types = _TYPES.get(kind) if isinstance(kind, str) else None
    if types is None or value is None or isinstance(value, types):
        # In Python, a boolean is an integer.
        is_wrong = isinstance(value, bool) and kind in ("integer", "number")
        return [f"{name} must be of type {kind}, but is {_describe(value)}"] if is_wrong else []
    if isinstance(value, str) and _can_be_cast(value, str(kind)):
        return []
    return [f"{name} must be of type {kind}, but is {_describe(value)}"]


def _can_be_cast(text: str, kind: str) -> bool:
    """Return True if StackStorm converts a string to this type."""
    if kind in ("integer", "number"):
        try:
            float(text) if kind == "number" else int(text)
        except ValueError:
            return False
        return True
    if kind == "boolean":
        return text.lower() in ("true", "false", "0", "1")
    return text.lstrip().startswith("[" if kind == "array" else "{")


def _describe(value: Any) -> str:
    return "missing" if value is None else str(value) or "empty"
