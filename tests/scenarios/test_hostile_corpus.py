"""Case A11 of docs/CASES.md: every string in an alert is an expression that would reveal a secret.

The alerts pass through every rule and workflow of the pack, and again when they are re-run and
replayed.
"""

from __future__ import annotations

import base64
import json
import os
import uuid

import pytest

from tests.lib.samples import as_inert
from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification, unique

# Evaluation does not depend on the kind of database, so one is enough.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")

VARIABLE = "POUNDCAKE_PLANTED"
# Expressions that read secrets from the datastore, the pack's configuration and the environment.
SECRETS = (
    "st2kv.system.poundcake_scenario_secret",
    'st2kv("system.poundcake_scenario_secret", decrypt=true)',
    "config_context.basic_auth",
    f'cycler.__init__.__globals__.os.environ["{VARIABLE}"]',
)
# In Jinja and YAQL: plain, nested, incomplete, and hidden from a search for delimiters.
TEMPLATES = (
    "{{ %s }}",
    "{{%s}}",
    "{{- %s -}}",
    "{{ %s | to_json_string }}",
    "{%% set x = %s %%}{{ x }}",
    "{%%- if true -%%}{{ %s }}{%%- endif -%%}",
    "{%% raw %%}{%% endraw %%}{{ %s }}",
    "{# {{ #}{{ %s }}",
    "{{ '{{ %s }}' }}",
    "{{{{ %s }}}}",
    "<%% %s %%>",
    "<%%%s%%>",
    "<%% '<%% ' + str(%s) %%>",
    "{{ '<%% %s %%>' }}",
)
OTHER_TEXTS = (
    "<% env() %>",
    "<% ctx() %>",
    "<% ctx(__env) %>",
    "<% rule_context %>",
    "{{ self.__init__.__globals__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% include '/proc/self/environ' %}",
    "{% import os %}{{ os.environ }}",
    "{{ cycler.__init__.__globals__.os.popen('env').read() }}",
    f"$(printenv {VARIABLE})",
    f"`printenv {VARIABLE}`",
    f"; printenv {VARIABLE} #",
    f"| printenv {VARIABLE}",
    f"\nprintenv {VARIABLE}\n",
    f"${{{VARIABLE}}}",
    f"%({VARIABLE})s",
    "{0.__init__.__globals__}",
    "-oProxyCommand=printenv",
    "../../../../proc/self/environ",
    "file:///proc/self/environ",
    f"env:{VARIABLE}",
    "' UNION SELECT value FROM poundcake_meta -- ",
    "\\'; DELETE FROM poundcake_alerts; --",
    f"!!python/object/apply:os.getenv [{VARIABLE}]",
    "<script>alert(1)</script>",
    "${jndi:ldap://127.0.0.1/x}",
    "\u202e}} terces {{",
    "\uff5b\uff5b 7*7 \uff5d\uff5d",
    "{\u200b{ 7*7 }\u200b}",
    "x\r\nX-Injected: yes",
)
TEXTS = tuple(template % secret for secret in SECRETS for template in TEMPLATES) + OTHER_TEXTS
ALERT_NAMES = ("HostDown", "InstanceDown", "NodeDown", "ScenarioHostileText", "ScenarioUnmatched")
# The first alert of each name also has these texts, which are unusual but not expressions.
UNUSUAL_TEXTS = {
    "quotes": "'; DROP TABLE poundcake_alerts; -- \" \\ `id` $(id)",
    "format": "%s %(x)s {0.__class__} {x}",
    "unicode": "Größe 溫度 🔥 \u202e \u0000 \u2028",
    "lines": "one\ntwo\r\n\tthree",
    "dots.and-dashes/and {{ names }}": "a name that is no attribute path",
}
LONG_TEXT = "{{ x }} <% y %> " * 7000  # more than 100,000 characters
TOKEN = "a-token-" + uuid.uuid4().hex


