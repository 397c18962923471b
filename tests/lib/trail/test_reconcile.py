"""Sync compares open incidents with the alerts that the Alertmanagers hold.

Sync closes an incident only if all conditions are met. Each test in TestStaysOpenIf violates one.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from poundcake.config import Config
from poundcake.trail import clock, database, queries, sync, text
from poundcake.trail.open_work import open_work
from poundcake.trail.queries.rows import format_optional
from poundcake.trail.record import record_requests
from poundcake.trail.schema import alerts
from poundcake.trail.search import Filters
from poundcake.trail.silences import ChangeSilence
from tests.lib.fake_alertmanager import FakeAlertmanager
from tests.lib.samples import alert, request
from tests.lib.sync_trail import SyncTrail
from tests.lib.trails import view

URL = "http://alertmanager.example"  # the externalURL of samples.webhook()
GONE_AFTER = 600


class ReconciledTrail(SyncTrail):
    """A trail with its Alertmanagers, and with a clock that tests advance."""

    def __init__(self, engine, monkeypatch):
        super().__init__(engine)
        self.now = datetime(2026, 1, 14, 12, 0, tzinfo=timezone.utc)
        self.alertmanagers = [FakeAlertmanager(URL)]
        self.settings = {"gone_after_seconds": GONE_AFTER}
        monkeypatch.setattr(clock, "database_now", lambda connection: self.now)

    @property
    def primary(self):
        return self.alertmanagers[0]

    @property
    def config(self):
        return Config(**self.settings)

    def notify(self, *names, **webhook_fields):
        """Record a notification that is received now."""
        webhook_request = request(
            *(alert(name) for name in names), received_at=self.now, **webhook_fields
        )
        record_requests(self.engine, Config(cooldown_seconds=0), [webhook_request])
        return webhook_request.request_id

    def run_round(self, after=0):
        """Run a round of sync `after` seconds later, and return its counts."""
        self.now += timedelta(seconds=after)
        return sync.sync(self.engine, self.config, self.stackstorm, self.alertmanagers)

    def read_states(self):
        """Return how each incident ended, or "open" if it has not, by alert name."""
        incidents = [row for row in self.rows(alerts) if row.open_fingerprint or row.closed_at]
        return {row.alert_name: row.ended_by or "open" for row in incidents}

    def read_open_work(self):
        with database.reading(self.engine) as connection:
            return open_work(connection, 0, reconciles=True)


@pytest.fixture
def trail(engine, monkeypatch):
    new_trail = ReconciledTrail(engine, monkeypatch)
    new_trail.notify("HostDown")
    new_trail.now += timedelta(seconds=30)
    return new_trail


class TestGone:
    def test_an_incident_whose_alert_is_gone_is_closed(self, trail):
        trail.notify("Other")
        trail.primary.hold("Other")
        assert [trail.run_round(30).gone, trail.run_round(GONE_AFTER).gone] == [0, 1]
        row = trail.rows(alerts)[0]
        assert (row.ended_by, row.open_fingerprint, row.closed_at) == ("gone", None, trail.now)
        assert trail.read_states() == {"HostDown": "gone", "Other": "open"}
        assert trail.run_round(GONE_AFTER).gone == 0

    def test_the_views_show_how_the_incident_ended(self, trail):
        trail.run_round()
        trail.run_round(GONE_AFTER)
        answer = view(trail.engine, queries.why, Filters())
        (episode,) = answer["episodes"]
        assert (episode["state"], episode["ended_by"]) == ("gone", "gone")
        assert episode["ends_at"] == format_optional(trail.now)
        assert "no Alertmanager holds the alert any more" in text.why(answer)
        assert episode["verdict"] == "gone"

    def test_the_alert_may_fire_again(self, trail):
        trail.run_round()
        trail.run_round(GONE_AFTER)
        trail.notify("HostDown")
        assert [row.outcome for row in trail.rows(alerts)] == ["admitted", "admitted"]
        assert len({row.episode for row in trail.rows(alerts)}) == 2


class TestStaysOpenIf:
    """If one condition for closing the incident is not met, it stays open."""

    @pytest.fixture(autouse=True)
    def check_that_the_incident_stays_open(self, trail):
        yield
        assert trail.read_states()["HostDown"] == "open"

    def test_the_alert_is_held(self, trail):
        trail.primary.hold("HostDown")
        for _ in range(3):
            trail.run_round(GONE_AFTER)

    def test_only_the_second_alertmanager_holds_the_alert(self, trail):
        trail.alertmanagers.append(FakeAlertmanager("http://am-2.example").hold("HostDown"))
        for _ in range(3):
            trail.run_round(GONE_AFTER)

    def test_the_alert_was_missing_too_briefly(self, trail):
        trail.run_round()
        trail.run_round(GONE_AFTER - 1)

    def test_the_alert_was_missing_in_only_one_round(self, trail):
        trail.run_round(10 * GONE_AFTER)

    def test_the_alert_was_held_in_a_round_in_between(self, trail):
        trail.run_round()
        trail.primary.hold("HostDown")
        trail.run_round(GONE_AFTER / 2)
        trail.primary.hold()
        trail.run_round(GONE_AFTER / 2)

    @pytest.mark.parametrize("broken", ["alerts", "status"])
    def test_an_alertmanager_does_not_answer(self, trail, broken):
        trail.alertmanagers.append(FakeAlertmanager("http://am-2.example"))
        trail.run_round()
        trail.alertmanagers[1].failing_methods.add(broken)
        counts = trail.run_round(GONE_AFTER)
        problem = f"alertmanagers, http://am-2.example: {broken}: connection refused"
        assert counts.problems == (problem,)
        assert trail.read_open_work().monitoring_problem == problem

    def test_no_alertmanager_answered_in_the_first_round(self, trail):
        trail.primary.failing_methods.add("alerts")
        trail.run_round()
        trail.primary.failing_methods.clear()
        trail.run_round(GONE_AFTER)

    def test_an_alertmanager_has_just_started(self, trail):
        trail.run_round()
        trail.primary.uptime = timedelta(seconds=GONE_AFTER - 1)
        trail.run_round(GONE_AFTER)

    def test_the_sender_is_not_configured(self, trail):
        trail.notify("HostDown", externalURL="http://grafana.example")
        for _ in range(3):
            trail.run_round(GONE_AFTER)

    def test_the_sender_has_no_external_url(self, trail):
        trail.change(alerts, external_url="")
        for _ in range(3):
            trail.run_round(GONE_AFTER)

    def test_a_notification_is_received_between_the_two_rounds(self, trail):
        trail.run_round()
        trail.now += timedelta(seconds=GONE_AFTER / 2)
        trail.notify("HostDown")
        trail.run_round(GONE_AFTER / 2)

    def test_a_notification_arrived_just_before_the_query(self, trail):
        """The time of receipt comes from the endpoint's clock, which may be some seconds behind."""
        trail.notify("HostDown")
        trail.run_round(1)
        trail.run_round(GONE_AFTER)

    def test_a_notification_is_recorded_during_the_round(self, trail):
        trail.run_round()

        def status():
            trail.notify("HostDown")
            return FakeAlertmanager.status(trail.primary)

        trail.primary.status = status
        trail.run_round(GONE_AFTER)

    def test_no_alertmanager_is_configured(self, trail):
        trail.run_round()
        trail.alertmanagers = []
        trail.run_round(GONE_AFTER)
        assert trail.one().missing_since is None


