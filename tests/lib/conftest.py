"""Give each test its own tracking database.

If StackStorm is not installed, its modules are imported from the stand-in.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import sys

import pytest

from tests.lib.empty_databases import create_mariadb_tables, create_sqlite_database
from tests.lib.pipelines import (  # noqa: F401
    clock,
    database_path,
    rig,
    wall_clock,
)
from tests.lib.samples import readable_fingerprint
from tests.lib.trails import open_shared_engine

if importlib.util.find_spec("st2common") is None:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path.append(os.path.join(root, "standalone", "st2"))


@pytest.fixture(autouse=True)
def readable_fingerprints(monkeypatch):
    """Use an alert's label `id` as its fingerprint, so that tests know the fingerprint."""
    monkeypatch.setattr("poundcake.alertmanager.fingerprint", readable_fingerprint)


@pytest.fixture
def engine(database_url):
    """Return an engine for a new tracking database that has all tables but no alerts."""
    # The listeners that a test adds stay off the shared engine.
    new_engine = open_shared_engine(database_url).execution_options()
    if new_engine.dialect.name == "sqlite":
        create_sqlite_database(new_engine.url.database)
    else:
        create_mariadb_tables(new_engine)
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
