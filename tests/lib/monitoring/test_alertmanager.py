"""Alertmanager's API, version 2, against a real Alertmanager and against a server of ours."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from poundcake import monitoring
from poundcake.config import Config
from poundcake.monitoring import Alertmanager, Matcher, MonitoringError, Silence, SilenceState
from poundcake.monitoring_servers import MonitoringServer
from tests.waiting import wait_for

LABELS = {"alertname": "HostDown", "instance": "web-1:9100"}
NOBODY = "http://127.0.0.1:1/"


def now():
    return datetime.now(timezone.utc)


@pytest.fixture
def real(alertmanager):
    """Return a real Alertmanager, and the client for it."""
    server = alertmanager(NOBODY)
    config = Config(alertmanagers=(MonitoringServer(server.url, "http://alerts.example"),))
    (client,) = monitoring.alertmanagers(config)
    return server, client


def silence(**more):
    values = {
        "id": "",
        "matchers": tuple(Matcher(name, value) for name, value in LABELS.items()),
        "starts_at": now(),
        "ends_at": now() + timedelta(minutes=10),
        "created_by": "anna",
        "comment": "a new disk",
        **more,
    }
    return Silence(**values)


def test_alerts_silences_and_status_of_a_real_alertmanager(real):
    server, client = real
    assert (client.url, client.external_url) == (server.url, "http://alerts.example")
    assert client.alerts() == client.silences() == []
    assert timedelta(0) <= client.status().uptime < timedelta(minutes=1)

    started = server.fire(**LABELS)
    (held,) = wait_for(client.alerts)
    assert (held.labels, held.silenced_by) == (LABELS, ())
    silence_id = client.create_silence(silence())
    assert wait_for(lambda: client.alerts()[0].silenced_by) == (silence_id,)
    (shown,) = client.silences()
    assert (shown.id, shown.created_by, shown.comment) == (silence_id, "anna", "a new disk")
    assert {matcher.name: matcher.value for matcher in shown.matchers} == LABELS
    assert shown.state == SilenceState.ACTIVE
    client.expire_silence(silence_id)
    assert wait_for(lambda: client.alerts()[0].silenced_by == ())
    assert client.silences()[0].state == SilenceState.EXPIRED

    server.resolve(started, **LABELS)
    assert wait_for(lambda: client.alerts() == [])


def test_a_silence_that_is_extended_keeps_its_id(real):
    _, client = real
    silence_id = client.create_silence(silence())
    later = now() + timedelta(hours=1)
    (shown,) = client.silences()
    assert client.create_silence(silence(id=silence_id, ends_at=later)) == silence_id
    (shown,) = client.silences()
    assert abs(shown.ends_at - later) < timedelta(seconds=1)


def test_a_silence_that_alertmanager_refuses(real):
    _, client = real
    with pytest.raises(MonitoringError, match=r"alertmanagers, http.*: POST /api/v2/silences: 400"):
        client.create_silence(silence(ends_at=now() - timedelta(hours=1)))


def test_the_uptime_does_not_depend_on_the_clock_of_this_machine(fake):
    fake.responses["/api/v2/status"] = {"uptime": "2020-01-01T00:00:00.123Z"}
    fake.headers = {"Date": "Wed, 01 Jan 2020 00:10:00 GMT"}
    uptime = Alertmanager(MonitoringServer(fake.url)).status().uptime
    assert timedelta(minutes=9) < uptime < timedelta(minutes=10)


@pytest.mark.parametrize("date", [None, "yesterday"])
def test_without_the_time_of_the_server_the_uptime_is_unknown(fake, date):
    fake.responses["/api/v2/status"] = {"uptime": "2020-01-01T00:00:00Z"}
    fake.headers = {"Date": date}
    with pytest.raises(MonitoringError, match="the response has no Date"):
        Alertmanager(MonitoringServer(fake.url)).status()


def held(**changed):
    return {"labels": LABELS, "status": {"silencedBy": [], "inhibitedBy": []}, **changed}


@pytest.mark.parametrize(
    "document",
    [
        {},
        None,
        "x",
        [1],
        [held(labels=None)],
        [held(labels={"a": 1})],
        [held(status=None)],
        [held(), held(status={})],
    ],
)
def test_alerts_of_another_format_are_an_error_and_not_fewer_alerts(fake, document):
    fake.responses["/api/v2/alerts"] = document
    client = Alertmanager(MonitoringServer(fake.url))
    with pytest.raises(MonitoringError, match="not a response of Alertmanager's API, version 2"):
        client.alerts()


def test_another_server_at_the_url(fake):
    client = Alertmanager(MonitoringServer(fake.url))
    for ask in (client.alerts, client.status, client.silences):
        with pytest.raises(MonitoringError, match="not a response of Alertmanager's API"):
            ask()
    with pytest.raises(MonitoringError, match="not a response of Alertmanager's API"):
        client.create_silence(silence())
