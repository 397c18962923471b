"""Each example in docs/RULES.md behaves on the stand-in as the page describes."""

from __future__ import annotations

import json
import re
import types
from pathlib import Path

import pytest
import yaml

from poundcake.endpoint import triggers
from poundcake.endpoint.recorded import RecordedAlert, RecordedRequest
from poundcake.hosts import host_from_labels
from scripts import check_rules
from standalone import expressions, rules

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "RULES.md").read_text(encoding="utf-8")
REQUEST = RecordedRequest(1, "6b07571f-6f1d-4eba-bba8-1d1c0f0b1a11", "poundcake", "firing", "")
BLOCK = re.compile(r"^```yaml\n# ([a-z ]+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NON_STRING_TYPES = {"details": "object", "request": "object"}


def examples():
    """Return (labels, rule, parameters) for each rule.

    `parameters` is None if the rule must not match, and "missing" if the page does not show them.
    """
    labels, documented_rules = {}, []
    for kind, text in BLOCK.findall(TEXT):
        content = yaml.safe_load(text)
        if kind == "labels":
            labels = {name: str(value) for name, value in content.items()}
        elif kind == "the action gets":
            documented_rules[-1] = (*documented_rules[-1][:2], content)
        elif kind.startswith("rule"):
            assert kind in ("rule", "rule that does not match")
            documented_rules.append((labels, content, None if kind != "rule" else "missing"))
    return documented_rules


def make_payload(labels):
    alert = RecordedAlert(
        id=1,
        alert_name=labels["alertname"],
        severity="",
        instance=labels.get("instance", ""),
        host=host_from_labels(labels, "instance"),
        status="firing",
        episode="0123456789abcdef-1768392000000",
        labels=json.dumps(labels),
        starts_at=None,
        ends_at=None,
    )
    return triggers.alert_payload(REQUEST, alert)


def make_engine(rule):
    """Return the stand-in's rules engine with one rule."""
    rule = {"ref": "mypack.rule", "enabled": True, "type": {"ref": "standard"}, **rule}
    content = types.SimpleNamespace(rules={"mypack.rule": rule})
    store = types.SimpleNamespace(keys={})
    return rules.RulesEngine(content, store, executor=None)


@pytest.mark.parametrize("labels, rule, expected_parameters", examples())
def test_a_rule_matches_and_passes_text_as_documented(labels, rule, expected_parameters):
    payload = make_payload(labels)
    instance = {"id": "i", "trigger": "poundcake.alert", "payload": payload}
    matching = make_engine(rule).find_matching(instance)
    assert bool(matching) is (expected_parameters is not None)
    if expected_parameters is None:
        return
    parameters = rule["action"]["parameters"]
    schemas = {name: {"type": NON_STRING_TYPES.get(name, "string")} for name in parameters}
    rendered = expressions.render_parameters(parameters, schemas, {"trigger": payload})
    received = {n: expressions.cast(v, schemas[n]) for n, v in rendered.items()}
    assert received == expected_parameters


def test_exactly_the_unsafe_examples_are_refused():
    unsafe_rules = [yaml.safe_load(text) for kind, text in BLOCK.findall(TEXT) if kind == "never"]
    assert len(unsafe_rules) == 2
    for rule in unsafe_rules:
        assert len(check_rules.check_rule(rule)) == 1
    for _, rule, _ in examples():
        assert check_rules.check_rule(rule) == []


def test_every_code_block_is_tested():
    assert len(BLOCK.findall(TEXT)) == TEXT.count("```yaml\n")
    assert len(examples()) == 7


def test_the_table_of_substitutes_matches_the_code():
    rows = re.findall(r"^\| ([^|\n]+) \| ([^|\n]+) \|$", TEXT, re.MULTILINE)
    pairs = [(re.findall(r"`([^`]+)`", a), re.findall(r"`([^`]+)`", b)) for a, b in rows]
    substitutes = [pair for originals, results in pairs for pair in zip(originals, results)]
    substitutes = [(a, b) for a, b in substitutes if not set(a + b) & set("abcdefghijklmnop_")]
    assert len(substitutes) == 8
    for original, substitute in substitutes:
        assert make_payload({"alertname": original})["alert_name"] == substitute


def test_missing_labels_and_labels_named_like_methods_behave_as_documented():
    payload = make_payload({"alertname": "x", "items": "3"})

    def render(template):
        return expressions.render_parameters({"a": template}, {}, {"trigger": payload})["a"]

    assert render("{{ trigger.labels['items'] }}") == "3"
    assert "built-in method" in render("{{ trigger.labels.items }}")
    with pytest.raises(expressions.ParameterError, match="team"):
        render("{{ trigger.labels.team }}")
