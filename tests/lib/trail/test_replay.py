"""A replay records a request again. Without force, it never remediates an episode twice."""

from __future__ import annotations

import dataclasses
import datetime
import json
import uuid

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from poundcake import request_ids
from poundcake.config import Config
from poundcake.trail import admission, claims, database
from poundcake.trail.errors import TrackingError
from poundcake.trail.record import record_requests
from poundcake.trail.release import release_claims
from poundcake.trail.replay import replay_request
from poundcake.trail.schema import alerts, api_calls, links
from tests.lib.samples import UTC, alert, request
from tests.lib.trails import database_time, on_sqlite

WORKFLOW = "poundcake.host_down"
NOW = None


@pytest.fixture(autouse=True)
def set_now():
    """Set NOW when a test starts, because this module may have been imported long before."""
    global NOW
    NOW = datetime.datetime.now(UTC).replace(microsecond=0)


def ago(minutes):
    return NOW - datetime.timedelta(minutes=minutes)


def firing(name="A", start=60, **fields):
    return alert(name, starts_at=ago(start), fingerprint=name, **fields)


def resolved(name="A", start=60, end=30):
    return alert(name, "resolved", starts_at=ago(start), ends_at=ago(end), fingerprint=name)


def record(engine, *payload_alerts, minutes=59, **config):
    """Record one request with these alerts, and return its id."""
    webhook_request = request(*payload_alerts, received_at=ago(minutes))
    config.setdefault("cooldown_seconds", 0)
    record_requests(engine, Config(**config), [webhook_request])
    return webhook_request.request_id


def replay(engine, request_id, force=False, execution="", **config):
    config.setdefault("cooldown_seconds", 0)
    return replay_request(engine, Config(**config), request_id, force, execution)


def read_rows(engine, request_id=None):
    """Return the alerts of a request, or all alerts, in order."""
    query = select(alerts).join(api_calls, api_calls.c.id == alerts.c.api_call_id)
    if request_id:
        query = query.where(api_calls.c.request_id == request_id)
    with database.reading(engine) as connection:
        return connection.execute(query.order_by(alerts.c.id)).all()


def read_call(engine, request_id):
    with database.reading(engine) as connection:
        return connection.execute(
            select(api_calls).where(api_calls.c.request_id == request_id)
        ).one()


def try_claim(engine, request_id, execution, workflow=WORKFLOW):
    """Claim the first alert of a request for an execution. Return True if it gets the claim."""
    row = read_rows(engine, request_id)[0]
    return claims.link(engine, request_id, row.episode, workflow, execution)["claimed"]


@on_sqlite
def test_the_request_id_may_be_shortened(engine):
    original_id = record(engine, firing())
    replay_result = replay(engine, original_id[:8], execution="e1")
    assert replay_result["replay_of"] == original_id
    # The id of the replay does not depend on how the original's id was written.
    assert replay(engine, original_id, execution="e1") == replay_result


def test_a_replay_is_a_separate_request(engine):
    original_id = record(engine, firing())
    replay_result = replay(engine, original_id)
    assert replay_result == {
        "request_id": replay_result["request_id"],
        "replay_of": original_id,
        "outcomes": {"admitted": 1},
        "reasons": {"admitted": [f"replay of {original_id}"]},
        "next_command": "",
    }
    assert str(uuid.UUID(replay_result["request_id"])) == replay_result["request_id"] != original_id
    original_call, replay_call = (
        read_call(engine, original_id),
        read_call(engine, replay_result["request_id"]),
    )
    assert (replay_call.replay_of, original_call.replay_of) == (original_id, None)
    for column in ("method", "path", "headers", "body", "body_sha256", "receiver", "delivery_key"):
        assert getattr(replay_call, column) == getattr(original_call, column)
    assert (replay_call.client_host, replay_call.client_request_id, replay_call.error) == (
        "",
        None,
        None,
    )
    assert replay_call.created_at >= NOW
    assert replay_call.completed_at is None


