"""The client works with a real Alertmanager, and reports the errors of a fake one."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from poundcake import monitoring
from poundcake.config import Config
from poundcake.monitoring import Alertmanager, Matcher, MonitoringError, Silence, SilenceState
from poundcake.monitoring_servers import MonitoringServer
from tests.waiting import wait_for

LABELS = {"alertname": "HostDown", "instance": "web-1:9100"}
UNREACHABLE_RECEIVER = "http://127.0.0.1:1/"


def now():
    return datetime.now(timezone.utc)


@pytest.fixture
def real_server_and_client(alertmanager):
    """Return a real Alertmanager, and the client for it."""
    server = alertmanager(UNREACHABLE_RECEIVER)
    config = Config(alertmanagers=(MonitoringServer(server.url, "http://alerts.example"),))
    (client,) = monitoring.alertmanagers(config)
    return server, client


def silence(**fields):
    values = {
        "id": "",
        "matchers": tuple(Matcher(name, value) for name, value in LABELS.items()),
        "starts_at": now(),
        "ends_at": now() + timedelta(minutes=10),
        "created_by": "anna",
        "comment": "a new disk",
        **fields,
    }
    return Silence(**values)


def test_the_client_reads_and_changes_a_real_alertmanager(real_server_and_client):
    server, client = real_server_and_client
    assert (client.url, client.external_url) == (server.url, "http://alerts.example")
    assert client.alerts() == client.silences() == []
    assert timedelta(0) <= client.status().uptime < timedelta(minutes=1)

    started_at = server.fire(**LABELS)
    (active_alert,) = wait_for(client.alerts)
    assert (active_alert.labels, active_alert.silenced_by) == (LABELS, ())
    silence_id = client.create_silence(silence())
    assert wait_for(lambda: client.alerts()[0].silenced_by) == (silence_id,)
    (stored_silence,) = client.silences()
    assert (stored_silence.id, stored_silence.created_by, stored_silence.comment) == (
        silence_id,
        "anna",
        "a new disk",
    )
    assert {matcher.name: matcher.value for matcher in stored_silence.matchers} == LABELS
    assert stored_silence.state == SilenceState.ACTIVE
    client.expire_silence(silence_id)
    assert wait_for(lambda: client.alerts()[0].silenced_by == ())
    assert client.silences()[0].state == SilenceState.EXPIRED

    server.resolve(started_at, **LABELS)
    assert wait_for(lambda: client.alerts() == [])


def test_a_silence_that_is_extended_keeps_its_id(real_server_and_client):
    _, client = real_server_and_client
    silence_id = client.create_silence(silence())
    new_end = now() + timedelta(hours=1)
    assert client.create_silence(silence(id=silence_id, ends_at=new_end)) == silence_id
    (stored_silence,) = client.silences()
    assert abs(stored_silence.ends_at - new_end) < timedelta(seconds=1)


def test_a_silence_that_alertmanager_refuses_is_an_error(real_server_and_client):
    _, client = real_server_and_client
    with pytest.raises(MonitoringError, match=r"alertmanagers, http.*: POST /api/v2/silences: 400"):
        client.create_silence(silence(ends_at=now() - timedelta(hours=1)))


@pytest.mark.parametrize("zone", [" GMT", ""])
def test_the_uptime_does_not_depend_on_the_clock_of_this_machine(fake_server, zone):
    fake_server.responses["/api/v2/status"] = {"uptime": "2020-01-01T00:00:00.123Z"}
    fake_server.headers = {"Date": f"Wed, 01 Jan 2020 00:10:00{zone}"}
    uptime = Alertmanager(MonitoringServer(fake_server.url)).status().uptime
    assert timedelta(minutes=9) < uptime < timedelta(minutes=10)


@pytest.mark.parametrize("date", [None, "yesterday"])
def test_the_uptime_is_unknown_without_the_time_of_the_server(fake_server, date):
    fake_server.responses["/api/v2/status"] = {"uptime": "2020-01-01T00:00:00Z"}
    fake_server.headers = {"Date": date}
    with pytest.raises(MonitoringError, match="the response has no Date"):
        Alertmanager(MonitoringServer(fake_server.url)).status()


def alert_document(**changed_fields):
    return {"labels": LABELS, "status": {"silencedBy": []}, **changed_fields}


@pytest.mark.parametrize(
    "document",
    [
        {},
        None,
        "x",
        [1],
        [alert_document(labels=None)],
        [alert_document(labels={"a": 1})],
        [alert_document(status=None)],
        [alert_document(), alert_document(status={})],
    ],
)
def test_malformed_alerts_are_an_error_and_not_skipped(fake_server, document):
    fake_server.responses["/api/v2/alerts"] = document
    client = Alertmanager(MonitoringServer(fake_server.url))
    with pytest.raises(MonitoringError, match="not a valid response of Alertmanager's API v2"):
        client.alerts()


def test_a_response_from_another_server_is_an_error(fake_server):
    client = Alertmanager(MonitoringServer(fake_server.url))
    for call in (client.alerts, client.status, client.configuration, client.silences):
        with pytest.raises(MonitoringError, match="not a valid response of Alertmanager"):
            call()
    with pytest.raises(MonitoringError, match="not a valid response of Alertmanager"):
        client.create_silence(silence())
