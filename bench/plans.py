"""Check that no view reads a whole table of the history.

    python -m bench.plans [--directory DIRECTORY] [--mariadb] [--large 1000000]

The command reads the database's plan (EXPLAIN or EXPLAIN QUERY PLAN) for each statement that the
views send.
The exit code is 1 if a plan reads a whole table of the history, or a whole index without a limit.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import Any, Iterator, List, Tuple

from sqlalchemy import Connection, Engine, Row, event

from bench import history, views
from poundcake.trail import database

HISTORY = (
    "poundcake_api_calls",
    "poundcake_alerts",
    "poundcake_st2_execution_link",
    "execution_db",
)
SCANS = tuple("SCAN " + table for table in HISTORY)
SORTS = ("USE TEMP B-TREE FOR ORDER BY", "USE TEMP B-TREE FOR GROUP BY")
# The number of calls to each view. The parameters may change the plan.
SAMPLES = 20

# SQL and its parameters.
Statements = List[Tuple[str, Any]]


@contextmanager
def sent_selects(engine: Engine) -> Iterator[Statements]:
    """Yield a list to which each SELECT sent to the engine's database is added."""
    sent: Statements = []

    def record_select(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        if statement.startswith("SELECT"):
            sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", record_select)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", record_select)


def full_scans(connection: Connection, statement: str, parameters: Any) -> list[str]:
    """Return the lines of a statement's plan that read a whole table of the history.

    Reading a whole index is as bad, unless a LIMIT ends the scan early, as it does if the rows need
    no sorting.
    """
    has_limit = "LIMIT" in statement
    if connection.dialect.name == "sqlite":
        plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters).all()
        sorted_parents = {row.parent for row in plan if row.detail in SORTS}
        return [
            row.detail
            for row in plan
            # SQLite before 3.36 writes SCAN TABLE.
            if row.detail.replace("SCAN TABLE", "SCAN").startswith(SCANS)
            and not (" USING " in row.detail and has_limit and row.parent not in sorted_parents)
        ]
    plan = connection.exec_driver_sql("EXPLAIN " + statement, parameters).all()
    return [
        f"{row.table}: type {row.type}, key {row.key}, {row.rows} rows, {row.Extra}"
        for row in plan
        if row.table in HISTORY and _is_full_scan(row, has_limit)
    ]


def _is_full_scan(row: Row[Any], has_limit: bool) -> bool:
    """Return True if a line of MariaDB's plan reads a whole table or index."""
    ends_early = has_limit and "filesort" not in row.Extra and "temporary" not in row.Extra
    return row.type == "ALL" or (row.type == "index" and not ends_early)


def main() -> None:
    """Check the plans of all views on the long history."""
    arguments = history.argument_parser(__doc__).parse_args()
    with history.open_histories(arguments, [arguments.large]) as urls:
        engine = database.open_engine(urls[arguments.large])
        found_scans, plans = set(), 0
        with database.reading(engine) as connection:
            samples = views.samples(connection, SAMPLES)
            for name, prepare in views.cases().items():
                with sent_selects(engine) as sent:
                    for sample in samples:
                        prepare(connection, sample)()
                plans += len(sent)
                for statement, parameters in sent:
                    for line in full_scans(connection, statement, parameters):
                        if (name, statement, line) not in found_scans:
                            print(f"{name}: {line}\n{statement}\n{parameters}\n")
                            found_scans.add((name, statement, line))
    print(f"{plans} plans of {len(views.cases())} views")
    if found_scans:
        sys.exit(f"{len(found_scans)} plans read a whole table")


if __name__ == "__main__":
    main()
