"""Read the payload of an Alertmanager webhook into typed objects.

The format is that of https://prometheus.io/docs/alerting/latest/configuration/#webhook_config.
Other senders (vmalert, Grafana, relays) write it with fields left out, so a missing field is never
an error. What a field that cannot be read does to the payload is the table `ON_ERROR`.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Any, Dict

from poundcake.errors import PoundCakeError
from poundcake.timestamps import format_timestamp, parse_timestamp

FIRING = "firing"
RESOLVED = "resolved"

MAX_ALERTS = 10_000
"""Alerts of one request."""
MAX_LABELS = 1_000
"""Labels of one alert."""
MAX_LABEL_NAME = 1_024
"""Characters of a label's name."""
MAX_LABEL_VALUE = 16_384
"""Characters of a label's value."""

_FINGERPRINT = re.compile(r"[0-9A-Za-z_-]{1,64}\Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# Longer integers stay text: converting one takes quadratic time, and the groupKey of a version "3"
# sender is an integer of more than 64 bits.
_MAX_INTEGER_DIGITS = 18

_Object = Dict[str, Any]


class OnError(Enum):
    """What a field that cannot be read does to the payload it stands in."""

    REFUSE_REQUEST = "refuse the whole request with the field's name"
    REFUSE_ALERT = "record the alert as malformed, and process the others"
    IGNORE = "treat the field as missing"


ON_ERROR = {
    "alerts": OnError.REFUSE_REQUEST,
    "status": OnError.REFUSE_REQUEST,
    "receiver": OnError.REFUSE_REQUEST,
    "truncatedAlerts": OnError.REFUSE_REQUEST,
    "alerts[].labels": OnError.REFUSE_ALERT,
    "alerts[].annotations": OnError.REFUSE_ALERT,
    "alerts[].status": OnError.REFUSE_ALERT,
    "alerts[].startsAt": OnError.REFUSE_ALERT,
    "alerts[].endsAt": OnError.REFUSE_ALERT,
    "alerts[].fingerprint": OnError.IGNORE,
    "alerts[].generatorURL": OnError.IGNORE,
}
"""For each field that has a type, what happens if its value is of another type or out of bounds.

Alertmanager never repeats a request that was refused, so only what makes the payload as a whole
useless refuses it.
"""


class PayloadError(PoundCakeError):
    """A request that can never be used.

    Attributes:
        field: The field in the sender's own terms, such as ``alerts`` or ``body``.
    """

    def __init__(self, field_name: str, message: str):
        super().__init__(f"{field_name}: {message}")
        self.field = field_name


@dataclass(frozen=True)
class Alert:
    """One alert of a notification."""

    position: int
    """Its place in the request's list of alerts, from 0."""
    status: str = ""
    """FIRING or RESOLVED; anything else only if there is a problem."""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    generator_url: str = ""
    fingerprint: str = ""
    """The sender's, or Alertmanager's own fingerprint of the labels if that is unusable."""
    problem: str = ""
    """Why the alert is malformed, or empty. Begins with the field."""

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
    """One notification: a group of alerts, as one POST brings it."""

    alerts: list[Alert]
    receiver: str = ""
    group_key: str = ""
    group_status: str = ""
    truncated_alerts: int = 0
    """Alerts that the sender left out because of its max_alerts."""

    @property
    def delivery_key(self) -> str:
        """A digest (64 hex digits) that is the same if the same notification is sent again.

        Annotations and endsAt are not part of it, because they change from one flush of
        Alertmanager's to the next.
        """
        alerts = sorted(
            (a.fingerprint, a.status, format_timestamp(a.starts_at) if a.starts_at else "")
            for a in self.alerts
        )
        text = json.dumps([self.receiver, self.group_key, self.group_status, alerts])
        return hashlib.sha256(text.encode()).hexdigest()


def parse(body: bytes) -> Webhook:
    """Read the body of a webhook.

    Args:
        body: JSON in UTF-8, with or without a byte order mark.

    Returns:
        The notification. An alert that cannot be used is among its alerts, with a ``problem``.

    Raises:
        PayloadError: The request as a whole can never be used.
    """
    try:
        return _webhook(_decode(body))
    except RecursionError:
        raise PayloadError("body", "nested too deeply") from None


def fingerprint(labels: dict[str, str]) -> str:
    """Return Alertmanager's own fingerprint of a label set, 16 hex digits.

    FNV-1a (64 bit) over the labels sorted by name, ``name 0xff value 0xff`` each:
    LabelSet.Fingerprint of prometheus/common, model/labelset.go and model/fnv.go.
    """
    digest = 0xCBF29CE484222325
    for name in sorted(labels):
        for part in (name, labels[name]):
            for byte in part.encode("utf-8", "surrogatepass") + b"\xff":
                digest = ((digest ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{digest:016x}"


def episode_name(alert_fingerprint: str, starts_at: datetime) -> str:
    """Return the name of one occurrence of one label set: ``<fingerprint>-<start in ms>``."""
    return f"{alert_fingerprint}-{(starts_at - _EPOCH) // timedelta(milliseconds=1)}"


class _Fields:
    """Reads the fields of one JSON object, and does what ON_ERROR says about those it cannot read.

    Attributes:
        problems: What is wrong with an alert, as ``field: message``.
    """

    def __init__(self, data: _Object, position: int | None = None):
        """Read a notification, or the alert at a position in it."""
        self.problems: list[str] = []
        self._data = data
        self._where = "" if position is None else f"alerts[{position}]."
        self._table_prefix = "" if position is None else "alerts[]."

    def fail(self, name: str, message: str, key: str = "") -> None:
        """Note that a field, or one key of it, cannot be used."""
        where = f"{self._where}{name}.{key}" if key else self._where + name
        effect = ON_ERROR[self._table_prefix + name]
        if effect is OnError.REFUSE_REQUEST:
            raise PayloadError(where, message)
        if effect is OnError.REFUSE_ALERT:
            self.problems.append(f"{where}: {message}")

    def text(self, name: str) -> str:
        """Return a string; an empty one if the field is missing or unreadable."""
        value = self._data.get(name)
        if isinstance(value, str):
            return value
        if value is not None:
            self.fail(name, f"must be a string, not {_kind(value)}")
        return ""

    def count(self, name: str) -> int:
        """Return a whole number from 0; 0 if the field is missing or unreadable."""
        value = self._data.get(name) or 0
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self.fail(name, "must be a whole number from 0")
            return 0
        return value

    def timestamp(self, name: str) -> datetime | None:
        """Return a moment; None if the field is missing or unreadable."""
        try:
            return parse_timestamp(self._data.get(name))
        except ValueError as error:
            self.fail(name, str(error))
            return None

    def texts(self, name: str, required: bool = False) -> dict[str, str]:
        """Return an object of strings; empty if the field is missing or is no object.

        Values of another type are kept as JSON text, so that the trail shows what was sent.
        """
        value = self._data.get(name)
        if value is None and not required:
            return {}
        if not isinstance(value, dict):
            found = f"not {_kind(value)}" if name in self._data else "and is missing"
            self.fail(name, f"must be an object of strings, {found}")
            return {}
        for key, text in value.items():
            if not isinstance(text, str):
                self.fail(name, f"must be a string, not {_kind(text)}", key)
        return {key: _as_text(text) for key, text in value.items()}


def _decode(body: bytes) -> _Object:
    """Return the JSON object in a body. Raises PayloadError."""
    try:
        # RFC 8259, section 8.1: a byte order mark is not JSON, but a reader may ignore it.
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PayloadError("body", f"not UTF-8 at byte {error.start}") from None
    try:
        data = json.loads(text, parse_int=_integer, parse_constant=_refuse_constant)
    except ValueError as error:
        raise PayloadError("body", f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise PayloadError("body", f"must be a JSON object, not {_kind(data)}")
    return data


def _webhook(data: _Object) -> Webhook:
    fields = _Fields(data)
    alerts = _list_of_alerts(fields, data)
    status = fields.text("status")
    if status not in ("", FIRING, RESOLVED):
        fields.fail("status", f"must be {FIRING} or {RESOLVED}, not {status[:40]!r}")
        status = ""
    group_key = data.get("groupKey")
    return Webhook(
        alerts=[_alert(position, alert, status) for position, alert in enumerate(alerts)],
        receiver=fields.text("receiver"),
        group_key="" if group_key is None else _as_text(group_key),
        group_status=status,
        truncated_alerts=fields.count("truncatedAlerts"),
    )


def _list_of_alerts(fields: _Fields, data: _Object) -> list[Any]:
    alerts = data.get("alerts")
    if not isinstance(alerts, list):
        found = f"not {_kind(alerts)}" if "alerts" in data else "and is missing"
        fields.fail("alerts", f"must be a list, {found}")
        return []
    if len(alerts) > MAX_ALERTS:
        fields.fail(
            "alerts",
            f"{len(alerts)} in one request, the limit is {MAX_ALERTS}: set max_alerts in "
            "Alertmanager's webhook_config",
        )
    return alerts


def _alert(position: int, data: Any, group_status: str) -> Alert:
    if not isinstance(data, dict):
        problem = f"alerts[{position}]: must be an object, not {_kind(data)}"
        return Alert(position, problem=problem)
    fields = _Fields(data, position)
    labels = fields.texts("labels", required=True)
    _check_size(fields, labels)
    return Alert(
        position=position,
        labels=labels,
        annotations=fields.texts("annotations"),
        status=_status(fields, data, group_status),
        starts_at=fields.timestamp("startsAt"),
        ends_at=fields.timestamp("endsAt"),
        generator_url=fields.text("generatorURL"),
        fingerprint=_usable_fingerprint(fields) or fingerprint(labels),
        problem="; ".join(fields.problems),
    )


def _check_size(fields: _Fields, labels: dict[str, str]) -> None:
    """Refuse label sets far beyond any of Prometheus's, which would slow every view down."""
    if len(labels) > MAX_LABELS:
        fields.fail("labels", f"{len(labels)} labels, the limit is {MAX_LABELS}")
    for name, value in labels.items():
        if len(name) > MAX_LABEL_NAME or len(value) > MAX_LABEL_VALUE:
            limits = f"{MAX_LABEL_NAME} characters in a name and {MAX_LABEL_VALUE} in a value"
            fields.fail("labels", f"too long, the limit is {limits}", name[:40])


def _status(fields: _Fields, data: _Object, group_status: str) -> str:
    status = data.get("status")
    if status is None or status == "":
        status = group_status
    if status not in (FIRING, RESOLVED):
        fields.fail("status", f"must be {FIRING} or {RESOLVED}")
    return _as_text(status)


def _usable_fingerprint(fields: _Fields) -> str:
    """Return the sender's fingerprint, or an empty string if it is not safe as part of a name."""
    given = fields.text("fingerprint")
    return given if _FINGERPRINT.match(given) else ""


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MAX_INTEGER_DIGITS else digits


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
