"""Create tracking databases that have all tables but no alerts.

Running the migrations takes longer than most tests, so each database is a copy of the first one.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile

from poundcake.trail import database

# The SQL that creates the tables on MariaDB, as (statement, parameters).
_STATEMENTS = []


def create_sqlite_database(path):
    """Create a database file, and return its path."""
    return shutil.copy(_template(), str(path))


@functools.lru_cache(maxsize=None)
def _template():
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = f"{folder}/tracking.sqlite"
    engine = database.open_engine(f"sqlite:///{path}")
    database.prepare(engine)
    engine.dispose()  # moves the content of the -wal file to the database file
    return path


def create_mariadb_tables(engine):
    """Create the tables in an empty MariaDB database."""
    if not _STATEMENTS:
        database.prepare(engine)
        _STATEMENTS.extend(_dump(engine))
        return
    with engine.begin() as connection:
        for statement, parameters in _STATEMENTS:
            connection.exec_driver_sql(statement, parameters)


def _dump(engine):
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