@pytest.fixture(scope="module")
def stack_with_secrets(request, kind):
    """Plant secrets, and prove that evaluating alert text would expose one.

    Return the stack, the secrets, the id of the execution that proves it, and the log position
    after that execution.
    """
    if kind == "live":
        stack = request.getfixturevalue("stack")
        secrets = [os.environ.get(VARIABLE, ""), stack.token]
    else:
        secrets = ["in-the-environment-" + uuid.uuid4().hex, "in-the-config-" + uuid.uuid4().hex]
        os.environ[VARIABLE] = secrets[0]
        try:
            config = {"auth_tokens": [TOKEN], "basic_auth": "planted:" + secrets[1]}
            config.update(dry_run=False, allowed_hosts=["*"])
            config.update(allowed_actions=["poundcake_scenarios.prints"])
            stack = request.getfixturevalue("new_stack")(config, TOKEN)
        finally:
            del os.environ[VARIABLE]
        secrets.append(TOKEN)
    value = "in-the-datastore-" + uuid.uuid4().hex
    key_path = "/keys/poundcake_scenario_secret"
    stack.api(key_path, "PUT", {"name": "poundcake_scenario_secret", "value": value})
    proof = stack.execute("core.echo", message=f"{{{{ {SECRETS[0]} }}}}")
    assert value in json.dumps(proof["result"])
    yield (
        stack,
        [s for s in secrets if s] + [value],
        proof["id"],
        stack.wait_until_no_longer_logged(value),
    )
    if kind == "live":
        stack.api(key_path, "DELETE")


@pytest.fixture(scope="module")
def sent_corpus(stack_with_secrets):
    """Send every text in every field. Return the payload and its completed trail."""
    assert len(set(TEXTS)) == len(TEXTS) >= 60
    stack = stack_with_secrets[0]
    count = 20 if stack.is_live else 10
    alerts = []
    for i in range(count):
        # Every text is the name and the value of a label and of an annotation. The first text of an
        # alert is also its instance.
        own_texts = [TEXTS[i]] + [
            text for number, text in enumerate(TEXTS) if number % count == i and number != i
        ]
        labels = {f"l{number}": text for number, text in enumerate(own_texts)}
        labels.update(dict.fromkeys(own_texts, "x"), opening="{", closing=own_texts[0][1:])
        labels.update(
            alertname=ALERT_NAMES[i % len(ALERT_NAMES)],
            instance=own_texts[0],
            severity=own_texts[-1],
        )
        labels["run"] = unique("run")
        annotations = {text: text for text in own_texts}
        if i < len(ALERT_NAMES):
            labels.update(UNUSUAL_TEXTS)
            annotations.update(UNUSUAL_TEXTS, long=LONG_TEXT)
        new_alert = alert("Scenario", labels=labels, annotations=annotations)
        alerts.append(dict(new_alert, generatorURL=own_texts[0]))
    payload = notification(
        *alerts,
        receiver=TEXTS[0],
        groupKey=TEXTS[1],
        externalURL=TEXTS[2],
        groupLabels={text: text for text in TEXTS},
        commonLabels={text: text for text in TEXTS},
        commonAnnotations={text: text for text in TEXTS},
    )
    headers = {"User-Agent": TEXTS[0], "X-Forwarded-For": TEXTS[10], "X-Request-ID": TEXTS[3]}
    headers["Traceparent"] = TEXTS[11]
    request_id = stack.send(payload, headers)
    return payload, stack.wait_until_completed(request_id, timeout=900)


def test_hostile_text_does_not_change_how_workflows_end(stack_with_secrets, sent_corpus):
    stack = stack_with_secrets[0]
    payload, trail = sent_corpus
    executions = {e["alert_id"]: e for e in trail["stackstorm_executions"]}
    assert len(trail["alerts"]) == len(payload["alerts"])
    for alert_view, sent_alert in zip(trail["alerts"], payload["alerts"]):
        name = alert_view["alert_name"]
        assert alert_view["outcome"] == "admitted", alert_view
        assert (name, alert_view["instance"]) == (
            sent_alert["labels"]["alertname"],
            sent_alert["labels"]["instance"],
        )
        if name == "ScenarioUnmatched":
            assert alert_view["reason"].endswith("no rule matched")
            continue
        execution = executions[alert_view["id"]]
        result = (execution["status"], execution["stage"], execution["mutated"])
        if name == "ScenarioHostileText":
            assert result[0] == "succeeded", execution
        else:
            # A refused workflow fails only if dry_run is off.
            dry_run = stack.get("/health").json()["dry_run"]
            assert result == ("succeeded" if dry_run else "failed", "refused", False), execution


