"""People change open incidents, and each change is audited."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from poundcake.config import Config
from poundcake.trail import claims, database, interventions, queries, search
from poundcake.trail.audit import Actor, write_entry
from poundcake.trail.errors import TrackingError
from poundcake.trail.interventions import acknowledge, close
from poundcake.trail.purge import purge
from poundcake.trail.record import record_requests
from poundcake.trail.release import release_claims
from poundcake.trail.replay import replay_request
from poundcake.trail.schema import alerts, audit
from poundcake.trail.search import Filters
from tests.lib.samples import NOON, alert, later, request
from tests.lib.sync_trail import ago
from tests.lib.trails import WORKFLOW, database_time, episode, on_sqlite, record, view

ANNA = Actor("anna", "e-anna")
EPISODE = episode("f")


def read_rows(engine, table=alerts):
    with database.reading(engine) as connection:
        return connection.execute(select(table).order_by(table.c.id)).all()


def read_audit(engine):
    return [
        (
            row.action,
            row.st2_user,
            row.execution_id,
            row.target,
            row.comment,
            json.loads(row.details),
        )
        for row in read_rows(engine, audit)
    ]


class TestAcknowledge:
    def test_an_acknowledgement_is_stored_in_the_incident_and_audited(self, engine):
        record(engine, alert(fingerprint="f"))
        with database_time(later(60)):
            result = acknowledge(engine, ANNA, EPISODE, comment="the disk is on order")
        assert result == {
            "episode": EPISODE,
            "alert_name": "HostDown",
            "instance": "web-1:9100",
            "state": "acknowledged",
            "by": "anna",
            "at": "2026-01-14T12:01:00Z",
        }
        (row,) = read_rows(engine)
        assert (row.acknowledged_at, row.acknowledged_by) == (later(60), "anna")
        assert (row.acknowledged_comment, row.open_fingerprint) == ("the disk is on order", "f")
        assert read_audit(engine) == [
            ("acknowledge", "anna", "e-anna", EPISODE, "the disk is on order", {"undo": False})
        ]
        assert read_rows(engine, audit)[0].at == later(60)

    def test_nothing_starts_until_the_acknowledgement_is_withdrawn(self, engine):
        config = Config(cooldown_seconds=60)
        record(engine, alert(fingerprint="f"), config=config)
        resolve = alert(fingerprint="f", status="resolved", ends_at=later(5))
        record(engine, resolve, received_at=later(10), config=config)
        refire = alert(fingerprint="f", starts_at=later(20))
        record(engine, refire, received_at=later(30), config=config)
        incident = read_rows(engine)[-1]
        assert incident.outcome == "cooldown"
        acknowledge(engine, ANNA, incident.episode)
        record(engine, refire, received_at=later(100), config=config)
        notification = read_rows(engine)[-1]
        assert (notification.outcome, notification.reason) == ("cooldown", "acknowledged by anna")
        assert acknowledge(engine, ANNA, incident.episode, undo=True)["state"] == "firing"
        record(engine, refire, received_at=later(101), config=config)
        assert read_rows(engine)[-1].outcome == "admitted"
        assert [details["undo"] for *_, details in read_audit(engine)] == [False, True]

    def test_a_workflow_that_has_not_started_is_refused(self, engine):
        request_id = record(engine, alert(fingerprint="f"))
        acknowledge(engine, ANNA, EPISODE)
        result = claims.link(engine, request_id, EPISODE, WORKFLOW, "e1")
        assert (result["claimed"], result["reason"]) == (False, "acknowledged by anna")
        acknowledge(engine, ANNA, EPISODE, undo=True)
        assert claims.link(engine, request_id, EPISODE, WORKFLOW, "e1")["claimed"]

    @on_sqlite
    @pytest.mark.parametrize(
        "chat_user, comment, recorded",
        [
            ("carol", "I look at it", "I look at it (carol in chat)"),
            ("carol", "", "(carol in chat)"),
            pytest.param("c" * 200, "x", f"x ({'c' * 80} in chat)", id="a long name"),
            ("", "I look at it", "I look at it"),
        ],
    )
    def test_the_comment_names_the_chat_user(
        self, engine, run_action, chat_user, comment, recorded
    ):
        """StackStorm knows only the user of the chat's bot."""
        record(engine, alert(fingerprint="f"))
        run_action(
            "acknowledge",
            "e1",
            episode=EPISODE,
            comment=comment,
            chat_user=chat_user,
            st2_user="hubot",
        )
        assert read_audit(engine) == [
            ("acknowledge", "hubot", "e1", EPISODE, recorded, {"undo": False})
        ]
        assert read_rows(engine)[0].acknowledged_comment == recorded

    @on_sqlite
    def test_a_workflow_that_has_started_keeps_its_claim(self, engine):
        request_id = record(engine, alert(fingerprint="f"))
        claims.link(engine, request_id, EPISODE, WORKFLOW, "e1")
        acknowledge(engine, ANNA, EPISODE)
        assert claims.link(engine, request_id, EPISODE, WORKFLOW, "e1")["claimed"]

    @on_sqlite
    def test_a_forced_replay_withdraws_the_acknowledgement(self, engine):
        request_id = record(engine, alert(fingerprint="f"))
        acknowledge(engine, ANNA, EPISODE)
        assert replay_request(engine, Config(), request_id)["outcomes"] == {"duplicate": 1}
        replay = replay_request(engine, Config(), request_id, force=True)
        assert replay["outcomes"] == {"admitted": 1}
        assert claims.link(engine, replay["request_id"], EPISODE, WORKFLOW, "e1")["claimed"]

    @on_sqlite
    def test_a_resolve_still_ends_the_incident(self, engine):
        record(engine, alert(fingerprint="f"))
        acknowledge(engine, ANNA, EPISODE)
        record(engine, alert(fingerprint="f", status="resolved"), received_at=later(9))
        assert (read_rows(engine)[-1].outcome, read_rows(engine)[0].ended_by) == (
            "resolved",
            "resolve",
        )
        with pytest.raises(TrackingError, match="no open incident matches"):
            acknowledge(engine, ANNA, EPISODE, undo=True)

    @on_sqlite
    def test_an_acknowledgement_that_does_not_exist_cannot_be_withdrawn(self, engine):
        record(engine, alert(fingerprint="f"))
        with pytest.raises(TrackingError, match="is not acknowledged"):
            acknowledge(engine, ANNA, EPISODE, undo=True)
        assert read_audit(engine) == []


