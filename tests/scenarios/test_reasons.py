"""The reason for each outcome, as `status` and `why` show it."""

from __future__ import annotations

import fnmatch
from collections import Counter
from datetime import datetime, timedelta, timezone

import pytest

from tests.lib.samples import as_inert
from tests.scenarios.notifications import ago, alert, name_of, notification, resolved


@pytest.fixture(scope="module")
def sent_cases(stack):
    """Return {case: (request_id, fingerprint, outcome, reason)}, one for each reason."""
    cases = {}

    def send(case, sent_alert, outcome, reason):
        request_id = stack.send(notification(sent_alert))
        stack.wait_until_recorded(request_id)  # the decision about the next alert depends on it
        cases[case] = (request_id, sent_alert.get("fingerprint"), outcome, reason)
        return request_id

    firing_alert = alert("ScenarioLinked", minutes=30)
    first_id = send("new", firing_alert, "admitted", "new incident")
    send("repeat", firing_alert, "duplicate", "duplicate of " + first_id)
    send("end", resolved(firing_alert), "resolved", f"ends the incident of {first_id}")
    send("ended again", resolved(firing_alert), "duplicate", "no open incident")
    send("unconfirmed", firing_alert, "unconfirmed", "fires * s after its resolve*")
    superseding_alert = alert("ScenarioLinked", minutes=60, fingerprint=firing_alert["fingerprint"])
    superseding_alert.update(labels=firing_alert["labels"], startsAt=ago(2))
    send("again", superseding_alert, "admitted", "new incident, supersedes *")

    unmatched_alert = alert("ScenarioUnmatched", minutes=50)
    send("unmatched", unmatched_alert, "admitted", "new incident; no rule matched")
    episode = f"{unmatched_alert['fingerprint']}-"
    send(
        "superseding",
        dict(unmatched_alert, startsAt=ago(10)),
        "admitted",
        f"new incident, supersedes {episode}*; no rule matched",
    )
    send("old end", resolved(unmatched_alert, minutes=30), "duplicate", f"ended before {episode}*")
    alert_without_action = alert("ScenarioMissing")
    send(
        "missing",
        alert_without_action,
        "admitted",
        "new incident; rule poundcake_scenarios.missing could not start its action: *",
    )
    send("malformed", dict(alert("Scenario"), status="?"), "malformed", "alerts[0].status: *")
    return cases


@pytest.fixture(scope="module")
def histories(stack, sent_cases):
    """Return {fingerprint: (history, text)} as `why` shows them, once every case is completed."""
    trails = [stack.wait_until_completed(case[0]) for case in sent_cases.values()]
    return {
        fingerprint: (
            stack.run("poundcake.why", fingerprint=fingerprint),
            stack.run("poundcake.why", fingerprint=fingerprint, format="text"),
        )
        for fingerprint in {trail["alerts"][0]["fingerprint"] for trail in trails}
    }


def matches(reason, pattern):
    """Return True if a reason matches a pattern. `*` matches any text."""
    return fnmatch.fnmatchcase(reason.replace("[", "("), pattern.replace("[", "("))


CASES = (
    "new|repeat|end|ended again|unconfirmed|again|unmatched|superseding|old end|missing|malformed"
)


@pytest.mark.parametrize("case", CASES.split("|"))
def test_each_reason_is_shown_in_status_and_in_why(stack, sent_cases, histories, case):
    request_id, _, expected_outcome, reason = sent_cases[case]
    (alert_view,) = stack.wait_for_trail(
        request_id, lambda t: t["completed_at"] and matches(t["alerts"][0]["reason"], reason)
    )["alerts"]
    assert alert_view["outcome"] == expected_outcome

    history, text = histories[alert_view["fingerprint"]]
    alerts = [a for e in history["episodes"] for a in e["alerts"]]
    (row,) = [a for a in alerts if a["request_id"] == request_id]
    assert row["outcome"] == expected_outcome
    assert row["reason"] == as_inert(alert_view["reason"])
    assert history["episodes"][0]["title"] in text
    assert history["episodes"][0]["alerts"][-1]["request_id"] in text


