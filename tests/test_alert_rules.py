"""promtool accepts the files in etc/, and each of the pack's alerts fires when it should."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
import yaml

from tests import services

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RULES = os.path.join("etc", "poundcake.rules.yml")
CASES = os.path.join("tests", "poundcake.rules.test.yml")


@pytest.fixture
def promtool():
    """Return a function that runs promtool and checks that it succeeds."""
    try:
        program = services.program("promtool")
    except services.MissingProgram as error:
        pytest.skip(str(error))

    def run(*arguments):
        completed = subprocess.run(
            [program, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert completed.returncode == 0, completed.stdout.decode()

    return run


def test_the_configuration_is_valid(promtool):
    promtool("check", "config", "--syntax-only", os.path.join("etc", "prometheus.yml"))


def test_the_size_of_a_notification_is_limited():
    """Alertmanager does not retry a notification that is refused for its size."""
    with open(os.path.join(ROOT, "etc", "alertmanager.yml"), encoding="utf-8") as file:
        receivers = yaml.safe_load(file)["receivers"]
    webhooks = [webhook for r in receivers for webhook in r.get("webhook_configs", [])]
    assert webhooks and all(0 < webhook["max_alerts"] <= 5000 for webhook in webhooks)


def test_the_rules_are_valid(promtool):
    promtool("check", "rules", RULES)


def test_each_alert_fires_when_it_should(promtool):
    promtool("test", "rules", CASES)


def test_each_alert_has_a_test_case():
    def alerts(path, key):
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            return set(re.findall(key + r": (PoundCake\w+)", file.read()))

    assert alerts(RULES, "alert") == alerts(CASES, "alertname")
