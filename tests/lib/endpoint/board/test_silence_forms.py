"""The link to Alertmanager's form contains the matchers in the syntax that the form reads."""

from __future__ import annotations

import json
from urllib.parse import unquote

import pytest

from poundcake.config import load
from poundcake.endpoint.board.silence_forms import silence_forms
from poundcake.trail.silences import SilenceTarget

CONFIG = load(
    {
        "alertmanagers": [
            {"url": "http://am-1.example:9093"},
            {"url": "http://10.0.0.2", "external_url": "https://am-2.example/alerts"},
        ]
    }
)
LABELS = {"alertname": "HostDown", "path": 'C:\\a "b", {c}é&#'}


def servers(external_url):
    forms = silence_forms(CONFIG, SilenceTarget(LABELS, external_url))
    return [form["server"] for form in forms]


def test_the_form_is_that_of_the_sender():
    assert servers("https://am-2.example/alerts") == ["https://am-2.example/alerts"]


def test_if_the_sender_is_not_configured_each_alertmanager_is_offered():
    for external_url in ("", "http://other.example"):
        assert servers(external_url) == ["http://am-1.example:9093", "https://am-2.example/alerts"]


def test_the_matchers_are_quoted_as_the_form_reads_them():
    form = silence_forms(CONFIG, SilenceTarget(LABELS, ""))[0]
    address, _, matchers = form["url"].partition("filter=")
    assert address == "http://am-1.example:9093/#/silences/new?"
    # Nothing in a value can end the parameter.
    assert not set(matchers) & set("&#{}, ")
    quoted = json.dumps(LABELS["path"], ensure_ascii=False)
    assert unquote(matchers) == '{alertname="HostDown", path=' + quoted + "}"


@pytest.mark.parametrize("labels", [{"a b": "c"}, {"a": "x" * 9000}], ids=["name", "length"])
def test_labels_that_the_form_cannot_read_have_no_link(labels):
    assert silence_forms(CONFIG, SilenceTarget(labels, "")) == []
