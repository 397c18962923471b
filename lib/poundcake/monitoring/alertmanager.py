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

_ALL = {"active": "true", "silenced": "true", "inhibited": "true", "unprocessed": "true"}


class Alertmanager:
    """The implementation of AlertmanagerApi over HTTP."""

    def __init__(self, server: MonitoringServer):
        self.url = server.url
        self.external_url = server.external_url
        self._client = JsonClient("alertmanagers", server)

    def alerts(self) -> list[HeldAlert]:
        """Return the alerts that have not ended, also silenced and inhibited ones."""
        document = self._client.get("/api/v2/alerts", _ALL).document
        try:
            return [_alert(one) for one in _list(document)]
        except (KeyError, TypeError, ValueError):
            raise self._unexpected("/api/v2/alerts") from None

    def status(self) -> AlertmanagerStatus:
        """Return how long it has run.

        `uptime` in the response is the time of its start by its own clock, so it is compared with
        the time at which it sent the response, by the same clock.
        """
        response = self._client.get("/api/v2/status")
        try:
            started = parse_timestamp(response.document["uptime"])
        except (KeyError, TypeError, ValueError):
            started = None
        if started is None:
            raise self._unexpected("/api/v2/status")
        if response.now is None:
            raise self._client.error("the response has no Date: let the proxy in front of it pass")
        # Date has whole seconds, so it may lie before the start.
        return AlertmanagerStatus(max(response.now - started, timedelta(0)), response.now)

    def silences(self) -> list[Silence]:
        """Return all silences, also those that ended recently."""
        document = self._client.get("/api/v2/silences").document
        try:
            return [_silence(one) for one in _list(document)]
        except (KeyError, TypeError, ValueError):
            raise self._unexpected("/api/v2/silences") from None

    def create_silence(self, silence: Silence) -> str:
        """Create a silence, or change the one with its id, and return its id."""
        document = {
            "matchers": [
                {
                    "name": one.name,
                    "value": one.value,
                    "isRegex": one.is_regex,
                    "isEqual": one.is_equal,
                }
                for one in silence.matchers
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
            raise self._unexpected("/api/v2/silences") from None

    def expire_silence(self, silence_id: str) -> None:
        """End a silence now."""
        self._client.delete(f"/api/v2/silence/{quote(silence_id, safe='')}")

    def _unexpected(self, path: str) -> MonitoringError:
        return self._client.error(f"{path}: not the answer of Alertmanager's API, version 2")


def _list(document: Any) -> Sequence[Any]:
    if not isinstance(document, list):
        raise TypeError
    return document


def _alert(data: Mapping[str, Any]) -> HeldAlert:
    status = data["status"]
    return HeldAlert(
        _texts(data["labels"]),
        tuple(map(str, status["silencedBy"])),
        tuple(map(str, status["inhibitedBy"])),
    )


def _silence(data: Mapping[str, Any]) -> Silence:
    matchers = [
        Matcher(one["name"], one["value"], bool(one["isRegex"]), bool(one.get("isEqual", True)))
        for one in data["matchers"]
    ]
    return Silence(
        str(data["id"]),
        tuple(matchers),
        _time(data["startsAt"]),
        _time(data["endsAt"]),
        str(data["createdBy"]),
        str(data["comment"]),
        SilenceState(data["status"]["state"]),
    )


def _time(text: Any) -> datetime:
    found = parse_timestamp(text)
    if found is None:
        raise ValueError
    return found


def _texts(labels: Mapping[str, Any]) -> dict[str, str]:
    if not isinstance(labels, dict) or not all(isinstance(one, str) for one in labels.values()):
        raise TypeError
    return dict(labels)
