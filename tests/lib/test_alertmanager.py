"""What senders post, and what it is read as."""

import datetime
import itertools
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundcake import alertmanager
from poundcake.alertmanager import PayloadError, parse
from poundcake.inert import make_inert
from poundcake.timestamps import format_timestamp, parse_timestamp
from tests.lib.samples import DELIMITERS, NOON, UTC, alert, later, webhook

# Posted to Alertmanager 0.25.0 (Debian), and read from its /api/v2/alerts.
FINGERPRINTS = [
    ({"alertname": "HostDown"}, "c45b0e7ef8b2814a"),
    (
        {
            "severity": "critical",
            "alertname": "HostDown",
            "instance": "web-1:9100",
            "job": "node",
        },
        "2993e3e5da48cfe2",
    ),
    ({"A": "c", "__name__": "b", "alertname": "a"}, "d136ff6a8f17af74"),
    ({"Z": "🍰", "a": "日本", "alertname": "Größe", "b": "x\ny"}, "fd52baaf48f7e8b1"),
]


def read(payload):
    return parse(json.dumps(payload).encode())


def read_one(**more):
    (found,) = read(webhook(alert(**more))).alerts
    return found


def refused(body):
    with pytest.raises(PayloadError) as caught:
        parse(body)
    return caught.value


class TestSenders:
    def test_alertmanagers_own(self):
        found = read(webhook(alert(fingerprint="2993e3e5da48cfe2"), truncatedAlerts=3))
        assert (found.receiver, found.group_status, found.truncated_alerts) == (
            "poundcake",
            "firing",
            3,
        )
        assert found.group_key == '{}:{alertname="HostDown"}'
        (one,) = found.alerts
        assert one.problem == ""
        assert (one.name, one.severity, one.instance) == ("HostDown", "critical", "web-1:9100")
        assert (one.status, one.starts_at, one.ends_at) == ("firing", NOON, None)
        assert one.fingerprint == "2993e3e5da48cfe2"
        assert one.annotations == {"summary": "down"}
        assert one.generator_url == "http://prometheus.example/graph"

    def test_version_3_has_an_integer_for_a_group_key(self):
        found = read(webhook(version="3", groupKey=18446744073709551617123))
        assert found.group_key == "18446744073709551617123"
        assert read(webhook(groupKey=12)).group_key == "12"

    def test_grafana(self):
        found = read(
            {
                "receiver": "",
                "status": "firing",
                "orgId": 1,
                "alerts": [
                    dict(alert(fingerprint=""), values={"B": 22.5, "C": 1}, valueString="[ ]"),
                    dict(alert(), dashboardURL="", panelURL="", silenceURL="http://g/s"),
                ],
                "title": "[FIRING:1]",
                "state": "alerting",
                "message": "**Firing**",
            }
        )
        assert [a.problem for a in found.alerts] == ["", ""]
        assert found.alerts[0].fingerprint == alertmanager.fingerprint(found.alerts[0].labels)

    def test_vmalert_and_relays_leave_things_out(self):
        found = read({"alerts": [{"labels": {"alertname": "A"}}], "status": "resolved"})
        (one,) = found.alerts
        assert one.problem == ""
        assert (one.status, one.starts_at, one.ends_at) == ("resolved", None, None)
        assert (one.annotations, one.generator_url) == ({}, "")
        assert one.fingerprint == alertmanager.fingerprint({"alertname": "A"})
        assert (found.receiver, found.group_key, found.truncated_alerts) == ("", "", 0)

    def test_nulls_are_missing(self):
        payload = {
            "alerts": [
                {
                    "labels": {},
                    "annotations": None,
                    "status": None,
                    "startsAt": None,
                    "endsAt": None,
                    "fingerprint": None,
                    "generatorURL": None,
                }
            ],
            "status": "firing",
            "receiver": None,
            "groupKey": None,
            "truncatedAlerts": None,
        }
        assert [a.problem for a in read(payload).alerts] == [""]

    def test_the_alerts_own_status_counts(self):
        found = read(webhook(alert(status="resolved"), alert(status=""), status="firing"))
        assert [a.status for a in found.alerts] == ["resolved", "firing"]

    def test_unknown_keys_are_welcome(self):
        found = read(webhook(alert(new={"deep": [1]}), notification_reason="x", routeLabels={}))
        assert [a.problem for a in found.alerts] == [""]

    def test_no_alerts(self):
        assert read({"alerts": []}).alerts == []

    def test_a_byte_order_mark(self):
        assert len(parse(b"\xef\xbb\xbf" + json.dumps(webhook(alert())).encode()).alerts) == 1

    def test_label_names_may_be_anything(self):
        labels = {"a.b": "1", "größe": "2", "": "3", "__proto__": "4", "a\x00b": "5"}
        assert read_one(labels=labels).labels.items() >= labels.items()

    def test_lone_surrogates(self):
        body = b'{"alerts":[{"status":"firing","labels":{"alertname":"\\ud800","\\udfff":"x"}}]}'
        found = parse(body)
        assert found.alerts[0].problem == ""
        assert len(found.alerts[0].fingerprint) == 16
        assert len(found.delivery_key) == 64

    def test_of_a_key_given_twice_the_last_counts(self):
        body = b'{"alerts":[{"labels":{"a":"1","a":"2"},"status":"resolved","status":"firing"}]}'
        (one,) = parse(body).alerts
        assert (one.labels, one.status) == ({"a": "2"}, "firing")

    @pytest.mark.parametrize("given", ["", "x" * 65, "a b", "{{x}}", "é", "a\n", 5, None, [], {}])
    def test_a_fingerprint_that_is_none_is_derived(self, given):
        found = read_one(fingerprint=given)
        assert found.problem == ""
        assert found.fingerprint == alertmanager.fingerprint(found.labels)

    @pytest.mark.parametrize("given", ["a", "A-b_9", "x" * 64])
    def test_another_senders_fingerprint_is_kept(self, given):
        assert read_one(fingerprint=given).fingerprint == given


