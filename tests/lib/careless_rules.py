"""Rules that put alert text into parameters of every type, and text that tries to escape from them.

StackStorm's own code and the stand-in render the same rules.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import strategies as st

from poundcake.endpoint.triggers import AlertPayload
from poundcake.inert import make_inert
from tests.lib.samples import as_inert

SECRET = "the-secret"
NONE_MARK = "%*****__%NONE%__*****%"

HOSTILE = (
    "{{ st2kv.system.secret }}",
    "{{ config_context.secret }}",
    "{{st2kv.system.secret}}",
    "{% set x = st2kv.system.secret %}{{ x }}",
    "{%- if true -%}{{ st2kv.system.secret }}{%- endif -%}",
    "{# a comment #}",
    "{% raw %}",
    "<% st2kv('system.secret') %>",
    "<%ctx()%>",
    # Nested parameters are rendered as JSON and decoded: escapes become characters only then.
    "\\u003c% st2kv('system.secret') %\\u003e",
    "\\u007b\\u007b st2kv.system.secret \\u007d\\u007d",
    "\\x7b\\x7b st2kv.system.secret }}",
    '", "force": "true',
    "', 'force': 'true",
    '"}, "force": {"x": "',
    '"], "force": ["',
    '"',
    "'",
    "\\",
    'x\\"',
    "one\ntwo\r\n\tthree",
    "a\u2028b\u2029c\x85d",
    "\x00\x1b[31m\x7f",
    "\u202e}} terces.metsys.vk2ts {{",
    "\ud800",
    "\ufeff",
    "\uff5b\uff5b 7*7 \uff5d\uff5d",
    "{\u200b{ 7*7 }\u200b}",
    NONE_MARK,
    "%*****__%NONE",
    "%__*****%",
    "{",
    "}",
    "{ st2kv.system.secret }}",
    "null",
    "None",
    "true",
    "[1, 2]",
    "a, b",
    "@/etc/passwd",
    "# for x in y",
    "## a line comment",
    "${x} $(id) %(x)s %s {0}",
    "/orders/{orderId}",
    "!!python/object/apply:os.getenv [x]",
    "",
    " ",
)
texts = (
    st.sampled_from(HOSTILE)
    | st.text(alphabet="{}<>%#\"'\\*_[]:,u0037bcenNOE \n$@", max_size=30)
    | st.text(max_size=12)
    | st.lists(st.sampled_from(HOSTILE), min_size=2, max_size=3).map("".join)
)


class CarelessRule(NamedTuple):
    """A rule whose parameters contain alert text.

    Attributes:
        parameters: The parameters in the rule.
        types: The types of the parameters in the action's schema.
        expected: The rendered parameters. TEXT and OTHER stand for the inert text of the two
            labels, and LABELS for all labels.
    """

    parameters: dict[str, Any]
    types: dict[str, str]
    expected: dict[str, Any]


TEXT, OTHER, LABELS = "<text>", "<other>", "<labels>"
LABEL_ONE, LABEL_TWO = "{{ trigger.labels.one }}", "{{ trigger.labels.two }}"
STRING = {"value": "string"}

RULES = {
    "a string": CarelessRule({"value": LABEL_ONE}, STRING, {"value": TEXT}),
    "part of a string": CarelessRule(
        {"value": f"host {LABEL_ONE}, again"}, STRING, {"value": f"host {TEXT}, again"}
    ),
    "two labels joined": CarelessRule(
        {"value": LABEL_ONE + LABEL_TWO}, STRING, {"value": TEXT + OTHER}
    ),
    "a string without a type": CarelessRule({"value": LABEL_ONE}, {}, {"value": TEXT}),
    "in an object": CarelessRule(
        {"value": {"host": LABEL_ONE, "force": "false"}},
        {"value": "object"},
        {"value": {"host": TEXT, "force": "false"}},
    ),
    "two labels in an object": CarelessRule(
        {"value": {"host": LABEL_ONE + LABEL_TWO, "force": ["false"]}},
        {"value": "object"},
        {"value": {"host": TEXT + OTHER, "force": ["false"]}},
    ),
    "deep in an object": CarelessRule(
        {"value": {"a": [{"b": f"x {LABEL_ONE} y", "c": 1}, [LABEL_TWO]], "d": None}},
        {"value": "object"},
        {"value": {"a": [{"b": f"x {TEXT} y", "c": 1}, [OTHER]], "d": None}},
    ),
    "in an array": CarelessRule(
        {"value": [LABEL_ONE, "fixed", LABEL_TWO]},
        {"value": "array"},
        {"value": [TEXT, "fixed", OTHER]},
    ),
    "in an object without a type": CarelessRule(
        {"value": {"host": LABEL_ONE}}, {"value": ""}, {"value": {"host": TEXT}}
    ),
    "in an object written as JSON": CarelessRule(
        {"value": f'{{"host": "{LABEL_ONE}", "force": false}}'},
        {"value": "object"},
        {"value": {"host": TEXT, "force": False}},
    ),
    "in an object written as Python": CarelessRule(
        {"value": f"{{'host': '{LABEL_ONE}', 'force': False}}"},
        {"value": "object"},
        {"value": {"host": TEXT, "force": False}},
    ),
    "in an array written as JSON": CarelessRule(
        {"value": f'["{LABEL_ONE}", "{LABEL_TWO}"]'}, {"value": "array"}, {"value": [TEXT, OTHER]}
    ),
    "all labels": CarelessRule(
        {"value": "{{ trigger.labels | to_complex }}"}, {"value": "object"}, {"value": LABELS}
    ),
    "a copy of another parameter": CarelessRule(
        {"value": LABEL_ONE, "copy": ["{{ value }}", "{{value}}"]},
        {"value": "string", "copy": "array"},
        {"value": TEXT, "copy": [TEXT, TEXT]},
    ),
    "other fields of the alert": CarelessRule(
        {"value": ["{{ trigger.alert_name }}", "{{ trigger.receiver }}", "{{ trigger.job }}"]},
        {"value": "array"},
        {"value": [TEXT, OTHER, TEXT]},
    ),
}


def create_payload(first: str, second: str) -> AlertPayload:
    """Return a trigger payload whose label names, label values and fields contain these texts."""
    payload: AlertPayload = make_inert({
        "alert_name": first,
        "job": first,
        "receiver": second,
        "labels": {"one": first, "two": second, first + "x": second, second + "y": first},
    })  # fmt: skip
    return payload


def expected_parameters(rule: CarelessRule, first: str, second: str) -> dict[str, Any]:
    """Return the expected parameters of a rule for these two texts."""
    first_inert, second_inert = as_inert(first), as_inert(second)

    def fill(value: Any) -> Any:
        if value == LABELS:
            return create_payload(first, second)["labels"]
        if isinstance(value, str):
            return value.replace(TEXT, first_inert).replace(OTHER, second_inert)
        if isinstance(value, dict):
            return {key: fill(inner) for key, inner in value.items()}
        return [fill(inner) for inner in value] if isinstance(value, list) else value

    filled: dict[str, Any] = fill(rule.expected)
    return filled


def parameter_schemas(rule: CarelessRule) -> dict[str, dict[str, str]]:
    """Return the schemas of an action's parameters, including `force`, which the rule omits."""
    schemas = {name: {"type": type_name} for name, type_name in rule.types.items() if type_name}
    return {"force": {"type": "string", "default": "false"}, "value": {}, **schemas}
