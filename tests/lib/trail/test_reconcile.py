"""Open incidents are compared with the alerts that the Alertmanagers hold.

Each condition under which an incident is closed has a test in which only that one is not met.
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
from tests.lib.fake_alertmanager import FakeAlertmanager
from tests.lib.samples import alert, request
from tests.lib.sync_trail import SyncTrail
from tests.lib.trails import view

URL = "http://alertmanager.example"  # of samples.webhook
GONE_AFTER = 600


class World(SyncTrail):
    """A trail with a clock that tests move, and the Alertmanagers."""

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

    def notify(self, *names, **more):
        """Record a notification that is received now."""
        webhook_request = request(*(alert(name) for name in names), received_at=self.now, **more)
        record_requests(self.engine, Config(cooldown_seconds=0), [webhook_request])
        return webhook_request.request_id

    def round(self, after=0):
        """Run a round of sync some seconds later, and return its counts."""
        self.now += timedelta(seconds=after)
        return sync.sync(self.engine, self.config, self.stackstorm, self.alertmanagers)

    def states(self):
        """Return how each incident ended, or "open", by the name of its alert."""
        incidents = [row for row in self.rows(alerts) if row.open_fingerprint or row.closed_at]
        return {row.alert_name: row.ended_by or "open" for row in incidents}

    def read_open_work(self):
        with database.reading(self.engine) as connection:
            return open_work(connection, 0, reconciles=True)


@pytest.fixture
def world(engine, monkeypatch):
    new_world = World(engine, monkeypatch)
    new_world.notify("HostDown")
    new_world.now += timedelta(seconds=30)
    return new_world


class TestGone:
    def test_an_incident_whose_alert_is_gone_is_closed(self, world):
        world.notify("Other")
        world.primary.hold("Other")
        assert [world.round(30).gone, world.round(GONE_AFTER).gone] == [0, 1]
        row = world.rows(alerts)[0]
        assert (row.ended_by, row.open_fingerprint, row.closed_at) == ("gone", None, world.now)
        assert world.states() == {"HostDown": "gone", "Other": "open"}
        assert world.round(GONE_AFTER).gone == 0

    def test_the_views_show_how_the_incident_ended(self, world):
        world.round()
        world.round(GONE_AFTER)
        answer = view(world.engine, queries.why, Filters())
        (episode,) = answer["episodes"]
        assert (episode["state"], episode["ended_by"]) == ("gone", "gone")
        assert episode["ends_at"] == format_optional(world.now)
        assert "gone: no Alertmanager holds the alert any more" in text.why(answer, 24)

    def test_the_alert_may_fire_again(self, world):
        world.round()
        world.round(GONE_AFTER)
        world.notify("HostDown")
        assert [row.outcome for row in world.rows(alerts)] == ["admitted", "admitted"]
        assert len({row.episode for row in world.rows(alerts)}) == 2


class TestOpen:
    """One condition is not met, so the incident stays open."""

    @pytest.fixture(autouse=True)
    def stays_open(self, world):
        yield
        assert world.states()["HostDown"] == "open"

    def test_an_alert_that_is_held(self, world):
        world.primary.hold("HostDown")
        for _ in range(3):
            world.round(GONE_AFTER)

    def test_an_alert_that_only_the_second_alertmanager_holds(self, world):
        world.alertmanagers.append(FakeAlertmanager("http://am-2.example").hold("HostDown"))
        for _ in range(3):
            world.round(GONE_AFTER)

    def test_an_absence_that_is_too_short(self, world):
        world.round()
        world.round(GONE_AFTER - 1)

    def test_a_single_round(self, world):
        world.round(10 * GONE_AFTER)

    def test_an_alert_that_was_held_in_between(self, world):
        world.round()
        world.primary.hold("HostDown")
        world.round(GONE_AFTER / 2)
        world.primary.hold()
        world.round(GONE_AFTER / 2)

    @pytest.mark.parametrize("broken", ["alerts", "status"])
    def test_an_alertmanager_that_does_not_answer(self, world, broken):
        world.alertmanagers.append(FakeAlertmanager("http://am-2.example"))
        world.round()
        world.alertmanagers[1].failing_methods.add(broken)
        counts = world.round(GONE_AFTER)
        problem = f"alertmanagers, http://am-2.example: {broken}: connection refused"
        assert counts.problems == (problem,)
        assert world.read_open_work().monitoring_problem == problem

    def test_an_alertmanager_that_never_answered(self, world):
        world.primary.failing_methods.add("alerts")
        world.round()
        world.primary.failing_methods.clear()
        world.round(GONE_AFTER)

    def test_an_alertmanager_that_has_just_started(self, world):
        world.round()
        world.primary.uptime = timedelta(seconds=GONE_AFTER - 1)
        world.round(GONE_AFTER)

    def test_a_sender_that_is_not_configured(self, world):
        world.notify("HostDown", externalURL="http://grafana.example")
        for _ in range(3):
            world.round(GONE_AFTER)

    def test_a_sender_without_an_external_url(self, world):
        world.change(alerts, external_url="")
        for _ in range(3):
            world.round(GONE_AFTER)

    def test_a_notification_between_the_two_rounds(self, world):
        world.round()
        world.now += timedelta(seconds=GONE_AFTER / 2)
        world.notify("HostDown")
        world.round(GONE_AFTER / 2)

    def test_a_notification_that_was_received_when_the_alertmanagers_were_queried(self, world):
        """The time of receipt comes from the endpoint's clock, which may be some seconds behind."""
        world.notify("HostDown")
        world.round(1)
        world.round(GONE_AFTER)

    def test_a_notification_that_is_recorded_during_the_round(self, world):
        world.round()

        def status():
            world.notify("HostDown")
            return FakeAlertmanager.status(world.primary)

        world.primary.status = status
        world.round(GONE_AFTER)

    def test_no_alertmanager_is_configured(self, world):
        world.round()
        world.alertmanagers = []
        world.round(GONE_AFTER)
        assert world.one().missing_since is None