@on_sqlite
def test_the_result_says_why_an_alert_is_not_admitted_and_how_to_admit_it(engine):
    original_id = record(engine, firing())
    assert try_claim(engine, original_id, "e1")
    result = replay(engine, original_id)
    assert result["outcomes"] == {"duplicate": 1}
    ((reason,),) = result["reasons"].values()
    assert reason == (
        f"replay of {original_id}: {WORKFLOW} (e1) has worked on this episode; force=true runs it "
        "again"
    )
    assert result["next_command"] == (
        f"st2 run poundcake.replay request_id={original_id} force=true"
    )
    forced = replay(engine, original_id, force=True)
    assert (forced["outcomes"], forced["next_command"]) == ({"admitted": 1}, "")


@on_sqlite
def test_force_is_not_advised_for_a_resolve(engine):
    record(engine, firing())
    resolve_id = record(engine, resolved())
    result = replay(engine, resolve_id)
    assert (result["outcomes"], result["next_command"]) == ({"duplicate": 1}, "")
    assert result["reasons"]["duplicate"]


@on_sqlite
@pytest.mark.parametrize("request_id", [str(uuid.UUID(int=1)), "", "'%s"])
def test_an_unrecorded_request_is_an_error(engine, request_id):
    for execution in ("", "e1"):
        with pytest.raises(TrackingError, match=f"^request_id: {request_id} is not"):
            replay(engine, request_id, execution=execution)
    assert read_rows(engine) == []


def test_a_replay_takes_over_the_open_incident(engine):
    original_id = record(engine, firing())
    replay_id = replay(engine, original_id)["request_id"]
    original_row, replay_row = read_rows(engine)
    assert (original_row.open_fingerprint, replay_row.open_fingerprint) == (None, "A")
    assert original_row.closed_at == replay_row.created_at
    assert (replay_row.outcome, replay_row.reason) == ("admitted", f"replay of {original_id}")
    assert (replay_row.episode, replay_row.starts_at, replay_row.attempt) == (
        original_row.episode,
        original_row.starts_at,
        1,
    )
    # Only one execution gets the claim, regardless of which of the two requests started it.
    assert try_claim(engine, original_id, "e1")
    assert not try_claim(engine, replay_id, "e2")
    # Later notifications refer to the same incident.
    repeat_id = record(engine, firing(), minutes=0)
    resolve_id = record(engine, resolved(end=0), minutes=0)
    assert [read_rows(engine, r)[0].outcome for r in (repeat_id, resolve_id)] == [
        "duplicate",
        "resolved",
    ]
    assert read_rows(engine)[1].closed_at == ago(0)


def test_a_held_back_alert_is_admitted_after_the_limit_has_ended(engine):
    limit = {"max_remediations_per_hour": 1}
    same_name_alerts = [alert("A", starts_at=ago(70), fingerprint=f) for f in ("one", "two")]
    with database_time(ago(65)):
        original_id = record(engine, *same_name_alerts, minutes=65, **limit)
    assert [row.outcome for row in read_rows(engine)] == ["admitted", "rate_limited"]
    assert try_claim(engine, original_id, "e1")
    replay_id = replay(engine, original_id, **limit)["request_id"]
    assert [row.outcome for row in read_rows(engine, replay_id)] == ["duplicate", "admitted"]
    assert read_rows(engine, replay_id)[1].open_fingerprint == "two"


@on_sqlite
@pytest.mark.parametrize(
    "config, outcome",
    [({"cooldown_seconds": 7200}, "cooldown"), ({"max_remediations_per_hour": 1}, "rate_limited")],
)
def test_limits_apply_unless_forced(engine, config, outcome):
    original_id = record(engine, firing())
    assert replay(engine, original_id, **config)["outcomes"] == {outcome: 1}
    assert [row.open_fingerprint for row in read_rows(engine)] == ["A", None]
    assert replay(engine, original_id, force=True, **config)["outcomes"] == {"admitted": 1}


def test_an_episode_that_a_workflow_has_claimed_is_not_admitted_again(engine):
    original_id = record(engine, firing())
    assert try_claim(engine, original_id, "e1")
    replay_result = replay(engine, original_id)
    assert replay_result["outcomes"] == {"duplicate": 1}
    (row,) = read_rows(engine, replay_result["request_id"])
    assert row.reason == (
        f"replay of {original_id}: {WORKFLOW} (e1) has worked on this episode;"
        " force=true runs it again"
    )
    assert row.explanation == "none"
    assert read_call(engine, replay_result["request_id"]).completed_at
    assert [row.open_fingerprint for row in read_rows(engine)] == ["A", None]


