"""If the default SQLite file still has open incidents, a new database refuses requests."""

from __future__ import annotations

import pytest

from poundcake.config import Config
from poundcake.trail import database, health, interventions, uncopied
from poundcake.trail.audit import Actor
from poundcake.trail.copy_trail import copy_trail
from poundcake.trail.database import DatabaseError
from poundcake.trail.record import record_requests
from tests.lib.samples import alert, later, request
from tests.lib.trail.test_health import StubStackStorm
from tests.lib.trails import episode, on_sqlite


@pytest.fixture
def config(tmp_path, database_url):
    return Config(state_dir=str(tmp_path), database_url=database_url)


@pytest.fixture
def old_engine(config):
    """Return an engine for the default SQLite file, with two open incidents."""
    new_engine = database.open_engine(config.default_tracking_url)
    requests = [request(alert(fingerprint=name)) for name in ("a", "b")]
    record_requests(new_engine, Config(), requests)
    yield new_engine
    new_engine.dispose()


def read_pending(config, engine):
    health_report = health.view_without_endpoint(config, engine, StubStackStorm({}))
    return health_report["components"]["database"].get("pending", "")


def record(config, engine, *alerts, at=0):
    return record_requests(engine, config, [request(*alerts, received_at=later(at))])


def test_health_reports_the_incidents_and_the_command_that_moves_them(config, engine, old_engine):
    assert read_pending(config, engine) == (
        f"{config.default_tracking_path} has 2 open incidents that this database does not have: "
        "run `st2 run poundcake.migrate copy_from=sqlite`, or move the file away to ignore them"
    )


def test_nothing_is_recorded_in_an_empty_database_until_the_trail_is_moved(
    config, engine, old_engine
):
    """The alerts of the open incidents would look new, and would be remediated again."""
    with pytest.raises(DatabaseError, match="the database is new and .* 2 open incidents"):
        record(config, engine, alert(fingerprint="a"))
    copy_trail(config.default_tracking_url, config.tracking_url, True, print)
    assert read_pending(config, engine) == ""
    assert record(config, engine, alert(fingerprint="a"), at=60)["outcomes"] == {"duplicate": 1}


def test_a_database_that_has_recorded_requests_is_used(config, engine, old_engine):
    """The pack was upgraded long after database_url was changed."""
    database.prepare(engine)
    record_requests(engine, Config(), [request(alert(fingerprint="z"))])
    assert record(config, engine, alert(fingerprint="y"), at=60)["recorded"] == 1
    assert "2 open incidents" in read_pending(config, engine)
    interventions.close(old_engine, Actor("jane"), "over", episode("a"))
    assert "1 open incident that" in read_pending(config, engine)
    interventions.close(old_engine, Actor("jane"), "over", episode("b"))
    assert read_pending(config, engine) == ""


@on_sqlite
class TestNothingIsMissing:
    def test_the_file_does_not_exist(self, config, engine):
        assert record(config, engine, alert())["recorded"] == 1
        assert read_pending(config, engine) == ""

    def test_the_file_was_moved_away(self, config, engine, old_engine, tmp_path):
        old_engine.dispose()
        for file in tmp_path.glob("tracking.sqlite*"):
            file.rename(tmp_path / f"away-{file.name}")
        assert record(config, engine, alert())["recorded"] == 1

    def test_the_file_is_the_tracking_database(self, tmp_path, old_engine):
        for url in ("", f"sqlite:///{tmp_path}/tracking.sqlite"):
            config = Config(state_dir=str(tmp_path), database_url=url)
            assert read_pending(config, old_engine) == ""

    @pytest.mark.parametrize("content", [b"", b"not a database"])
    def test_a_file_that_cannot_be_read_is_ignored(self, config, engine, content):
        with open(config.default_tracking_path, "wb") as file:
            file.write(content)
        assert record(config, engine, alert())["recorded"] == 1
        assert read_pending(config, engine) == ""

    def test_the_file_is_not_changed(self, config, engine, old_engine, tmp_path):
        old_engine.dispose()
        before = (tmp_path / "tracking.sqlite").read_bytes()
        assert uncopied.find_open_requests_in_default_file(config, engine)
        assert (tmp_path / "tracking.sqlite").read_bytes() == before
