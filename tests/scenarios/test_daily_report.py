"""The daily report is sent by the rule and the workflow in docs/NOTIFICATIONS.md."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.documents import ROOT, find_code_blocks
from tests.scenarios.notifications import alert, name_of, notification

PATHS = {
    "# rule": "rules/daily_report.yaml",
    "# action": "actions/daily_report.yaml",
    "# workflow": "actions/workflows/daily_report.yaml",
}


def make_pack(folder):
    """Write a user's pack with the files of the section on the daily report."""
    (folder / "pack.yaml").write_text("name: mypack\nversion: 1.0.0\n")
    for block in find_code_blocks(ROOT / "docs" / "NOTIFICATIONS.md", "yaml"):
        marker, _, text = block.partition("\n")
        if marker == "# rule":
            if yaml.safe_load(text)["name"] != "daily_report":
                continue
            text = text.replace("enabled: true", "enabled: false")  # the stand-in has no timers
        if marker in PATHS:
            path = folder / PATHS[marker]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return folder


@pytest.fixture(scope="module")
def stack_with_report(kind, new_stack, tmp_path_factory):
    if kind == "live":
        pytest.skip("live: the example pack of NOTIFICATIONS.md is not installed")
    return new_stack(packs=[make_pack(tmp_path_factory.mktemp("mypack"))])


def test_the_documented_rule_runs_the_documented_workflow(stack_with_report):
    rule = stack_with_report.api("/rules/mypack.daily_report")
    assert rule["action"]["ref"] == "mypack.daily_report"
    assert rule["trigger"]["type"] == "core.st2.CronTimer"
    assert set(rule["action"]["parameters"]) == {"to"}


def test_the_workflow_mails_the_report_with_its_line_breaks(stack_with_report):
    unmatched_alert = alert("ScenarioNobodyHandlesThis")
    stack_with_report.wait_until_completed(stack_with_report.send(notification(unmatched_alert)))
    execution = stack_with_report.execute("mypack.daily_report", to="oncall@example.org")
    assert execution["status"] == "succeeded", execution["result"]
    children = stack_with_report.api("/executions/{}/children".format(execution["id"]))
    (mail,) = [child for child in children if child["action"]["ref"] == "core.sendmail"]
    parameters = mail["parameters"]
    assert (parameters["to"], parameters["content_type"]) == ("oncall@example.org", "text/plain")
    lines = parameters["body"].split("\n")
    assert re.match(r"Last 24 h: \d+ alerts? admitted, ", lines[0])
    assert "Matched no rule: 1" in lines
    assert any(name_of(unmatched_alert) in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_the_report_is_available_as_json(stack_with_report):
    report = stack_with_report.run("poundcake.daily_report", format="json", since="1h")
    assert report["totals"]["admitted"] == report["no_rule"]["count"] == 1
    text = stack_with_report.run("poundcake.daily_report", since="1h")
    assert text.startswith("Last 1 h: 1 alert admitted, ")


def test_a_wrong_time_range_is_explained(stack_with_report):
    execution = stack_with_report.execute("poundcake.daily_report", since="yesterday")
    assert execution["status"] == "failed"
    assert execution["result"]["result"].startswith("since: must be a time such as ")
