"""The health report shows the state of each component, and whether the endpoint is degraded."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta

import pytest

from poundcake.config import Config, load
from poundcake.endpoint import filesystem, health, worker
from poundcake.endpoint.health import Component, State
from poundcake.endpoint.installation import Installation
from poundcake.endpoint.journal import JournalError
from poundcake.endpoint.journal_keeper import JournalKeeper
from poundcake.endpoint.metrics import Metrics
from poundcake.endpoint.pipeline import PAUSE_WAIT
from poundcake.trail.audit import Actor
from poundcake.trail.pause import pause, resume
from poundcake.trail.uncopied import Pending
from tests.lib.samples import NOON, alert

LOG = logging.getLogger("health")
_DISK = ("free", "size")


@pytest.fixture
def installation(rig, tmp_path):
    """Return an installation with the journal and the pipeline of a manually driven rig."""
    config = Config(state_dir=str(tmp_path), backlog_limit=5)
    keeper = JournalKeeper(config, None, LOG)
    keeper.journal, keeper.pipeline = rig.journal, rig.pipeline
    keeper.component.mark_ok()
    return Installation(config, rig.reader, rig.api, keeper)


def report(installation, problem=""):
    return health.build_report(installation, "http://127.0.0.1:8000", NOON, problem).as_dict()


def journal_report(installation):
    return report(installation)["components"]["journal"]


def test_each_working_component_is_reported_as_ok(rig, installation):
    rig.accept(alert())
    rig.advance()
    health_view = report(installation)
    since = {name: component.pop("since") for name, component in health_view["components"].items()}
    assert all(text.endswith("Z") for text in since.values())
    disk = [health_view["components"]["journal"].pop(f"disk_{key}_bytes") for key in _DISK]
    assert 0 < disk[0] <= disk[1]
    assert health_view == {
        "status": "ok",
        "version": health_view["version"],
        "address": "http://127.0.0.1:8000",
        "authentication": "none",
        "database": "SQLite",
        "dry_run": True,
        "literal_secrets": [],
        "configuration": {
            "applied_at": "2026-01-14T12:00:00Z",
            "problem": "",
            "warnings": [],
            "remediation_errors": [],
            "in_force": installation.config.settings,
        },
        "components": {
            "journal": {
                "state": "ok",
                "detail": "",
                "waiting": 0,
                "backlog_limit": 5,
                "oldest_seconds": 0,
                "accepted": 0,
                "announced": 0,
                "recorded": 1,
                "done": 0,
                "stuck": 0,
                "stuck_requests": [],
                "set_aside": [],
                "processing_problem": "",
            },
            "broker": {"state": "ok", "detail": "", "waiting": 0},
            "database": {"state": "ok", "detail": "", "waiting": 0, "clock_offset_seconds": 0},
            "stackstorm": {"state": "ok", "detail": "", "waiting": 1, "stuck": []},
        },
        "paused": None,
        "certificate_expires_at": None,
    }


def test_a_pause_is_shown_within_seconds(rig, installation):
    rig.advance()
    pause(rig.reader.engine, Actor("anna"), "maintenance")
    rig.advance(PAUSE_WAIT)
    health_view = report(installation)
    assert (health_view["paused"]["by"], health_view["paused"]["reason"]) == ("anna", "maintenance")
    assert health_view["status"] == "ok"
    metrics = Metrics(lambda: health_view, lambda: (0, 0, 0)).render("")[0].decode()
    assert "\npoundcake_paused 1.0\n" in metrics
    resume(rig.reader.engine, Actor("anna"))
    rig.advance(PAUSE_WAIT)
    assert report(installation)["paused"] is None


def test_a_component_that_is_down_degrades_health(rig, installation):
    rig.advance()
    rig.components.stackstorm.mark_down("the rule is disabled")
    assert report(installation)["status"] == "degraded"


def test_an_unusable_configuration_degrades_health_and_is_explained(rig, installation):
    rig.advance()
    health_view = report(installation, "keeping the previous configuration: port: must be a number")
    assert health_view["status"] == "degraded"
    assert health_view["configuration"]["problem"].endswith("port: must be a number")


def test_an_invalid_remediation_degrades_health_and_is_explained(rig, installation):
    config = load({"remediations": [{"name": "nginx", "mode": "live"}]})
    health_view = report(replace(installation, config=config))
    assert health_view["status"] == "degraded"
    (error,) = health_view["configuration"]["remediation_errors"]
    assert error.startswith("remediations, entry 1 (nginx): match: is missing")
    assert health_view["configuration"]["problem"] == ""


def test_pending_migrations_are_shown_for_the_database(rig, installation):
    rig.pipeline.pending = Pending(migrations="run st2 run poundcake.migrate")
    assert report(installation)["components"]["database"]["pending"].startswith("run st2 run")
    assert report(installation)["status"] == "ok"


def test_open_incidents_that_were_not_copied_degrade_health(rig, installation):
    rig.pipeline.pending = Pending(incidents="tracking.sqlite has 2 open incidents")
    health_view = report(installation)
    assert health_view["status"] == "degraded"
    assert (
        health_view["components"]["database"]["pending"] == "tracking.sqlite has 2 open incidents"
    )


def test_a_component_that_has_not_been_used_is_unknown_with_the_reason(installation):
    stackstorm = report(installation)["components"]["stackstorm"]
    assert (stackstorm["state"], stackstorm["detail"]) == (
        "unknown",
        "not used since the endpoint started",
    )


def test_a_full_journal_is_unavailable(rig, installation):
    for _ in range(5):
        rig.accept()
    health_view = report(installation)
    assert (health_view["status"], health_view["components"]["journal"]["state"]) == (
        "unavailable",
        "full",
    )


def test_an_unreadable_journal_is_unavailable_and_explained(rig, installation, monkeypatch, caplog):
    def fail():
        raise JournalError("disk I/O error")

    monkeypatch.setattr(rig.journal, "counts", fail)
    health_view = report(installation)
    assert health_view["status"] == "unavailable"
    assert health_view["components"]["journal"]["detail"] == "disk I/O error"
    assert "waiting" not in health_view["components"]["journal"]
    assert "journal: down: disk I/O error" in caplog.text


class TestWatchdog:
    """Health used to be ok while requests waited for a dead or hung thread."""

    def test_a_request_that_waits_for_two_minutes_degrades_health(self, rig, installation, clock):
        rig.accept(alert())
        clock.offset += 119
        assert report(installation)["status"] == "ok"
        clock.offset += 2
        assert report(installation)["status"] == "degraded"
        clock.offset += 180
        detail = journal_report(installation)["detail"]
        assert detail == "the oldest request has waited 5 min to be recorded"
        rig.advance()
        assert report(installation)["status"] == "ok"

    @pytest.mark.parametrize("hours", [-5, 5])
    def test_a_wall_clock_change_makes_no_request_late(self, rig, installation, wall_clock, hours):
        rig.accept(alert())
        wall_clock.offset = hours * 3600
        assert 0 <= journal_report(installation)["oldest_seconds"] < 60
        assert report(installation)["status"] == "ok"

    def test_late_triggers_degrade_health(self, rig, installation, clock):
        rig.accept(alert())
        rig.advance()
        clock.offset += 130
        assert "are 2 min late" in journal_report(installation)["detail"]
        assert report(installation)["status"] == "degraded"
        rig.advance()
        assert report(installation)["status"] == "ok"

    def test_a_dead_thread_degrades_health(self, rig, installation, monkeypatch):
        monkeypatch.setattr(rig.pipeline.worker, "is_dead", lambda: True)
        assert report(installation)["status"] == "degraded"
        assert "has ended" in journal_report(installation)["detail"]

    def test_a_hung_thread_degrades_health(self, rig, installation, clock):
        rig.pipeline.worker._current_step = "emitting"
        rig.pipeline.worker.keep_going()
        assert report(installation)["status"] == "ok"
        clock.offset += worker.HUNG_SECONDS + 1
        assert report(installation)["status"] == "degraded"
        assert "has hung for 12" in journal_report(installation)["detail"]

    def test_a_request_with_unpublishable_triggers_degrades_health(self, rig, installation):
        rig.bus.refuses = lambda trigger, payload: payload.get("alert_name") == "Bad"
        rig.accept(alert("Bad"))
        rig.advance()
        rig.accept(alert("Good", fingerprint="g"))
        rig.advance()
        assert report(installation)["status"] == "degraded"
        assert "the triggers of 1 request cannot" in journal_report(installation)["detail"]


class TestVolatileFilesystems:
    """A state_dir in memory causes a warning."""

    @pytest.fixture
    def mounts(self, tmp_path, monkeypatch):
        def write(*lines):
            (tmp_path / "mounts").write_text("".join(f"x {line} rw 0 0\n" for line in lines))
            monkeypatch.setattr(filesystem, "_MOUNTS", str(tmp_path / "mounts"))

        return write

    def test_a_volatile_state_dir_is_reported_without_degrading_health(
        self, rig, installation, tmp_path, mounts
    ):
        mounts("/ ext4", f"{tmp_path} tmpfs")
        assert f"state_dir {tmp_path} is on tmpfs" in journal_report(installation)["detail"]
        assert report(installation)["status"] == "ok"

    @pytest.mark.parametrize(
        "lines, path, filesystem_type",
        [
            (["/ ext4", "/run tmpfs"], "/run/poundcake", "tmpfs"),
            (["/ ext4", "/run tmpfs"], "/run", "tmpfs"),
            (["/ ext4", "/run tmpfs"], "/running", ""),
            (["/ ramfs"], "/opt", "ramfs"),
            (["/ overlay"], "/opt", ""),
            (["/ ext4", "/run tmpfs", "/run/disk xfs"], "/run/disk/x", ""),
            (["/ ext4", "/a tmpfs", "/a ext4"], "/a", ""),  # the last mount hides the first
            (["/ ext4", "/with\\040space tmpfs"], "/with space/x", "tmpfs"),
            (["/ ext4", "/ä tmpfs"], "/ä/x", "tmpfs"),
            (["malformed"], "/opt", ""),
            ([], "/opt", ""),
        ],
    )
    def test_the_innermost_mount_point_determines_the_file_system(
        self, mounts, lines, path, filesystem_type
    ):
        mounts(*lines)
        assert filesystem.volatile_filesystem(path) == filesystem_type

    def test_a_state_dir_is_not_volatile_without_mount_information(self, monkeypatch):
        monkeypatch.setattr(filesystem, "_MOUNTS", "/nonexistent")
        assert filesystem.volatile_filesystem("/opt") == ""


class TestComponent:
    def test_each_change_of_state_is_logged_once_and_sets_since(self, caplog):
        component = Component(LOG, "broker", "webhooks wait")
        assert component.state == State.UNKNOWN
        with caplog.at_level("INFO"):
            component.mark_ok()
            since = component.since
            component.mark_ok()
            assert component.since == since
            component.mark_down("unavailable")
            component.mark_down("still unavailable")
            assert (component.state, component.detail) == (State.DOWN, "still unavailable")
            component.since -= timedelta(seconds=40)
            component.mark_ok()
        assert [r.getMessage() for r in caplog.records] == [
            "broker: down: unavailable (webhooks wait)",
            "broker: works again after 40 s",
        ]
