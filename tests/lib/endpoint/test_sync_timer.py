"""Syncs are triggered while an alert or an execution is open."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from sqlalchemy import insert, select, update

from poundcake.config import Config
from poundcake.endpoint import retry
from poundcake.endpoint.triggers import SYNC_DUE
from poundcake.timestamps import format_timestamp
from poundcake.trail import claims, database
from poundcake.trail.outbox import Ending, EndResult
from poundcake.trail.schema import alerts, meta
from tests.lib.samples import alert, later


def set_synced(rig, moment):
    with database.transaction(rig.engine) as connection:
        connection.execute(meta.delete().where(meta.c.name == "synced_at"))
        connection.execute(insert(meta).values(name="synced_at", value=format_timestamp(moment)))


def count_syncs(rig):
    return len(rig.bus.payloads(SYNC_DUE))


def link_ended(rig, request_id, alert_name):
    """Link an execution that ends without a change to an alert, as poundcake.begin does."""
    with database.reading(rig.engine) as connection:
        episode = connection.scalar(
            select(alerts.c.episode).where(alerts.c.alert_name == alert_name)
        )
    ending = Ending(EndResult.EVIDENCE, request_id, episode, f"e-{alert_name}", "r")
    claims.link_ended(rig.engine, "poundcake.host_down", ending)


def age_alerts(rig):
    """Record the alerts as of a minute ago. rig.advance() does not change the database's clock."""
    with database.transaction(rig.engine) as connection:
        recorded_at = datetime.now(timezone.utc) - timedelta(minutes=1)
        connection.execute(update(alerts).values(recorded_at=recorded_at))


def test_no_sync_runs_while_nothing_is_open(rig):
    rig.advance()
    rig.accept()
    for _ in range(10):
        rig.advance(61)
    assert count_syncs(rig) == 0


def test_syncs_run_from_an_emission_until_nothing_is_open(rig):
    rig.accept(alert())
    rig.advance()
    age_alerts(rig)
    rig.advance(11)
    assert rig.bus.payloads(SYNC_DUE)[0] == {"open": 1}
    rig.advance(21)
    assert count_syncs(rig) >= 2
    rig.set_explanation("no_rule")
    rig.advance(61)
    count_before = count_syncs(rig)
    for _ in range(5):
        rig.advance(61)
    assert count_syncs(rig) == count_before


def test_the_first_sync_gives_workflows_time_to_record_their_results(rig, monkeypatch):
    """The endpoint regularly looks for open work, and may find the alerts right after it."""
    monkeypatch.setattr(retry, "SYNC_WAITS", (100.0, 600.0))  # a busy machine takes seconds
    rig.advance()
    rig.advance(80)
    rig.accept(alert())
    rig.advance(1)
    rig.advance(50)
    assert count_syncs(rig) == 0
    rig.advance(60)
    assert count_syncs(rig) == 1


def test_one_sync_confirms_the_recorded_results_of_several_notifications(rig, monkeypatch):
    monkeypatch.setattr(retry, "SYNC_CONFIRMATION_WAIT", 300.0)  # a busy machine takes seconds
    for name in ("A", "B", "C"):
        request_id = rig.accept(alert(name, fingerprint=name))
        rig.advance(1)
        link_ended(rig, request_id, name)
        age_alerts(rig)
        rig.advance(60)
        # A single notification is confirmed at once.
        assert count_syncs(rig) == 1
    rig.advance(300)
    assert count_syncs(rig) == 2


def test_one_result_that_is_not_recorded_in_time_causes_a_sync(rig):
    set_synced(rig, datetime.now(timezone.utc))
    request_id = rig.accept(alert("A", fingerprint="A"), alert("B", fingerprint="B"))
    rig.advance(1)
    link_ended(rig, request_id, "A")
    age_alerts(rig)
    rig.advance(10)
    assert count_syncs(rig) == 1