@on_sqlite
def test_a_released_episode_is_admitted_again(engine):
    original_id = record(engine, firing())
    assert try_claim(engine, original_id, "e1")
    release_claims(engine, read_rows(engine)[0].episode, force=True)
    replay_id = replay(engine, original_id)["request_id"]
    assert try_claim(engine, replay_id, "e2")


def test_each_forced_replay_is_another_attempt(engine):
    original_id = record(engine, firing())
    assert try_claim(engine, original_id, "e1")
    for attempt in (2, 3):
        replay_id = replay(engine, original_id, force=True)["request_id"]
        (row,) = read_rows(engine, replay_id)
        assert (row.attempt, row.episode) == (attempt, read_rows(engine, original_id)[0].episode)
        assert try_claim(engine, replay_id, f"e{attempt}")
        assert not try_claim(engine, replay_id, "another")
        assert not try_claim(engine, original_id, "another")
    with database.reading(engine) as connection:
        claim_keys = connection.scalars(select(links.c.claim).order_by(links.c.id)).all()
    key = f"{row.episode}|{WORKFLOW}"
    assert claim_keys == [key, key + "|2", key + "|3"]
    released_claims = release_claims(engine, row.episode, force=True)
    assert [claim["st2_execution_id"] for claim in released_claims] == ["e1", "e2", "e3"]
    assert try_claim(engine, replay_id, "e4")


@on_sqlite
def test_an_ended_incident_is_not_admitted(engine):
    original_id = record(engine, firing())
    record(engine, resolved(), minutes=29)
    replay_result = replay(engine, original_id)
    (row,) = read_rows(engine, replay_result["request_id"])
    assert (row.outcome, row.episode) == ("duplicate", read_rows(engine, original_id)[0].episode)
    assert row.reason == f"replay of {original_id}: the incident has ended"


def test_force_admits_an_ended_incident_which_stays_closed(engine):
    original_id = record(engine, firing())
    assert try_claim(engine, original_id, "e1")
    record(engine, resolved(), minutes=29)
    replay_id = replay(engine, original_id, force=True)["request_id"]
    (row,) = read_rows(engine, replay_id)
    assert (row.outcome, row.attempt) == ("admitted", 2)
    assert (row.episode, row.starts_at) == (read_rows(engine)[0].episode, ago(60))
    assert [row.open_fingerprint for row in read_rows(engine)] == [None] * 3
    assert try_claim(engine, replay_id, "e2")


@on_sqlite
def test_a_resolve_does_not_close_a_later_incident(engine):
    record(engine, firing())
    resolve_id = record(engine, resolved(), minutes=29)
    record(engine, firing(start=20), minutes=19)
    assert replay(engine, resolve_id)["outcomes"] == {"duplicate": 1}
    # The alert fires again with its old start, as after an outage of Prometheus.
    record(engine, resolved(start=20, end=18), minutes=17)
    record(engine, firing(), minutes=5)
    assert read_rows(engine)[-1].open_fingerprint == "A"
    assert replay(engine, resolve_id)["outcomes"] == {"duplicate": 1}
    assert [row.open_fingerprint for row in read_rows(engine) if row.open_fingerprint] == ["A"]


@on_sqlite
def test_a_resolve_does_not_close_an_incident_with_a_later_notification(engine):
    resolve_id = record(engine, resolved(), minutes=29)
    record(engine, firing(), minutes=15)
    assert replay(engine, resolve_id)["outcomes"] == {"duplicate": 1}
    assert (
        read_rows(engine)[-1].reason
        == f"replay of {resolve_id}: the open incident has a later notification"
    )
    assert read_rows(engine)[1].open_fingerprint == "A"


@on_sqlite
def test_the_replay_of_a_failed_resolve_closes_its_incident(engine, monkeypatch):
    record(engine, firing(), minutes=59)
    with monkeypatch.context() as patch:
        patch.setattr(admission, "decide", None)
        resolve_id = record(engine, resolved(), minutes=29)
    assert read_call(engine, resolve_id).error
    record(engine, firing("B"), minutes=59)
    assert replay(engine, resolve_id)["outcomes"] == {"resolved": 1}
    with monkeypatch.context() as patch:
        patch.setattr(admission, "decide", None)
        resolve_id = record(engine, resolved("B"), minutes=29)
    record(engine, firing("B"), minutes=15)
    assert replay(engine, resolve_id)["outcomes"] == {"duplicate": 1}


