r"""Alert text in a rule's parameters stays a single string when StackStorm itself renders them.

Skipped if StackStorm's code cannot be imported. To run these tests, use the Python of a StackStorm
installation that also has pytest and hypothesis, in the pack's folder:

PYTHONPATH=lib:. /opt/stackstorm/st2/bin/python -m pytest --noconftest \
    tests/lib/test_inert_against_stackstorm.py
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings

from poundcake.inert import make_inert
from tests.lib import careless_rules
from tests.lib.careless_rules import HOSTILE, RULES, SECRET
from tests.lib.samples import as_inert

_WHY = "StackStorm is not installed here: run with the Python of an installation"
param = pytest.importorskip("st2common.util.param", reason=_WHY)
jinja = pytest.importorskip("st2common.util.jinja", reason=_WHY)
templating = pytest.importorskip("st2common.util.templating", reason=_WHY)
exceptions = pytest.importorskip("st2common.exceptions.param", reason=_WHY)

untimed = settings(deadline=None)
CONTEXT = {"user": "stanley", "api_user": "stanley", "pack": "somebody"}


class Secrets:
    """A datastore in which every key is the secret, and which records whether it was read."""

    was_read = False

    def __init__(self, **_):
        pass

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name):
        Secrets.was_read = True
        return self

    def __str__(self):
        return SECRET


@pytest.fixture(autouse=True, scope="module")
def secrets():
    """Give every template a secret to read, and no database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(param, "get_config", lambda pack, user: {"secret": SECRET})
        patch.setattr(param, "KeyValueLookup", Secrets)
        patch.setattr(param, "UserKeyValueLookup", Secrets)
        patch.setattr(templating, "KeyValueLookup", Secrets)
        patch.setattr(templating, "UserKeyValueLookup", Secrets)
        yield


@pytest.fixture(autouse=True)
def nothing_read(secrets):
    Secrets.was_read = False
    yield
    assert not Secrets.was_read


def live(parameters, schemas, **contexts):
    """Render parameters as for a rule, for POST /v1/executions or for a task of a workflow."""
    return param.render_live_params({}, schemas, parameters, dict(CONTEXT), contexts)


def final(parameters, schemas):
    """Return the parameters that the runner passes to the action."""
    return param.render_final_params({}, schemas, parameters, dict(CONTEXT))[1]


def check(rule, one, two):
    schemas = careless_rules.schemas_of(rule)
    expected = careless_rules.expected_of(rule, one, two)
    payload = careless_rules.payload_of(one, two)
    rendered = live(dict(rule.parameters), schemas, trigger=payload)
    assert rendered == expected
    assert live(rendered, schemas) == expected
    ran = final(rendered, schemas)
    assert ran == {**expected, "force": "false"}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_stays_a_single_string(rule, text):
    check(rule, text, "web-1")
    check(rule, "web-1", text)


@untimed
@given(careless_rules.texts, careless_rules.texts)
def test_any_two_texts_stay_strings(one, two):
    for rule in RULES.values():
        check(rule, one, two)


@pytest.mark.parametrize("kind", ["array", "object", "boolean", "integer", "number"])
@untimed
@given(careless_rules.texts, careless_rules.texts)
def test_a_parameter_of_another_type_accepts_only_values_of_that_type(kind, one, two):
    """In no type is a text evaluated, or can it reach another parameter."""
    schemas = {"value": {"type": kind}, "force": {"type": "string", "default": "false"}}
    parameters = {"value": careless_rules.ONE, "host": careless_rules.TWO}
    payload = careless_rules.payload_of(one, two)
    try:
        rendered = live(parameters, schemas, trigger=payload)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return
    assert set(rendered) == {"value", "host"}
    assert rendered["host"] == as_inert(two)
    assert SECRET not in json.dumps(rendered, default=str)
    # A value without quotes and braces cannot become a string or an object.
    assert not isinstance(rendered["value"], (str, dict))


@untimed
@given(careless_rules.texts, careless_rules.texts)
def test_a_pattern_of_a_rule_stays_a_string(one, two):
    payload = careless_rules.payload_of(one, two)
    for template, expected in (
        ("{{ trigger.labels.one }}", as_inert(one)),
        ("{{ trigger.labels.one | to_complex }}", json.dumps(as_inert(one))),
    ):
        context = {"trigger": payload}
        rendered = templating.render_template_with_system_context(template, context)
        assert rendered == expected


@untimed
@given(careless_rules.texts, careless_rules.texts)
def test_a_mapping_rendered_as_json_is_unchanged(one, two):
    """Notifications, action chains and the configuration of a pack are rendered like this."""
    payload = careless_rules.payload_of(one, two)
    parameters = {"value": {"a": careless_rules.ONE, "b": [careless_rules.TWO]}}
    rendered = jinja.render_values(parameters, {"trigger": payload})
    assert rendered == {"value": {"a": as_inert(one), "b": [as_inert(two)]}}


@untimed
@given(careless_rules.texts)
def test_a_workflow_passes_text_on_without_evaluating_it(text):
    expressions = pytest.importorskip("orquesta.expressions.base", reason=_WHY)
    inert = make_inert(text)
    context = {"secret": SECRET, "value": inert, "__vars": {}}
    for value in (inert, [inert], {"key": inert}):
        assert expressions.evaluate(value, context) == value
    assert expressions.evaluate("<% ctx().value %>", context) == inert
    assert expressions.evaluate("{{ ctx().value }}", context) == inert
