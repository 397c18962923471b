"""An action can report the health even if the endpoint does not answer."""

from __future__ import annotations

import pytest

from poundcake import __version__
from poundcake.config import Config
from poundcake.stackstorm import StackStormError
from poundcake.trail import database, health, text
from poundcake.trail.replay import replay_request
from tests.lib.samples import NOON, alert, iso, later
from tests.lib.trails import database_time, record


class StubStackStorm:
    """A StackStorm API that returns one answer, or is unavailable if it has none."""

    def __init__(self, answer=None):
        self.answer = answer

    def get(self, path):
        if self.answer is None:
            raise StackStormError("no route")
        return self.answer


@pytest.fixture
def engine(tmp_path):
    new_engine = database.open_engine(f"sqlite:///{tmp_path}/tracking.db")
    yield new_engine
    new_engine.dispose()


def test_only_components_that_an_action_can_reach_are_checked(engine):
    database.prepare(engine)
    result = health.view_without_endpoint(Config(auth_tokens=("t",)), engine, StubStackStorm({}))
    states = {name: component["state"] for name, component in result["components"].items()}
    assert states == {
        "journal": "unknown",
        "broker": "unknown",
        "database": "ok",
        "stackstorm": "ok",
    }
    assert result["components"]["journal"]["detail"] == "only the endpoint can check this"
    assert {**result, "components": None} == {
        "status": "unknown",
        "version": __version__,
        "address": "no answer from http://127.0.0.1:8000 (endpoint_url)",
        "authentication": "bearer",
        "database": "SQLite",
        "dry_run": True,
        "literal_secrets": [],
        "configuration": {"remediation_errors": []},
        "components": None,
    }
    assert "journal" in text.health(result)


def test_a_failing_component_is_explained(engine):
    result = health.view_without_endpoint(Config(), engine, StubStackStorm(), "it answered 401")
    components = result["components"]
    assert result["address"] == "it answered 401"
    assert components["stackstorm"] == {"state": "down", "since": "", "detail": "no route"}
    assert components["database"]["state"] == "down"
    assert "poundcake.migrate" in components["database"]["detail"]


class TestDifferences:
    """Actions get the registered configuration; the endpoint may not have applied it yet."""

    def make_endpoint_answer(self, **config):
        return {"configuration": {"problem": "", "in_force": Config(**config).settings}}

    def test_the_same_configuration_has_no_differences(self):
        result = health.add_differences(self.make_endpoint_answer(port=1), Config(port=1))
        assert result["configuration"]["differences"] == {}

    def test_each_key_that_differs_is_shown_with_both_values(self):
        result = health.add_differences(
            self.make_endpoint_answer(allowed_hosts=("web-1",)), Config(dry_run=False)
        )["configuration"]["differences"]
        assert result == {
            "dry_run": {"endpoint": True, "actions": False},
            "allowed_hosts": {"endpoint": ["web-1"], "actions": []},
        }

    def test_secrets_are_not_compared(self):
        secrets = {"auth_tokens": ("a",), "basic_auth": "a:b", "st2_api_key": "c"}
        result = health.add_differences(self.make_endpoint_answer(), Config(**secrets))
        assert result["configuration"]["differences"] == {}

    def test_invalid_remediations_degrade_the_health_that_an_action_reports(self):
        errors = ("remediations, entry 1: must be a mapping with name, match and mode",)
        answer = {"status": "ok", **self.make_endpoint_answer()}
        answer["configuration"]["remediation_errors"] = ["found by the endpoint"]
        result = health.add_differences(answer, Config(remediation_errors=errors))
        assert result["status"] == "degraded"
        assert result["configuration"]["remediation_errors"] == ["found by the endpoint", *errors]
        assert health.add_differences(answer, Config())["status"] == "ok"

    def test_an_answer_without_a_configuration_is_unchanged(self):
        """An older endpoint does not report its configuration."""
        assert health.add_differences({"status": "ok"}, Config()) == {"status": "ok"}


def test_a_pending_migration_is_reported(engine, monkeypatch):
    database.prepare(engine)
    monkeypatch.setattr(database, "pending", lambda engine: "run poundcake.migrate")
    result = health.view_without_endpoint(Config(), engine, StubStackStorm({}))["components"][
        "database"
    ]
    assert result == {"state": "ok", "since": "", "detail": "", "pending": "run poundcake.migrate"}


def test_a_replay_is_no_webhook(engine):
    """It would hide that Alertmanager has sent nothing for an hour."""
    request_id = record(engine, alert())
    with database_time(later(3600)):
        replay_request(engine, Config(), request_id)
    assert health.add_pause({}, engine)["newest_webhook_at"] == iso(NOON)