class TestBounds:
    def test_labels_of_an_alert(self):
        many = {f"l{i}": "x" for i in range(alertmanager.MOST_LABELS - 10)}
        assert read_one(labels=dict(many)).problem == ""
        more = {f"m{i}": "x" for i in range(10)}
        problem = read_one(labels=dict(many, **more)).problem
        assert problem.startswith("alerts[0].labels: 100") and "1000 at most" in problem

    @pytest.mark.parametrize("name, length", [(1024, 16384), (1025, 1), (1, 16385)])
    def test_the_length_of_a_label(self, name, length):
        found = read_one(labels={"n" * name: "x" * length})
        assert bool(found.problem) == ((name, length) != (1024, 16384))
        assert found.labels["n" * name] == "x" * length  # it is kept all the same
        assert len(found.problem) < 200

    def test_annotations_have_the_bodys_bound_alone(self):
        assert read_one(annotations={"text": "x" * 100000}).problem == ""

    def test_alerts_of_a_request(self):
        most = alertmanager.MOST_ALERTS
        assert len(parse(json.dumps({"alerts": [{}] * most}).encode()).alerts) == most
        with pytest.raises(PayloadError) as caught:
            parse(json.dumps({"alerts": [{}] * (most + 1)}).encode())
        assert caught.value.field == "alerts"
        assert "max_alerts" in str(caught.value)


