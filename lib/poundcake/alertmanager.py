"""Read the payload of an Alertmanager webhook into typed objects.

https://prometheus.io/docs/alerting/latest/configuration/#webhook_config describes the format.
Other senders (vmalert, Grafana, relays) omit some fields or send them with other types. So only a
field that PoundCake bases a decision on can cause an error. `ON_ERROR` defines what happens when a
field is unreadable.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Any, Dict, Mapping

from poundcake.errors import PoundCakeError
from poundcake.json_depth import MAX_DEPTH, is_too_deep
from poundcake.timestamps import format_timestamp, parse_timestamp

FIRING = "firing"
RESOLVED = "resolved"

MAX_ALERTS = 10_000
"""Maximum number of alerts in a request."""
MAX_LABELS = 1_000
"""Maximum number of labels on an alert."""
MAX_LABEL_NAME = 1_024
"""Maximum length of a label's name, in characters."""
MAX_LABEL_VALUE = 16_384
"""Maximum length of a label's value, in characters."""

_DIGITS = re.compile(r"[0-9]{1,18}\Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# Longer integers stay strings: conversion takes quadratic time, and payloads of version "3" have an
# integer of more than 64 bits as their groupKey.
_MAX_INTEGER_DIGITS = 18

# Maximum lengths, in characters, of an unreadable value in a note and of all notes of an alert.
_MAX_VALUE_IN_NOTE = 80
_MAX_NOTES = 1_000

_JsonObject = Dict[str, Any]


class OnError(Enum):
    """What happens to a payload that contains an unreadable field."""

    REFUSE_REQUEST = "refuse the whole request with the field's name"
    REFUSE_ALERT = "record the alert as malformed, and process the others"
    NOTE = "treat the field as missing, and keep its value in the alert's notes"
    IGNORE = "treat the field as missing"


ON_ERROR = {
    "alerts": OnError.REFUSE_REQUEST,
    "status": OnError.IGNORE,
    "receiver": OnError.IGNORE,
    "externalURL": OnError.IGNORE,
    "truncatedAlerts": OnError.IGNORE,
    "alerts[].labels": OnError.REFUSE_ALERT,
    "alerts[].status": OnError.REFUSE_ALERT,
    "alerts[].annotations": OnError.NOTE,
    "alerts[].startsAt": OnError.NOTE,
    "alerts[].endsAt": OnError.NOTE,
    "alerts[].generatorURL": OnError.NOTE,
    "alerts[].fingerprint": OnError.IGNORE,
}
"""What happens when a field is unreadable, for each field whose type is checked.

Alertmanager never retries a refused request, so a field that no decision depends on never causes a
refusal.
"""


class PayloadError(PoundCakeError):
    """A request that is invalid and must not be retried.

    Attributes:
        field: The path of the field in the payload, such as ``alerts``, or ``body``.
    """

    def __init__(self, field_name: str, message: str):
        super().__init__(f"{field_name}: {message}")
        self.field = field_name


@dataclass(frozen=True)
class Identity:
    """The parts of a notification that identify an alert: its labels, and optionally its sender."""

    ignored_labels: frozenset[str] = frozenset()
    """Names of labels that are not part of the identity."""
    with_external_url: bool = False
    """Whether externalURL is also part of it, for senders whose alerts have the same labels."""

    def fingerprint(self, labels: Mapping[str, str], external_url: str) -> str:
        """Return the fingerprint of an alert.

        Args:
            labels: The alert's labels, without those whose value is empty.
            external_url: The externalURL of the sender.
        """
        identifying_labels = {
            name: value for name, value in labels.items() if name not in self.ignored_labels
        }
        return fingerprint(identifying_labels, external_url if self.with_external_url else "")


@dataclass(frozen=True)
class Alert:
    """One alert of a notification."""

    position: int
    """Its index in the request's list of alerts, from 0."""
    status: str = ""
    """FIRING or RESOLVED. Malformed alerts may have any other value."""
    labels: dict[str, str] = field(default_factory=dict)
    """Labels with a value. Prometheus treats a label with an empty value as absent."""
    annotations: dict[str, str] = field(default_factory=dict)
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    generator_url: str = ""
    fingerprint: str = ""
    """Identifies the alert: see fingerprint() and Identity."""
    sender_fingerprint: str = ""
    """The sender's own fingerprint if it differs. It is informational only."""
    notes: str = ""
    """Unreadable fields that affect no decision, on one line; empty if there are none."""
    problem: str = ""
    """Why the alert is malformed, starting with the field's name; '' if it is valid."""

    @property
    def name(self) -> str:
        """The label ``alertname``, or an empty string."""
        return self.labels.get("alertname", "")

    @property
    def severity(self) -> str:
        """The label ``severity``, or an empty string."""
        return self.labels.get("severity", "")

    @property
    def instance(self) -> str:
        """The label ``instance``, or an empty string."""
        return self.labels.get("instance", "")


@dataclass(frozen=True)
class Webhook:
    """One notification: the group of alerts in one POST."""

    alerts: list[Alert]
    receiver: str = ""
    group_key: str = ""
    group_status: str = ""
    """FIRING, RESOLVED, or any other value that the sender uses."""
    truncated_alerts: int = 0
    """Number of alerts that the sender left out because of its max_alerts."""
    external_url: str = ""
    """The URL of the sender (externalURL), without a trailing slash."""

    @property
    def delivery_key(self) -> str:
        """A digest (64 hex digits) that stays the same if the notification is sent again.

        It excludes annotations and endsAt, because they change each time Alertmanager sends the
        group.
        """
        alerts = sorted(
            (a.fingerprint, a.status, format_timestamp(a.starts_at) if a.starts_at else "")
            for a in self.alerts
        )
        text = json.dumps([self.receiver, self.group_key, self.group_status, alerts])
        return hashlib.sha256(text.encode()).hexdigest()


def parse(body: bytes, identity: Identity | None = Identity()) -> Webhook:
    """Read the body of a webhook.

    Args:
        body: JSON in UTF-8, with or without a byte order mark.
        identity: How to compute the fingerprints of the alerts. If it is None, they stay empty,
            which halves the parsing time.

    Returns:
        The notification. A malformed alert is included, with its ``problem`` set.

    Raises:
        PayloadError: The request as a whole is invalid and must not be retried.
    """
    return _read_webhook(decode(body), identity)


def fingerprint(labels: Mapping[str, str], source: str = "") -> str:
    """Return the fingerprint of a label set as 16 hex digits.

    It is the 64-bit FNV-1a hash of ``name 0xff value 0xff`` for each label, sorted by name, as
    computed by LabelSet.Fingerprint in prometheus/common (model/labelset.go, model/fnv.go).
    Without a source, it equals Alertmanager's own fingerprint.

    Args:
        labels: Labels whose value is not empty.
        source: Distinguishes equal label sets from different senders; may be empty.
    """
    # No label set contains an empty name with an empty value, so this cannot collide with a label.
    parts = ["", "", source] if source else []
    for name in sorted(labels):
        parts += [name, labels[name]]
    digest = 0xCBF29CE484222325
    for part in parts:
        for byte in part.encode("utf-8", "surrogatepass") + b"\xff":
            digest = ((digest ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{digest:016x}"


def episode_name(alert_fingerprint: str, starts_at: datetime) -> str:
    """Return the name of one occurrence of one label set: ``<fingerprint>-<start in ms>``."""
    return f"{alert_fingerprint}-{(starts_at - _EPOCH) // timedelta(milliseconds=1)}"


class _Fields:
    """Reads the fields of one JSON object, and applies ON_ERROR to the unreadable ones.

    Attributes:
        problems: Why an alert is malformed, each as ``field: message``.
        notes: Unreadable fields of an alert that are treated as missing.
    """

    def __init__(self, data: _JsonObject, position: int | None = None):
        """Wrap the fields of a notification, or of the alert at `position` in it."""
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._data = data
        self._path_prefix = "" if position is None else f"alerts[{position}]."
        self._table_prefix = "" if position is None else "alerts[]."

    def fail(self, name: str, message: str, key: str = "") -> None:
        """Apply ON_ERROR to a field that is invalid, or that has an invalid key."""
        field_name = f"{name}.{key}" if key else name
        effect = ON_ERROR[self._table_prefix + name]
        if effect is OnError.REFUSE_REQUEST:
            raise PayloadError(self._path_prefix + field_name, message)
        if effect is OnError.REFUSE_ALERT:
            self.problems.append(f"{self._path_prefix}{field_name}: {message}")
        if effect is OnError.NOTE:
            self.note(field_name, message)

    def note(self, name: str, message: str) -> None:
        """Note a problem with a field that affects no decision."""
        self.notes.append(f"{name}: {message}")

    def text(self, name: str) -> str:
        """Return a field as a string; '' if it is missing or unreadable."""
        value = self._data.get(name)
        if value is None:
            return ""
        if isinstance(value, (list, dict)):
            self.fail(name, f"not a string: {_short_repr(value)}")
            return ""
        return _as_text(value)

    def count(self, name: str) -> int:
        """Return a field as a non-negative integer; 0 if it is missing or unreadable."""
        value = self._data.get(name)
        text = "" if value is None else _as_text(value)
        if not _DIGITS.match(text):
            self.fail(name, "not a whole number")
            return 0
        return int(text)

    def timestamp(self, name: str) -> datetime | None:
        """Return a field as a time; None if it is missing or unreadable."""
        value = self._data.get(name)
        try:
            return parse_timestamp(value)
        except ValueError:
            self.fail(name, f"not a time: {_short_repr(value)}")
            return None

    def strings(self, name: str) -> dict[str, str]:
        """Return a field as an object of strings; {} if it is missing or not an object.

        Numbers and booleans become strings, null values are left out, and a list or an object
        becomes a JSON string and causes a note.
        """
        value = self._data.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.fail(name, f"not an object: {_short_repr(value)}")
            return {}
        for key, text in value.items():
            if isinstance(text, (list, dict)):
                self.note(f"{name}.{_shorten_key(key)}", "not a string, kept as JSON")
        return {key: _as_text(text) for key, text in value.items() if text is not None}


def decode(body: bytes) -> _JsonObject:
    """Return the JSON object in the body of a webhook.

    A number that is not finite, or that would take long to convert, stays a string. So encoding the
    result with json.dumps() and decoding it again changes nothing.

    Args:
        body: JSON in UTF-8, with or without a byte order mark.

    Raises:
        PayloadError: The body is not a JSON object, or is nested too deeply.
    """
    try:
        # RFC 8259, section 8.1: a byte order mark is not JSON, but a reader may ignore it.
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PayloadError("body", f"not UTF-8 at byte {error.start}") from None
    if is_too_deep(body):
        raise PayloadError("body", f"nested deeper than {MAX_DEPTH} levels")
    try:
        data = json.loads(
            text,
            parse_int=_parse_integer,
            parse_float=_parse_float,
            parse_constant=_reject_constant,
        )
    except ValueError as error:
        raise PayloadError("body", f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise PayloadError("body", f"must be a JSON object, not {_describe_type(data)}")
    return data


def _read_webhook(data: _JsonObject, identity: Identity | None) -> Webhook:
    fields = _Fields(data)
    alerts = _read_alert_list(fields, data)
    group_status = _normalize_status(fields.text("status"))
    external_url = fields.text("externalURL")
    group_key = data.get("groupKey")
    reader = _AlertReader(group_status, identity, external_url)
    return Webhook(
        alerts=[reader.read(position, alert) for position, alert in enumerate(alerts)],
        receiver=fields.text("receiver"),
        group_key="" if group_key is None else _as_text(group_key),
        group_status=group_status,
        truncated_alerts=fields.count("truncatedAlerts"),
        external_url=external_url.rstrip("/"),
    )


def _read_alert_list(fields: _Fields, data: _JsonObject) -> list[Any]:
    alerts = data.get("alerts")
    if not isinstance(alerts, list):
        actual = f"not {_describe_type(alerts)}" if "alerts" in data else "but it is missing"
        fields.fail("alerts", f"must be a list, {actual}")
        return []
    if len(alerts) > MAX_ALERTS:
        fields.fail(
            "alerts",
            f"{len(alerts)} in one request, but the limit is {MAX_ALERTS}: set max_alerts in "
            "Alertmanager's webhook_config",
        )
    return alerts


@dataclass(frozen=True)
class _AlertReader:
    """Reads the alerts of one notification.

    Attributes:
        group_status: The status of an alert that has none.
        identity: How to compute the fingerprints; None to leave them empty.
        external_url: The externalURL of the notification.
    """

    group_status: str
    identity: Identity | None
    external_url: str

    def read(self, position: int, data: Any) -> Alert:
        if not isinstance(data, dict):
            problem = f"alerts[{position}]: must be an object, not {_describe_type(data)}"
            return Alert(position, problem=problem)
        fields = _Fields(data, position)
        labels = {name: value for name, value in fields.strings("labels").items() if value}
        _check_labels(fields, labels)
        computed_fingerprint = self._compute_fingerprint(labels)
        sender_fingerprint = fields.text("fingerprint")
        if sender_fingerprint == computed_fingerprint:
            sender_fingerprint = ""
        alert = Alert(
            position=position,
            labels=labels,
            annotations=fields.strings("annotations"),
            status=self._read_status(fields, data),
            starts_at=fields.timestamp("startsAt"),
            ends_at=fields.timestamp("endsAt"),
            generator_url=fields.text("generatorURL"),
            fingerprint=computed_fingerprint,
            sender_fingerprint=sender_fingerprint,
        )
        return replace(
            alert,
            problem="; ".join(fields.problems),
            notes="; ".join(fields.notes)[:_MAX_NOTES],
        )

    def _compute_fingerprint(self, labels: dict[str, str]) -> str:
        return self.identity.fingerprint(labels, self.external_url) if self.identity else ""

    def _read_status(self, fields: _Fields, data: _JsonObject) -> str:
        value = data.get("status")
        status = self.group_status
        if value is not None and value != "":
            status = _normalize_status(_as_text(value))
        if status not in (FIRING, RESOLVED):
            fields.fail("status", f"must be {FIRING} or {RESOLVED}, not {_short_repr(status)}")
        return status


def _check_labels(fields: _Fields, labels: dict[str, str]) -> None:
    """Report an alert that has no labels, too many labels, or labels that are too long.

    Large labels would slow down every view.
    """
    if not labels and not fields.problems:
        fields.fail("labels", "no label has a value")
    if len(labels) > MAX_LABELS:
        fields.fail("labels", f"{len(labels)} labels, but the limit is {MAX_LABELS}")
    for name, value in labels.items():
        if len(name) > MAX_LABEL_NAME or len(value) > MAX_LABEL_VALUE:
            limits = f"{MAX_LABEL_NAME} characters in a name and {MAX_LABEL_VALUE} in a value"
            fields.fail("labels", f"too long: the limit is {limits}", name[:40])


def _normalize_status(text: str) -> str:
    """Return FIRING or RESOLVED in lower case, and any other text unchanged."""
    status = text.strip().lower()
    return status if status in (FIRING, RESOLVED) else text


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _short_repr(value: Any) -> str:
    """Return the beginning of a value as one line of printable characters."""
    text = repr(value)
    return text if len(text) <= _MAX_VALUE_IN_NOTE else text[:_MAX_VALUE_IN_NOTE] + "…"


def _shorten_key(key: str) -> str:
    """Return the beginning of a key in printable characters."""
    return key[:40] if key.isprintable() else _short_repr(key[:40])


def _parse_integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MAX_INTEGER_DIGITS else digits


def _parse_float(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _describe_type(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
