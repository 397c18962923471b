"""A backup is restored as OPERATIONS.md shows, and the pack writes only where the pages say."""

from __future__ import annotations

import os

import pytest

from tests import documents
from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification
from tests.scenarios.stack import Standalone

# The commands for MariaDB have a test in tests/test_operations.py.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")
PAGE = documents.ROOT / "docs" / "OPERATIONS.md"


@pytest.fixture
def folder(tmp_path, kind, monkeypatch):
    """Return the folder of an installation, and redirect temporary files of its processes."""
    if kind == "live":
        pytest.skip("live: the test stops the installation")
    for name in ("HOME", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path / "installation"


def start(folder):
    """Start the installation in a folder. Its database is the default, in state_dir."""
    return Standalone(folder, f"sqlite:///{folder / 'state' / 'tracking.sqlite'}")


def restore(folder, backups):
    """Run the documented commands that restore the SQLite database."""
    replacements = {
        "/opt/stackstorm/exports/poundcake": str(folder / "state"),
        "/var/backups": str(backups),
        "-o st2 -g st2 ": "",
    }
    documents.run_commands(documents.find_block(PAGE, "sh", "tracking.sqlite-wal"), replacements)


def back_up(folder, backups):
    replacements = {
        "/opt/stackstorm/exports/poundcake": str(folder / "state"),
        "/var/backups": str(backups),
    }
    documents.run_commands(documents.find_block(PAGE, "sh", ".backup("), replacements)


def find_problems(view):
    return [check for check in view["checks"] if check["status"] == "problem"]


def test_a_restored_installation_continues(folder, tmp_path):
    alerts = [alert("Before"), alert("After")]
    before, after = (item["labels"]["alertname"] for item in alerts)
    first, second = map(notification, alerts)
    running = start(folder)
    try:
        kept = running.send(first)
        running.wait_until_completed(kept)
        back_up(folder, tmp_path)
        lost = running.send(second)
        running.wait_until_completed(lost)
        # Until it is done in the journal, the endpoint would record it again.
        running.wait_until(
            lambda: running.get("/health").json()["components"]["journal"],
            lambda journal: journal["done"] == 2,
        )
    finally:
        running.close()
    restore(folder, tmp_path)
    restored = start(folder)
    try:
        assert [row["alert_name"] for row in restored.active_alerts(before)] == [before]
        assert restored.active_alerts(after) == [], "it was recorded after the backup"
        assert restored.get_trail(kept)["completed_at"]
        # Alertmanager repeats what still fires: a duplicate of the one, and a new incident.
        repeat = restored.wait_until_recorded(restored.send(first))
        assert [row["outcome"] for row in repeat["alerts"]] == ["duplicate"]
        again = restored.wait_until_completed(restored.send(second))
        assert [row["outcome"] for row in again["alerts"]] == ["admitted"]
        health = restored.get("/health").json()
        assert health["status"] == "ok", health
        assert find_problems(restored.run("poundcake.doctor")) == []
    finally:
        restored.close()


def test_the_pack_writes_files_only_to_its_state_dir(folder, tmp_path):
    """So that nothing remains when state_dir is deleted, as INSTALL.md says."""
    running = start(folder)
    try:
        running.wait_until_completed(running.send(notification(alert("Footprint"))))
        for action in ("why", "health", "doctor", "stats"):
            parameters = {"alert_name": "*"} if action == "why" else {}
            running.run(f"poundcake.{action}", **parameters)
    finally:
        running.close()
    written = {
        os.path.relpath(path, folder)
        for path in folder.rglob("*")
        if path.is_file() and not str(path).startswith(str(folder / "state"))
    }
    assert written == {"log", "poundcake.yaml", "database_url"}, "the files of the test itself"
    elsewhere = {
        str(path.relative_to(tmp_path))
        for name in ("HOME", "TMPDIR")
        for path in (tmp_path / name).rglob("*")
        if path.is_file()
    }
    # The stand-in runs Orquesta, whose stevedore caches entry points.
    assert all(name.startswith("HOME/.cache/python-entrypoints/") for name in elsewhere), elsewhere
