"""Any payload is parsed into the documented types, or refused with the name of a field."""

from __future__ import annotations

import base64
import datetime
import json
import re
import zlib

from hypothesis import example, given
from hypothesis import strategies as st

from poundcake import announcement
from poundcake.alertmanager import Alert, PayloadError, parse
from poundcake.announcement import AnnouncementError, Request
from poundcake.inert import make_inert
from tests.lib.samples import DELIMITERS, NOON, alert, webhook

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda values: (
        st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3)
    ),
    max_leaves=8,
)
time_values = st.sampled_from(
    [
        "2026-01-14T12:00:00Z",
        "2026-01-14T12:00:00.123456789+05:30",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:60-23:59",
        "2026-02-30T00:00:00Z",
        "2026-01-14",
        "",
    ]
)
# Each field is either valid or any JSON value.
alert_values = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["firing", "resolved", "", None]) | json_values,
        "labels": st.dictionaries(st.text(max_size=8), st.text(max_size=8) | json_values)
        | json_values,
        "annotations": st.dictionaries(st.text(max_size=8), st.text(max_size=8)) | json_values,
        "startsAt": time_values | json_values,
        "endsAt": time_values | json_values,
        "generatorURL": st.text() | json_values,
        "fingerprint": st.from_regex(r"[0-9A-Za-z_-]{1,64}", fullmatch=True) | json_values,
    },
)
payloads = st.fixed_dictionaries(
    {"alerts": st.lists(alert_values | json_values, max_size=4)},
    optional={
        "status": st.sampled_from(["firing", "resolved", "", None]) | json_values,
        "receiver": st.text() | json_values,
        "groupKey": st.text() | st.integers() | json_values,
        "truncatedAlerts": st.integers(-3, 3) | st.integers(0, 10**20) | json_values,
    },
)


def check_notification(notification, payload):
    """Check that every field has its documented type and range."""
    assert len(notification.alerts) == len(payload["alerts"])
    assert isinstance(notification.group_status, str)
    assert isinstance(notification.receiver, str) and isinstance(notification.group_key, str)
    assert type(notification.truncated_alerts) is int and 0 <= notification.truncated_alerts < 2**63
    assert re.fullmatch("[0-9a-f]{64}", notification.delivery_key)
    for position, parsed_alert in enumerate(notification.alerts):
        assert parsed_alert.position == position
        assert isinstance(parsed_alert, Alert) and isinstance(parsed_alert.status, str)
        assert isinstance(parsed_alert.generator_url, str)
        for texts in (parsed_alert.labels, parsed_alert.annotations):
            assert all(isinstance(t, str) for pair in texts.items() for t in pair)
        for moment in (parsed_alert.starts_at, parsed_alert.ends_at):
            assert moment is None or moment.utcoffset() == datetime.timedelta(0)
        if parsed_alert.problem:
            assert parsed_alert.problem.startswith(f"alerts[{position}]")
        else:
            assert parsed_alert.status in ("firing", "resolved")
            assert re.fullmatch("[0-9a-f]{16}", parsed_alert.fingerprint)
            assert parsed_alert.labels and all(parsed_alert.labels.values())
            labels = payload["alerts"][position]["labels"]
            texts = {name: text for name, text in labels.items() if isinstance(text, str) and text}
            assert parsed_alert.labels.items() >= texts.items()
        assert parsed_alert.notes.isprintable() and len(parsed_alert.notes) <= 1000


def parse_and_check(body, payload):
    """Check that a body is parsed correctly, or refused with an error that names a field."""
    try:
        notification = parse(body)
    except PayloadError as error:
        assert error.field in ("body", "alerts")
        assert str(error).startswith(error.field + ": ")
        return
    check_notification(notification, payload)


@given(payloads)
@example(webhook(alert(), alert(endsAt="9999-12-31T23:59:60-23:59")))
def test_a_payload_with_any_fields_is_parsed_or_refused(payload):
    parse_and_check(json.dumps(payload).encode(), payload)


@given(
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 30), st.binary(max_size=5)), max_size=8)
)
def test_a_payload_with_changed_bytes_is_parsed_or_refused(changes):
    body = json.dumps(webhook(alert(), alert("Größe", labels={"job": "{{ x }}"}))).encode()
    for index, removed, added in changes:
        body = body[:index] + added + body[index + removed :]
    try:
        payload = json.loads(body.decode("utf-8-sig"))
    except ValueError:
        payload = None
    parse_and_check(body, payload)


hostile_texts = st.text(alphabet="{}%#<>$ ab\n", max_size=12) | st.text(max_size=12)


@given(st.lists(hostile_texts.map(make_inert), max_size=5), st.sampled_from(["", ",", " ", "\n"]))
def test_inert_texts_stay_inert_when_joined(texts, separator):
    joined = separator.join(texts)
    for text in (
        joined,
        make_inert(joined),
        separator.join(reversed(texts)),
        str(texts),
        json.dumps(texts),
    ):
        assert not any(delimiter in text for delimiter in DELIMITERS)


@given(hostile_texts)
def test_an_inert_text_has_the_same_length_and_does_not_change_again(text):
    once = make_inert(text)
    assert len(once) == len(text) and once.isprintable()
    assert make_inert(once) == once


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda b: base64.b64encode(b).decode()))
@example(base64.b64encode(zlib.compress(b"[" * 100000)).decode())
def test_an_announcement_from_any_text_is_unpacked_or_refused(batch):
    try:
        requests = announcement.unpack(announcement.VERSION, batch)
    except AnnouncementError as error:
        assert "cannot be unpacked" in str(error)
        return
    assert all(isinstance(request, Request) for request in requests)


@given(st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=3)), max_size=4))
def test_an_announcement_with_changed_bytes_is_unpacked_or_refused(changes):
    original = Request("r", NOON, "h", "", "POST", "/", {"User-Agent": "{{"}, json.dumps(webhook()))
    packed = zlib.decompress(base64.b64decode(announcement.pack([original], "db")["batch"]))
    for index, added in changes:
        packed = packed[:index] + added + packed[index + 1 :]
    batch = base64.b64encode(zlib.compress(packed)).decode()
    try:
        requests = announcement.unpack(announcement.VERSION, batch)
    except AnnouncementError:
        return
    assert changes or requests == [original]
