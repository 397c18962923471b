"""Each outcome with its reason, in `status` and in `why`."""

from __future__ import annotations

import fnmatch
from collections import Counter
from datetime import datetime, timedelta, timezone

import pytest

from tests.lib.samples import as_inert
from tests.scenarios.notifications import ago, alert, name_of, notification, resolved

LIMIT = 100  # max_remediations_per_hour, without any configuration


@pytest.fixture(scope="module")
def sent(stack):
    """Return {case: (request_id, fingerprint, outcome, reason)}, one for each reason."""
    found = {}

    def send(case, one, outcome, reason):
        request_id = stack.accepted(notification(one))
        stack.recorded(request_id)  # the decision about the next one depends on it
        found[case] = (request_id, one.get("fingerprint"), outcome, reason)
        return request_id

    fires = alert("ScenarioLinked", minutes=30)
    first = send("new", fires, "admitted", "new incident")
    send("repeat", fires, "duplicate", "duplicate of " + first)
    send("end", resolved(fires), "resolved", f"ends the incident of {first}")
    send("ended again", resolved(fires), "duplicate", "no open incident")
    send("unconfirmed", fires, "unconfirmed", "fires * s after its resolve*")
    again = alert("ScenarioLinked", minutes=60, fingerprint=fires["fingerprint"])
    again.update(labels=fires["labels"], startsAt=ago(2))
    send("again", again, "admitted", "new incident, supersedes *")

    moved = alert("ScenarioUnmatched", minutes=50)
    send("unmatched", moved, "admitted", "new incident; no rule matched")
    episode = f"{moved['fingerprint']}-"
    send(
        "superseding",
        dict(moved, startsAt=ago(10)),
        "admitted",
        f"new incident, supersedes {episode}*; no rule matched",
    )
    send("old end", resolved(moved, minutes=30), "duplicate", f"ended before {episode}*")
    missing = alert("ScenarioMissing")
    send(
        "missing",
        missing,
        "admitted",
        "new incident; rule poundcake_scenarios.missing could not start its action: *",
    )
    send("malformed", dict(alert("Scenario"), status="?"), "malformed", "alerts[0].status: *")
    return found


def matches(reason, pattern):
    """Return True if a reason matches a pattern in which `*` stands for any text."""
    return fnmatch.fnmatchcase(reason.replace("[", "("), pattern.replace("[", "("))


CASES = (
    "new|repeat|end|ended again|unconfirmed|again|unmatched|superseding|old end|missing|malformed"
)


@pytest.mark.parametrize("case", CASES.split("|"))
def test_each_reason_is_shown_in_status_and_in_why(stack, sent, case):
    request_id, _, outcome, reason = sent[case]
    (shown,) = stack.trail_when(
        request_id, lambda t: t["completed_at"] and matches(t["alerts"][0]["reason"], reason)
    )["alerts"]
    assert shown["outcome"] == outcome

    viewed = stack.run("poundcake.why", fingerprint=shown["fingerprint"])
    alerts = [a for e in viewed["episodes"] for a in e["alerts"]]
    (same,) = [a for a in alerts if a["request_id"] == request_id]
    assert (same["outcome"], same["reason"]) == (outcome, as_inert(shown["reason"]))
    text = stack.run("poundcake.why", fingerprint=shown["fingerprint"], format="text")
    assert as_inert(shown["reason"]) in text and request_id in text


def test_alerts_of_one_name_beyond_the_hourly_limit_are_rate_limited(stack):
    storm = [alert("ScenarioStorm") for _ in range(LIMIT + 2)]
    for sent_alert in storm:
        sent_alert["labels"]["alertname"] = name_of(storm[0])
    trail = stack.completed(stack.accepted(notification(*storm)))
    limited = [a for a in trail["alerts"] if a["outcome"] == "rate_limited"]
    assert len(limited) == 2
    assert {a["outcome"] for a in trail["alerts"]} == {"admitted", "rate_limited"}
    reason = f"limit of {LIMIT} an hour for this alert name until "
    assert all(a["reason"].startswith(reason) for a in limited)
    viewed = stack.run("poundcake.why", alert_name=name_of(storm[0]), outcome="rate_limited")
    assert sorted(e["alerts"][0]["reason"] for e in viewed["episodes"]) == sorted(
        a["reason"] for a in limited
    )
    active = stack.get("/alerts/active", alert_name=name_of(storm[0]), outcome="rate_limited")
    assert {a["remediation_status"] for a in active.json()["active_alerts"]} == {
        a["reason"] for a in limited
    }


