"""StackStorm's settings and the work that waits in it are checked."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from poundcake.doctor.finding import Status
from poundcake.doctor.st2_settings import (
    WorkFacts,
    check_settings,
    check_work,
    read_st2_conf,
    read_work,
)
from poundcake.stackstorm import Execution, StackStormError
from poundcake.timestamps import format_timestamp
from tests.documents import ROOT, find_code_blocks
from tests.lib.fake_stackstorm import FakeStackStorm
from tests.lib.samples import NOON, later

REST = """
[auth]
enable = True
[coordination]
url = redis://127.0.0.1
"""
MINUTES = 30
IDLE = WorkFacts(now=NOON, oldest=later(-60))


def find_others(findings):
    return [finding for finding in findings if finding.status is not Status.OK]


@pytest.fixture
def write(tmp_path):
    """Return a function that writes st2.conf and returns the findings that are not ok."""

    def write(text):
        path = tmp_path / "st2.conf"
        path.write_text(text)
        return find_others(check_settings(read_st2_conf(str(path))))

    return write


def documented_settings():
    (block,) = find_code_blocks(ROOT / "docs" / "OPERATIONS.md", "ini")
    return block


def test_the_documented_settings_are_all_ok(write):
    assert write(documented_settings() + REST) == []


@pytest.mark.parametrize(
    "old, new, status, what",
    [
        ("enable = True", "enable = False", "warning", "does not authenticate"),
        ("url = redis://127.0.0.1", "", "warning", "no coordination server"),
        ("action_executions_ttl = 30", "", "warning", "action_executions_ttl"),
        ("trigger_instances_ttl = 14", "trigger_instances_ttl = 1", "problem", "is 1,"),
        ("sleep_interval = 0.02", "sleep_interval = often", "warning", "sleep_interval"),
    ],
)
def test_each_setting_that_is_not_as_documented_is_found(write, old, new, status, what):
    text = documented_settings() + REST
    assert old in text
    (finding,) = write(text.replace(old, new))
    assert finding.status == status
    assert what in finding.what and finding.remedy


def test_the_defaults_of_stackstorm_are_reported(write):
    findings = write("[DEFAULT]\n%(odd)s\n[auth]\n# enable = False\n")
    assert [finding.check for finding in findings] == [
        "stackstorm.garbage_collector",
        "stackstorm.coordination",
    ]


def test_without_st2_conf_the_settings_are_unknown(tmp_path):
    (finding,) = check_settings(read_st2_conf(str(tmp_path / "missing")))
    assert finding.status is Status.UNKNOWN
    assert "docs/OPERATIONS.md" in finding.remedy
    (tmp_path / "broken").write_text("no section")
    assert read_st2_conf(str(tmp_path / "broken")) is None


def test_an_idle_stackstorm_is_ok():
    assert find_others(check_work(IDLE, MINUTES)) == []


def approval(minutes):
    return Execution(f"i{minutes}", "pending", started_at=NOON - timedelta(minutes=minutes))


@pytest.mark.parametrize(
    "changes, what",
    [
        ({"waiting_since": later(-600)}, "has waited for 10 min"),
        ({"oldest": NOON - timedelta(days=100)}, "executions of 100 days ago"),
        ({"approvals": [approval(1), approval(MINUTES + 10)]}, "did not end 1 expired"),
    ],
)
def test_work_that_waits_or_is_never_deleted_is_a_warning(changes, what):
    (finding,) = find_others(check_work(replace(IDLE, **changes), MINUTES))
    assert finding.status is Status.WARNING
    assert what in finding.what and finding.remedy


def test_open_requests_for_approval_are_counted():
    findings = check_work(replace(IDLE, approvals=[approval(1), approval(2)]), MINUTES)
    assert find_others(findings) == []
    assert "2 requests wait for an approval (st2 inquiry list)" in [f.what for f in findings]


class Api(FakeStackStorm):
    """A StackStorm with executions that its lists contain."""

    def __init__(self, **starts):
        super().__init__()
        self.starts = starts

    def get(self, path, **params):
        assert (path, params["limit"], params["sort_asc"]) == ("/executions", 1, "timestamp")
        start = self.starts.get(params.get("status", "any"))
        return [{"id": "e1", "start_timestamp": format_timestamp(start)}] if start else []


def test_the_oldest_executions_are_read():
    api = Api(any=later(-900), requested=later(-60), scheduled=later(-90))
    api.executions["i1"] = Execution("i1", "pending", action="core.ask")
    facts = read_work(api)
    assert (facts.oldest, facts.waiting_since) == (later(-900), later(-90))
    assert list(facts.approvals) == [], "other inquiries are not the pack's"


def test_an_api_that_does_not_answer_is_unknown():
    api = Api()
    api.errors["list_pending_inquiries"] = StackStormError("nobody answers")
    (finding,) = check_work(read_work(api), MINUTES)
    assert finding.status is Status.UNKNOWN
    assert "nobody answers" in finding.what