class TestRefused:
    """What can never be used is refused by the name of the field."""

    @pytest.mark.parametrize("body", [b"", b"{", b"nothing", b"{'alerts': []}", b"\x00", b"[}"])
    def test_no_json(self, body):
        assert refused(body).field == "body"

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
    def test_numbers_that_json_has_not(self, number):
        error = refused(f'{{"alerts": [], "x": {number}}}'.encode())
        assert error.field == "body" and number in str(error)

    def test_no_utf8(self):
        error = refused(b'{"alerts": "\xff"}')
        assert error.field == "body"
        assert "byte 12" in str(error)

    @pytest.mark.parametrize("body", [b"[]", b"null", b"7", b'"alerts"', b"true", b"1.5"])
    def test_no_object(self, body):
        assert refused(body).field == "body"

    @pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity"])
    def test_no_number(self, number):
        error = refused(b'{"alerts": [], "x": ' + number + b"}")
        assert error.field == "body"
        assert number.decode() in str(error)

    def test_no_alerts_field(self):
        assert refused(b"{}").field == "alerts"

    @pytest.mark.parametrize("value", [None, {}, "[]", 1, True])
    def test_alerts_that_are_no_list(self, value):
        assert refused(json.dumps({"alerts": value}).encode()).field == "alerts"

    @pytest.mark.parametrize(
        "field, value",
        [
            ("status", "pending"),
            ("status", 1),
            ("status", []),
            ("receiver", 5),
            ("receiver", {}),
            ("truncatedAlerts", -1),
            ("truncatedAlerts", True),
            ("truncatedAlerts", "3"),
            ("truncatedAlerts", 1.5),
            ("truncatedAlerts", 10**30),
        ],
    )
    def test_group_fields(self, field, value):
        error = refused(json.dumps(webhook(alert(), **{field: value})).encode())
        assert error.field == field
        assert str(error).startswith(field + ": ")

    @pytest.mark.parametrize(
        "form",
        [
            '{"alerts":[{"labels":{"a":%s}}]}',
            '{"alerts":[{"labels":{},"status":%s}]}',
            '{"alerts":[],"groupKey":%s}',
            '{"alerts":[],"x":%s}',
            "%s",
        ],
    )
    def test_nesting_is_read_or_refused_however_deep(self, form):
        for depth in list(range(850, 1010)) + [100000]:
            try:
                parse((form % ("[" * depth + "]" * depth)).encode())
            except PayloadError as error:
                assert error.field == "body"

    def test_huge_integers_take_no_time(self):
        digits = b"9" * 1000000
        began = time.process_time()
        parse(b'{"alerts": [{"labels": {"a": ' + digits + b'}}], "groupKey": ' + digits + b"}")
        assert time.process_time() - began < 2

    @given(st.binary(max_size=200))
    def test_any_bytes_are_read_or_refused(self, body):
        try:
            parse(body)
        except PayloadError:
            pass

    json_values = st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["labels", "status", "startsAt", "alerts"]) | st.text(), inner
            )
        ),
        max_leaves=15,
    )

    @given(st.lists(json_values, max_size=5), json_values)
    def test_any_alerts_each_keep_their_place(self, alerts, status):
        try:
            found = parse(json.dumps({"alerts": alerts, "status": status}).encode())
        except PayloadError as error:
            assert error.field in ("status", "body")
            return
        assert [a.position for a in found.alerts] == list(range(len(alerts)))
        for one in found.alerts:
            assert one.problem or one.status in ("firing", "resolved")
            assert all(isinstance(v, str) for v in one.labels.values())