def test_an_alert_that_fires_again_within_the_cooldown_is_not_admitted(cooled):
    stack = cooled
    fires = alert("ScenarioUnmatched", minutes=30)
    stack.completed(stack.accepted(notification(fires)))
    stack.recorded(stack.accepted(notification(resolved(fires))))
    refused = stack.completed(stack.accepted(notification(dict(fires, startsAt=ago(1)))))
    (shown,) = refused["alerts"]
    assert shown["outcome"] == "cooldown"
    assert shown["reason"].startswith("cooldown until ")
    assert refused["stackstorm_executions"] == []
    viewed = stack.run("poundcake.why", fingerprint=fires["fingerprint"])
    newest = viewed["episodes"][0]
    assert (newest["state"], newest["alerts"][-1]["reason"]) == ("firing", shown["reason"])


@pytest.fixture(scope="module")
def cooled(kind, request):
    """Return a stack with a cooldown."""
    if kind == "live":
        shared_stack = request.getfixturevalue("stack")
        config = shared_stack.api("/configs/poundcake") or {"values": {}}
        if not config["values"].get("cooldown_seconds"):
            pytest.skip("live: cooldown_seconds is not set there")
        return shared_stack
    return request.getfixturevalue("new_stack")({"cooldown_seconds": 3600})


def test_why_shows_each_episode_from_start_to_end(stack, sent):
    _, fingerprint, _, _ = sent["new"]
    stack.completed(sent["again"][0])
    viewed = stack.run("poundcake.why", fingerprint=fingerprint)
    newest = viewed["episodes"][0]
    assert (newest["state"], newest["notifications"]) == ("firing", 1)
    assert len(newest["stackstorm_executions"]) == 1
    (first,) = [e for e in viewed["episodes"] if e["state"] == "resolved"]
    assert first["notifications"] == 2
    assert first["ends_at"] > first["starts_at"]
    # The rule on resolved alerts has an execution as well.
    linked = [
        e["status"]
        for e in first["stackstorm_executions"]
        if e["st2_workflow"] == "poundcake_scenarios.linked"
    ]
    assert linked == ["succeeded"]


def test_pages_neither_repeat_nor_skip_while_new_requests_arrive(stack):
    name = name_of(alert("ScenarioPaged"))

    def send():
        one = alert("ScenarioPaged")
        one["labels"]["alertname"] = name
        return stack.recorded(stack.accepted(notification(one)))["request_id"]

    sent = [send() for _ in range(5)]
    seen, before = [], ""
    while True:
        page = stack.get("/executions/recent", alert_name=name, limit=2, before=before).json()
        seen += [e["request_id"] for e in page["executions"]]
        if "next" not in page:
            break
        before = page["next"]
        send()
    assert seen == sent[::-1]
    last = stack.get("/executions/recent", alert_name=name, since="1h", limit=1).json()
    assert last["total"] == 7
    assert stack.get("/executions/recent", alert_name=name, until="1h").json()["total"] == 0


@pytest.mark.parametrize(
    "path, query, detail",
    [
        ("/executions/recent", {"since": "yesterday"}, "since: must be a time such as"),
        ("/executions/recent", {"outcome": "good"}, "outcome: must be one of admitted, "),
        ("/executions/recent", {"status": "broken"}, "status: must be one of firing, resolved"),
        ("/alerts/active", {"before": "x"}, "before: must be the `next` of the previous page"),
        ("/alerts/active", {"since": "1h", "until": "2h"}, "until: must be later than since"),
        ("/st2/executions", {"offset": "1001"}, "offset: must be a whole number from 0 to 1000"),
    ],
)
def test_an_unusable_filter_is_named(stack, path, query, detail):
    answer = stack.get(path, **query)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(detail)
    assert answer.json()["field"] == detail.split(":")[0]


