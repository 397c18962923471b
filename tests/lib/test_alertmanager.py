"""The payloads of all senders are parsed; unusable ones are refused with a reason."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundcake import alertmanager
from poundcake.alertmanager import Identity, PayloadError, parse
from tests.lib.samples import NOON, alert, later, webhook

# Computed by Alertmanager 0.25.0 (Debian), and read from its /api/v2/alerts.
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


def read_one(**fields):
    """Parse a notification with one alert that has these fields, and return the parsed alert."""
    (parsed,) = read(webhook(alert(**fields))).alerts
    return parsed


def error_of(body):
    """Return the error raised for a body."""
    with pytest.raises(PayloadError) as caught:
        parse(body)
    return caught.value


class TestSenders:
    """Every sender's payload is parsed, even if fields are missing or unknown."""

    def test_alertmanagers_payload_is_parsed(self):
        notification = read(
            webhook(dict(alert(), fingerprint="2993e3e5da48cfe2"), truncatedAlerts=3)
        )
        assert (
            notification.receiver,
            notification.group_status,
            notification.truncated_alerts,
        ) == (
            "poundcake",
            "firing",
            3,
        )
        assert notification.group_key == '{}:{alertname="HostDown"}'
        (parsed,) = notification.alerts
        assert parsed.problem == ""
        assert (parsed.name, parsed.severity, parsed.instance) == (
            "HostDown",
            "critical",
            "web-1:9100",
        )
        assert (parsed.status, parsed.starts_at, parsed.ends_at) == ("firing", NOON, None)
        assert (parsed.fingerprint, parsed.sender_fingerprint) == (
            "a040726554fc8521",
            "2993e3e5da48cfe2",
        )
        assert parsed.notes == ""
        assert parsed.annotations == {"summary": "down"}
        assert parsed.generator_url == "http://prometheus.example/graph"

    def test_an_integer_group_key_of_version_3_is_parsed(self):
        notification = read(webhook(version="3", groupKey=18446744073709551617123))
        assert notification.group_key == "18446744073709551617123"
        assert read(webhook(groupKey=12)).group_key == "12"

    def test_grafanas_payload_is_parsed(self):
        notification = read(
            {
                "receiver": "",
                "status": "firing",
                "orgId": 1,
                "alerts": [
                    dict(alert(), fingerprint="", values={"B": 22.5, "C": 1}, valueString="[ ]"),
                    dict(alert(), dashboardURL="", panelURL="", silenceURL="http://g/s"),
                ],
                "title": "[FIRING:1]",
                "state": "alerting",
                "message": "**Firing**",
            }
        )
        assert [a.problem for a in notification.alerts] == ["", ""]
        assert notification.alerts[0].fingerprint == alertmanager.fingerprint(
            notification.alerts[0].labels
        )

    def test_a_payload_without_optional_fields_is_parsed(self):
        notification = read({"alerts": [{"labels": {"alertname": "A"}}], "status": "resolved"})
        (parsed,) = notification.alerts
        assert parsed.problem == ""
        assert (parsed.status, parsed.starts_at, parsed.ends_at) == ("resolved", None, None)
        assert (parsed.annotations, parsed.generator_url) == ({}, "")
        assert parsed.fingerprint == alertmanager.fingerprint({"alertname": "A"})
        assert (notification.receiver, notification.group_key, notification.truncated_alerts) == (
            "",
            "",
            0,
        )

    def test_null_means_missing(self):
        payload = {
            "alerts": [
                {
                    "labels": {"alertname": "A"},
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
        assert [(a.problem, a.notes) for a in read(payload).alerts] == [("", "")]

    def test_an_alerts_own_status_overrides_the_groups(self):
        notification = read(webhook(alert(status="resolved"), alert(status=""), status="firing"))
        assert [a.status for a in notification.alerts] == ["resolved", "firing"]

    def test_unknown_fields_are_accepted(self):
        notification = read(
            webhook(alert(new={"deep": [1]}), notification_reason="x", routeLabels={})
        )
        assert [a.problem for a in notification.alerts] == [""]

    def test_a_payload_without_alerts_is_accepted(self):
        assert read({"alerts": []}).alerts == []

    def test_a_byte_order_mark_is_ignored(self):
        assert len(parse(b"\xef\xbb\xbf" + json.dumps(webhook(alert())).encode()).alerts) == 1

    def test_any_label_name_is_accepted(self):
        labels = {"a.b": "1", "größe": "2", "": "3", "__proto__": "4", "a\x00b": "5"}
        assert read_one(labels=labels).labels.items() >= labels.items()

    def test_an_empty_label_counts_as_absent(self):
        """In Prometheus's data model, too, an empty label equals a missing one."""
        parsed = read_one(labels={"team": "", "job": None})
        assert "team" not in parsed.labels and "job" not in parsed.labels
        assert parsed.fingerprint == read_one().fingerprint
        assert read_one(labels={"severity": ""}).severity == ""

    def test_lone_surrogates_are_accepted(self):
        body = b'{"alerts":[{"status":"firing","labels":{"alertname":"\\ud800","\\udfff":"x"}}]}'
        notification = parse(body)
        assert notification.alerts[0].problem == ""
        assert len(notification.alerts[0].fingerprint) == 16
        assert len(notification.delivery_key) == 64

    def test_the_last_of_two_duplicate_keys_wins(self):
        body = b'{"alerts":[{"labels":{"a":"1","a":"2"},"status":"resolved","status":"firing"}]}'
        (parsed,) = parse(body).alerts
        assert (parsed.labels, parsed.status) == ({"a": "2"}, "firing")

    @pytest.mark.parametrize(
        "value, stored",
        [
            ("", ""),
            ("x" * 65, "x" * 65),
            ("{{x}}", "{{x}}"),
            (5, "5"),
            (None, ""),
            ([], ""),
            ({}, ""),
        ],
    )
    def test_the_senders_fingerprint_is_stored_but_does_not_identify_the_alert(self, value, stored):
        (parsed,) = read(webhook(dict(alert(), fingerprint=value))).alerts
        assert (parsed.problem, parsed.notes) == ("", "")
        assert parsed.fingerprint == alertmanager.fingerprint(parsed.labels)
        assert parsed.sender_fingerprint == stored

    def test_a_senders_fingerprint_is_stored_only_if_it_differs(self):
        computed = read_one().fingerprint
        (parsed,) = read(webhook(dict(alert(), fingerprint=computed))).alerts
        assert parsed.sender_fingerprint == ""


class TestIdentity:
    """Labels and, if configured, the external URL identify an alert."""

    def fingerprint(self, identity=Identity(), url="http://a:9093", **labels):
        body = json.dumps(webhook(alert(labels=labels), externalURL=url)).encode()
        (parsed,) = parse(body, identity).alerts
        return parsed.fingerprint

    def test_instances_with_the_same_sender_fingerprint_are_separate_alerts(self):
        relayed_alerts = [
            dict(alert(labels={"instance": f"pay-{n}"}), fingerprint="3f1d") for n in range(3)
        ]
        parsed_alerts = read(webhook(*relayed_alerts)).alerts
        assert len({parsed.fingerprint for parsed in parsed_alerts}) == 3
        assert {parsed.sender_fingerprint for parsed in parsed_alerts} == {"3f1d"}

    def test_an_ignored_label_is_stored_but_not_part_of_the_identity(self):
        identity = Identity(frozenset({"pod", "absent"}))
        assert self.fingerprint(identity, pod="a") == self.fingerprint(identity, pod="b")
        assert self.fingerprint(identity, pod="a") == self.fingerprint()
        assert self.fingerprint(identity, job="a") != self.fingerprint(identity, job="b")
        body = json.dumps(webhook(alert(labels={"pod": "a"}))).encode()
        assert parse(body, identity).alerts[0].labels["pod"] == "a"

    def test_the_external_url_is_part_of_the_identity_only_if_configured(self):
        urls = ("http://a:9093", "http://b:9093")
        assert len({self.fingerprint(url=url) for url in urls}) == 1
        identity = Identity(with_external_url=True)
        assert len({self.fingerprint(identity, url) for url in urls}) == 2
        # Alerts of a sender without an external URL are identified only by their labels.
        assert self.fingerprint(identity, None) == self.fingerprint()

    def test_no_fingerprint_is_computed_if_none_is_needed(self):
        body = json.dumps(webhook(alert())).encode()
        (identified,), (unidentified,) = parse(body).alerts, parse(body, None).alerts
        assert replace(unidentified, fingerprint=identified.fingerprint) == identified

    def test_no_label_can_imitate_an_external_url(self):
        identity = Identity(with_external_url=True)
        forged_labels = {"": "http://a:9093"}
        assert self.fingerprint(identity, "") != self.fingerprint(identity)
        assert self.fingerprint(identity, "", **forged_labels) != self.fingerprint(identity)


class TestLimits:
    def test_the_number_of_labels_is_limited(self):
        sample_label_count = 3  # the labels of samples.alert()
        labels = {f"l{i}": "x" for i in range(alertmanager.MAX_LABELS - sample_label_count)}
        assert read_one(labels=dict(labels)).problem == ""
        problem = read_one(labels=dict(labels, another="x")).problem
        assert problem == "alerts[0].labels: 1001 labels, but the limit is 1000"

    @pytest.mark.parametrize("name, value", [(1024, 16384), (1025, 1), (1, 16385)])
    def test_the_length_of_a_label_is_limited(self, name, value):
        parsed = read_one(labels={"n" * name: "x" * value})
        assert bool(parsed.problem) == ((name, value) != (1024, 16384))
        assert parsed.labels["n" * name] == "x" * value  # the label is still stored
        assert len(parsed.problem) < 200

    def test_annotations_are_limited_only_by_the_body(self):
        assert read_one(annotations={"text": "x" * 100000}).problem == ""

    def test_the_number_of_alerts_is_limited(self):
        maximum = alertmanager.MAX_ALERTS
        assert len(parse(json.dumps({"alerts": [{}] * maximum}).encode()).alerts) == maximum
        error = error_of(json.dumps({"alerts": [{}] * (maximum + 1)}).encode())
        assert error.field == "alerts"
        assert "10001 in one request, but the limit is 10000: set max_alerts" in str(error)


class TestRefusedRequest:
    """The error about an unusable request names the field."""

    @pytest.mark.parametrize("body", [b"", b"{", b"nothing", b"{'alerts': []}", b"\x00", b"[}"])
    def test_a_body_that_is_not_json_is_refused(self, body):
        assert error_of(body).field == "body"

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
    def test_a_number_that_is_not_json_is_refused(self, number):
        error = error_of(f'{{"alerts": [], "x": {number}}}'.encode())
        assert str(error) == f"body: not JSON: {number} is not a JSON value"

    def test_a_body_that_is_not_utf8_is_refused(self):
        assert str(error_of(b'{"alerts": "\xff"}')) == "body: not UTF-8 at byte 12"

    @pytest.mark.parametrize(
        "body, type_name",
        [
            (b"[]", "a list"),
            (b"null", "null"),
            (b"7", "a number"),
            (b'"alerts"', "a string"),
            (b"true", "a boolean"),
            (b"1.5", "a number"),
        ],
    )
    def test_a_body_that_is_not_an_object_is_refused(self, body, type_name):
        assert str(error_of(body)) == f"body: must be a JSON object, not {type_name}"

    def test_a_body_without_alerts_is_refused(self):
        assert str(error_of(b"{}")) == "alerts: must be a list, but it is missing"

    @pytest.mark.parametrize("value", [None, {}, "[]", 1, True])
    def test_alerts_that_are_not_a_list_are_refused(self, value):
        error = error_of(json.dumps({"alerts": value}).encode())
        assert str(error).startswith("alerts: must be a list, not ")

    @pytest.mark.parametrize(
        "template",
        [
            '{"alerts":[{"labels":{"a":%s}}]}',
            '{"alerts":[{"labels":{},"status":%s}]}',
            '{"alerts":[],"groupKey":%s}',
            '{"alerts":[],"x":%s}',
        ],
    )
    def test_deep_nesting_is_refused(self, template):
        parse((template % ("[" * 90 + "]" * 90)).encode())
        for depth in (101, 980, 100_000):
            error = error_of((template % ("[" * depth + "]" * depth)).encode())
            assert str(error) == "body: nested deeper than 100 levels"

    def test_huge_integers_are_not_converted(self):
        digits = b"9" * 1000000
        started_at = time.process_time()
        parse(b'{"alerts": [{"labels": {"a": ' + digits + b'}}], "groupKey": ' + digits + b"}")
        assert time.process_time() - started_at < 10  # converting them would take minutes

    @given(st.binary(max_size=200))
    def test_any_bytes_are_read_or_refused(self, body):
        with contextlib.suppress(PayloadError):
            parse(body)

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
    def test_alerts_keep_their_positions(self, alerts, status):
        try:
            notification = parse(json.dumps({"alerts": alerts, "status": status}).encode())
        except PayloadError as error:
            assert error.field == "body"
            return
        assert [a.position for a in notification.alerts] == list(range(len(alerts)))
        for parsed in notification.alerts:
            assert parsed.problem or parsed.status in ("firing", "resolved")
            assert all(isinstance(v, str) for v in parsed.labels.values())


class TestMalformedAlert:
    """An unusable alert has a problem that names the field; the other alerts are parsed."""

    @pytest.mark.parametrize(
        "malformed, problem",
        [
            (5, "alerts[1]: must be an object, not a number"),
            (None, "alerts[1]: must be an object, not null"),
            ([], "alerts[1]: must be an object, not a list"),
            ({"status": "firing"}, "alerts[1].labels: no label has a value"),
            (dict(alert(), labels={}), "alerts[1].labels: no label has a value"),
            (dict(alert(), labels={"a": "", "b": None}), "alerts[1].labels: no label has a"),
            (dict(alert(), labels="x"), "alerts[1].labels: not an object: 'x'"),
            (alert(status="gone"), "alerts[1].status: must be firing or resolved, not 'gone'"),
            (alert(status=3), "alerts[1].status: must be firing or resolved, not '3'"),
            (alert(status=[]), "alerts[1].status: must be firing or resolved, not '[]'"),
        ],
    )
    def test_the_problem_names_the_malformed_field(self, malformed, problem):
        parsed_alerts = read(webhook(alert(), malformed, alert(name="Other"))).alerts
        assert [bool(a.problem) for a in parsed_alerts] == [False, True, False]
        assert parsed_alerts[1].problem.startswith(problem)
        assert [a.position for a in parsed_alerts] == [0, 1, 2]

    def test_the_problem_names_every_malformed_field(self):
        problem = read_one(status="?", labels={"n": "x" * 20000}).problem
        for field in ("status", "labels.n"):
            assert "alerts[0]." + field in problem

    @pytest.mark.parametrize("group_status", ["alerting", "", None, {}, 7])
    def test_an_alert_does_not_inherit_an_unknown_group_status(self, group_status):
        notification = read(webhook(alert(), alert(status=""), status=group_status))
        assert [bool(a.problem) for a in notification.alerts] == [False, True]


class TestTolerance:
    """An invalid field that affects no decision does not make an alert unusable."""

    @pytest.mark.parametrize(
        "value, text",
        [(8080, "8080"), (91.4, "91.4"), (True, "true"), (10**30, str(10**30)), ("", "")],
    )
    def test_numbers_and_booleans_are_read_as_text(self, value, text):
        parsed = read_one(labels={"x": value}, annotations={"x": value})
        assert (parsed.problem, parsed.notes) == ("", "")
        assert (parsed.labels.get("x", ""), parsed.annotations["x"]) == (text, text)

    @pytest.mark.parametrize("number", ["1e999", "-1E+400"])
    def test_a_number_out_of_range_is_kept_as_text(self, number):
        body = b'{"alerts": [{"status": "firing", "labels": {"x": %s}}]}' % number.encode()
        (parsed,) = alertmanager.parse(body).alerts
        assert parsed.labels == {"x": number}

    def test_null_counts_as_absent(self):
        parsed = read_one(labels={"x": None}, annotations={"x": None})
        assert (parsed.problem, parsed.notes, parsed.annotations) == ("", "", {})
        assert parsed.fingerprint == read_one().fingerprint

    def test_lists_and_objects_are_kept_as_json_and_noted(self):
        parsed = read_one(labels={"n": [1, None]}, annotations={"a\nb": {}})
        assert parsed.problem == ""
        assert (parsed.labels["n"], parsed.annotations["a\nb"]) == ("[1, null]", "{}")
        assert parsed.notes == (
            "labels.n: not a string, kept as JSON; annotations.'a\\nb': not a string, kept as JSON"
        )

    @pytest.mark.parametrize(
        "field, value, note",
        [
            ("startsAt", "yesterday", "startsAt: not a time: 'yesterday'"),
            ("startsAt", 1700000000, "startsAt: not a time: 1700000000"),
            ("startsAt", "a\nb", "startsAt: not a time: 'a\\nb'"),
            ("endsAt", "2026-02-30T00:00:00Z", "endsAt: not a time: '2026-02-30T00:00:00Z'"),
            ("endsAt", {"x": 1}, "endsAt: not a time: {'x': 1}"),
            ("annotations", [1], "annotations: not an object: [1]"),
            ("generatorURL", {}, "generatorURL: not a string: {}"),
        ],
    )
    def test_an_unreadable_field_counts_as_missing_and_is_noted(self, field, value, note):
        parsed = read_one(**{field: value})
        assert (parsed.problem, parsed.notes) == ("", note)
        missing = {"startsAt": "starts_at", "endsAt": "ends_at", "generatorURL": "generator_url"}
        assert not getattr(parsed, missing.get(field, field))

    def test_the_notes_are_bounded(self):
        parsed = read_one(startsAt="x" * 10**6, annotations={f"a{n}" * 99: [] for n in range(999)})
        assert parsed.problem == ""
        assert len(parsed.notes) == 1000

    @pytest.mark.parametrize("status", ["Firing", "FIRING", " firing "])
    def test_the_case_of_a_status_does_not_matter(self, status):
        notification = read(webhook(alert(status=status), alert(status=""), status=status))
        assert [(a.status, a.problem) for a in notification.alerts] == [("firing", "")] * 2
        assert notification.group_status == "firing"

    def test_an_unknown_group_status_is_kept(self):
        notification = read(webhook(alert(), status="alerting"))
        assert (notification.group_status, notification.alerts[0].problem) == ("alerting", "")

    @pytest.mark.parametrize(
        "value, count",
        [("0", 0), ("3", 3), (3, 3), (-1, 0), (True, 0), (1.5, 0), (10**30, 0), ([], 0), ("x", 0)],
    )
    def test_the_number_of_truncated_alerts_may_be_text_or_invalid(self, value, count):
        notification = read(webhook(alert(), truncatedAlerts=value))
        assert (notification.truncated_alerts, notification.alerts[0].problem) == (count, "")

    @pytest.mark.parametrize("value, stored", [(5, "5"), ({}, ""), ([], ""), (None, "")])
    def test_a_receiver_that_is_not_a_string_is_stored_as_text_or_empty(self, value, stored):
        assert read(webhook(alert(), receiver=value, externalURL=value)).receiver == stored


class TestFingerprint:
    @pytest.mark.parametrize("labels, expected", FINGERPRINTS)
    def test_it_equals_the_fingerprint_in_alertmanagers_payload(self, labels, expected):
        assert alertmanager.fingerprint(labels) == expected

    def test_it_equals_the_fingerprint_that_the_installed_alertmanager_computes(self, alertmanager):
        server = alertmanager("http://127.0.0.1:9/")
        label_sets = [labels for labels, _ in FINGERPRINTS]
        label_sets.append({"alertname": "x", "long": "y" * 5000, "quote": '"\\', "space": " "})
        for labels in label_sets:
            server.fire(**labels)
        from poundcake.alertmanager import fingerprint  # the fixture hides the module

        labels_by_fingerprint = {a["fingerprint"]: a["labels"] for a in server.alerts()}
        assert len(labels_by_fingerprint) == len(label_sets)
        assert {fingerprint(labels): labels for labels in label_sets} == labels_by_fingerprint

    def test_it_does_not_depend_on_the_order_of_labels(self):
        labels = {"b": "1", "a": "2", "c": "3"}
        orders = [dict(order) for order in itertools.permutations(labels.items())]
        assert len({alertmanager.fingerprint(order) for order in orders}) == 1

    def test_it_distinguishes_names_from_values(self):
        assert alertmanager.fingerprint({"ab": "c"}) != alertmanager.fingerprint({"a": "bc"})


def test_the_name_of_an_episode_contains_fingerprint_and_start_in_milliseconds():
    start = NOON.replace(microsecond=1999)
    assert alertmanager.episode_name("ab", start) == "ab-1768392000001"


class TestDeliveryKey:
    """Two deliveries of the same notification have the same key."""

    def key(self, *alerts, **fields):
        return read(webhook(*alerts, **fields)).delivery_key

    def test_it_has_64_hex_digits(self):
        assert len(self.key(alert())) == 64
        int(self.key(alert()), 16)

    @pytest.mark.parametrize(
        "fields",
        [
            {"annotations": {"summary": "another text"}},
            {"endsAt": "2026-01-14T13:00:00Z"},
            {"generatorURL": "http://other/"},
            {"startsAt": "2026-01-14T13:00:00+01:00"},
        ],
    )
    def test_it_ignores_fields_that_change_with_each_flush(self, fields):
        assert self.key(alert(**fields)) == self.key(alert())

    def test_it_does_not_depend_on_the_order_of_alerts(self):
        first_alert, second_alert = alert("A"), alert("B")
        assert self.key(first_alert, second_alert) == self.key(second_alert, first_alert)

    @pytest.mark.parametrize(
        "alerts",
        [
            [alert(status="resolved")],
            [alert(starts_at=later(1))],
            [alert(labels={"x": "y"})],
            [alert(), alert()],
            [],
        ],
    )
    def test_it_changes_with_the_alerts(self, alerts):
        assert self.key(*alerts) != self.key(alert())

    @pytest.mark.parametrize("field", ["receiver", "groupKey", "status"])
    def test_it_changes_with_the_group(self, field):
        assert self.key(alert(), **{field: "resolved"}) != self.key(alert())
