"""Alertmanager's API, version 2."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Mapping, Sequence
from urllib.parse import quote

from poundcake.monitoring.api import (
    AlertmanagerStatus,
    HeldAlert,
    Matcher,
    MonitoringError,
    Silence,
    SilenceState,
)
from poundcake.monitoring.http_json import JsonClient
from poundcake.monitoring_servers import MonitoringServer
from poundcake.timestamps import format_timestamp, parse_timestamp

_ALL_STATES = {"active": "true", "silenced": "true", "inhibited": "true", "unprocessed": "true"}


class Alertmanager:
    """The implementation of AlertmanagerApi over HTTP."""

    def __init__(self, server: MonitoringServer):
        self.url = server.url
        self.external_url = server.external_url
        self._client = JsonClient("alertmanagers", server)

    def alerts(self) -> list[HeldAlert]:
        """Return the alerts that have not ended, including silenced and inhibited ones."""
        document = self._client.get("/api/v2/alerts", _ALL_STATES).document
        try:
            return [_read_alert(alert) for alert in _read_list(document)]
        except (KeyError, TypeError, ValueError):
            raise self._unexpected_response("/api/v2/alerts") from None

    def status(self) -> AlertmanagerStatus:
        """Return how long the Alertmanager has been running, and its current time.

        The field `uptime` of the response is the start time by Alertmanager's clock, so this method
        compares it with the response's Date, which is by the same clock.
        """
        response = self._client.get("/api/v2/status")
        try:
            started = parse_timestamp(response.document["uptime"])
        except (KeyError, TypeError, ValueError):
            started = None
        if started is None:
            raise self._unexpected_response("/api/v2/status")
        if response.now is None:
            raise self._client.error(
                "the response has no Date header: configure the proxy in front of it to keep it"
            )
        # The header is precise to a second, so it may be before the start.
        return AlertmanagerStatus(max(response.now - started, timedelta(0)), response.now)

    def configuration(self) -> str:
        """Return its configuration in YAML, in which secrets are masked."""
        document = self._client.get("/api/v2/status").document
        try:
            return str(document["config"]["original"])
        except (KeyError, TypeError):
            raise self._unexpected_response("/api/v2/status") from None

    def silences(self) -> list[Silence]:
        """Return all silences, including those that ended recently."""
        document = self._client.get("/api/v2/silences").document
        try:
            return [_read_silence(silence) for silence in _read_list(document)]
        except (KeyError, TypeError, ValueError):
            raise self._unexpected_response("/api/v2/silences") from None

    def create_silence(self, silence: Silence) -> str:
        """Create a silence, or update it if it has an id. Return its id."""
        document = {
            "matchers": [
                {
                    "name": matcher.name,
                    "value": matcher.value,
                    "isRegex": matcher.is_regex,
                    "isEqual": matcher.is_equal,
                }
                for matcher in silence.matchers
            ],
            "startsAt": format_timestamp(silence.starts_at),
            "endsAt": format_timestamp(silence.ends_at),
            "createdBy": silence.created_by,
            "comment": silence.comment,
        }
        if silence.id:
            document["id"] = silence.id
        created = self._client.post("/api/v2/silences", document).document
        try:
            return str(created["silenceID"])
        except (KeyError, TypeError):
            raise self._unexpected_response("/api/v2/silences") from None

    def expire_silence(self, silence_id: str) -> None:
        """End a silence now."""
        self._client.delete(f"/api/v2/silence/{quote(silence_id, safe='')}")

    def _unexpected_response(self, path: str) -> MonitoringError:
        return self._client.error(f"{path}: not a valid response of Alertmanager's API v2")


def _read_list(document: Any) -> Sequence[Any]:
    if not isinstance(document, list):
        raise TypeError
    return document


def _read_alert(data: Mapping[str, Any]) -> HeldAlert:
    return HeldAlert(_read_labels(data["labels"]), tuple(map(str, data["status"]["silencedBy"])))


def _read_silence(data: Mapping[str, Any]) -> Silence:
    matchers = [
        Matcher(item["name"], item["value"], bool(item["isRegex"]), bool(item.get("isEqual", True)))
        for item in data["matchers"]
    ]
    return Silence(
        str(data["id"]),
        tuple(matchers),
        _read_time(data["startsAt"]),
        _read_time(data["endsAt"]),
        str(data["createdBy"]),
        str(data["comment"]),
        SilenceState(data["status"]["state"]),
    )


def _read_time(text: Any) -> datetime:
    moment = parse_timestamp(text)
    if moment is None:
        raise ValueError
    return moment


def _read_labels(labels: Mapping[str, Any]) -> dict[str, str]:
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise TypeError
    return dict(labels)
