"""Content of the pack that is missing or disabled in StackStorm is found."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from poundcake import __version__
from poundcake.doctor.account import read_account
from poundcake.doctor.finding import Status
from poundcake.doctor.pack_content import PackFacts, check_pack, read_pack
from poundcake.stackstorm import StackStormError
from tests.documents import ROOT

KINDS = ("actions", "rules", "triggers", "sensors", "policies", "aliases")


class Api:
    """StackStorm's API with the content of a pack in pages of 100."""

    PATHS = {
        "/actions": "actions",
        "/rules": "rules",
        "/triggertypes": "triggers",
        "/sensortypes": "sensors",
        "/policies": "policies",
        "/actionalias": "aliases",
    }

    def __init__(self, content, version=__version__):
        self.content, self.version, self.error = content, version, None

    def get(self, path, **params):
        if self.error:
            raise self.error
        if path == "/packs/poundcake":
            return {"version": self.version} if self.version else None
        if path == "/user":
            return {"username": "stanley"}
        items = self.content[self.PATHS[path]]
        assert params["pack"] == "poundcake"
        return items[params["offset"] : params["offset"] + params["limit"]]


def item(ref, **fields):
    return {"ref": ref, "pack": "poundcake", "enabled": True, **fields}


def read(api):
    return read_pack(api, read_account(api), str(ROOT))


@pytest.fixture(scope="module")
def facts():
    """Return the facts of a StackStorm with everything in the pack's files."""
    empty = read(Api({kind: [] for kind in KINDS}))
    content = {kind: [item(ref) for ref in refs] for kind, refs in empty.expected.items()}
    for extra in range(120):  # the user's own content is on a second page
        content["rules"].insert(0, item(f"poundcake.own_{extra}"))
    return read(Api(content))


def find_others(facts):
    return [finding for finding in check_pack(facts) if finding.status is not Status.OK]


def test_everything_in_the_files_is_expected(facts):
    assert set(facts.expected) == set(KINDS)
    for kind, ref in (
        ("actions", "poundcake.why"),
        ("rules", "poundcake.record"),
        ("triggers", "poundcake.alert"),
        ("sensors", "poundcake.AlertmanagerSensor"),
        ("policies", "poundcake.on_host.concurrency"),
        ("aliases", "poundcake.poundcake_why"),
    ):
        assert ref in facts.expected[kind]


def test_a_complete_installation_is_all_ok(facts):
    assert find_others(facts) == []
    assert any("as stanley" in finding.what for finding in check_pack(facts))


@pytest.mark.parametrize(
    "kind, ref, status, remedy",
    [
        ("actions", "poundcake.record", "problem", "--register-actions"),
        ("rules", "poundcake.sync", "problem", "--register-rules"),
        ("triggers", "poundcake.alert", "problem", "--register-sensors"),
        ("sensors", "poundcake.AlertmanagerSensor", "problem", "--register-sensors"),
        ("policies", "poundcake.on_host.concurrency", "problem", "--register-policies"),
        ("aliases", "poundcake.poundcake_why", "warning", "--register-aliases"),
    ],
)
def test_missing_content_is_found(facts, kind, ref, status, remedy):
    registered = copy.deepcopy(facts.registered)
    del registered[kind][ref]
    (finding,) = find_others(replace(facts, registered=registered))
    assert finding.status == status
    assert ref in finding.what and remedy in finding.remedy


@pytest.mark.parametrize(
    "kind, ref, status, remedy",
    [
        ("actions", "poundcake.record", "problem", "st2 action enable poundcake.record"),
        ("rules", "poundcake.sync", "problem", "st2 rule enable poundcake.sync"),
        ("rules", "poundcake.record", "problem", "st2 rule enable poundcake.record"),
        ("sensors", "poundcake.AlertmanagerSensor", "problem", "st2 sensor enable"),
        ("policies", "poundcake.on_host.concurrency", "problem", "overrides"),
        ("aliases", "poundcake.poundcake_why", "warning", "overrides"),
    ],
)
def test_disabled_content_is_found(facts, kind, ref, status, remedy):
    registered = copy.deepcopy(facts.registered)
    registered[kind][ref] = False
    (finding,) = find_others(replace(facts, registered=registered))
    assert finding.status == status
    assert ref in finding.what and remedy in finding.remedy


def test_content_that_stackstorm_lists_as_disabled_is_found(facts):
    content = {kind: [item(ref) for ref in refs] for kind, refs in facts.expected.items()}
    for kind, ref in (("actions", "poundcake.record"), ("rules", "poundcake.sync")):
        (listed,) = (entry for entry in content[kind] if entry["ref"] == ref)
        listed["enabled"] = False
    found = find_others(read(Api(content)))
    assert [finding.what for finding in found] == [
        "actions that are disabled: poundcake.record",
        "the rule poundcake.sync is disabled, so webhooks wait or their results stay unknown",
    ]


@pytest.mark.parametrize("rule", ["poundcake.host_down", "poundcake.default", "poundcake.purge"])
def test_a_rule_that_is_not_required_may_be_disabled(facts, rule):
    registered = copy.deepcopy(facts.registered)
    registered["rules"][rule] = False
    assert find_others(replace(facts, registered=registered)) == []


def test_another_version_is_a_problem(facts):
    (finding,) = find_others(replace(facts, version="0.2.0"))
    assert finding.status is Status.PROBLEM
    assert "0.2.0" in finding.what


def test_a_pack_that_is_not_installed_is_one_problem():
    api = Api({kind: [] for kind in KINDS}, version="")
    (finding,) = check_pack(read(api))
    assert finding.status is Status.PROBLEM
    assert "st2 pack install" in finding.remedy


def test_an_api_that_refuses_the_credentials_is_one_problem():
    api = Api({})
    api.error = StackStormError("GET /packs/poundcake: 401 Unauthorized", 401)
    (finding,) = check_pack(read(api))
    assert finding.status is Status.PROBLEM
    assert "401 Unauthorized" in finding.what and "st2_api_key" in finding.remedy
    assert check_pack(PackFacts(error="x"))[0].status is Status.PROBLEM


def test_a_server_that_is_not_the_api_is_one_problem():
    """Such as StackStorm's web UI or the login page of a proxy, if st2_api_url names it."""

    class WebPage:
        def get(self, path, **params):
            return "<html>Log in</html>"

    (finding,) = check_pack(read(WebPage()))
    assert finding.status is Status.PROBLEM
    assert "is not the StackStorm API" in finding.what and "st2_api_url" in finding.remedy