@on_sqlite
def test_a_replay_does_not_count_as_a_notification(engine):
    """A resolve that was received before the replay, but recorded after it, ends the incident."""
    original_id = record(engine, firing(), minutes=59)
    replay(engine, original_id)
    assert read_rows(engine)[-1].last_seen_at == ago(59)
    record(engine, resolved(), minutes=1)
    assert read_rows(engine)[-1].outcome == "resolved"


@on_sqlite
def test_a_replayed_resolve_does_not_make_the_next_notification_unconfirmed(engine):
    original_id = record(engine, firing())
    resolve_id = record(engine, resolved(), minutes=29)
    replay(engine, resolve_id)
    # Prometheus sends the alert again, with the old start.
    refire = request(firing(), received_at=datetime.datetime.now(UTC))
    assert record_requests(engine, Config(cooldown_seconds=0), [refire])["outcomes"] == {
        "admitted": 1
    }
    assert read_rows(engine)[-1].episode != read_rows(engine, original_id)[0].episode


@on_sqlite
def test_alerts_of_all_kinds_in_one_request_are_replayed(engine):
    original_id = record(
        engine,
        firing("A"),
        firing("B"),
        firing("A"),
        {"labels": "broken"},
        firing("B", start=61),
        resolved("C"),
    )
    replay_id = replay(engine, original_id)["request_id"]
    assert [row.outcome for row in read_rows(engine, replay_id)] == [
        "admitted",
        "admitted",
        "duplicate",
        "malformed",
        "duplicate",
        "duplicate",
    ]
    assert "alerts[3].labels" in read_rows(engine, replay_id)[3].reason
    assert read_rows(engine, replay_id)[4].reason == f"duplicate of {replay_id}"
    forced_id = replay(engine, original_id, force=True)["request_id"]
    assert [row.outcome for row in read_rows(engine, forced_id)].count("admitted") == 2


@on_sqlite
def test_an_alert_that_was_malformed_before_is_decided_like_a_new_one(engine, monkeypatch):
    """An older release may have accepted fewer payloads."""
    decide = admission.decide

    def decide_as_malformed(parsed_alert, *args):
        return decide(dataclasses.replace(parsed_alert, problem="alerts[0]: unknown"), *args)

    with monkeypatch.context() as patch:
        patch.setattr(admission, "decide", decide_as_malformed)
        original_id = record(engine, firing())
    assert [row.outcome for row in read_rows(engine)] == ["malformed"]
    assert replay(engine, original_id)["outcomes"] == {"admitted": 1}


@on_sqlite
def test_force_admits_an_ended_episode_once(engine):
    original_id = record(engine, firing("A"), firing("A", start=61))
    record(engine, resolved(), minutes=29)
    result = replay(engine, original_id, force=True)
    rows = read_rows(engine, result["request_id"])
    assert [row.outcome for row in rows] == ["admitted", "duplicate"]
    assert result["next_command"] == ""  # it was forced already


@on_sqlite
def test_a_replay_of_a_replay_refers_to_the_replay(engine):
    original_id = record(engine, firing())
    second_id = replay(engine, original_id)["request_id"]
    third_id = replay(engine, second_id)["request_id"]
    assert read_call(engine, third_id).replay_of == second_id
    assert len({row.episode for row in read_rows(engine)}) == 1


