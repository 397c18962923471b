"""Create tracking databases that have all tables but no alerts, and fill them with known rows.

Running the migrations takes longer than most tests, so each database is a copy of the first one.
Recording a long history takes longer still, so restore_or_record() records it only once.
"""

from __future__ import annotations

import atexit
import copy
import functools
import shutil
import tempfile

from poundcake.trail import database
from poundcake.trail.schema import metadata

# The SQL that creates the tables on MariaDB, as (statement, parameters).
_STATEMENTS = []
# {(kind of database, name): (rows before, rows after, result)} for restore_or_record().
_RECORDED = {}


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


def restore_or_record(engine, record):
    """Call record(engine), or insert the rows that the first such call has written.

    Both leave the same rows. If the database is not in the state that the first call found, for
    example because a test has recorded other alerts, record(engine) is called again.

    Args:
        engine: The engine of the database.
        record: A function that writes the same rows each time.

    Returns:
        A copy of the result of the first call. It must not contain the engine.
    """
    key = (engine.dialect.name, record)
    with engine.begin() as connection:
        rows_before = _read_rows(connection)
        if key in _RECORDED and _RECORDED[key][0] == rows_before:
            _, rows_after, result = _RECORDED[key]
            _replace_rows(connection, rows_before, rows_after)
            return copy.deepcopy(result)
    result = record(engine)
    with engine.begin() as connection:
        _RECORDED[key] = (rows_before, _read_rows(connection), copy.deepcopy(result))
    return result


def _read_rows(connection):
    """Return {table: rows} of a database."""
    names = [table.name for table in metadata.sorted_tables]
    return {
        name: [tuple(row) for row in connection.exec_driver_sql("SELECT * FROM " + name)]
        for name in names
    }


def _replace_rows(connection, old_rows, new_rows):
    """Replace the rows of the tables that differ. The tables are in the order of references."""
    changed = [name for name in new_rows if new_rows[name] != old_rows[name]]
    for name in reversed(changed):
        if old_rows[name]:
            connection.exec_driver_sql("DELETE FROM " + name)
    placeholder = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    for name in changed:
        rows = new_rows[name]
        if rows:
            placeholders = ", ".join([placeholder] * len(rows[0]))
            connection.exec_driver_sql(f"INSERT INTO {name} VALUES ({placeholders})", rows)