def test_alerts_over_the_hourly_limit_of_their_name_are_rate_limited(stack):
    alerts = [alert("ScenarioStorm") for _ in range(4)]
    for sent_alert in alerts:
        sent_alert["labels"]["alertname"] = name_of(alerts[0])
    with stack.configured(max_remediations_per_hour=2):
        trail = stack.wait_until_completed(stack.send(notification(*alerts)))
    limited_alerts = [a for a in trail["alerts"] if a["outcome"] == "rate_limited"]
    assert len(limited_alerts) == 2
    assert {a["outcome"] for a in trail["alerts"]} == {"admitted", "rate_limited"}
    assert all(
        a["reason"].startswith("limit of 2 per hour for this alert name until ")
        for a in limited_alerts
    )
    history = stack.run("poundcake.why", alert_name=name_of(alerts[0]), outcome="rate_limited")
    assert sorted(e["alerts"][0]["reason"] for e in history["episodes"]) == sorted(
        a["reason"] for a in limited_alerts
    )
    incidents = stack.get("/alerts/active", alert_name=name_of(alerts[0]), outcome="rate_limited")
    assert {a["remediation_status"] for a in incidents.json()["active_alerts"]} == {
        a["reason"] for a in limited_alerts
    }


def test_an_alert_that_fires_again_within_the_cooldown_is_not_admitted(stack):
    firing_alert = alert("ScenarioUnmatched", minutes=30)
    with stack.configured(cooldown_seconds=3600):
        stack.wait_until_recorded(stack.send(notification(firing_alert)))
        stack.wait_until_recorded(stack.send(notification(resolved(firing_alert))))
        repeated_alert = dict(firing_alert, startsAt=ago(1))
        trail = stack.wait_until_completed(stack.send(notification(repeated_alert)))
    (alert_view,) = trail["alerts"]
    assert alert_view["outcome"] == "cooldown"
    assert alert_view["reason"].startswith("cooldown until ")
    assert trail["stackstorm_executions"] == []
    history = stack.run("poundcake.why", fingerprint=firing_alert["fingerprint"])
    newest_episode = history["episodes"][0]
    assert (newest_episode["state"], newest_episode["alerts"][-1]["reason"]) == (
        "firing",
        alert_view["reason"],
    )


def test_why_shows_each_episode_from_start_to_end(stack, sent_cases):
    _, fingerprint, _, _ = sent_cases["new"]
    stack.wait_until_completed(sent_cases["again"][0])
    history = stack.run("poundcake.why", fingerprint=fingerprint)
    newest_episode = history["episodes"][0]
    assert (newest_episode["state"], newest_episode["notifications"]) == ("firing", 1)
    assert len(newest_episode["stackstorm_executions"]) == 1
    (resolved_episode,) = [e for e in history["episodes"] if e["state"] == "resolved"]
    assert resolved_episode["notifications"] == 2
    assert resolved_episode["ends_at"] > resolved_episode["starts_at"]
    # The rule for resolved alerts has an execution as well.
    statuses = [
        e["status"]
        for e in resolved_episode["stackstorm_executions"]
        if e["st2_workflow"] == "poundcake_scenarios.linked"
    ]
    assert statuses == ["succeeded"]


def test_stats_count_alerts_and_workflows(stack, sent_cases):
    trails = [stack.wait_until_completed(sent_cases[case][0]) for case in ("new", "end", "again")]
    name = trails[0]["alerts"][0]["alert_name"]
    workflows = [e["st2_workflow"] for t in trails for e in t["stackstorm_executions"]]
    stats = stack.run("poundcake.stats", alert_name=name, since="1h")
    (row,) = stats["alerts"]
    assert (row["alert_name"], row["count"], row["succeeded"], row["failed"]) == (name, 3, 3, 0)
    assert row["success_rate"] == 1 and row["p95_seconds"] >= row["mean_seconds"] > 0
    assert {w["workflow"]: w["count"] for w in stats["workflows"]} == Counter(workflows)
    assert name in stack.run("poundcake.stats", alert_name=name, since="1h", format="text")


