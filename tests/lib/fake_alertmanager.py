"""An in-memory implementation of AlertmanagerApi."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

from poundcake.monitoring import (
    AlertmanagerStatus,
    HeldAlert,
    MonitoringError,
    Silence,
    SilenceState,
)
from tests.lib.samples import alert


class FakeAlertmanager:
    """An in-memory Alertmanager.

    Attributes:
        held: The labels of the alerts that it holds.
        silenced: Whether all alerts are silenced.
        silences_by_id: The silences, including expired ones.
        uptime: How long it has been running.
        failing_methods: The names of the methods that raise MonitoringError.
        calls: The names of the methods that were called.
        config: Its configuration in YAML.
    """

    def __init__(self, url="http://alertmanager.example", external_url=None):
        self.url, self.external_url = url, external_url or url
        self.held, self.silenced, self.silences_by_id = [], False, {}
        self.uptime, self.failing_methods, self.calls = timedelta(days=1), set(), []
        self.now = datetime.now(timezone.utc)
        self.config = ""

    def hold(self, *names, **labels):
        """Replace the held alerts with one `samples.alert` for each of these names."""
        self.held = [alert(name, labels=labels)["labels"] for name in names]
        return self

    def silence(self, by="anna", until=None, comment="a new disk", silence_id="s1"):
        """Silence all alerts."""
        self.silenced = True
        ends_at = until or datetime.now(timezone.utc) + timedelta(hours=1)
        self.silences_by_id[silence_id] = Silence(silence_id, (), ends_at, ends_at, by, comment)
        return self

    def _call(self, name):
        self.calls.append(name)
        if name in self.failing_methods:
            raise MonitoringError(f"alertmanagers, {self.url}: {name}: connection refused")

    def alerts(self):
        self._call("alerts")
        silences = tuple(self.silences_by_id) if self.silenced else ()
        return [HeldAlert(labels, silences) for labels in self.held]

    def status(self):
        self._call("status")
        return AlertmanagerStatus(self.uptime, self.now)

    def configuration(self):
        self._call("configuration")
        return self.config

    def silences(self):
        self._call("silences")
        return list(self.silences_by_id.values())

    def create_silence(self, silence):
        self._call("create_silence")
        silence_id = silence.id or f"s{len(self.silences_by_id) + 1}"
        self.silences_by_id[silence_id] = replace(silence, id=silence_id)
        return silence_id

    def expire_silence(self, silence_id):
        self._call("expire_silence")
        self.silences_by_id[silence_id] = replace(
            self.silences_by_id[silence_id], state=SilenceState.EXPIRED
        )