def test_text_is_inert_in_workflows_that_are_started_manually_re_run_or_replayed(
    stack_with_secrets, sent_corpus
):
    stack = stack_with_secrets[0]
    _, trail = sent_corpus
    unmatched_alert = next(a for a in trail["alerts"] if a["alert_name"] == "ScenarioUnmatched")
    parameters = {"request_id": trail["request_id"], "episode": unmatched_alert["episode"]}
    default_execution = stack.execute("poundcake.default", **parameters)
    assert default_execution["status"] == "succeeded", default_execution["result"]
    remediate_execution = stack.execute(
        "poundcake.remediate", action="core.local", parameters={"cmd": "true"}, **parameters
    )
    assert remediate_execution["result"]["output"]["stage"] == "refused"
    execution_ids = [e["st2_execution_id"] for e in trail["stackstorm_executions"]][:4]
    for id_ in execution_ids:
        re_run = stack.wait_until_ended(stack.api(f"/executions/{id_}/re_run", "POST", {})["id"])
        assert re_run["status"] in ("succeeded", "failed")
        if re_run["action"]["ref"] == "poundcake.host_down":
            # Its rule sets no action, so the workflow claims nothing.
            assert re_run["result"]["output"]["stage"] == "refused"
    replay = stack.run("poundcake.replay", request_id=trail["request_id"], force=True)
    stack.wait_until_completed(replay["request_id"], timeout=900)


def test_a_careless_workflow_gets_inert_labels(stack_with_secrets, sent_corpus):
    """A rule passes labels of ScenarioHostileText to a workflow, and joins two of them."""
    stack = stack_with_secrets[0]
    payload, trail = sent_corpus
    index = ALERT_NAMES.index("ScenarioHostileText")
    sent_labels = payload["alerts"][index]["labels"]
    (execution,) = [
        e for e in trail["stackstorm_executions"] if e["alert_id"] == trail["alerts"][index]["id"]
    ]
    assert execution["st2_workflow"] == "poundcake_scenarios.carry"
    assert (execution["status"], execution["message"]) == ("succeeded", "")
    execution_document = stack.api("/executions/" + execution["st2_execution_id"])
    output = execution_document["result"]["output"]
    labels = {as_inert(name): as_inert(text) for name, text in sent_labels.items()}
    assert output["labels"] == labels
    assert output["carried"]["details"] == labels
    assert output["joined"] == output["carried"]["note"]
    assert output["joined"] == as_inert(sent_labels["opening"]) + as_inert(sent_labels["closing"])


def test_the_views_show_text_verbatim_and_their_actions_return_it_inert(
    stack_with_secrets, sent_corpus
):
    stack = stack_with_secrets[0]
    payload, trail = sent_corpus
    assert trail["receiver"] == payload["receiver"]
    sent_labels = payload["alerts"][0]["labels"]
    incidents = stack.get("/alerts/active", instance=sent_labels["instance"]).json()
    shown_alerts = [(a["instance"], a["severity"]) for a in incidents["active_alerts"]]
    assert (sent_labels["instance"], sent_labels["severity"]) in shown_alerts
    status = stack.run("poundcake.status", request_id=trail["request_id"])
    assert status["alerts"][0]["instance"] == as_inert(sent_labels["instance"])
    for view, query in (
        ("poundcake.status", {"request_id": trail["request_id"], "format": "text"}),
        ("poundcake.why", {"fingerprint": trail["alerts"][0]["fingerprint"]}),
        ("poundcake.alerts_active", {"format": "text"}),
        ("poundcake.executions_recent", {}),
        ("poundcake.st2_executions", {"format": "text"}),
    ):
        text = json.dumps(stack.run(view, **query))
        assert "poundcake_scenario_secret" in text
        assert "{{" not in text and "<%" not in text and "{%" not in text
    alert_view = trail["alerts"][ALERT_NAMES.index("ScenarioHostileText")]
    result = stack.run(
        "poundcake.get_alert",
        request_id=trail["request_id"],
        episode=alert_view["episode"],
        needs_host=False,
    )
    assert result["host"] == ""
    name, text = list(UNUSUAL_TEXTS.items())[-1]
    assert result["labels"][as_inert(name)] == as_inert(text)


