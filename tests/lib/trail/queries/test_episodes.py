"""The view `why` shows the episodes of alerts with their notifications and executions."""

from __future__ import annotations

from poundcake.config import Config
from poundcake.trail import database, queries, text
from poundcake.trail.queries import episodes
from poundcake.trail.record import record_requests
from poundcake.trail.replay import replay_request
from poundcake.trail.schema import alerts
from poundcake.trail.search import Filters
from tests.lib.samples import NOON, alert, iso, later, request
from tests.lib.trail.queries.test_request_status import EXECUTION_KEYS
from tests.lib.trails import episode, pages, record, record_execution, view

JUDGEMENT_KEYS = "verdict title headline next_step next_command next_at".split()
EPISODE_KEYS = (
    "episode fingerprint alert_name severity instance labels summary runbook_url state starts_at"
    " ends_at last_seen_at notifications alerts stackstorm_executions"
).split()
NOTIFICATION_KEYS = "request_id received_at id status outcome reason st2_rule".split()


def read_episodes(engine, name="HostDown", **query):
    return view(engine, queries.why, Filters(alert_name=name), **query)["episodes"]


def render_lines(episode_view):
    return text.why({"episodes": [episode_view], "count": 1}).split("\n")


def test_the_view_has_the_documented_fields(engine, sample_request_id):
    page = view(engine, queries.why, Filters(alert_name="New"), web_url="https://st2.example")
    assert list(page) == ["episodes", "count"]
    assert page["count"] == 1
    (entry,) = page["episodes"]
    assert list(entry) == [*JUDGEMENT_KEYS, *EPISODE_KEYS, "claims", "timeline"]
    assert [list(notification) for notification in entry["alerts"]] == [NOTIFICATION_KEYS]
    assert [list(execution) for execution in entry["stackstorm_executions"]] == [EXECUTION_KEYS]
    assert entry["stackstorm_executions"][0]["url"] == "https://st2.example/#/history/e1"


def test_an_episode_shows_its_notification_and_its_execution(engine, sample_request_id):
    (entry,) = read_episodes(engine, "New")
    (notification,) = entry.pop("alerts")
    (execution,) = entry.pop("stackstorm_executions")
    assert {name: entry[name] for name in EPISODE_KEYS if name in entry} == {
        "episode": episode("new"),
        "fingerprint": "new",
        "alert_name": "New",
        "severity": "critical",
        "instance": "web-1:9100",
        "labels": {"id": "new"},
        "summary": "down",
        "runbook_url": "",
        "state": "firing",
        "starts_at": "2026-01-14T12:00:00Z",
        "ends_at": None,
        "last_seen_at": "2026-01-14T12:01:00Z",
        "notifications": 1,
    }
    assert entry["claims"] == [
        {
            "st2_execution_id": "e1",
            "st2_workflow": "poundcake.host_down",
            "result": "claimed",
            "reason": "",
        }
    ]
    assert notification == {
        "request_id": sample_request_id,
        "received_at": "2026-01-14T12:01:00Z",
        "id": execution["alert_id"],
        "status": "firing",
        "outcome": "admitted",
        "reason": "new incident",
        "st2_rule": "poundcake.host_down",
    }
    assert (execution["st2_execution_id"], execution["status"]) == ("e1", "succeeded")


def test_a_resolved_episode_shows_its_end(engine, sample_request_id):
    (entry,) = read_episodes(engine, "Old")
    assert (entry["state"], entry["ends_at"]) == ("resolved", "2026-01-14T12:00:30Z")
    assert (entry["notifications"], entry["last_seen_at"]) == (2, "2026-01-14T12:01:00Z")
    assert [a["outcome"] for a in entry["alerts"]] == ["admitted", "duplicate", "resolved"]
    first, second, _ = entry["alerts"]
    assert second["reason"] == "duplicate of " + first["request_id"]
    assert entry["stackstorm_executions"] == []