class TestMalformed:
    """An alert that cannot be used says where, and takes none of the others with it."""

    @pytest.mark.parametrize(
        "broken, where",
        [
            (5, "alerts[1]:"),
            (None, "alerts[1]:"),
            ([], "alerts[1]:"),
            ({"status": "firing"}, "alerts[1].labels:"),
            (alert(status="gone"), "alerts[1].status:"),
            (alert(status=3), "alerts[1].status:"),
            (alert(labels={"x": 5}), "alerts[1].labels.x:"),
            (alert(labels={"x": None}), "alerts[1].labels.x:"),
            (dict(alert(), annotations={"x": {}}), "alerts[1].annotations.x:"),
            (dict(alert(), annotations=[]), "alerts[1].annotations:"),
            (dict(alert(), labels="x"), "alerts[1].labels:"),
            (dict(alert(), startsAt="yesterday"), "alerts[1].startsAt:"),
            (dict(alert(), startsAt=1700000000), "alerts[1].startsAt:"),
            (dict(alert(), endsAt="2026-02-30T00:00:00Z"), "alerts[1].endsAt:"),
        ],
    )
    def test_names_its_field(self, broken, where):
        found = read(webhook(alert(), broken, alert(name="Other"))).alerts
        assert [bool(a.problem) for a in found] == [False, True, False]
        assert found[1].problem.startswith(where)
        assert [a.position for a in found] == [0, 1, 2]

    def test_names_all_of_them(self):
        found = read_one(status="?", startsAt="?", labels={"n": 1}).problem
        for where in ("status", "startsAt", "labels.n"):
            assert "alerts[0]." + where in found


class TestFingerprint:
    @pytest.mark.parametrize("labels, expected", FINGERPRINTS)
    def test_is_alertmanagers(self, labels, expected):
        assert alertmanager.fingerprint(labels) == expected

    def test_is_that_of_the_alertmanager_here(self, alertmanager):
        server = alertmanager("http://127.0.0.1:9/")
        sets = [labels for labels, _ in FINGERPRINTS]
        sets.append({"alertname": "x", "long": "y" * 5000, "quote": '"\\', "space": " "})
        for labels in sets:
            server.fire(**labels)
        from poundcake.alertmanager import fingerprint

        found = {a["fingerprint"]: a["labels"] for a in server.alerts()}
        assert len(found) == len(sets)
        assert {fingerprint(labels): labels for labels in sets} == found

    def test_is_the_same_in_any_order(self):
        labels = {"b": "1", "a": "2", "c": "3"}
        orders = [dict(order) for order in itertools.permutations(labels.items())]
        assert len({alertmanager.fingerprint(order) for order in orders}) == 1

    def test_tells_names_from_values(self):
        assert alertmanager.fingerprint({"ab": "c"}) != alertmanager.fingerprint({"a": "bc"})


class TestTimes:
    @pytest.mark.parametrize(
        "text, expected",
        [
            ("2026-01-14T12:00:00Z", NOON),
            ("2026-01-14t12:00:00z", NOON),
            ("2026-01-14 12:00:00Z", NOON),
            ("2026-01-14T14:00:00+02:00", NOON),
            ("2026-01-14T06:30:00-05:30", NOON),
            ("2026-01-14T12:00:00-00:00", NOON),
            ("2026-01-14T12:00:00.123456789Z", NOON.replace(microsecond=123456)),
            ("2026-01-14T12:00:00.5Z", NOON.replace(microsecond=500000)),
            ("2026-01-14T12:00:00.000000001+00:00", NOON),
            ("2016-12-31T23:59:60Z", datetime.datetime(2016, 12, 31, 23, 59, 59, 0, UTC)),
            ("2024-02-29T00:00:00Z", datetime.datetime(2024, 2, 29, tzinfo=UTC)),
            ("0001-01-01T00:00:00Z", None),
            ("0001-01-01T00:00:00+01:00", None),
            ("", None),
            (None, None),
        ],
    )
    def test_read(self, text, expected):
        assert parse_timestamp(text) == expected

    @pytest.mark.parametrize(
        "text",
        [
            "2026-01-14",
            "2026-01-14T12:00:00",
            "2026-01-14T12:00Z",
            "2026-1-14T12:00:00Z",
            "2026-13-14T12:00:00Z",
            "2026-02-29T12:00:00Z",
            "2026-01-14T24:00:00Z",
            "2026-01-14T12:60:00Z",
            "2026-01-14T12:00:61Z",
            "2026-01-14T12:00:00.Z",
            "2026-01-14T12:00:00+0100",
            "2026-01-14T12:00:00+24:00",
            "2026-01-14T12:00:00+01:60",
            "9999-12-31T23:59:59-00:01",
            "2026-01-14T12:00:00Z\n",
            " 2026-01-14T12:00:00Z",
            "٢٠٢٦-01-14T12:00:00Z",
            "now",
            0,
            1.5,
            True,
            [],
            {},
        ],
    )
    def test_refused(self, text):
        with pytest.raises(ValueError):
            parse_timestamp(text)

    @given(st.datetimes(min_value=datetime.datetime(2, 1, 1)))
    def test_round_trip(self, moment):
        moment = moment.replace(tzinfo=UTC)
        assert format_timestamp(moment).endswith("Z")
        assert parse_timestamp(format_timestamp(moment)) == moment

    def test_written_in_utc(self):
        east = datetime.timezone(datetime.timedelta(hours=2))
        assert format_timestamp(NOON.astimezone(east)) == "2026-01-14T12:00:00Z"

    def test_an_episode_is_fingerprint_and_milliseconds(self):
        assert alertmanager.episode_name("ab", NOON.replace(microsecond=1999)) == "ab-1768392000001"