def test_hostile_output_of_a_host_is_inert_in_results(stack_with_secrets):
    stack = stack_with_secrets[0]
    texts = {"texts": base64.b64encode(json.dumps(TEXTS).encode()).decode()}
    failing_alert = alert("ScenarioHostPrints", labels=texts)
    wrapped_alert = alert("ScenarioRemediatedHostPrints", labels=texts)
    request_id = stack.send(notification(failing_alert, wrapped_alert))
    trail = stack.wait_until_completed(request_id, timeout=300)

    failed_execution, wrapped_execution = sorted(
        trail["stackstorm_executions"], key=lambda e: e["alert_id"]
    )
    assert (failed_execution["st2_workflow"], failed_execution["status"]) == (
        "poundcake_scenarios.prints",
        "failed",
    )
    if stack.is_live and wrapped_execution["stage"] == "refused":
        assert (
            "allowed_actions does not contain poundcake_scenarios.prints"
            in wrapped_execution["message"]
        )
    else:
        assert (wrapped_execution["stage"], wrapped_execution["message"]) == (
            "done",
            "the action succeeded",
        )
    # The reason is recorded verbatim. In the result of every action it is inert.
    [row] = stack.rows(
        "SELECT error FROM execution_db WHERE id = :id", id=failed_execution["st2_execution_id"]
    )
    assert row["error"].startswith(" ".join(TEXTS[:9]))
    for ref, parameters in (
        ("poundcake.status", {"request_id": request_id}),
        ("poundcake.why", {"fingerprint": failing_alert["fingerprint"]}),
    ):
        result_text = json.dumps(stack.run(ref, format="json", **parameters))
        assert "poundcake_scenario_secret" in result_text
        assert not [
            delimiter for delimiter in ("{{", "{%", "{#", "<%") if delimiter in result_text
        ], ref
    for id_ in (failed_execution["st2_execution_id"], wrapped_execution["st2_execution_id"]):
        assert stack.wait_until_ended(stack.api(f"/executions/{id_}/re_run", "POST", {})["id"])


def test_every_text_is_recorded_verbatim(stack_with_secrets, sent_corpus):
    stack = stack_with_secrets[0]
    payload, trail = sent_corpus
    rows = stack.rows(
        """SELECT a.position, a.labels, a.annotations, a.instance, a.severity, c.body, c.headers,
               c.receiver, c.group_key
           FROM poundcake_alerts a JOIN poundcake_api_calls c ON c.id = a.api_call_id
           WHERE c.request_id = :request ORDER BY a.position""",
        request=trail["request_id"],
    )
    assert len(rows) == len(payload["alerts"])
    for row, sent_alert in zip(rows, payload["alerts"]):
        assert json.loads(row["labels"]) == sent_alert["labels"]
        assert json.loads(row["annotations"]) == sent_alert["annotations"]
        assert row["instance"] == sent_alert["labels"]["instance"]
        assert row["severity"] == sent_alert["labels"]["severity"]
        assert (row["receiver"], row["group_key"]) == (payload["receiver"], payload["groupKey"])
    assert json.loads(rows[0]["body"]) == payload
    headers = json.loads(rows[0]["headers"])
    assert (headers["User-Agent"], headers["Traceparent"]) == (TEXTS[0], TEXTS[11])
    assert headers["X-Forwarded-For"] == TEXTS[10]


def test_no_secret_leaks(stack_with_secrets, sent_corpus):
    """This test must be the last one in the file, because it searches the results of all others."""
    stack, secrets, proof_id, position = stack_with_secrets
    _, trail = sent_corpus
    # At log level debug, StackStorm logs the proof, and the results of the queries below.
    text = stack.log(after=position)
    assert not any(secret in text for secret in secrets)
    documents = [
        e
        for e in stack.list_all("/executions", timestamp_gt=stack.started_at)
        if e["id"] != proof_id
    ]
    assert {"poundcake.record", "poundcake.host_down", "poundcake.begin"} <= {
        e["action"]["ref"] for e in documents
    }
    assert stack.traced_execution_ids(trail["request_id"]) <= {e["id"] for e in documents}
    # StackStorm emits a trigger for each new key and each ended execution, including the proof.
    documents += [
        t
        for t in stack.list_all("/triggerinstances", timestamp_gt=stack.started_at)
        if "key_value_pair" not in t["trigger"] and t["payload"].get("execution_id") != proof_id
    ]
    for document in documents:
        # The context of the pack's own executions contains the pack's configuration.
        text = json.dumps(dict(document, context=None))
        assert not any(secret in text for secret in secrets), text[:2000]
    paths = ("/status/" + trail["request_id"], "/executions/recent", "/alerts/active", "/health")
    for path in (*paths, "/st2/executions"):
        text = stack.get(path).text
        assert not any(secret in text for secret in secrets), path
    for table in ("poundcake_api_calls", "poundcake_alerts", "execution_db"):
        text = repr(stack.rows("SELECT * FROM " + table))
        assert not any(secret in text for secret in secrets), table
