"""Case A11 of docs/CASES.md: text in an alert is stored as it was sent, and never evaluated."""

from __future__ import annotations

import json

import pytest

from tests.lib.samples import as_inert
from tests.scenarios.notifications import alert, notification, unique

KEY = "poundcake_scenario_secret"
# If StackStorm evaluated one of these, the result would be the secret or an error.
TEXTS = {
    "jinja": f"{{{{ st2kv.system.{KEY} }}}}",
    "jinja_call": f'{{{{ st2kv("system.{KEY}") }}}}',
    "statement": f"{{% set x = st2kv.system.{KEY} %}}{{{{ x }}}}",
    "raw": "{% raw %}{{ x }}",
    "comment": "{# no comment #}",
    "yaql": f'<% st2kv("system.{KEY}") %>',
    "context": "<% ctx().st2 %>",
    "config": "{{ config_context }}",
    "template": "{{ $labels.instance }} is down {{ $value | humanize }}",
    # Two labels that a rule joins; neither alone is an expression.
    "opening": "{",
    "closing": f"{{ st2kv.system.{KEY} }}}}",
    "quotes": "'; DROP TABLE poundcake_alerts; -- \" \\ `id` $(id)",
    "format": "%s %(x)s {0.__class__} {x}",
    "unicode": "Größe 溫度 🔥 \u202e \u0000 \u2028",
    "lines": "one\ntwo\r\n\tthree",
    "dots.and-dashes/and {{ names }}": "a name that is no attribute path",
    f"{{{{ st2kv.system.{KEY} }}}}": "in the name itself",
}


@pytest.fixture(scope="module")
def log_position_after_proof(stack, secret):
    """Prove that evaluating a text would expose the secret.

    Return the position in the log after this proof.
    """
    execution = stack.execute("core.echo", message=TEXTS["jinja"])
    assert secret in json.dumps(execution["result"])
    return stack.wait_until_logged(secret)


@pytest.fixture(scope="module")
def sent_alert_and_trail(stack, log_position_after_proof):
    """Send an alert with all of these texts. Return it, and its trail once it is completed."""
    firing_alert = alert(
        "ScenarioHostileText",
        labels=dict(TEXTS, instance=TEXTS["jinja"], severity=TEXTS["yaql"], job=TEXTS["yaql"]),
        annotations=dict(TEXTS, long=unique("{{ x }} <% y %> ") * 4000),
    )
    assert len(firing_alert["annotations"]["long"]) > 100000
    # The first alert could cause an early error. This one would pass through every step.
    second_alert = alert(
        "ScenarioHostileText",
        labels={"yaql": TEXTS["yaql"], "opening": "{", "closing": TEXTS["jinja_call"][1:]},
    )
    payload = notification(
        firing_alert,
        second_alert,
        receiver=TEXTS["jinja"],
        groupKey=TEXTS["yaql"],
        groupLabels=TEXTS,
        commonLabels=TEXTS,
        commonAnnotations=TEXTS,
    )
    headers = {"User-Agent": TEXTS["jinja"], "X-Forwarded-For": TEXTS["yaql"]}
    return firing_alert, stack.wait_until_completed(stack.send(payload, headers))


def test_the_views_show_the_text_as_it_was_sent(stack, sent_alert_and_trail):
    _, trail = sent_alert_and_trail

    assert trail["receiver"] == TEXTS["jinja"]
    assert len(trail["alerts"]) == 2
    alert_view = trail["alerts"][0]
    assert alert_view["outcome"] == "admitted"
    assert alert_view["instance"] == TEXTS["jinja"]
    assert alert_view["severity"] == TEXTS["yaql"]
    incidents = stack.active_alerts(alert_view["alert_name"])
    assert [(a["instance"], a["severity"]) for a in incidents] == [(TEXTS["jinja"], TEXTS["yaql"])]


def test_the_tables_contain_the_text_as_it_was_sent(stack, sent_alert_and_trail):
    firing_alert, trail = sent_alert_and_trail

    rows = stack.rows(
        """SELECT a.labels, a.annotations, a.instance, a.severity, c.receiver, c.group_key,
               c.headers, c.body
           FROM poundcake_alerts a JOIN poundcake_api_calls c ON c.id = a.api_call_id
           WHERE c.request_id = :request AND a.id = :alert""",
        request=trail["request_id"],
        alert=trail["alerts"][0]["id"],
    )
    assert len(rows) == 1
    row = rows[0]
    assert json.loads(row["labels"]) == firing_alert["labels"]
    assert json.loads(row["annotations"]) == firing_alert["annotations"]
    assert row["instance"] == row["receiver"] == TEXTS["jinja"]
    assert row["severity"] == row["group_key"] == TEXTS["yaql"]
    headers = json.loads(row["headers"])
    assert headers["User-Agent"] == TEXTS["jinja"]
    assert headers["X-Forwarded-For"] == TEXTS["yaql"]
    assert json.loads(row["body"])["alerts"][0] == firing_alert


