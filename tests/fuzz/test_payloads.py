"""Any payload is refused with the name of a field, or parsed into the documented types."""

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

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
times = st.sampled_from(
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
# Each field is valid most of the time, or any JSON value.
one_alert = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["firing", "resolved", "", None]) | anything,
        "labels": st.dictionaries(st.text(max_size=8), st.text(max_size=8) | anything) | anything,
        "annotations": st.dictionaries(st.text(max_size=8), st.text(max_size=8)) | anything,
        "startsAt": times | anything,
        "endsAt": times | anything,
        "generatorURL": st.text() | anything,
        "fingerprint": st.from_regex(r"[0-9A-Za-z_-]{1,64}", fullmatch=True) | anything,
    },
)
payloads = st.fixed_dictionaries(
    {"alerts": st.lists(one_alert | anything, max_size=4)},
    optional={
        "status": st.sampled_from(["firing", "resolved", "", None]) | anything,
        "receiver": st.text() | anything,
        "groupKey": st.text() | st.integers() | anything,
        "truncatedAlerts": st.integers(-3, 3) | st.integers(0, 10**20) | anything,
    },
)


def check(found, sent):
    """Check that every field has the type and the range that its class documents."""
    assert len(found.alerts) == len(sent["alerts"])
    assert isinstance(found.group_status, str)
    assert isinstance(found.receiver, str) and isinstance(found.group_key, str)
    assert type(found.truncated_alerts) is int and 0 <= found.truncated_alerts < 2**63
    assert re.fullmatch("[0-9a-f]{64}", found.delivery_key)
    for position, one in enumerate(found.alerts):
        assert one.position == position
        assert isinstance(one, Alert) and isinstance(one.status, str)
        assert isinstance(one.generator_url, str)
        for texts in (one.labels, one.annotations):
            assert all(isinstance(t, str) for pair in texts.items() for t in pair)
        for moment in (one.starts_at, one.ends_at):
            assert moment is None or moment.utcoffset() == datetime.timedelta(0)
        if one.problem:
            assert one.problem.startswith(f"alerts[{position}]")
        else:
            assert one.status in ("firing", "resolved")
            assert re.fullmatch("[0-9a-f]{16}", one.fingerprint)
            assert one.labels and all(one.labels.values())
            given = sent["alerts"][position]["labels"]
            texts = {name: text for name, text in given.items() if isinstance(text, str) and text}
            assert one.labels.items() >= texts.items()
        assert one.notes.isprintable() and len(one.notes) <= 1000


def read_and_check(body, sent):
    """Parse a body: it passes the check, or the error names a field."""
    try:
        notification = parse(body)
    except PayloadError as error:
        assert error.field in ("body", "alerts")
        assert str(error).startswith(error.field + ": ")
        return
    check(notification, sent)


@given(payloads)
@example(webhook(alert(), alert(endsAt="9999-12-31T23:59:60-23:59")))
def test_a_payload_with_any_fields(sent):
    read_and_check(json.dumps(sent).encode(), sent)


@given(
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 30), st.binary(max_size=5)), max_size=8)
)
def test_a_payload_with_bytes_changed_anywhere(changes):
    body = json.dumps(webhook(alert(), alert("Größe", labels={"job": "{{ x }}"}))).encode()
    for at, removed, added in changes:
        body = body[:at] + added + body[at + removed :]
    try:
        sent = json.loads(body.decode("utf-8-sig"))
    except ValueError:
        sent = None
    read_and_check(body, sent)


hostile = st.text(alphabet="{}%#<>$ ab\n", max_size=12) | st.text(max_size=12)


@given(st.lists(hostile.map(make_inert), max_size=5), st.sampled_from(["", ",", " ", "\n"]))
def test_inert_texts_stay_inert_when_joined(texts, between):
    joined = between.join(texts)
    for text in (
        joined,
        make_inert(joined),
        between.join(reversed(texts)),
        str(texts),
        json.dumps(texts),
    ):
        assert not any(delimiter in text for delimiter in DELIMITERS)


@given(hostile)
def test_an_inert_text_has_the_same_length_and_does_not_change_again(text):
    once = make_inert(text)
    assert len(once) == len(text) and once.isprintable()
    assert make_inert(once) == once


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda b: base64.b64encode(b).decode()))
@example(base64.b64encode(zlib.compress(b"[" * 100000)).decode())
def test_an_invalid_announcement_is_refused(batch):
    try:
        requests = announcement.unpack(announcement.VERSION, batch)
    except AnnouncementError as error:
        assert "cannot be unpacked" in str(error)
        return
    assert all(isinstance(request, Request) for request in requests)


@given(st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=3)), max_size=4))
def test_an_announcement_with_bytes_changed_is_refused_or_read(changes):
    sent = Request("r", NOON, "h", "", "POST", "/", {"User-Agent": "{{"}, json.dumps(webhook()))
    packed = zlib.decompress(base64.b64decode(announcement.pack([sent], "db")["batch"]))
    for at, added in changes:
        packed = packed[:at] + added + packed[at + 1 :]
    batch = base64.b64encode(zlib.compress(packed)).decode()
    try:
        requests = announcement.unpack(announcement.VERSION, batch)
    except AnnouncementError:
        return
    assert changes or requests == [sent]
