"""Batches of requests are packed into the payload of a trigger, and unpacked."""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundcake import announcement
from poundcake.announcement import AnnouncementError, Request
from tests.lib.samples import DELIMITERS, UTC, request

requests = st.builds(
    Request,
    request_id=st.uuids().map(str),
    received_at=st.datetimes(timezones=st.just(UTC)).filter(lambda t: t.year > 1),
    client_host=st.text(),
    client_request_id=st.text(),
    method=st.text(),
    path=st.text(),
    headers=st.dictionaries(st.text(), st.text(), max_size=3),
    body=st.text(alphabet=st.characters()),  # includes lone surrogates
    credential=st.text(),
)


@given(st.lists(requests, max_size=4))
def test_unpacking_restores_the_packed_requests(sent_requests):
    payload = announcement.pack(sent_requests, "db")
    assert announcement.unpack(payload["version"], payload["batch"]) == sent_requests
    assert payload["count"] == len(sent_requests)


def test_the_payload_has_the_fields_of_the_trigger():
    payload = announcement.pack([request()], "the-database", "the-announcement", 1.5)
    assert sorted(payload) == [
        "announcement_id",
        "batch",
        "clock_offset_seconds",
        "count",
        "database_id",
        "version",
    ]
    assert payload["clock_offset_seconds"] == 1.5
    assert payload["database_id"] == "the-database"
    assert payload["announcement_id"] == "the-announcement"


def test_each_announcement_has_its_own_id():
    assert (
        announcement.pack([], "db")["announcement_id"]
        != announcement.pack([], "db")["announcement_id"]
    )


@given(st.text(alphabet="{%#<>}ab"))
def test_a_batch_contains_only_inert_characters(text):
    batch = announcement.pack([request(body=text, headers={text: text})], "db")["batch"]
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", batch)
    assert not any(delimiter in batch for delimiter in DELIMITERS)


def test_repeated_text_is_compressed():
    body = json.dumps({"alerts": [{"labels": {"alertname": "HostDown"}}] * 500})
    assert len(announcement.pack([request(body=body)], "db")["batch"]) < len(body) / 10


@pytest.mark.parametrize("version", [0, 2, "1", None, 1e9])
def test_an_unknown_version_is_refused(version):
    batch = announcement.pack([request()], "db")["batch"]
    with pytest.raises(AnnouncementError) as caught:
        announcement.unpack(version, batch)
    assert str(version) in str(caught.value)
    assert "the same release everywhere" in str(caught.value)


def pack_text(text):
    return base64.b64encode(zlib.compress(text.encode())).decode()


@pytest.mark.parametrize(
    "batch",
    [
        "",
        "!",
        "é",
        "AAAA",
        base64.b64encode(b"no zlib").decode(),
        pack_text("no json"),
        pack_text("[" * 100000),
        pack_text("5"),
        pack_text("null"),
        pack_text("[5]"),
        pack_text('{"a": 1}'),
        pack_text('[{"request_id": "x"}]'),
        pack_text('[{"received_at": "x"}]'),
        pack_text('[{"received_at": "2026-01-14T12:00:00Z", "more": 1}]'),
    ],
)
def test_a_damaged_batch_is_refused(batch):
    with pytest.raises(AnnouncementError, match="cannot be unpacked"):
        announcement.unpack(announcement.VERSION, batch)


def test_an_announcement_without_credentials_is_read():
    """Release 0.2.0 sent no credential, and RabbitMQ may still hold its announcements."""
    fields = {**asdict(request()), "received_at": "2026-01-14T12:00:00Z"}
    del fields["credential"]
    (unpacked,) = announcement.unpack(announcement.VERSION, pack_text(json.dumps([fields])))
    assert (unpacked.request_id, unpacked.credential) == (fields["request_id"], "")


def test_a_truncated_batch_is_refused():
    batch = announcement.pack([request()], "db")["batch"]
    with pytest.raises(AnnouncementError):
        announcement.unpack(announcement.VERSION, batch[: len(batch) // 2])
