"""The tracking database is changed while alerts fire."""

from __future__ import annotations

import os
import pathlib
import threading
import time

import pytest
import sqlalchemy

from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification
from tests.scenarios.stack import ActionFailed
from tests.scenarios.test_one_alert import has_succeeded, only, remediate

# The scenarios change the database of a stack, so they need one of their own.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")
POST_INTERVAL = 0.3  # seconds between two notifications
CATCH_UP_SECONDS = 240  # until every alert that was held up is remediated


class Movable:
    """A stack whose database_url is read from a file, and the URL of another database."""

    def __init__(self, new_stack, folder, other):
        self._file, self._other = folder / "database_url", folder / "other_url"
        self._other.write_text(other)
        self.other = other
        self.stack = new_stack(self._config)

    def _config(self, url):
        """Return the configuration: the default SQLite file of the stand-in."""
        path = pathlib.Path(sqlalchemy.make_url(url).database).parent / "state/tracking.sqlite"
        self._file.write_text(f"sqlite:///{path}")
        return {"database_url": f"file:{self._file}"}

    @property
    def copy_to(self):
        """The parameter that moves the trail to the other database."""
        return f"file:{self._other}"

    def change(self):
        """Set database_url to the other database."""
        temporary = self._file.with_name("changed")
        temporary.write_text(self.other)
        os.replace(str(temporary), str(self._file))

    def rows(self, statement, **values):
        """Return rows of the other database."""
        engine = sqlalchemy.create_engine(self.other)
        try:
            with engine.connect() as connection:
                result = connection.execute(sqlalchemy.text(statement), values)
                return [dict(row) for row in result.mappings()]
        finally:
            engine.dispose()

    def database(self):
        """Return what health shows for the database."""
        return self.stack.get("/health").json()["components"]["database"]


@pytest.fixture
def movable(kind, new_stack, mariadb_url, tmp_path):
    if kind == "live":
        pytest.skip("live: the database of the installation stays as it is")
    return Movable(new_stack, tmp_path, mariadb_url)


class Load:
    """Post notifications repeatedly, each with all previous alerts and, up to 12, a new one."""

    def __init__(self, stack):
        self.stack, self.alerts, self.accepted = stack, [], []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(60)

    def _run(self):
        while not self._stop.wait(POST_INTERVAL):
            if len(self.alerts) < 12:
                self.alerts.append(alert("ScenarioLinked"))
            self.accepted.append(self.stack.accepted(notification(*self.alerts)))

    def wait_for_more(self, count):
        """Wait until `count` more notifications are accepted."""
        before = len(self.accepted)
        self.stack.wait_until(lambda: len(self.accepted), lambda n: n >= before + count)


def test_the_trail_moves_under_load(movable):
    """Case A28: nothing is lost, and nothing is remediated twice."""
    stack = movable.stack
    with Load(stack) as load:
        load.wait_for_more(10)
        stack.recorded(load.accepted[3])
        result = stack.run("poundcake.migrate", copy_to=movable.copy_to)
        load.wait_for_more(5)
        assert result["copy"]["complete"]
        stack.wait_until(movable.database, lambda d: d["state"] == "down")
        assert "the trail was moved to mysql+pymysql" in movable.database()["detail"]
        with pytest.raises(ActionFailed, match="the trail was moved to"):
            stack.run("poundcake.alerts_active")
        movable.change()
        stack.wait_until(movable.database, lambda d: d["state"] == "ok")
        load.wait_for_more(10)
    for request_id in load.accepted:
        stack.recorded(request_id)
    known = {r["request_id"] for r in movable.rows("SELECT request_id FROM poundcake_api_calls")}
    assert set(load.accepted) <= known
    admitted = movable.rows(
        "SELECT episode, count(*) AS n FROM poundcake_alerts WHERE outcome = 'admitted' "
        "GROUP BY episode"
    )
    assert {row["n"] for row in admitted} == {1}
    assert len(admitted) == len(load.alerts)
    for row in admitted:
        # A workflow that started while nothing could be claimed has failed after 45 s; its alert
        # is emitted again a minute later.
        executions = stack.wait_until(
            lambda e=row["episode"]: stack.done(e), timeout=CATCH_UP_SECONDS
        )
        assert len(executions) == 1, row
    stack.completed(load.accepted[-1])
    assert {len(stack.done(row["episode"])) for row in admitted} == {1}


def test_database_url_is_changed_without_moving_the_trail(movable):
    """Case A29: nothing is recorded in the new database until the trail is moved."""
    stack = movable.stack
    firing = alert("ScenarioLinked")
    first = remediate(stack, firing)
    episode = only(first["alerts"])["episode"]
    movable.change()
    repeat = stack.accepted(notification(firing))
    command = "st2 run poundcake.migrate copy_from=sqlite"
    shown = stack.wait_until(movable.database, lambda d: command in d.get("pending", ""))
    assert "1 open incident that this database does not have" in shown["pending"]
    assert command in stack.run("poundcake.health", format="text")
    time.sleep(POST_INTERVAL)
    assert movable.rows("SELECT id FROM poundcake_api_calls") == []

    copied = stack.run("poundcake.migrate", copy_from="sqlite")["copy"]["tables"]
    assert copied["poundcake_alerts"]["verified"] == 1
    trail = stack.recorded(repeat)
    assert only(trail["alerts"])["outcome"] == "duplicate"
    assert has_succeeded(stack.trail(first["request_id"]))
    assert "pending" not in stack.wait_until(movable.database, lambda d: "pending" not in d)
    assert len(stack.done(episode)) == 1
