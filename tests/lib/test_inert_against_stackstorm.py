r"""StackStorm's own code keeps alert text in a rule's parameters a single string.

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

SKIP_REASON = "StackStorm is not installed here: use the Python of a StackStorm installation"
param = pytest.importorskip("st2common.util.param", reason=SKIP_REASON)
jinja = pytest.importorskip("st2common.util.jinja", reason=SKIP_REASON)
templating = pytest.importorskip("st2common.util.templating", reason=SKIP_REASON)

without_deadline = settings(deadline=None)
CONTEXT = {"user": "stanley", "api_user": "stanley", "pack": "somebody"}


class Secrets:
    """A datastore in which every value is the secret. It records whether any value was read."""

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
    """Replace StackStorm's datastore and configuration with secrets that any template can read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(param, "get_config", lambda pack, user: {"secret": SECRET})
        patch.setattr(param, "KeyValueLookup", Secrets)
        patch.setattr(param, "UserKeyValueLookup", Secrets)
        patch.setattr(templating, "KeyValueLookup", Secrets)
        patch.setattr(templating, "UserKeyValueLookup", Secrets)
        yield


@pytest.fixture(autouse=True)
def no_secret_is_read(secrets):
    Secrets.was_read = False
    yield
    assert not Secrets.was_read


def render_live(parameters, schemas, **contexts):
    """Render the parameters of a rule, of POST /v1/executions or of a workflow's task."""
    return param.render_live_params({}, schemas, parameters, dict(CONTEXT), contexts)


def render_final(parameters, schemas):
    """Return the parameters that the runner passes to the action."""
    return param.render_final_params({}, schemas, parameters, dict(CONTEXT))[1]


def check_rendering(rule, first, second):
    """Check that text from two labels stays a string in the parameters of a rule."""
    schemas = careless_rules.parameter_schemas(rule)
    expected = careless_rules.expected_parameters(rule, first, second)
    payload = careless_rules.create_payload(first, second)
    rendered = render_live(dict(rule.parameters), schemas, trigger=payload)
    assert rendered == expected
    assert render_live(rendered, schemas) == expected
    final_parameters = render_final(rendered, schemas)
    assert final_parameters == {**expected, "force": "false"}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_a_single_string(rule, text):
    check_rendering(rule, text, "web-1")
    check_rendering(rule, "web-1", text)


@without_deadline
@given(careless_rules.texts, careless_rules.texts)
def test_any_text_in_two_labels_stays_a_string(first, second):
    for rule in RULES.values():
        check_rendering(rule, first, second)


@pytest.mark.parametrize("type_name", ["array", "object", "boolean", "integer", "number"])
@without_deadline
@given(careless_rules.texts, careless_rules.texts)
def test_a_parameter_of_another_type_accepts_only_values_of_that_type(type_name, first, second):
    """Whatever the type, text is not evaluated and does not affect another parameter."""
    schemas = {"value": {"type": type_name}, "force": {"type": "string", "default": "false"}}
    parameters = {"value": careless_rules.LABEL_ONE, "host": careless_rules.LABEL_TWO}
    payload = careless_rules.create_payload(first, second)
    try:
        rendered = render_live(parameters, schemas, trigger=payload)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return
    assert set(rendered) == {"value", "host"}
    assert rendered["host"] == as_inert(second)
    assert SECRET not in json.dumps(rendered, default=str)
    # A value without quotes and braces cannot become a string or an object.
    assert not isinstance(rendered["value"], (str, dict))


@without_deadline
@given(careless_rules.texts, careless_rules.texts)
def test_text_in_the_pattern_of_a_criterion_stays_a_string(first, second):
    payload = careless_rules.create_payload(first, second)
    for template, expected in (
        ("{{ trigger.labels.one }}", as_inert(first)),
        ("{{ trigger.labels.one | to_complex }}", json.dumps(as_inert(first))),
    ):
        context = {"trigger": payload}
        rendered = templating.render_template_with_system_context(template, context)
        assert rendered == expected


@without_deadline
@given(careless_rules.texts, careless_rules.texts)
def test_a_mapping_rendered_as_json_is_unchanged(first, second):
    """StackStorm renders notifications, action chains and packs' configurations like this."""
    payload = careless_rules.create_payload(first, second)
    parameters = {"value": {"a": careless_rules.LABEL_ONE, "b": [careless_rules.LABEL_TWO]}}
    rendered = jinja.render_values(parameters, {"trigger": payload})
    assert rendered == {"value": {"a": as_inert(first), "b": [as_inert(second)]}}


@without_deadline
@given(careless_rules.texts)
def test_a_workflow_passes_text_on_without_evaluating_it(text):
    expressions = pytest.importorskip("orquesta.expressions.base", reason=SKIP_REASON)
    inert = make_inert(text)
    context = {"secret": SECRET, "value": inert, "__vars": {}}
    for value in (inert, [inert], {"key": inert}):
        assert expressions.evaluate(value, context) == value
    assert expressions.evaluate("<% ctx().value %>", context) == inert
    assert expressions.evaluate("{{ ctx().value }}", context) == inert
