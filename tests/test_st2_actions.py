"""StackStorm's own base class for tests of actions runs the pack's actions.

`st2-run-pack-tests` runs this file. The other tests of the actions run on the stand-in.
"""

from __future__ import annotations

import json
import os
import sys

import pytest

pytest.importorskip("st2tests", reason="st2tests is part of StackStorm: run st2-run-pack-tests")

from st2tests.base import BaseActionTestCase

from tests import services

# st2-run-pack-tests adds these folders to the path; the pack's actions are modules in one of them.
PACK = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
for folder in ("actions", "lib"):
    if os.path.join(PACK, folder) not in sys.path:
        sys.path.insert(0, os.path.join(PACK, folder))

import acknowledge
import health
import pause
import plan
import resume
import why


class PackActionTestCase(BaseActionTestCase):
    """An action of the pack with an empty SQLite database of its own."""

    @pytest.fixture(autouse=True)
    def use_private_database(self, tmp_path):
        self.config = {
            "state_dir": str(tmp_path),
            "port": services.free_port(),
            "database_url": f"sqlite:///{tmp_path / 'tracking.sqlite'}",
        }

    def run_action(self, action_class=None, config=None, **parameters):
        self.action_cls = action_class or type(self).action_cls
        return self.get_action_instance({**self.config, **(config or {})}).run(**parameters)


class WhyTestCase(PackActionTestCase):
    action_cls = why.Why

    def test_an_alert_that_is_not_recorded(self):
        succeeded, view = self.run_action(alert_name="HostDown")
        assert succeeded
        assert (view["episodes"], view["count"]) == ([], 0)

    def test_the_text_for_people(self):
        succeeded, text = self.run_action(alert_name="HostDown", format="text")
        assert succeeded
        assert "no matching alert is recorded" in text

    def test_a_filter_is_required(self):
        succeeded, message = self.run_action()
        assert not succeeded
        assert "alert_name" in message

    def test_an_invalid_configuration_names_the_key(self):
        succeeded, message = self.run_action(config={"dry_runs": True}, alert_name="HostDown")
        assert not succeeded
        assert message == "unknown key dry_runs; did you mean dry_run?"

    def test_hostile_text_is_returned_inert(self):
        succeeded, message = self.run_action(labels="{{ st2kv.system.x }}")
        assert not succeeded
        assert "{{" not in json.dumps(message)


class HealthTestCase(PackActionTestCase):
    action_cls = health.Health

    def test_an_endpoint_that_does_not_run_is_unknown(self):
        succeeded, view = self.run_action()
        assert succeeded
        assert view["status"] == "unknown"
        assert view["address"].startswith("no answer from http://127.0.0.1:")


class AcknowledgeTestCase(PackActionTestCase):
    action_cls = acknowledge.Acknowledge

    def test_an_incident_must_be_open(self):
        self.run_action(pause.Pause, reason="to create the tables", st2_user="anna")
        succeeded, message = self.run_action(alert_name="HostDown", st2_user="anna")
        assert not succeeded
        assert message.startswith("no open incident matches")


class PlanTestCase(PackActionTestCase):
    action_cls = plan.Plan

    def test_an_alert_that_does_not_fire_yet_is_named_by_its_labels(self):
        self.run_action(pause.Pause, reason="to create the tables", st2_user="anna")
        succeeded, message = self.run_action(alert_name="HostDown", instance="web-1")
        assert not succeeded
        assert message.startswith("no open incident matches")
        assert "does not fire yet, pass its labels: st2 run poundcake.plan format=text" in message
        succeeded, view = self.run_action(labels={"alertname": "HostDown", "instance": "web-1"})
        assert succeeded, view


class PauseTestCase(PackActionTestCase):
    action_cls = pause.Pause

    def test_a_pause_names_who_paused_and_can_be_ended(self):
        succeeded, result = self.run_action(reason="maintenance", st2_user="anna")
        assert succeeded
        assert result["paused"]["by"] == "anna"
        succeeded, _ = self.run_action(resume.Resume, st2_user="anna")
        assert succeeded