class TestIdentity:
    @pytest.mark.parametrize(
        "config, labels",
        [
            ({}, {"empty": ""}),
            ({"ignored_labels": ("pod",)}, {"pod": "b"}),
            ({"identity_source": "external_url"}, {}),
        ],
    )
    def test_the_identity_is_computed_as_for_webhooks(self, world, config, labels):
        world.settings.update(config)
        webhook_request = request(alert("Same", labels={"pod": "a"} if labels.get("pod") else {}))
        record_requests(world.engine, world.config, [webhook_request])
        world.change(alerts, last_seen_at=world.now - timedelta(seconds=60))
        world.primary.hold("Same", **labels)
        world.round()
        world.round(GONE_AFTER)
        assert world.states()["Same"] == "open"

    def test_with_external_url_another_source_is_another_alert(self, world):
        world.settings["identity_source"] = "external_url"
        record_requests(world.engine, world.config, [request(alert("Same"))])
        world.change(alerts, last_seen_at=world.now - timedelta(seconds=60))
        world.alertmanagers.append(FakeAlertmanager("http://other.example").hold("Same"))
        world.round()
        world.round(GONE_AFTER)
        assert world.states()["Same"] == "gone"

    def test_a_slash_at_the_end_of_the_external_url_is_ignored(self, world):
        world.notify("Slash", externalURL=URL + "/")
        world.round(30)
        world.round(GONE_AFTER)
        assert world.states()["Slash"] == "gone"

    def test_the_external_url_of_the_last_notification_counts(self, world):
        """A delayed request is recorded after one that was received later."""
        moment = world.now
        world.notify("HostDown", externalURL="http://new.example")
        world.now = moment - timedelta(seconds=10)
        world.notify("HostDown", externalURL="http://old.example")
        assert world.rows(alerts)[0].external_url == "http://new.example"

    def test_an_external_url_that_is_not_configured_is_named(self, world):
        world.notify("HostDown", externalURL="http://am-1.local:9093")
        world.primary.hold("HostDown")
        (problem,) = world.round().problems
        assert problem.startswith(f"alertmanagers, {URL}: it holds the alert of ")
        assert "came from http://am-1.local:9093: set external_url to that" in problem