class TestRequestingExecution:
    """After a broken connection, an execution cannot know whether it committed its replay."""

    def test_an_execution_replays_a_request_once(self, engine):
        original_id = record(engine, firing("A"), firing("B"))
        replays = [replay(engine, original_id, True, "execution-1") for _ in range(2)]
        assert replays[0] == replays[1]
        assert replays[0]["outcomes"] == {"admitted": 2}
        assert len(read_rows(engine)) == 4

    def test_a_broken_commit_is_retried_without_a_second_attempt(self, engine):
        """The server commits, and the connection breaks before the confirmation arrives."""
        original_id = record(engine, firing())
        assert try_claim(engine, original_id, "e1")
        failures = [Exception(2013, "Lost connection")]
        commit = type(engine.dialect).do_commit

        def commit_and_fail_once(connection):
            commit(engine.dialect, connection)
            if failures:
                raise OperationalError("COMMIT", {}, failures.pop())

        engine.dialect.do_commit = commit_and_fail_once
        result = database.retry_while_unavailable(
            lambda: replay(engine, original_id, True, "execution-1"), 30
        )
        assert not failures
        assert [row.attempt for row in read_rows(engine)] == [1, 2]
        assert read_call(engine, result["request_id"]).replay_of == original_id

    @on_sqlite
    def test_another_execution_replays_the_request_again(self, engine):
        original_id = record(engine, firing())
        replays = {
            replay(engine, original_id, True, f"execution-{n}")["request_id"] for n in range(3)
        }
        assert len(replays) == 3

    @on_sqlite
    def test_an_execution_can_replay_several_requests(self, engine):
        request_ids = [record(engine, firing(name)) for name in "AB"]
        replays = {
            replay(engine, request_id, True, "execution-1")["request_id"]
            for request_id in request_ids
        }
        assert len(replays) == 2

    @on_sqlite
    def test_the_action_passes_its_own_execution_id(self, engine, database_url, run_action):
        original_id = record(engine, firing())
        replays = [
            run_action("replay", execution, request_id=original_id, force=True)["request_id"]
            for execution in ("one", "one", "other")
        ]
        assert replays[0] == replays[1] != replays[2]
        assert replays[0] == request_ids.replay_id(original_id, "one")

    @on_sqlite
    def test_the_action_passes_the_execution_id_of_its_workflow(self, engine, run_action):
        original_id = record(engine, firing())
        replays = [
            run_action("replay", execution, request_id=original_id, force=True, execution_id="flow")
            for execution in ("task one", "task two")
        ]
        assert replays[0]["request_id"] == replays[1]["request_id"]


class TestFailed:
    """The original request is recorded with an error and without alerts."""

    @pytest.fixture
    def failed_id(self, engine, monkeypatch):
        def fail_to_decide(*_):
            raise ValueError("a fault")

        with monkeypatch.context() as patch:
            patch.setattr(admission, "decide", fail_to_decide)
            return record(engine, firing("A"), firing("B"))

    @pytest.mark.parametrize("force", [False, True])
    def test_a_failed_request_is_recorded_as_a_new_request(self, engine, failed_id, force):
        record(engine, firing("B"))
        replay_result = replay(engine, failed_id, force)
        assert replay_result["outcomes"] == {"admitted": 1, "duplicate": 1}
        first, _ = read_rows(engine, replay_result["request_id"])
        assert (first.reason, first.open_fingerprint, first.attempt) == ("new incident", "A", 1)
        assert read_call(engine, replay_result["request_id"]).replay_of == failed_id
        assert read_call(engine, failed_id).error == "a fault"

    def test_a_replay_can_fail_again(self, engine):
        webhook_request = request(body="no json", received_at=ago(1))
        record_requests(engine, Config(), [webhook_request])
        with pytest.raises(TrackingError, match="cannot be read") as caught:
            replay(engine, webhook_request.request_id)
        assert str(caught.value).startswith(f"request_id: {webhook_request.request_id}")
        with database.reading(engine) as connection:
            (replayed_call,) = connection.execute(
                select(api_calls).where(api_calls.c.replay_of == webhook_request.request_id)
            ).all()
        assert replayed_call.request_id in str(caught.value)
        assert "cannot be read" in replayed_call.error

    def test_headers_and_text_are_unchanged(self, engine):
        text = "{{ x }} \ud800 日本 '; --"
        webhook_request = request(firing(labels={"x": text}), headers={"User-Agent": text})
        record_requests(engine, Config(), [webhook_request])
        replay_id = replay(engine, webhook_request.request_id)["request_id"]
        assert json.loads(read_call(engine, replay_id).headers) == {"User-Agent": text}
        assert json.loads(read_rows(engine, replay_id)[0].labels)["x"] == text
