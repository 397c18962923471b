"""The payload of an Alertmanager webhook: parse, check, fingerprint, episode; inert strings.

The format is that of https://prometheus.io/docs/alerting/latest/configuration/#webhook_config,
read as its other senders (vmalert, Grafana, relays) write it too: what they leave out is missing
here, never an error, and one alert that cannot be read does not take the others with it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from poundcake.timestamps import format_timestamp, parse_timestamp

FIRING = "firing"
RESOLVED = "resolved"

_FINGERPRINT = re.compile(r"[0-9A-Za-z_-]{1,64}\Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# Longer integers are kept as text: converting them takes quadratic time, and groupKey of version
# "3" senders has more than 64 bits.
_LONGEST_INTEGER = 18
# Alerts of one request, labels of one alert, characters of a label's name and of its value.
MOST_ALERTS = 10_000
MOST_LABELS = 1_000
LABEL_NAME = 1_024
LABEL_VALUE = 16_384


class PayloadError(ValueError):
    """The whole request cannot be used. ``field`` is where, in the sender's own terms."""

    def __init__(self, field_name: str, problem: str):
        super().__init__(f"{field_name}: {problem}")
        self.field = field_name


@dataclass(frozen=True)
class Alert:
    """One alert of a notification. ``problem`` says why it is malformed, and is empty else."""

    position: int
    status: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    generator_url: str = ""
    fingerprint: str = ""
    problem: str = ""

    @property
    def name(self) -> str:
        return self.labels.get("alertname", "")

    @property
    def severity(self) -> str:
        return self.labels.get("severity", "")

    @property
    def instance(self) -> str:
        return self.labels.get("instance", "")


@dataclass(frozen=True)
class Webhook:
    """One notification: a group of alerts, as one POST brings it."""

    alerts: list[Alert]
    receiver: str = ""
    group_key: str = ""
    group_status: str = ""
    truncated_alerts: int = 0

    @property
    def delivery_key(self) -> str:
        """Names the same notification sent twice (64 hex digits).

        Nothing that changes from one flush to the next goes in: no annotations, no endsAt.
        """
        alerts = sorted(
            (a.fingerprint, a.status, format_timestamp(a.starts_at) if a.starts_at else "")
            for a in self.alerts
        )
        text = json.dumps([self.receiver, self.group_key, self.group_status, alerts])
        return hashlib.sha256(text.encode()).hexdigest()


def parse(body: bytes) -> Webhook:
    """Reads the body of a webhook.

    Raises PayloadError where the request as a whole can never be used: no JSON object, no list
    of alerts, a group field of the wrong type. An alert that cannot be used comes back with its
    ``problem``.
    """
    try:
        # A byte order mark is no JSON (RFC 8259, section 8.1), but a reader may ignore it.
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PayloadError("body", f"not UTF-8 at byte {error.start}") from None
    try:
        data = json.loads(text, parse_int=_integer, parse_constant=_refuse_constant)
    except RecursionError:
        raise PayloadError("body", "nested too deeply") from None
    except ValueError as error:
        raise PayloadError("body", f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise PayloadError("body", f"a JSON object is expected, not {_kind(data)}")
    if "alerts" not in data:
        raise PayloadError("alerts", "missing; a list of alerts is expected")
    if not isinstance(data["alerts"], list):
        raise PayloadError("alerts", f"a list is expected, not {_kind(data['alerts'])}")
    if len(data["alerts"]) > MOST_ALERTS:
        raise PayloadError(
            "alerts",
            f"{len(data['alerts'])} in one request, {MOST_ALERTS} at most are taken: set "
            "max_alerts in Alertmanager's webhook_config",
        )
    status = _text(data, "status")
    if status not in ("", FIRING, RESOLVED):
        raise PayloadError("status", f"{FIRING} or {RESOLVED} is expected, not {status[:40]!r}")
    truncated = data.get("truncatedAlerts") or 0
    if isinstance(truncated, bool) or not isinstance(truncated, int) or truncated < 0:
        raise PayloadError("truncatedAlerts", "a number from 0 is expected")
    group_key = data.get("groupKey")
    return Webhook(
        alerts=[_alert(i, alert, status) for i, alert in enumerate(data["alerts"])],
        receiver=_text(data, "receiver"),
        group_key="" if group_key is None else _as_text(group_key),
        group_status=status,
        truncated_alerts=truncated,
    )


def _alert(position: int, data: Any, group_status: str) -> Alert:
    where = f"alerts[{position}]"
    if not isinstance(data, dict):
        return Alert(position, problem=f"{where}: an object is expected, not {_kind(data)}")
    problems = []
    maps: dict[str, dict[str, str]] = {}
    for name, required in (("labels", True), ("annotations", False)):
        value = data.get(name)
        if value is None and not required:
            value = {}
        if not isinstance(value, dict):
            found = _kind(value) if name in data else "missing"
            problems.append(f"{where}.{name}: an object of strings is expected, {found}")
            value = {}
        for key, text in value.items():
            if not isinstance(text, str):
                problems.append(f"{where}.{name}.{key}: a string is expected, not {_kind(text)}")
        if name == "labels":
            problems += _oversized(where, value)
        maps[name] = {k: v if isinstance(v, str) else _as_text(v) for k, v in value.items()}
    status = data.get("status")
    if status is None or status == "":
        status = group_status
    if status not in (FIRING, RESOLVED):
        problems.append(f"{where}.status: {FIRING} or {RESOLVED} is expected")
        status = _as_text(status)
    times = {}
    for name in ("startsAt", "endsAt"):
        try:
            times[name] = parse_timestamp(data.get(name))
        except ValueError as error:
            problems.append(f"{where}.{name}: {error}")
            times[name] = None
    given = data.get("fingerprint")
    usable = isinstance(given, str) and _FINGERPRINT.match(given)
    generator_url = data.get("generatorURL")
    return Alert(
        position=position,
        status=status,
        labels=maps["labels"],
        annotations=maps["annotations"],
        starts_at=times["startsAt"],
        ends_at=times["endsAt"],
        generator_url=generator_url if isinstance(generator_url, str) else "",
        fingerprint=given if usable else fingerprint(maps["labels"]),
        problem="; ".join(problems),
    )


def _oversized(where: str, labels: dict[str, Any]) -> list[str]:
    """What no label set of Prometheus's comes near, and would cost every reader of the trail."""
    problems = []
    if len(labels) > MOST_LABELS:
        problems.append(f"{where}.labels: {len(labels)} labels, {MOST_LABELS} at most")
    for name, text in labels.items():
        if len(name) > LABEL_NAME or (isinstance(text, str) and len(text) > LABEL_VALUE):
            sizes = f"{LABEL_NAME} characters, its value {LABEL_VALUE}"
            problems.append(f"{where}.labels.{name[:40]}: a name has at most {sizes}")
    return problems


def fingerprint(labels: dict[str, str]) -> str:
    """Alertmanager's own fingerprint of a label set, 16 hex digits.

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
    """The name of an episode: one occurrence of one label set. ``<fingerprint>-<start in ms>``."""
    return f"{alert_fingerprint}-{(starts_at - _EPOCH) // timedelta(milliseconds=1)}"


def _text(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise PayloadError(name, f"a string is expected, not {_kind(value)}")
    return value


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _integer(digits: str) -> Any:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else digits


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
