"""Case A11 of docs/CASES.md with a corpus: expressions for a secret in every text of an alert.

The alerts pass through every rule and workflow of the pack, and again by re-run and by replay.
"""

from __future__ import annotations

import base64
import json
import os
import uuid

import pytest

from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification, unique

# Evaluation does not depend on the kind of database, so one is enough.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")

VARIABLE = "POUNDCAKE_PLANTED"
# Expressions for secrets of the datastore, of the pack's configuration and of the environment.
SECRETS = (
    "st2kv.system.poundcake_scenario_secret",
    'st2kv("system.poundcake_scenario_secret", decrypt=true)',
    "config_context.basic_auth",
    f'cycler.__init__.__globals__.os.environ["{VARIABLE}"]',
)
# In Jinja and YAQL, nested, incomplete, and hidden from a search for delimiters.
FORMS = (
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
OTHERS = (
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
TEXTS = tuple(form % secret for secret in SECRETS for form in FORMS) + OTHERS
NAMES = ("HostDown", "InstanceDown", "NodeDown", "ScenarioHostileText", "ScenarioUnmatched")
TOKEN = "a-token-" + uuid.uuid4().hex


@pytest.fixture(scope="module")
def stack_with_secrets(request, kind):
    """Plant secrets, and prove that an evaluated text would expose one.

    Return the stack, the secrets, the id of the execution that proves it, and the position after
    which the log no longer mentions that execution.
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
    key = "/keys/poundcake_scenario_secret"
    stack.api(key, "PUT", {"name": "poundcake_scenario_secret", "value": value})
    shown = stack.execute("core.echo", message=f"{{{{ {SECRETS[0]} }}}}")
    assert value in json.dumps(shown["result"])
    yield stack, [s for s in secrets if s] + [value], shown["id"], stack.wait_until_logged(value)
    if kind == "live":
        stack.api(key, "DELETE")


@pytest.fixture(scope="module")
def sent(stack_with_secrets):
    """Send all texts in every place. Return the payload and its trail once it is completed."""
    assert len(set(TEXTS)) == len(TEXTS) >= 60
    stack = stack_with_secrets[0]
    count = 20 if stack.live else 10
    alerts = []
    for i in range(count):
        # Every text is the value and the name of a label and of an annotation, and the first one is
        # also the instance.
        own = [TEXTS[i]] + [t for n, t in enumerate(TEXTS) if n % count == i and n != i]
        labels = {f"l{n}": text for n, text in enumerate(own)}
        labels.update(dict.fromkeys(own, "x"), opening="{", closing=own[0][1:])
        labels.update(alertname=NAMES[i % len(NAMES)], instance=own[0], severity=own[-1])
        labels["run"] = unique("run")
        found = alert("Scenario", labels=labels, annotations={text: text for text in own})
        alerts.append(dict(found, generatorURL=own[0]))
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
    request_id = stack.accepted(payload, headers)
    return payload, stack.trail_when(request_id, lambda t: t["completed_at"], timeout=900)


def test_hostile_text_does_not_change_how_workflows_end(stack_with_secrets, sent):
    stack = stack_with_secrets[0]
    payload, trail = sent
    executions = {e["alert_id"]: e for e in trail["stackstorm_executions"]}
    assert len(trail["alerts"]) == len(payload["alerts"])
    for shown, given in zip(trail["alerts"], payload["alerts"]):
        name = shown["alert_name"]
        assert shown["outcome"] == "admitted", shown
        assert (name, shown["instance"]) == (
            given["labels"]["alertname"],
            given["labels"]["instance"],
        )
        if name == "ScenarioUnmatched":
            assert shown["reason"].endswith("no rule matched")
            continue
        execution = executions[shown["id"]]
        ended = (execution["status"], execution["stage"], execution["mutated"])
        if name == "ScenarioHostileText":
            assert ended[0] == "succeeded", execution
        else:
            # A refusal is a failure only if changes are allowed.
            dry_run = stack.get("/health").json()["dry_run"]
            assert ended == ("succeeded" if dry_run else "failed", "refused", False), execution


def test_workflows_started_by_hand_by_re_run_and_by_replay(stack_with_secrets, sent):
    stack = stack_with_secrets[0]
    _, trail = sent
    unmatched = next(a for a in trail["alerts"] if a["alert_name"] == "ScenarioUnmatched")
    same = {"request_id": trail["request_id"], "episode": unmatched["episode"]}
    by_default = stack.execute("poundcake.default", **same)
    assert by_default["status"] == "succeeded", by_default["result"]
    wrapped = stack.execute(
        "poundcake.remediate", action="core.local", parameters={"cmd": "true"}, **same
    )
    assert wrapped["result"]["output"]["stage"] == "refused"
    ran = [e["st2_execution_id"] for e in trail["stackstorm_executions"]][:4]
    for id_ in ran:
        again = stack.ended(stack.api(f"/executions/{id_}/re_run", "POST", {})["id"])
        assert again["status"] in ("succeeded", "failed")
        if (
            again["action"]["ref"] == "poundcake.host_down"
        ):  # it names no action, so it claims nothing
            assert again["result"]["output"]["stage"] == "refused"
    replayed = stack.run("poundcake.replay", request_id=trail["request_id"], force=True)
    stack.trail_when(replayed["request_id"], lambda t: t["completed_at"], timeout=900)


def test_hostile_output_of_a_host(stack_with_secrets):
    stack = stack_with_secrets[0]
    texts = {"texts": base64.b64encode(json.dumps(TEXTS).encode()).decode()}
    failing = alert("ScenarioHostPrints", labels=texts)
    mending = alert("ScenarioMendedHostPrints", labels=texts)
    request_id = stack.accepted(notification(failing, mending))
    trail = stack.trail_when(request_id, lambda t: t["completed_at"], timeout=300)

    failed, second = sorted(trail["stackstorm_executions"], key=lambda e: e["alert_id"])
    assert (failed["st2_workflow"], failed["status"]) == ("poundcake_scenarios.prints", "failed")
    if stack.live and second["stage"] == "refused":
        assert "allowed_actions does not contain poundcake_scenarios.prints" in second["message"]
    else:
        assert (second["stage"], second["message"]) == ("done", "the action succeeded")
    # The reason is recorded verbatim, and is inert in the result of every action.
    [row] = stack.rows(
        "SELECT error FROM execution_db WHERE id = :id", id=failed["st2_execution_id"]
    )
    assert row["error"].startswith(" ".join(TEXTS[:9]))
    for ref, parameters in (
        ("poundcake.status", {"request_id": request_id}),
        ("poundcake.why", {"fingerprint": failing["fingerprint"]}),
    ):
        shown = json.dumps(stack.run(ref, format="json", **parameters))
        assert "poundcake_scenario_secret" in shown
        assert not [d for d in ("{{", "{%", "{#", "<%") if d in shown], ref
    for id_ in (failed["st2_execution_id"], second["st2_execution_id"]):
        assert stack.ended(stack.api(f"/executions/{id_}/re_run", "POST", {})["id"])


def test_every_text_is_recorded_as_it_was_sent(stack_with_secrets, sent):
    stack = stack_with_secrets[0]
    payload, trail = sent
    rows = stack.rows(
        """SELECT a.position, a.labels, a.annotations, a.instance, c.body, c.headers
           FROM poundcake_alerts a JOIN poundcake_api_calls c ON c.id = a.api_call_id
           WHERE c.request_id = :request ORDER BY a.position""",
        request=trail["request_id"],
    )
    assert len(rows) == len(payload["alerts"])
    for row, given in zip(rows, payload["alerts"]):
        assert json.loads(row["labels"]) == given["labels"]
        assert json.loads(row["annotations"]) == given["annotations"]
        assert row["instance"] == given["labels"]["instance"]
    assert json.loads(rows[0]["body"]) == payload
    headers = json.loads(rows[0]["headers"])
    assert (headers["User-Agent"], headers["Traceparent"]) == (TEXTS[0], TEXTS[11])


def test_no_secret_leaks(stack_with_secrets, sent):
    """This must be the last test of the file, because it searches the results of all others."""
    stack, secrets, shown, proved = stack_with_secrets
    _, trail = sent
    # At log level debug, StackStorm logs the proof itself, and the results of the queries below.
    text = stack.log(after=proved)
    assert not any(secret in text for secret in secrets)
    kept = [e for e in stack.listed("/executions", timestamp_gt=stack.began) if e["id"] != shown]
    assert {"poundcake.record", "poundcake.host_down", "poundcake.get_alert"} <= {
        e["action"]["ref"] for e in kept
    }
    # StackStorm emits a trigger for each new key and each ended execution, including the proof.
    kept += [
        t
        for t in stack.listed("/triggerinstances", timestamp_gt=stack.began)
        if "key_value_pair" not in t["trigger"] and t["payload"].get("execution_id") != shown
    ]
    for one in kept:
        # The context of the pack's own executions contains the pack's configuration.
        text = json.dumps(dict(one, context=None))
        assert not any(secret in text for secret in secrets), text[:2000]
    paths = ("/status/" + trail["request_id"], "/executions/recent", "/alerts/active", "/health")
    for path in (*paths, "/st2/executions"):
        text = stack.get(path).text
        assert not any(secret in text for secret in secrets), path
    for table in ("poundcake_api_calls", "poundcake_alerts", "execution_db"):
        text = repr(stack.rows("SELECT * FROM " + table))
        assert not any(secret in text for secret in secrets), table
