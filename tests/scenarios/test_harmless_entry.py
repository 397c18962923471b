"""The harmless entry in docs/REMEDIATION.md can be tried as the page says."""

from __future__ import annotations

import json
import shlex

import pytest
import yaml

from tests import services
from tests.documents import ROOT, find_block, run_commands
from tests.scenarios import conftest

# The entry does not depend on the kind of database, so one is enough.
pytestmark = [
    pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package"),
    pytest.mark.skipif(conftest.KINDS == ["live"], reason="live: dry_run is not changed there"),
]
PAGE = ROOT / "docs" / "REMEDIATION.md"
FILE = "/tmp/poundcake-trial"
NAME = "PoundCakeTrial"


def amtool_labels(text):
    """Return the labels in the only command of amtool with this text."""
    words = shlex.split(find_block(PAGE, "sh", text))
    return dict(word.split("=", 1) for word in words[3:] if not word.startswith("--"))


def curl_body():
    words = shlex.split(find_block(PAGE, "sh", f'"alertname": "{NAME}"'))
    return words[words.index("-d") + 1]


@pytest.fixture
def trial(new_stack, tmp_path):
    """Return a stack with the configuration on the page, and the file that its entry writes."""
    file = tmp_path / "poundcake-trial"
    config = yaml.safe_load(find_block(PAGE, "yaml", FILE).replace(FILE, str(file)))
    return new_stack(config), file


def only_execution(trail):
    (execution,) = trail["stackstorm_executions"]
    return execution


def test_the_entry_reports_in_a_dry_run_and_writes_its_line_in_mode_live(trial):
    stack, file = trial
    (labels,) = [
        word.partition("=")[2]
        for word in shlex.split(find_block(PAGE, "sh", f"labels=alertname={NAME},instance"))
        if word.startswith("labels=")
    ]
    planned = dict(pair.split("=") for pair in labels.split(","))
    first, second = amtool_labels(" instance=trial.example.org\n"), amtool_labels("try=2")
    assert json.loads(curl_body())["alerts"][0]["labels"] == first == planned
    assert stack.run("poundcake.plan", format="text", labels=planned).startswith("\nWOULD REPORT")

    trail = stack.wait_until_completed(stack.send(curl_body().encode()))
    execution = only_execution(trail)
    assert execution["stage"] == "dry_run"
    assert "would run core.local with cmd=date | tee -a " in execution["message"]
    assert "(the action gets no host)" in execution["message"]
    assert not file.exists()

    entry = {**stack.registered_values()["remediations"][0], "mode": "live"}
    with stack.configured(dry_run=False, remediations=[entry]):
        stack.wait_until(lambda: stack.get("/health").json()["dry_run"], lambda is_on: not is_on)
        body = {"alerts": [{"status": "firing", "labels": second}]}
        execution = only_execution(stack.wait_until_completed(stack.send(body)))
    assert (execution["stage"], execution["mutated"]) == ("done", True)
    assert len(file.read_text().splitlines()) == 1


@pytest.mark.services
def test_the_command_of_amtool_fires_the_alert(trial):
    stack, _ = trial
    alertmanager = services.Alertmanager(stack.url + "/api/v1/webhook")
    alertmanager.start()
    try:
        block = find_block(PAGE, "sh", " instance=trial.example.org\n")
        run_commands(block, {"http://127.0.0.1:9093": alertmanager.url})
        stack.wait_until(lambda: stack.active_alerts(NAME), lambda alerts: len(alerts) == 1)
    finally:
        alertmanager.close()