class TestSelectedIncident:
    @on_sqlite
    @pytest.mark.parametrize(
        "filters, problem",
        [
            ({"alert_name": "HostDown"}, "more than one open incident matches.*f1-17.*; .*=f2-17"),
            ({"alert_name": "Unknown"}, "no open incident matches"),
            ({}, "identify the incident"),
            ({"status": "firing"}, "identify the incident"),
        ],
    )
    def test_exactly_one_incident_must_match(self, engine, filters, problem):
        record(engine, alert(fingerprint="f1"), alert(fingerprint="f2"))
        with pytest.raises(TrackingError, match=problem):
            close(engine, ANNA, "gone", filters=Filters(**filters))
        assert all(row.open_fingerprint for row in read_rows(engine))

    @on_sqlite
    @pytest.mark.parametrize(
        "filters",
        [
            {"fingerprint": "f2"},
            {"alert_name": "B"},
            {"instance": "db-1", "severity": "critical"},
        ],
    )
    def test_filters_select_the_incident(self, engine, filters):
        record(engine, alert("A", fingerprint="f1"))
        record(engine, alert("B", fingerprint="f2", labels={"instance": "db-1"}))
        assert close(engine, ANNA, "gone", filters=search.parse(**filters))["alert_name"] == "B"

    @on_sqlite
    def test_an_ended_episode_does_not_match(self, engine):
        record(engine, alert(fingerprint="f"))
        close(engine, ANNA, "gone", EPISODE)
        with pytest.raises(TrackingError, match="no open incident matches"):
            close(engine, ANNA, "gone", EPISODE)


class TestClose:
    def test_closing_ends_the_incident(self, engine):
        record(engine, alert(fingerprint="f"))
        with database_time(later(60)):
            result = close(engine, ANNA, "decommissioned", EPISODE)
        assert (result["state"], result["by"]) == ("closed", "anna")
        (row,) = read_rows(engine)
        assert (row.open_fingerprint, row.closed_at, row.ended_by) == (None, later(60), "closed")
        assert (row.closed_by, row.closed_comment) == ("anna", "decommissioned")
        assert read_audit(engine) == [("close", "anna", "e-anna", EPISODE, "decommissioned", {})]

    @on_sqlite
    def test_a_closed_alert_may_open_another_incident(self, engine):
        record(engine, alert(fingerprint="f"))
        close(engine, ANNA, "gone", EPISODE)
        record(engine, alert(fingerprint="f"), received_at=later(9))
        first, second = read_rows(engine)
        assert (second.outcome, second.reason) == ("admitted", "new incident")
        assert second.episode != first.episode

    @on_sqlite
    @pytest.mark.parametrize("comment", ["", "  "])
    def test_closing_needs_a_comment(self, engine, comment):
        record(engine, alert(fingerprint="f"))
        with pytest.raises(TrackingError, match="comment"):
            close(engine, ANNA, comment, EPISODE)
        assert read_rows(engine)[0].open_fingerprint

    def test_closing_during_a_notification_leaves_at_most_one_incident_open(self, engine):
        record(engine, alert(fingerprint="f"))
        with ThreadPoolExecutor(2) as pool:
            notification = pool.submit(
                record_requests, engine, Config(), [request(alert(fingerprint="f"))]
            )
            closing = pool.submit(close, engine, ANNA, "gone", EPISODE)
            assert (notification.result()["recorded"], closing.result()["state"]) == (1, "closed")
        assert len([row for row in read_rows(engine) if row.open_fingerprint]) <= 1