class TestIdentity:
    @pytest.mark.parametrize(
        "config, labels",
        [
            ({}, {"empty": ""}),
            ({"ignored_labels": ("pod",)}, {"pod": "b"}),
            ({"identity_source": "external_url"}, {}),
        ],
    )
    def test_the_identity_is_computed_as_for_webhooks(self, trail, config, labels):
        trail.settings.update(config)
        webhook_request = request(alert("Same", labels={"pod": "a"} if labels.get("pod") else {}))
        record_requests(trail.engine, trail.config, [webhook_request])
        trail.change(alerts, last_seen_at=trail.now - timedelta(seconds=60))
        trail.primary.hold("Same", **labels)
        trail.run_round()
        trail.run_round(GONE_AFTER)
        assert trail.read_states()["Same"] == "open"

    def test_the_external_url_can_be_part_of_the_identity(self, trail):
        trail.settings["identity_source"] = "external_url"
        record_requests(trail.engine, trail.config, [request(alert("Same"))])
        trail.change(alerts, last_seen_at=trail.now - timedelta(seconds=60))
        trail.alertmanagers.append(FakeAlertmanager("http://other.example").hold("Same"))
        trail.run_round()
        trail.run_round(GONE_AFTER)
        assert trail.read_states()["Same"] == "gone"

    def test_a_slash_at_the_end_of_the_external_url_is_ignored(self, trail):
        trail.notify("Slash", externalURL=URL + "/")
        trail.run_round(30)
        trail.run_round(GONE_AFTER)
        assert trail.read_states()["Slash"] == "gone"

    def test_the_external_url_of_the_last_notification_is_stored(self, trail):
        """A delayed request is recorded after one that was received later."""
        moment = trail.now
        trail.notify("HostDown", externalURL="http://new.example")
        trail.now = moment - timedelta(seconds=10)
        trail.notify("HostDown", externalURL="http://old.example")
        assert trail.rows(alerts)[0].external_url == "http://new.example"

    def test_an_external_url_that_is_not_configured_is_reported(self, trail):
        trail.notify("HostDown", externalURL="http://am-1.local:9093")
        trail.primary.hold("HostDown")
        (problem,) = trail.run_round().problems
        assert problem.startswith(f"alertmanagers, {URL}: it holds the alert of ")
        assert "another URL: set external_url to http://am-1.local:9093, or add" in problem


