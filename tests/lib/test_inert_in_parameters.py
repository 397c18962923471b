"""The stand-in keeps alert text in a rule's parameters a single string.

test_inert_against_stackstorm.py checks the same for StackStorm's own code.
"""

from __future__ import annotations

import pytest
from hypothesis import given

from standalone import expressions
from tests.lib import careless_rules
from tests.lib.careless_rules import HOSTILE, RULES, SECRET

SCOPE = {"st2kv": {"system": {"secret": SECRET}}, "config_context": {"secret": SECRET}}


def render(parameters, schemas, scope):
    rendered = expressions.render_parameters(parameters, schemas, {**SCOPE, **scope})
    return {name: expressions.cast(rendered[name], schemas.get(name, {})) for name in parameters}


def check_rendering(rule, first, second):
    """Check that text from two labels stays a string in the parameters of a rule."""
    schemas = careless_rules.parameter_schemas(rule)
    payload = careless_rules.create_payload(first, second)
    expected = careless_rules.expected_parameters(rule, first, second)
    rendered = render(rule.parameters, schemas, {"trigger": payload})
    assert rendered == expected
    # A workflow passes them to a task, whose parameters are rendered again.
    assert render(rendered, schemas, {}) == expected


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_a_single_string(text):
    for rule in RULES.values():
        check_rendering(rule, text, "web-1")
        check_rendering(rule, "web-1", text)


@given(careless_rules.texts, careless_rules.texts)
def test_any_text_in_two_labels_stays_a_string(first, second):
    for rule in RULES.values():
        check_rendering(rule, first, second)


def test_the_rules_are_vulnerable_without_inert_text():
    payload = {"labels": {"one": '", "force": "true', "two": "{{ config_context.secret }}"}}
    rule = RULES["in an object"]
    rendered = render(rule.parameters, careless_rules.parameter_schemas(rule), {"trigger": payload})
    assert (
        rendered["value"]["force"] != "true"
        or rendered["value"]["host"] != payload["labels"]["one"]
    )
    rendered_again = render({"value": payload["labels"]["two"]}, {}, {})
    assert rendered_again == {"value": SECRET}