class TestSilences:
    UNTIL = datetime(2026, 1, 14, 13, 30, tzinfo=timezone.utc)

    @pytest.fixture(autouse=True)
    def silenced(self, world):
        world.primary.hold("HostDown").silence(until=self.UNTIL)
        assert world.round().silenced == 1

    def test_the_silence_is_stored(self, world):
        row = world.one()
        assert (row.silence_id, row.silenced_by, row.silenced_until, row.silenced_comment) == (
            "s1",
            "anna",
            self.UNTIL,
            "a new disk",
        )

    def test_the_views_show_the_silence(self, world):
        silence_text = "silenced by anna until 2026-01-14 13:30Z"
        assert f"{silence_text}: a new disk" in text.why(
            view(world.engine, queries.why, Filters()), 24
        )
        active = view(world.engine, queries.alerts_active, stale_after_hours=24)
        assert silence_text in text.alerts_active(active)
        assert active["active_alerts"][0]["silenced_until"] == "2026-01-14T13:30:00Z"
        row = world.one()
        (call,) = view(world.engine, queries.executions_recent)["executions"]
        answer = view(world.engine, queries.alert_of_request, call["request_id"], row.episode)
        assert (answer["silenced_by"], answer["silenced_comment"]) == ("anna", "a new disk")
        assert answer["silenced_until"] == "2026-01-14T13:30:00Z"

    def test_a_silence_that_has_ended_is_removed(self, world):
        world.primary.silenced = False
        assert world.round(60).silenced == 0
        assert (world.one().silence_id, world.one().silenced_by) == (None, None)
        assert "silenced" not in text.why(view(world.engine, queries.why, Filters()), 24)

    @pytest.mark.parametrize("broken", ["alerts", "silences"])
    def test_the_silence_is_kept_while_alertmanager_does_not_answer(self, world, broken):
        world.primary.failing_methods.add(broken)
        world.round(60)
        assert world.one().silenced_by == "anna"

    def test_the_silence_is_removed_if_no_alertmanager_is_configured(self, world):
        world.alertmanagers = []
        world.round()
        assert world.one().silence_id is None

    def test_the_longest_silence_is_shown(self, world):
        world.primary.silence("ben", self.UNTIL + timedelta(hours=1), silence_id="s2")
        world.primary.silence("carl", self.UNTIL - timedelta(hours=1), silence_id="s3")
        world.round()
        assert world.one().silenced_by == "ben"

    def test_a_silence_of_any_alertmanager_counts(self, world):
        second = FakeAlertmanager("http://am-2.example").hold("HostDown")
        second.silence("ben", self.UNTIL + timedelta(hours=1))
        world.alertmanagers.append(second)
        world.round()
        assert world.one().silenced_by == "ben"

    def test_an_incident_that_has_ended_shows_no_silence(self, world):
        resolve = alert(status="resolved", ends_at=world.now)
        record_requests(world.engine, Config(), [request(resolve, received_at=world.now)])
        assert "silenced" not in text.why(view(world.engine, queries.why, Filters()), 24)


class TestCost:
    def test_each_round_queries_each_alertmanager_once(self, world):
        world.primary.hold("HostDown")
        world.round()
        assert world.primary.calls == ["alerts"]
        world.primary.calls.clear()
        world.primary.silence()
        world.round(30)
        assert world.primary.calls == ["alerts", "silences"]

    def test_nothing_is_queried_without_an_open_incident(self, world):
        world.change(alerts, open_fingerprint=None)
        world.round()
        assert world.primary.calls == []

    def test_nothing_is_written_if_nothing_has_changed(self, world):
        world.primary.hold("HostDown")
        world.round()
        row = world.one()
        world.round(60)
        assert world.one() == row

    def test_rounds_are_due_while_an_incident_is_open(self, world):
        world.change(alerts, explanation="execution")
        world.round()
        assert world.read_open_work().count == 1
        with database.reading(world.engine) as connection:
            assert open_work(connection, 0, reconciles=False).count == 0

    def test_a_problem_is_cleared_once_it_is_solved(self, world):
        world.primary.failing_methods.add("alerts")
        world.round()
        assert world.read_open_work().monitoring_problem
        world.primary.failing_methods.clear()
        world.round(60)
        assert world.read_open_work().monitoring_problem == ""

    def test_a_failure_of_another_step_does_not_prevent_the_comparison(self, world, monkeypatch):
        def fail(*_):
            raise RuntimeError("broken")

        monkeypatch.setattr(sync, "mirror_open_executions", fail)
        with pytest.raises(RuntimeError):
            world.round()
        assert world.one().missing_since == world.now