def test_a_careless_workflow_gets_inert_labels(stack, sent_alert_and_trail):
    firing_alert, trail = sent_alert_and_trail

    executions = sorted(trail["stackstorm_executions"], key=lambda e: e["alert_id"])
    assert [e["st2_workflow"] for e in executions] == ["poundcake_scenarios.carry"] * 2
    assert [(e["status"], e["message"]) for e in executions] == [("succeeded", "")] * 2
    execution_document = stack.api("/executions/" + executions[0]["st2_execution_id"])
    output = execution_document["result"]["output"]
    labels = {as_inert(name): as_inert(text) for name, text in firing_alert["labels"].items()}
    assert output["labels"] == labels
    assert output["carried"]["details"] == labels
    assert output["joined"] == output["carried"]["note"]
    assert output["joined"] == as_inert(TEXTS["opening"]) + as_inert(TEXTS["closing"])


def test_actions_return_the_text_inert(stack, sent_alert_and_trail):
    _, trail = sent_alert_and_trail

    status = stack.run("poundcake.status", request_id=trail["request_id"])
    assert status["alerts"][0]["instance"] == as_inert(TEXTS["jinja"])
    episode = trail["alerts"][0]["episode"]
    result = stack.run(
        "poundcake.get_alert",
        request_id=trail["request_id"],
        episode=episode,
        needs_host=False,
    )
    assert result["host"] == ""
    assert result["labels"]["config"] == as_inert(TEXTS["config"])
    for view, query in (
        ("poundcake.status", {"request_id": trail["request_id"], "format": "text"}),
        ("poundcake.why", {"alert_name": trail["alerts"][0]["alert_name"]}),
        ("poundcake.alerts_active", {"format": "text"}),
        ("poundcake.executions_recent", {}),
        ("poundcake.st2_executions", {"format": "text"}),
    ):
        text = json.dumps(stack.run(view, **query))
        assert KEY in text
        assert "{{" not in text and "<%" not in text and "{%" not in text


def test_the_secret_does_not_leak(stack, sent_alert_and_trail, log_position_after_proof, secret):
    _, trail = sent_alert_and_trail

    executions = stack.list_all("/executions", timestamp_gt=trail["received_at"])
    leaking_actions = [e["action"]["ref"] for e in executions if secret in json.dumps(e)]
    assert leaking_actions == []
    ids = {e["id"] for e in executions}
    assert stack.traced_execution_ids(trail["request_id"]) <= ids
    assert {"poundcake.record", "poundcake_scenarios.work"} <= {
        e["action"]["ref"] for e in executions
    }
    for trigger in ("poundcake.alert", "poundcake.webhook", "poundcake.announce"):
        instances = stack.list_all(
            "/triggerinstances", trigger=trigger, timestamp_gt=trail["received_at"]
        )
        assert instances, trigger
        assert secret not in json.dumps(instances)
    for path in ("/status/" + trail["request_id"], "/executions/recent", "/alerts/active"):
        assert secret not in stack.get(path).text
    assert secret not in stack.get("/st2/executions").text
    assert secret not in stack.log(after=log_position_after_proof)


def test_long_text_is_cut_in_its_column_and_complete_in_the_labels(stack):
    long_text = unique("Scenario") + "x" * 5000
    firing_alert = alert(
        "ScenarioLong",
        labels={"alertname": long_text, "instance": long_text, "severity": long_text},
    )
    trail = stack.wait_until_recorded(
        stack.send(notification(firing_alert, receiver=long_text, groupKey=long_text))
    )

    alert_view = trail["alerts"][0]
    assert alert_view["outcome"] == "admitted"
    for name in ("alert_name", "instance", "severity"):
        assert long_text.startswith(alert_view[name]) and alert_view[name]
    row = stack.rows("SELECT labels FROM poundcake_alerts WHERE id = :id", id=alert_view["id"])[0]
    assert json.loads(row["labels"]) == firing_alert["labels"]