@pytest.mark.parametrize("intervention", [acknowledge, close])
def test_an_intervention_is_retried_after_a_deadlock(engine, monkeypatch, intervention):
    record(engine, alert(fingerprint="f"))
    failures = [1213, 1205]

    def fail_twice(*args):
        if failures:
            raise OperationalError("", {}, Exception(failures.pop(), "try restarting transaction"))
        return write_entry(*args)

    monkeypatch.setattr(interventions, "write_entry", fail_twice)
    assert intervention(engine, ANNA, comment="gone", episode=EPISODE)["by"] == "anna"
    assert not failures
    assert len(read_audit(engine)) == 1


class TestAudit:
    def test_release_replay_and_purge_are_audited(self, engine):
        old_request_id = record(engine, alert("Old"), received_at=ago(86400 * 50))
        # Without a request from last week, the purge would be refused.
        record(engine, alert("Recent"), received_at=ago(86400 * 8))
        webhook_request = request(alert(fingerprint="f"), received_at=ago(5))
        record_requests(engine, Config(), [webhook_request])
        episode_name = read_rows(engine)[-1].episode
        claims.link(engine, webhook_request.request_id, episode_name, WORKFLOW, "e1")
        release_claims(engine, episode_name, force=True, actor=ANNA)
        replay = replay_request(engine, Config(), webhook_request.request_id, False, "e-anna", ANNA)
        replay_request(engine, Config(), webhook_request.request_id, False, "e-anna", ANNA)
        with database.transaction(engine) as connection:
            connection.execute(
                alerts.update()
                .where(alerts.c.alert_name == "Old")
                .values(open_fingerprint=None, explanation="no_rule")
            )
        with database.transaction(engine) as connection:
            connection.exec_driver_sql(
                "UPDATE poundcake_api_calls SET completed_at = created_at"
                f" WHERE request_id = '{old_request_id}'"
            )
        assert purge(engine, Config(), 30, dry_run=True, actor=ANNA)["requests"] == 1
        assert purge(engine, Config(), 30, actor=ANNA)["requests"] == 1
        audit_entries = read_audit(engine)
        assert [entry[:4] for entry in audit_entries] == [
            ("release", "anna", "e-anna", episode_name),
            ("replay", "anna", "e-anna", webhook_request.request_id),
            ("purge", "anna", "e-anna", ""),
        ]
        release_details, replay_details, purge_details = (entry[-1] for entry in audit_entries)
        assert release_details["released"][0]["st2_execution_id"] == "e1"
        assert replay_details == {"request_id": replay["request_id"], "force": False}
        assert (purge_details["requests"], purge_details["older_than_days"]) == (1, 30)
        (episode_view,) = view(engine, queries.why, Filters(fingerprint="f"))["episodes"]
        assert [entry["action"] for entry in episode_view["audit"]] == ["release", "replay"]
        status_view = view(engine, queries.status, webhook_request.request_id)
        assert [entry["action"] for entry in status_view["audit"]] == ["release", "replay"]
        assert status_view["audit"][0]["st2_user"] == "anna"

    @on_sqlite
    def test_a_purge_deletes_old_entries(self, engine):
        record(engine, alert(fingerprint="f"))
        with database_time(NOON):
            acknowledge(engine, ANNA, EPISODE)
        record(engine, alert("Young"), received_at=ago(86400 * 8))
        purge(engine, Config(), 30, actor=ANNA)
        assert [entry[0] for entry in read_audit(engine)] == ["purge"]

    @on_sqlite
    def test_the_views_show_who_changed_an_incident(self, engine):
        request_id = record(engine, alert(fingerprint="f"))
        acknowledge(engine, ANNA, EPISODE, comment="on it")
        (incident,) = view(engine, queries.alerts_active, 24)["active_alerts"]
        assert (incident["acknowledged_by"], incident["acknowledged_comment"]) == ("anna", "on it")
        close(engine, ANNA, "gone", EPISODE)
        (episode_view,) = view(engine, queries.why, Filters(fingerprint="f"))["episodes"]
        assert (episode_view["state"], episode_view["ended_by"], episode_view["closed_by"]) == (
            "closed",
            "closed",
            "anna",
        )
        assert episode_view["ends_at"]
        (alert_view,) = view(engine, queries.status, request_id)["alerts"]
        assert (alert_view["ended_by"], alert_view["acknowledged_by"]) == ("closed", "anna")
        (request_view,) = view(engine, queries.executions_recent)["executions"]
        assert request_view["alerts"][0]["ended_by"] == "closed"