class TestSilences:
    UNTIL = datetime(2026, 1, 14, 13, 30, tzinfo=timezone.utc)

    @pytest.fixture(autouse=True)
    def silenced(self, trail):
        trail.primary.hold("HostDown").silence(until=self.UNTIL)
        assert trail.run_round().silenced == 1

    def test_the_silence_is_stored(self, trail):
        row = trail.one()
        assert (row.silence_id, row.silenced_by, row.silenced_until, row.silenced_comment) == (
            "s1",
            "anna",
            self.UNTIL,
            "a new disk",
        )

    def test_the_views_show_the_silence(self, trail):
        (episode,) = view(trail.engine, queries.why, Filters())["episodes"]
        assert episode["verdict"] == "silenced"
        assert episode["headline"] == "silenced in Alertmanager by anna: a new disk"
        assert "until 2026-01-14T13:30:00Z" in episode["next_step"]
        active = view(trail.engine, queries.alerts_active, stale_after_hours=24)
        assert "SILENCED  HostDown" in text.alerts_active(active)
        assert active["active_alerts"][0]["silenced_until"] == "2026-01-14T13:30:00Z"
        row = trail.one()
        (call,) = view(trail.engine, queries.executions_recent)["executions"]
        answer = view(trail.engine, queries.alert_of_request, call["request_id"], row.episode)
        assert (answer["silenced_by"], answer["silenced_comment"]) == ("anna", "a new disk")
        assert answer["silenced_until"] == "2026-01-14T13:30:00Z"

    def test_a_silence_that_has_ended_is_removed(self, trail):
        trail.primary.silenced = False
        assert trail.run_round(60).silenced == 0
        assert (trail.one().silence_id, trail.one().silenced_by) == (None, None)
        assert "silenced" not in text.why(view(trail.engine, queries.why, Filters()))

    @pytest.mark.parametrize("broken", ["alerts", "silences"])
    def test_the_silence_is_kept_while_alertmanager_does_not_answer(self, trail, broken):
        trail.primary.failing_methods.add(broken)
        trail.run_round(60)
        assert trail.one().silenced_by == "anna"

    def test_the_silence_is_removed_if_no_alertmanager_is_configured(self, trail):
        trail.alertmanagers = []
        trail.run_round()
        assert trail.one().silence_id is None

    def test_a_silence_that_a_change_created_does_not_count(self, trail):
        comment = ChangeSilence("e1", "nginx", "linux.service", {}, 20).comment
        trail.primary.silence(comment=comment)
        assert trail.run_round(60).silenced == 0
        assert trail.one().silenced_by is None

    def test_the_longest_silence_is_shown(self, trail):
        trail.primary.silence("ben", self.UNTIL + timedelta(hours=1), silence_id="s2")
        trail.primary.silence("carl", self.UNTIL - timedelta(hours=1), silence_id="s3")
        trail.run_round()
        assert trail.one().silenced_by == "ben"

    def test_a_silence_in_any_alertmanager_counts(self, trail):
        second = FakeAlertmanager("http://am-2.example").hold("HostDown")
        second.silence("ben", self.UNTIL + timedelta(hours=1))
        trail.alertmanagers.append(second)
        trail.run_round()
        assert trail.one().silenced_by == "ben"

    def test_an_incident_that_has_ended_shows_no_silence(self, trail):
        resolve = alert(status="resolved", ends_at=trail.now)
        record_requests(trail.engine, Config(), [request(resolve, received_at=trail.now)])
        assert "silenced" not in text.why(view(trail.engine, queries.why, Filters()))


class TestCost:
    def test_each_round_queries_each_alertmanager_once(self, trail):
        trail.primary.hold("HostDown")
        trail.run_round()
        assert trail.primary.calls == ["alerts"]
        trail.primary.calls.clear()
        trail.primary.silence()
        trail.run_round(30)
        assert trail.primary.calls == ["alerts", "silences"]

    def test_nothing_is_queried_without_an_open_incident(self, trail):
        trail.change(alerts, open_fingerprint=None)
        trail.run_round()
        assert trail.primary.calls == []

    def test_nothing_is_written_if_nothing_has_changed(self, trail):
        trail.primary.hold("HostDown")
        trail.run_round()
        row = trail.one()
        trail.run_round(60)
        assert trail.one() == row

    def test_rounds_are_due_while_an_incident_is_open(self, trail):
        trail.change(alerts, explanation="execution")
        trail.run_round()
        assert trail.read_open_work().count == 1
        with database.reading(trail.engine) as connection:
            assert open_work(connection, 0, reconciles=False).count == 0

    def test_a_problem_is_cleared_once_it_is_solved(self, trail):
        trail.primary.failing_methods.add("alerts")
        trail.run_round()
        assert trail.read_open_work().monitoring_problem
        trail.primary.failing_methods.clear()
        trail.run_round(60)
        assert trail.read_open_work().monitoring_problem == ""

    def test_a_failure_of_another_step_does_not_prevent_the_comparison(self, trail, monkeypatch):
        def fail(*_):
            raise RuntimeError("broken")

        monkeypatch.setattr(sync, "mirror_open_executions", fail)
        with pytest.raises(RuntimeError):
            trail.run_round()
        assert trail.one().missing_since == trail.now
