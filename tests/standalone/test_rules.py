"""The stand-in turns triggers into enforcements, executions and traces."""

from __future__ import annotations

import pytest

from poundcake.stackstorm import catalogue
from standalone.operators import OPERATORS


def test_a_rule_starts_its_action(standalone):
    payload = {"name": "show me", "count": 3, "data": {"k": "v"}, "items": [1]}
    instance = standalone.dispatch("probe.ping", payload, "tag-1")
    assert instance["status"] == "processed" and instance["payload"] == payload
    (enforcement,) = standalone.enforcements(instance)
    assert enforcement["rule"]["ref"] == "probe.show" and enforcement["status"] == "succeeded"
    execution = standalone.wait_for_end(enforcement["execution_id"])
    assert execution["status"] == "succeeded"
    assert execution["rule"]["ref"] == "probe.show" and execution["rule"]["name"] == "show"
    assert execution["trigger_instance"]["id"] == instance["id"]
    assert execution["context"]["trace_context"]["trace_tag"] == "tag-1"
    assert execution["context"]["trigger_instance"] == {"id": instance["id"], "name": None}
    parameters = execution["result"]["result"]["parameters"]
    assert parameters["text"] == "show me" and parameters["tag"] == "tag-1"
    assert parameters["number"] == 3 and parameters["data"] == {"k": "v"}
    assert parameters["items"] == [1] and parameters["secret"] == "open-sesame"
    (trace,) = standalone.get("/traces?trace_tag=tag-1")
    assert [c["object_id"] for c in trace["action_executions"]] == [execution["id"]]
    assert [c["ref"] for c in trace["rules"]] == ["probe.show"]
    assert standalone.get("/traces/" + trace["id"]) == trace
    executions_of_instance = standalone.get("/executions?trigger_instance=" + instance["id"])
    assert [e["id"] for e in executions_of_instance] == [execution["id"]]


def test_each_dispatch_has_its_own_trace(standalone):
    standalone.dispatch("probe.ping", {"name": "x"}, "tag-2")
    standalone.call(
        "POST",
        "/webhooks/st2",
        {"trigger": "probe.ping", "payload": {"name": "x"}},
        {"St2-Trace-Tag": "tag-2"},
    )
    assert len(standalone.get("/traces?trace_tag=tag-2")) == 2


def test_payload_text_is_not_rendered(standalone):
    name = 'show {{ st2kv.system.word }} <% st2kv("system.word") %> {% raw %}'
    instance = standalone.dispatch("probe.ping", {"name": name}, "tag-3")
    (enforcement,) = standalone.enforcements(instance)
    execution = standalone.wait_for_end(enforcement["execution_id"])
    assert execution["result"]["result"]["parameters"]["text"] == name


def test_a_missing_action_causes_only_a_failed_enforcement(standalone):
    instance = standalone.dispatch("probe.ping", {"name": "missing"}, "tag-4")
    (enforcement,) = standalone.enforcements(instance)
    assert enforcement["status"] == "failed" and "execution_id" not in enforcement
    assert enforcement["failure_reason"] == 'Action "probe.nowhere" doesn\'t exist'
    (trace,) = standalone.get("/traces?trace_tag=tag-4")
    assert trace["rules"] == [] and trace["action_executions"] == []
    assert instance["status"] == "processed"


def test_a_parameter_that_cannot_be_rendered_causes_a_failed_execution(standalone):
    instance = standalone.dispatch("probe.ping", {"name": "unrendered"}, "tag-5")
    (enforcement,) = standalone.enforcements(instance)
    assert enforcement["status"] == "failed" and "nothing" in enforcement["failure_reason"]
    (trace,) = standalone.get("/traces?trace_tag=tag-5")
    (component,) = trace["action_executions"]
    assert standalone.get("/executions/" + component["object_id"])["status"] == "failed"


def test_invalid_parameters_cause_a_failed_enforcement(standalone):
    instance = standalone.dispatch("probe.ping", {"name": "refused"}, "tag-6")
    (enforcement,) = standalone.enforcements(instance)
    assert enforcement["failure_reason"] == "'text' is a required property"


def test_a_backstop_rule_runs_only_if_no_other_rule_matches(standalone):
    instance = standalone.dispatch("probe.ping", {"name": "else"}, "tag-7")
    assert [e["rule"]["ref"] for e in standalone.enforcements(instance)] == ["probe.backstop"]
    instance = standalone.dispatch("probe.ping", {"name": "nothing"}, "tag-8")
    assert standalone.enforcements(instance) == []


def test_an_operator_cannot_compare_a_null_value(standalone):
    # The API validates the payload, but messages on the bus are not validated.
    rule = standalone.get("/rules/probe.show")
    assert rule["criteria"] == {"trigger.name": {"type": "startswith", "pattern": "show"}}
    status, _ = standalone.call(
        "POST", "/webhooks/st2", {"trigger": "probe.ping", "payload": {"name": None}}
    )
    assert status == 400
    with pytest.raises(AttributeError):
        OPERATORS["startswith"](None, "show")


def test_an_unknown_trigger_and_an_invalid_payload_are_refused(standalone):
    for body in (
        {"trigger": "probe.pong", "payload": {}},
        {"trigger": "probe.ping", "payload": {}},
        {"trigger": "probe.ping", "payload": {"name": "x", "count": "many"}},
    ):
        assert standalone.call("POST", "/webhooks/st2", body)[0] == 400


def test_a_rule_can_be_disabled(standalone):
    url = "/rules/probe.backstop"
    assert standalone.call("PUT", url, {"enabled": False})[0] == 200
    try:
        instance = standalone.dispatch("probe.ping", {"name": "else"}, "tag-9")
        assert standalone.enforcements(instance) == []
    finally:
        standalone.call("PUT", url, {"enabled": True})


@pytest.mark.parametrize(
    "operator, value, pattern, expected",
    [
        ("matchregex", "abc\nd", "a.c.d", True),
        ("matchregex", "xabc", "abc", False),
        ("regex", "xabc", "abc", True),
        ("iregex", "xABC", "abc", True),
        ("eq", "a", "a", True),
        ("equals", 1, "1", False),
        ("neq", "a", "b", True),
        ("ieq", "A", "a", True),
        ("contains", "abc", "b", True),
        ("contains", ["b"], "b", True),
        ("icontains", "ABC", "b", True),
        ("ncontains", "abc", "b", False),
        ("startswith", "abc", "ab", True),
        ("istartswith", "ABC", "ab", True),
        ("endswith", "abc", "bc", True),
        ("iendswith", "ABC", "bc", True),
        ("lt", 1, 2, True),
        ("gt", 1, 2, False),
        ("exists", None, True, False),
        ("nexists", None, True, True),
        ("in", "a", ["a", "b"], True),
        ("inside", "a", "abc", True),
        ("nin", "a", ["b"], True),
        ("matchwildcard", "disk_full", "disk*", True),
    ],
)
def test_each_operator_compares_a_value_with_a_pattern(operator, value, pattern, expected):
    """The stand-in and poundcake.plan have separate implementations of the operators."""
    for operators in (OPERATORS, catalogue.OPERATORS):
        assert operators[operator](value, pattern) is expected


def test_the_stand_in_and_the_plan_have_the_same_operators():
    assert set(catalogue.OPERATORS) == set(OPERATORS)