def test_a_replay_remediates_again_only_with_force(stack):
    firing_alert = alert("ScenarioLinked")
    first_trail = stack.wait_until_completed(stack.send(notification(firing_alert)))
    (first_execution,) = first_trail["stackstorm_executions"]

    replay = stack.run("poundcake.replay", request_id=first_trail["request_id"])
    assert replay["replay_of"] == first_trail["request_id"]
    assert replay["outcomes"] == {"duplicate": 1}
    (reason,) = replay["reasons"]["duplicate"]
    assert first_execution["st2_execution_id"] in reason
    request_id = first_trail["request_id"]
    assert replay["next_command"] == (
        f"st2 run poundcake.replay request_id={request_id} force=true"
    )
    trail = stack.wait_until_completed(replay["request_id"])
    assert trail["replay_of"] == first_trail["request_id"]
    assert trail["stackstorm_executions"] == []
    assert first_execution["st2_execution_id"] in trail["alerts"][0]["reason"]

    replay = stack.run("poundcake.replay", request_id=first_trail["request_id"], force=True)
    assert replay["outcomes"] == {"admitted": 1}
    trail = stack.wait_until_completed(replay["request_id"])
    (second_execution,) = trail["stackstorm_executions"]
    assert second_execution["status"] == "succeeded"
    assert second_execution["st2_execution_id"] != first_execution["st2_execution_id"]
    assert trail["alerts"][0]["episode"] == first_trail["alerts"][0]["episode"]
    # There is still one incident, which the resolve closes.
    stack.wait_until_completed(stack.send(notification(resolved(firing_alert))))
    assert stack.active_alerts(name_of(firing_alert)) == []


def test_a_request_that_no_rule_matched_is_replayed_without_force(stack):
    """An operator does this after adding a rule. Here no rule was added, so again none matches."""
    first_trail = stack.wait_until_completed(stack.send(notification(alert("ScenarioUnmatched"))))
    replay = stack.run("poundcake.replay", request_id=first_trail["request_id"])
    assert replay["outcomes"] == {"admitted": 1}
    (alert_view,) = stack.wait_until_completed(replay["request_id"])["alerts"]
    assert alert_view["reason"] == f"replay of {first_trail['request_id']}; no rule matched"
    assert len(stack.active_alerts(alert_view["alert_name"])) == 1


def test_a_replay_is_audited_with_its_user(stack):
    trail = stack.wait_until_completed(stack.send(notification(alert("ScenarioUnmatched"))))
    execution = stack.execute("poundcake.replay", request_id=trail["request_id"])
    (entry,) = stack.get_trail(trail["request_id"])["audit"]
    assert entry["action"] == "replay"
    assert entry["st2_user"] == execution["context"]["user"] != ""
    assert entry["execution_id"] == execution["id"]


def test_a_purge_is_audited_with_its_user(stack):
    if stack.is_live:
        pytest.skip("live: no request there may be deleted")
    columns = "method, path, headers, body, status_code, truncated_alerts, body_sha256"
    values = "'POST', '/', '{}', '{}', 202, 0, ''"
    now = datetime.now(timezone.utc)
    for request_id, days in (("purged", 100), ("kept", 10)):
        stack.write(
            f"INSERT INTO poundcake_api_calls (request_id, created_at, completed_at, {columns})"
            f" VALUES (:request_id, :at, :at, {values})",
            request_id=request_id,
            at=(now - timedelta(days=days)).strftime("%Y-%m-%d %H:%M:%S.%f"),
        )
    execution = stack.execute("poundcake.purge", older_than_days=90)
    assert execution["result"]["result"]["requests"] == 1
    (entry,) = stack.rows("SELECT * FROM poundcake_audit WHERE action = 'purge'")
    assert entry["st2_user"] == execution["context"]["user"] != ""
    assert entry["execution_id"] == execution["id"]


@pytest.mark.parametrize("action", ["acknowledge", "close", "release", "replay", "purge"])
def test_the_audited_user_cannot_be_set_as_a_parameter(stack, action):
    parameters = {"st2_user": "mallory"}
    if action == "release":
        parameters["episode"] = "0123456789abcdef-1"
    if action == "replay":
        parameters["request_id"] = "0b1e6f0a-5a1c-4c3e-9d5f-2f7a1c9e4b60"
    if action == "close":
        parameters.update(alert_name="Nothing", comment="gone")
    with pytest.raises(AssertionError, match="immutable.*st2_user"):
        stack.execute("poundcake." + action, **parameters)


def test_a_dry_run_of_purge_reports_what_it_would_delete(stack):
    result = stack.run("poundcake.purge", older_than_days=36500, dry_run=True)
    assert (result["dry_run"], result["requests"], result["alerts"]) == (True, 0, 0)