def test_the_episode_with_the_latest_notification_comes_first(engine):
    for n in range(3):
        record(engine, alert(fingerprint=f"f{n}"), received_at=later(n))
    record(engine, alert(fingerprint="f1"), received_at=later(60))
    assert [entry["fingerprint"] for entry in read_episodes(engine)] == ["f1", "f2", "f0"]


def test_a_superseded_episode_is_marked(engine):
    record(engine, alert(fingerprint="f"))
    record(engine, alert(fingerprint="f", starts_at=later(600)), received_at=later(600))
    new_entry, old_entry = read_episodes(engine)
    assert (new_entry["state"], old_entry["state"], old_entry["ends_at"]) == (
        "firing",
        "superseded",
        None,
    )
    assert new_entry["alerts"][0]["reason"] == "new incident, supersedes " + old_entry["episode"]


def test_unconfirmed_observed_and_expired_episodes_are_marked(engine):
    resolve = alert("Stale", fingerprint="s", status="resolved", ends_at=later(1))
    record(engine, resolve, received_at=later(1))
    record(engine, alert("Stale", fingerprint="s"), received_at=later(2))
    entry = read_episodes(engine, "Stale")[0]
    assert (entry["state"], entry["outcome"]) == ("firing", "unconfirmed")
    record(engine, resolve, received_at=later(3))
    entry = read_episodes(engine, "Stale")[0]
    assert (entry["state"], entry["ended_by"]) == ("resolved", "resolve")
    assert entry["ends_at"] == iso(later(3))

    record(engine, alert("Seen", startsAt="soon"), config=Config(receivers=("x",)))
    (entry,) = read_episodes(engine, "Seen")
    assert (entry["state"], entry["outcome"]) == ("firing", "observed")
    assert entry["alerts"][0]["notes"] == "startsAt: not a time: 'soon'"
    with database.transaction(engine) as connection:
        connection.execute(
            alerts.update()
            .where(alerts.c.alert_name == "Seen")
            .values(open_fingerprint=None, closed_at=later(60), ended_by="expired")
        )
    (entry,) = read_episodes(engine, "Seen")
    assert (entry["state"], entry["ends_at"]) == ("expired", iso(later(60)))


def test_a_resolve_without_an_end_ends_the_episode_when_it_is_received(engine):
    record(engine, alert(fingerprint="f"))
    resolve = alert(fingerprint="f", status="resolved", ends_at=None)
    request_id = record(engine, resolve, received_at=later(60))
    assert read_episodes(engine)[0]["ends_at"] == iso(later(60))
    (alert_view,) = view(engine, queries.status, request_id)["alerts"]
    assert alert_view["ends_at"] == iso(later(60))


def test_an_alert_without_an_episode_is_listed_separately(engine):
    record(engine, {"labels": {"alertname": "HostDown"}, "status": "?"})
    for n in (1, 2):
        resolve = alert(fingerprint="f", status="resolved", ends_at=later(n))
        record(engine, resolve, received_at=later(n))
    entries = read_episodes(engine)
    assert [(entry["episode"], entry["state"]) for entry in entries] == [("", "")] * 3
    assert [entry["alerts"][0]["reason"] for entry in entries[:2]] == ["no open incident"] * 2
    assert "alerts[0].status" in entries[2]["alerts"][0]["reason"]
    assert [entry["notifications"] for entry in entries] == [1] * 3