class TestDeliveryKey:
    """The same notification sent twice has one key."""

    def key(self, *alerts, **more):
        return read(webhook(*alerts, **more)).delivery_key

    def test_is_64_hex_digits(self):
        assert len(self.key(alert())) == 64
        int(self.key(alert()), 16)

    @pytest.mark.parametrize(
        "same",
        [
            {"annotations": {"summary": "another text"}},
            {"endsAt": "2026-01-14T13:00:00Z"},
            {"generatorURL": "http://other/"},
            {"startsAt": "2026-01-14T13:00:00+01:00"},
        ],
    )
    def test_is_stable_over_what_changes_from_flush_to_flush(self, same):
        assert self.key(alert(**same)) == self.key(alert())

    def test_is_stable_over_the_order(self):
        a, b = alert("A"), alert("B")
        assert self.key(a, b) == self.key(b, a)

    @pytest.mark.parametrize(
        "other",
        [
            [alert(status="resolved")],
            [alert(starts_at=later(1))],
            [alert(labels={"x": "y"})],
            [alert(), alert()],
            [],
        ],
    )
    def test_tells_alerts_apart(self, other):
        assert self.key(*other) != self.key(alert())

    @pytest.mark.parametrize("field", ["receiver", "groupKey", "status"])
    def test_tells_groups_apart(self, field):
        assert self.key(alert(), **{field: "resolved"}) != self.key(alert())


def has_delimiter(text):
    return any(delimiter in text for delimiter in DELIMITERS)


hostile = st.text(alphabet="{%#<}>ab ", max_size=8) | st.text(max_size=8)
nested = st.recursive(
    hostile | st.integers() | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hostile, inner, max_size=3),
    max_leaves=8,
)


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from strings(key)
            yield from strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from strings(inner)


class TestInert:
    @given(nested)
    def test_no_delimiter_survives_anywhere(self, value):
        assert not any(has_delimiter(text) for text in strings(make_inert(value)))

    @given(st.lists(hostile, min_size=2, max_size=4))
    def test_no_delimiter_comes_of_joining(self, texts):
        for order in itertools.permutations(make_inert(texts)):
            assert not has_delimiter("".join(order))

    @given(nested)
    def test_what_has_no_delimiter_characters_is_as_it_was(self, value):
        if not any("{" in t or "<" in t for t in strings(value)):
            assert make_inert(value) == value

    @given(st.dictionaries(hostile, st.integers(), max_size=5))
    def test_no_two_keys_become_one(self, value):
        assert len(make_inert(value)) == len(value)

    def test_serialized_and_joined_it_stays_inert(self):
        value = make_inert({"{": ["{", {"<": "%"}], "a": "{"})
        assert not has_delimiter(json.dumps(value, separators=(",", ":")).replace('{"', ""))

    def test_tuples_are_lists(self):
        assert make_inert(("{",)) == ["{ "]
