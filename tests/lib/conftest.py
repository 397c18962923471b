"""Give each test its own tracking database.

If StackStorm is not installed, its modules are imported from the stand-in.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import shutil
import sys

import pytest

from poundcake.trail import database
from tests.lib.pipelines import (  # noqa: F401
    clock,
    database_path,
    empty_database,
    rig,
    wall_clock,
)
from tests.lib.samples import readable_fingerprint
from tests.lib.trails import disable_fsync

if importlib.util.find_spec("st2common") is None:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path.append(os.path.join(root, "standalone", "st2"))


@pytest.fixture(autouse=True)
def readable_fingerprints(monkeypatch):
    """Use an alert's label `id` as its fingerprint, so that tests know the fingerprint."""
    monkeypatch.setattr("poundcake.alertmanager.fingerprint", readable_fingerprint)


@pytest.fixture(scope="session")
def templates():
    """Return a cache of empty databases, because running the migrations takes half a second."""
    return {}


@pytest.fixture
def engine(database_url, templates, tmp_path_factory):
    """Return an engine for a new tracking database that contains the tables and no alerts."""
    new_engine = database.open_engine(database_url)
    disable_fsync(new_engine)
    if new_engine.dialect.name == "sqlite":
        if "sqlite" not in templates:
            templates["sqlite"] = tmp_path_factory.mktemp("template") / "tracking.db"
            template_engine = database.open_engine("sqlite:///{}".format(templates["sqlite"]))
            database.prepare(template_engine)
            template_engine.dispose()  # moves the content of the -wal file to the database file
        shutil.copy(str(templates["sqlite"]), new_engine.url.database)
    elif "mysql" not in templates:
        database.prepare(new_engine)
        templates["mysql"] = list(_statements(new_engine))
    else:
        with new_engine.begin() as connection:
            for statement, parameters in templates["mysql"]:
                connection.exec_driver_sql(statement, parameters)
    yield new_engine
    new_engine.dispose()


@pytest.fixture
def run_action(database_url, monkeypatch):
    """Return a function that runs an action in this process as a StackStorm execution.

    `config` adds keys to the configuration.
    """
    actions = pathlib.Path(__file__).parents[2] / "actions"
    monkeypatch.syspath_prepend(str(actions))

    def run(name, execution, config=None, **parameters):
        monkeypatch.setenv("ST2_ACTION_EXECUTION_ID", execution)
        spec = importlib.util.spec_from_file_location("action", actions / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        action = getattr(module, name.capitalize())(
            {"database_url": database_url, **(config or {})}
        )
        succeeded, result = action.run(**parameters)
        assert succeeded, result
        return result

    return run


def _statements(engine):
    """Yield the SQL statements that recreate the tables and rows of a database."""
    yield "SET foreign_key_checks = 0", ()
    with engine.begin() as connection:
        for (table,) in connection.exec_driver_sql("SHOW TABLES").all():
            create_table = connection.exec_driver_sql("SHOW CREATE TABLE " + table).one()[1]
            yield create_table.replace("%", "%%"), ()
            rows = [tuple(row) for row in connection.exec_driver_sql("SELECT * FROM " + table)]
            if rows:
                placeholders = ", ".join(["%s"] * len(rows[0]))
                yield f"INSERT INTO {table} VALUES ({placeholders})", rows
    yield "SET foreign_key_checks = 1", ()
