"""Operators switch to another tracking database while alerts fire."""

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

# Each scenario starts a separate stack, because it changes the stack's database.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")
POST_INTERVAL = 0.3  # seconds between two notifications
CATCH_UP_SECONDS = 240  # until every delayed alert is remediated


class MovableStack:
    """A stack that reads database_url from a file, and the URL of another database."""

    def __init__(self, new_stack, folder, other_url):
        self._url_file, self._other_url_file = folder / "database_url", folder / "other_url"
        self._other_url_file.write_text(other_url)
        self.other_url = other_url
        self.stack = new_stack(self._config)

    def _config(self, url):
        """Return a configuration whose database is the stand-in's default SQLite file."""
        path = pathlib.Path(sqlalchemy.make_url(url).database).parent / "state/tracking.sqlite"
        self._url_file.write_text(f"sqlite:///{path}")
        return {"database_url": f"file:{self._url_file}"}

    @property
    def copy_to(self):
        """Return the value of `copy_to` that moves the trail to the other database."""
        return f"file:{self._other_url_file}"

    def switch_to_other_database(self):
        """Set database_url to the other database."""
        temporary_file = self._url_file.with_name("changed")
        temporary_file.write_text(self.other_url)
        os.replace(str(temporary_file), str(self._url_file))

    def other_rows(self, statement, **values):
        """Return rows of the other database."""
        engine = sqlalchemy.create_engine(self.other_url)
        try:
            with engine.connect() as connection:
                result = connection.execute(sqlalchemy.text(statement), values)
                return [dict(row) for row in result.mappings()]
        finally:
            engine.dispose()

    def database_health(self):
        """Return the component `database` of the health view."""
        return self.stack.get("/health").json()["components"]["database"]


@pytest.fixture
def movable_stack(kind, new_stack, mariadb_url, tmp_path):
    if kind == "live":
        pytest.skip("live: the tests do not change the installation's database")
    return MovableStack(new_stack, tmp_path, mariadb_url)


class Load:
    """Posts notifications repeatedly. Each repeats all previous alerts and adds one, up to 12."""

    def __init__(self, stack):
        self.stack, self.alerts, self.request_ids = stack, [], []
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
            self.request_ids.append(self.stack.send(notification(*self.alerts)))

    def wait_for_more(self, count):
        """Wait until `count` further notifications have been accepted."""
        initial_count = len(self.request_ids)
        self.stack.wait_until(lambda: len(self.request_ids), lambda n: n >= initial_count + count)


def test_the_trail_moves_under_load(movable_stack):
    """Case A28: nothing is lost, and nothing is remediated twice."""
    stack = movable_stack.stack
    with Load(stack) as load:
        load.wait_for_more(10)
        stack.wait_until_recorded(load.request_ids[3])
        result = stack.run("poundcake.migrate", copy_to=movable_stack.copy_to)
        load.wait_for_more(5)
        assert result["copy"]["complete"]
        stack.wait_until(movable_stack.database_health, lambda d: d["state"] == "down")
        assert "the trail was moved to mysql+pymysql" in movable_stack.database_health()["detail"]
        with pytest.raises(ActionFailed, match="the trail was moved to"):
            stack.run("poundcake.alerts_active")
        movable_stack.switch_to_other_database()
        stack.wait_until(movable_stack.database_health, lambda d: d["state"] == "ok")
        load.wait_for_more(10)
    for request_id in load.request_ids:
        stack.wait_until_recorded(request_id)
    recorded_ids = {
        r["request_id"]
        for r in movable_stack.other_rows("SELECT request_id FROM poundcake_api_calls")
    }
    assert set(load.request_ids) <= recorded_ids
    admissions = movable_stack.other_rows(
        "SELECT episode, count(*) AS n FROM poundcake_alerts WHERE outcome = 'admitted' "
        "GROUP BY episode"
    )
    assert {row["n"] for row in admissions} == {1}
    assert len(admissions) == len(load.alerts)
    for row in admissions:
        # A workflow that started while claims were impossible failed after 45 s. Its alert is
        # emitted again a minute later.
        executions = stack.wait_until(
            lambda e=row["episode"]: stack.work_executions(e), timeout=CATCH_UP_SECONDS
        )
        assert len(executions) == 1, row
    stack.wait_until_completed(load.request_ids[-1])
    assert {len(stack.work_executions(row["episode"])) for row in admissions} == {1}


def test_a_new_database_is_not_used_until_the_trail_is_moved(movable_stack):
    """Case A29: database_url is changed first, and the trail is moved afterwards."""
    stack = movable_stack.stack
    firing_alert = alert("ScenarioLinked")
    first_trail = remediate(stack, firing_alert)
    episode = only(first_trail["alerts"])["episode"]
    movable_stack.switch_to_other_database()
    repeat_id = stack.send(notification(firing_alert))
    command = "st2 run poundcake.migrate copy_from=sqlite"
    component = stack.wait_until(
        movable_stack.database_health, lambda d: command in d.get("pending", "")
    )
    assert "1 open incident that this database does not have" in component["pending"]
    assert command in stack.run("poundcake.health", format="text")
    time.sleep(POST_INTERVAL)
    assert movable_stack.other_rows("SELECT id FROM poundcake_api_calls") == []

    copied_tables = stack.run("poundcake.migrate", copy_from="sqlite")["copy"]["tables"]
    assert copied_tables["poundcake_alerts"]["verified"] == 1
    trail = stack.wait_until_recorded(repeat_id)
    assert only(trail["alerts"])["outcome"] == "duplicate"
    assert has_succeeded(stack.get_trail(first_trail["request_id"]))
    assert "pending" not in stack.wait_until(
        movable_stack.database_health, lambda d: "pending" not in d
    )
    assert len(stack.work_executions(episode)) == 1