def test_each_reason_why_nothing_ran_is_shown(engine):
    resolve = alert("Late", fingerprint="late", status="resolved", ends_at=later(1))
    record(engine, resolve, received_at=later(2))
    record(engine, alert("Late", fingerprint="late"), received_at=later(1))
    reason = read_episodes(engine, "Late")[-1]["alerts"][0]["reason"]
    assert reason == "late: its resolve is already recorded"

    config = Config(max_remediations_per_hour=1)
    same_name_alerts = [alert("Many", fingerprint=f) for f in ("m1", "m2")]
    record(engine, *same_name_alerts, config=config)
    (notification,) = read_episodes(engine, "Many")[0]["alerts"]
    assert (notification["outcome"], notification["reason"]) == (
        "rate_limited",
        "limit of 1 per hour for this alert name until 2026-01-14T13:00:00Z",
    )

    config = Config(cooldown_seconds=3600)
    record(engine, alert("Cool", fingerprint="c"), config=config)
    record(
        engine,
        alert("Cool", fingerprint="c", status="resolved", ends_at=later(9)),
        alert("Cool", fingerprint="c", starts_at=later(60)),
        received_at=later(60),
        config=config,
    )
    cooling_entry, ended_entry = read_episodes(engine, "Cool")
    (notification,) = cooling_entry["alerts"]
    assert (notification["outcome"], notification["reason"]) == (
        "cooldown",
        "cooldown until 2026-01-14T13:00:00Z",
    )
    assert (cooling_entry["state"], ended_entry["state"]) == ("firing", "resolved")

    record(engine, alert("Nobody", fingerprint="n"))
    with database.transaction(engine) as connection:
        connection.execute(
            alerts.update()
            .where(alerts.c.fingerprint == "n")
            .values(explanation="no_rule", explanation_reason="no rule matched")
        )
    reason = read_episodes(engine, "Nobody")[0]["alerts"][0]["reason"]
    assert reason == "new incident; no rule matched"


def test_an_incident_that_waited_for_its_cooldown_shows_its_admission(engine):
    config = Config(cooldown_seconds=100)
    record(engine, alert(fingerprint="f"), config=config)
    resolve = alert(fingerprint="f", status="resolved", ends_at=later(9))
    record(engine, resolve, received_at=later(10), config=config)
    refire = alert(fingerprint="f", starts_at=later(20))
    for seconds in (30, 40, 90, 110, 120):
        record(engine, refire, received_at=later(seconds), config=config)
    entry = read_episodes(engine)[0]
    # The view shows the first notification and the newest of the others.
    assert [a["outcome"] for a in entry["alerts"]] == ["cooldown"] * 2 + ["admitted", "duplicate"]
    assert entry["alerts"][2]["reason"] == "first notification after cooldown"
    assert (entry["state"], entry["notifications"]) == ("firing", 5)
    assert entry["alerts_left_out"] == 1
    assert any(line.startswith("  1 more notification,") for line in render_lines(entry))
    assert (entry["starts_at"], entry["last_seen_at"]) == (iso(later(20)), iso(later(120)))


def test_the_newest_repeats_are_shown_and_the_others_are_counted(engine):
    request_id = record(engine, alert(fingerprint="f"))
    record_execution(engine, request_id, episode("f"))
    repeats = [request(alert(fingerprint="f"), received_at=later(n)) for n in range(1, 31)]
    record_requests(engine, Config(), repeats)
    for seconds in (None, 60):
        if seconds:
            resolve = alert(fingerprint="f", status="resolved", ends_at=later(55))
            record(engine, resolve, received_at=later(seconds))
        (entry,) = read_episodes(engine)
        outcomes = [a["outcome"] for a in entry["alerts"]]
        assert len(outcomes) < 10
        last = "resolved" if seconds else "duplicate"
        assert (outcomes[0], outcomes[-1]) == ("admitted", last)
        assert set(outcomes[1:-1]) == {"duplicate"}
        assert entry["alerts"][-2]["request_id"] in {r.request_id for r in repeats[-2:]}
        assert entry["notifications"] == 31
        firing = [a for a in entry["alerts"] if a["status"] == "firing"]
        assert entry["alerts_left_out"] == 31 - len(firing)
        count = f"  {31 - len(firing)} more notifications,"
        assert any(line.startswith(count) for line in render_lines(entry))
        assert [e["st2_execution_id"] for e in entry["stackstorm_executions"]] == ["e1"]