def test_stats_count_what_ran(stack, sent):
    trails = [stack.completed(sent[case][0]) for case in ("new", "end", "again")]
    name = trails[0]["alerts"][0]["alert_name"]
    ran = [e["st2_workflow"] for t in trails for e in t["stackstorm_executions"]]
    viewed = stack.run("poundcake.stats", alert_name=name, since="1h")
    (row,) = viewed["alerts"]
    assert (row["alert_name"], row["count"], row["succeeded"], row["failed"]) == (name, 3, 3, 0)
    assert row["success_rate"] == 1 and row["p95_seconds"] >= row["mean_seconds"] > 0
    assert {w["workflow"]: w["count"] for w in viewed["workflows"]} == Counter(ran)
    assert name in stack.run("poundcake.stats", alert_name=name, since="1h", format="text")


def test_a_replay_remediates_again_only_with_force(stack):
    fires = alert("ScenarioLinked")
    first = stack.completed(stack.accepted(notification(fires)))
    (ran,) = first["stackstorm_executions"]

    viewed = stack.run("poundcake.replay", request_id=first["request_id"])
    assert (viewed["replay_of"], viewed["outcomes"]) == (first["request_id"], {"duplicate": 1})
    trail = stack.completed(viewed["request_id"])
    assert trail["replay_of"] == first["request_id"]
    assert trail["stackstorm_executions"] == []
    assert ran["st2_execution_id"] in trail["alerts"][0]["reason"]

    viewed = stack.run("poundcake.replay", request_id=first["request_id"], force=True)
    assert viewed["outcomes"] == {"admitted": 1}
    trail = stack.completed(viewed["request_id"])
    (again,) = trail["stackstorm_executions"]
    assert again["status"] == "succeeded"
    assert again["st2_execution_id"] != ran["st2_execution_id"]
    assert trail["alerts"][0]["episode"] == first["alerts"][0]["episode"]
    # There is still one incident, which the resolve closes.
    stack.completed(stack.accepted(notification(resolved(fires))))
    assert stack.active(name_of(fires)) == []


def test_a_request_that_no_rule_matched_is_replayed_without_force(stack):
    """An operator does this after adding a rule. Here no rule was added, so none matches again."""
    first = stack.completed(stack.accepted(notification(alert("ScenarioUnmatched"))))
    viewed = stack.run("poundcake.replay", request_id=first["request_id"])
    assert viewed["outcomes"] == {"admitted": 1}
    (shown,) = stack.completed(viewed["request_id"])["alerts"]
    assert shown["reason"] == f"replay of {first['request_id']}; no rule matched"
    assert len(stack.active(shown["alert_name"])) == 1


def test_who_replayed_is_on_record(stack):
    first = stack.completed(stack.accepted(notification(alert("ScenarioUnmatched"))))
    execution = stack.execute("poundcake.replay", request_id=first["request_id"])
    (entry,) = stack.trail(first["request_id"])["audit"]
    assert entry["action"] == "replay"
    assert entry["st2_user"] == execution["context"]["user"] != ""
    assert entry["execution_id"] == execution["id"]


def test_who_purged_is_on_record(stack):
    if stack.live:
        pytest.skip("live: there is no request that may be deleted")
    columns = "method, path, headers, body, status_code, truncated_alerts, body_sha256"
    values = "'POST', '/', '{}', '{}', 202, 0, ''"
    now = datetime.now(timezone.utc)
    for request_id, days in (("purged", 100), ("remains", 10)):
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
def test_nobody_acts_under_another_name(stack, action):
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
    viewed = stack.run("poundcake.purge", older_than_days=36500, dry_run=True)
    assert (viewed["dry_run"], viewed["requests"], viewed["alerts"]) == (True, 0, 0)