def test_the_interval_grows_to_a_minute_and_resets_after_an_emission(rig):
    rig.accept(alert())
    rig.advance()
    age_alerts(rig)
    for _ in range(40):
        rig.advance(15)
    count_before = count_syncs(rig)
    for _ in range(20):
        rig.advance(30)
    assert 8 <= count_syncs(rig) - count_before <= 11
    rig.accept(alert("Another", fingerprint="x"))
    count_before = count_syncs(rig)
    for _ in range(7):
        rig.advance(5)
    assert count_syncs(rig) - count_before >= 2


def test_syncs_are_infrequent_while_all_work_waits_for_a_person(rig, monkeypatch):
    rig.accept(alert())
    rig.advance()
    age_alerts(rig)
    monkeypatch.setattr(retry, "sync_wait", lambda wait, can_proceed: retry.SYNC_IDLE_WAIT)
    count_before = count_syncs(rig)
    for _ in range(60):
        rig.advance(60)
    assert 5 <= count_syncs(rig) - count_before <= 7


def test_work_that_waits_for_a_person_is_checked_again_each_minute(rig, monkeypatch):
    """The next round of sync rejects an approval that has expired meanwhile."""
    waits = {"now": retry.SYNC_IDLE_WAIT}
    monkeypatch.setattr(retry, "sync_wait", lambda wait, can_proceed: waits["now"])
    rig.accept(alert())
    rig.advance()
    age_alerts(rig)
    rig.advance(60)
    count_before = count_syncs(rig)
    waits["now"] = retry.SYNC_WAITS[1]
    rig.advance(60)
    rig.advance(1)
    assert count_syncs(rig) == count_before + 1


def test_a_sync_from_another_endpoint_replaces_one_from_this_endpoint(rig):
    rig.accept(alert())
    rig.advance()
    rig.advance(300)
    count_before = count_syncs(rig)
    for _ in range(20):
        set_synced(rig, datetime.now(timezone.utc))
        rig.advance(3)
    assert count_syncs(rig) - count_before <= 2


@pytest.mark.parametrize("hours", [-3, -0.01, 0.01, 3, 24 * 120])
def test_a_wrong_clock_on_another_machine_does_not_stop_syncs(rig, hours):
    """If the clock of an action runner is ahead, the last sync seems to be in the future."""
    rig.accept(alert())
    rig.advance()
    age_alerts(rig)
    set_synced(rig, datetime.now(timezone.utc) + timedelta(hours=hours))
    rig.advance()
    count_before = count_syncs(rig)
    for _ in range(10):
        rig.advance(30)
    assert count_syncs(rig) - count_before >= 4


def test_stale_incidents_cause_syncs_only_if_expiry_is_configured(rig):
    rig.accept(alert())
    # Incidents expire only while notifications arrive.
    rig.accept(received_at=later(-5400))
    rig.advance()
    rig.set_explanation("no_rule")
    rig.advance(61)
    with database.transaction(rig.engine) as connection:
        connection.execute(update(alerts).values(last_seen_at=later(-3 * 3600)))
    count_before = count_syncs(rig)
    rig.advance(61)
    assert count_syncs(rig) == count_before
    rig.bus.config = Config(expire_stale_hours=2)  # registered while the endpoint runs
    rig.advance(61)
    assert count_syncs(rig) > count_before


def test_a_sync_that_does_not_run_is_measured_until_the_next_round(rig):
    def lateness():
        return rig.metrics.sync_lateness._value.get()

    rig.accept(alert())
    rig.advance()
    for _ in range(10):
        rig.advance(61)
    assert 500 < lateness() < 700
    set_synced(rig, datetime.now(timezone.utc))
    rig.advance(61)
    assert lateness() == 0
    for _ in range(3):
        rig.advance(61)
    assert lateness() > 60
    rig.set_explanation("no_rule")
    rig.advance(61)
    assert lateness() == 0, "nothing is open, so no sync is needed"