def test_a_notification_overtaken_by_the_resolve_is_not_counted(engine):
    for n in range(6):
        record(engine, alert(fingerprint="f"), received_at=later(n))
    resolve = alert(fingerprint="f", status="resolved", ends_at=later(9))
    record(engine, resolve, received_at=later(12))
    record(engine, alert(fingerprint="f"), received_at=later(11))
    (entry,) = read_episodes(engine)
    received = [a["received_at"] for a in entry["alerts"] if a["outcome"] != "resolved"]
    assert received == [iso(later(0)), iso(later(5)), iso(later(11))]
    assert (entry["notifications"], entry["alerts_left_out"]) == (6, 4)


def test_a_replay_is_shown_and_not_counted_again(engine):
    request_id = record(engine, alert(fingerprint="f"), received_at=NOON)
    replay_request(engine, Config(), request_id, force=True)
    (entry,) = read_episodes(engine)
    assert [len(entry["alerts"]), entry["notifications"]] == [2, 2]
    assert "alerts_left_out" not in entry


def test_a_resolve_without_an_incident_says_so_and_has_a_short_command(engine):
    resolve = alert(fingerprint="f", status="resolved", ends_at=later(9))
    request_id = record(engine, resolve, received_at=later(12))
    (entry,) = read_episodes(engine)
    assert entry["headline"] == "the resolve ended no incident: no open incident"
    assert entry["next_command"].endswith(f" request_id={request_id[:13]}")
    assert len(f"  run: {entry['next_command']}") <= 80


def test_a_noisy_episode_does_not_hide_others(engine, monkeypatch):
    monkeypatch.setattr(episodes, "_MAX_NOTIFICATIONS", 20)
    quiet = [request(alert(fingerprint="quiet"), received_at=later(n)) for n in range(8)]
    record_requests(engine, Config(), quiet)
    noise = [
        request(alert(fingerprint=f), received_at=later(n))
        for f, n in [("other", 9)] + [("noisy", n) for n in range(10, 40)]
    ]
    # The limit is used up, so each notification of the noisy alert is rate-limited.
    record_requests(engine, Config(max_remediations_per_hour=1), noise)
    for until, page_count in ((later(12), 1), (None, 2)):
        filters = Filters(alert_name="HostDown", until=until)
        page_list = list(pages(engine, queries.why, filters=filters))
        entries = [entry for page in page_list for entry in page["episodes"]]
        assert len(page_list) == page_count
        assert [entry["fingerprint"] for entry in entries] == ["noisy", "other", "quiet"]
        assert [entry["state"] for entry in entries] == ["firing"] * 3
        assert [entry["notifications"] for entry in entries] == [30, 1, 8]
        assert entries[2]["alerts"][0]["outcome"] == "admitted"


def test_a_page_ends_between_two_episodes_of_a_request(engine):
    payload_alerts = [alert(fingerprint=f) for f in ("f1", "f2", "f3")]
    request_id = record(engine, *payload_alerts, received_at=later(1))
    record(engine, alert(fingerprint="f0"))
    fingerprints = []
    for page in pages(engine, queries.why, filters=Filters(alert_name="HostDown"), limit=1):
        (entry,) = page["episodes"]
        fingerprints.append((entry["fingerprint"], entry["alerts"][0]["request_id"] == request_id))
    assert fingerprints == [("f3", True), ("f2", True), ("f1", True), ("f0", False)]


def test_notifications_are_in_order_of_receipt(engine):
    record(engine, alert(fingerprint="f"), received_at=later(10))
    record(engine, alert(fingerprint="f", starts_at=later(-5)), received_at=later(5))
    record(engine, alert(fingerprint="g"), received_at=later(7))
    entries = read_episodes(engine)
    assert [entry["fingerprint"] for entry in entries] == ["f", "g"]
    received = [a["received_at"] for a in entries[0]["alerts"]]
    assert received == [iso(later(5)), iso(later(10))]
