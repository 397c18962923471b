"""The routes in the documents are valid, and lead alerts to the receivers that they say."""

from __future__ import annotations

import queue
import shlex
import subprocess

import pytest
import yaml

from tests import documents, services
from tests.content.pack import LOADER
from tests.shown_output import find_shown_outputs
from tests.test_services import Webhook

MARK = "# alertmanager.yml\n"
PAGE = documents.ROOT / "docs" / "ESCALATION.md"
CONFIGURATIONS = [
    pytest.param(block, id=f"{path.name}-{number}")
    for path in documents.DOCUMENTS
    for number, block in enumerate(documents.find_code_blocks(path, "yaml"), 1)
    if {"route", "receivers"} <= set(yaml.load(block, LOADER) or {})
]
ROUTES = [shown for shown in find_shown_outputs(PAGE) if shown.command.startswith("amtool ")]


@pytest.fixture
def amtool(tmp_path):
    """Return a function that runs amtool in a folder with an alertmanager.yml."""
    try:
        program = services.program("amtool")
    except services.MissingProgram as error:
        pytest.skip(str(error))

    def run(configuration, *arguments):
        (tmp_path / "alertmanager.yml").write_text(configuration)
        completed = subprocess.run(
            [program, *arguments],
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout.decode()

    return run


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_each_configuration_of_alertmanager_is_valid(amtool, configuration):
    amtool(configuration, "check-config", "alertmanager.yml")


def test_a_route_is_shown_for_each_kind_of_alert():
    assert [shown.lines for shown in ROUTES] == [
        ("poundcake,people",),
        ("poundcake,tickets",),
        ("people",),
    ]


@pytest.mark.parametrize("shown", ROUTES, ids=lambda shown: shown.command[-40:])
def test_an_alert_reaches_the_receivers_that_the_page_shows(amtool, shown):
    (configuration,) = [
        block for block in documents.find_code_blocks(PAGE, "yaml") if block.startswith(MARK)
    ]
    _, *arguments = shlex.split(shown.command)
    assert amtool(configuration, *arguments).splitlines() == list(shown.lines)


def test_people_are_told_only_of_an_alert_that_fires_on(alertmanager):
    """Alertmanager drops the first notification of a group if its alert was resolved before."""
    people = Webhook()
    server = alertmanager(people.url, group_wait="2s")
    try:
        short = server.fire(alertname="HostDown", instance="web-1:9100")
        server.fire(alertname="HostDown", instance="web-2:9100")
        server.resolve(short, alertname="HostDown", instance="web-1:9100")
        _, notification = people.next()
        assert [a["labels"]["instance"] for a in notification["alerts"]] == ["web-2:9100"]
        with pytest.raises(queue.Empty):
            people.received.get(timeout=3)
    finally:
        people.close()
