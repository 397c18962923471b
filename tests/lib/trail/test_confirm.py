"""A round of sync admits each unconfirmed incident once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from poundcake.config import Config
from poundcake.endpoint.tracking_queries import find_requests_to_import
from poundcake.trail import database
from poundcake.trail.confirm import METHOD, admit_unconfirmed
from poundcake.trail.record import record_requests
from poundcake.trail.schema import alerts, api_calls
from poundcake.trail.sync_round import start_round
from tests.lib.samples import alert, request, webhook
from tests.lib.sync_trail import SyncTrail, ago
from tests.lib.trails import on_sqlite


@pytest.fixture
def trail(engine):
    return SyncTrail(engine)


def refire(trail, seconds, **fields):
    """Record that an alert fired `seconds` ago, 10 s after its resolve."""
    firing = alert(starts_at=ago(5000), **fields)
    resolve = dict(firing, status="resolved", endsAt=alert(ends_at=ago(seconds + 20))["endsAt"])
    trail.record(firing, seconds=4000)
    trail.record(resolve, seconds=seconds + 10)
    request_id, rows = trail.record(alert("First"), firing, seconds=seconds)
    assert rows[1].outcome == "unconfirmed"
    return request_id, rows[1]


def read_open_rows(trail, name="HostDown"):
    return [row for row in trail.rows(alerts) if row.open_fingerprint and row.alert_name == name]


@pytest.mark.parametrize("seconds, outcome", [(350, "unconfirmed"), (361, "admitted")])
def test_an_unconfirmed_incident_is_admitted_after_six_minutes(trail, seconds, outcome):
    _, unconfirmed = refire(trail, seconds)
    assert trail.sync().confirmed == (outcome == "admitted")
    assert trail.sync().confirmed == 0
    (row,) = read_open_rows(trail)
    assert row.outcome == outcome
    assert row.episode == unconfirmed.episode


def test_the_admission_is_recorded_as_an_additional_request(trail):
    request_id, unconfirmed = refire(trail, 400)
    trail.sync()
    call = trail.rows(api_calls)[-1]
    assert (call.method, call.replay_of, call.completed_at) == (METHOD, request_id, None)
    (body,) = json.loads(call.body)["alerts"]
    assert body["labels"]["alertname"] == "HostDown"
    (row,) = read_open_rows(trail)
    assert (row.api_call_id, row.position, row.explanation) == (call.id, 0, None)
    assert row.starts_at == unconfirmed.starts_at
    # The admission is not a notification: a resolve received before it still ends the incident.
    assert row.last_seen_at == unconfirmed.last_seen_at
    with database.reading(trail.engine) as connection:
        assert call.request_id in find_requests_to_import(connection)
    unconfirmed_row = trail.rows(alerts)[-2]
    assert (unconfirmed_row.closed_at, unconfirmed_row.ended_by) == (row.created_at, None)


def test_a_resolve_received_before_the_admission_ends_the_incident(trail):
    refire(trail, 400)
    trail.sync()
    _, (row,) = trail.record(alert(status="resolved", ends_at=ago(60)), seconds=50)
    assert row.outcome == "resolved"
    assert read_open_rows(trail) == []


@on_sqlite
def test_a_resolved_incident_is_not_admitted(trail):
    refire(trail, 400)
    trail.record(alert(status="resolved", ends_at=ago(60)), seconds=50)
    assert trail.sync().confirmed == 0
    assert read_open_rows(trail) == []


@on_sqlite
def test_an_acknowledged_incident_is_not_admitted(trail):
    _, row = refire(trail, 400)
    trail.change(alerts, alerts.c.id == row.id, acknowledged_at=ago(1), acknowledged_by="anna")
    assert trail.sync().confirmed == 0
    trail.change(alerts, alerts.c.id == row.id, acknowledged_at=None, acknowledged_by=None)
    assert trail.sync().confirmed == 1


@on_sqlite
@pytest.mark.parametrize(
    "config, outcome",
    [({"cooldown_seconds": 7200}, "cooldown"), ({"receivers": ("x",)}, "observed")],
)
def test_limits_and_receivers_apply_to_the_admission(trail, config, outcome):
    refire(trail, 400)
    assert trail.sync(**config).confirmed == 1
    assert [row.outcome for row in read_open_rows(trail)] == [outcome]
    assert trail.rows(api_calls)[-1].completed_at
    assert trail.sync(**config).confirmed == 0


@on_sqlite
def test_identity_and_long_numbers_are_preserved(trail):
    """The stored body is parsed in the same way as the body of the webhook."""
    refire(trail, 400, labels={"port": 8080, "n": 10**30})
    assert trail.sync().confirmed == 1
    assert [row.outcome for row in read_open_rows(trail)] == ["admitted"]


def refire_with_body_start(trail, body_start, name, seconds=400):
    """Do the same as refire(), but start the JSON object of each body with `body_start`."""
    firing = alert(name, starts_at=ago(5000))
    resolve = dict(firing, status="resolved", endsAt=alert(ends_at=ago(seconds + 20))["endsAt"])
    for notification, age in ((firing, 4000), (resolve, seconds + 10), (firing, seconds)):
        full_body = "{" + body_start + json.dumps(webhook(notification))[1:]
        trail.record(seconds=age, body=full_body)
    (row,) = read_open_rows(trail, name)
    assert row.outcome == "unconfirmed"


@pytest.mark.parametrize("number", ["1" * 5000, "1e999", "-1e999"], ids=lambda n: n[:6])
def test_a_number_that_python_cannot_hold_is_preserved(trail, number):
    refire_with_body_start(trail, f'"x": {number}, ', "Odd")
    refire(trail, 390)
    assert trail.sync().confirmed == 2
    assert [row.outcome for row in read_open_rows(trail, "Odd")] == ["admitted"]
    assert [row.outcome for row in read_open_rows(trail)] == ["admitted"]


def test_a_body_that_is_nearly_too_large_to_store_is_preserved(trail):
    refire_with_body_start(trail, f'"x": "{"é" * 3_000_000}", ', "Odd")
    assert trail.sync().confirmed == 1
    assert [row.outcome for row in read_open_rows(trail, "Odd")] == ["admitted"]


def test_an_incident_is_admitted_once_despite_concurrent_notifications(trail):
    _, unconfirmed = refire(trail, 400)
    firing = alert(starts_at=ago(5000))
    requests = [request(firing, received_at=ago(1)) for _ in range(3)]

    def notify(webhook_request):
        return record_requests(trail.engine, Config(), [webhook_request])

    def confirm(_):
        return admit_unconfirmed(start_round(trail.engine, "owner"), Config())

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(notify, webhook_request) for webhook_request in requests] + [
            pool.submit(confirm, None)
        ]
        for future in futures:
            future.result()
    admitted = [
        row
        for row in trail.rows(alerts)
        if row.outcome == "admitted" and row.episode == unconfirmed.episode
    ]
    assert len(admitted) == len(read_open_rows(trail)) == 1
