"""Check the tracking database."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping

from sqlalchemy import text
from sqlalchemy.engine import Engine

from poundcake.doctor.finding import Finding, ok, problem, warning
from poundcake.trail import database, schema
from poundcake.trail.database import DatabaseError

_TABLES = tuple(table.name for table in schema.metadata.sorted_tables)
_ENGINE, _COLLATION, _ISOLATION = "InnoDB", "utf8mb4_nopad_bin", "READ-COMMITTED"
_STORAGE = text(
    "SELECT table_name AS name, engine, table_collation AS collation"
    " FROM information_schema.tables WHERE table_schema = DATABASE()"
)
_SESSION = text("SELECT @@tx_isolation")
_SQLITE_MODE = text("PRAGMA journal_mode")


@dataclass(frozen=True)
class DatabaseFacts:
    """What the tracking database reports about itself.

    Attributes:
        address: Its URL without a password.
        error: Why it cannot be used, or ''.
        pending: What an operator still has to migrate, or ''.
        engines: The storage engine of each table of the pack; empty for SQLite.
        collations: The default collation of each table of the pack; empty for SQLite.
        isolation: The isolation level of the pack's connections; empty for SQLite.
        journal_mode: SQLite's journal mode; empty for MariaDB.
    """

    address: str
    error: str = ""
    pending: str = ""
    engines: Mapping[str, str] = field(default_factory=dict)
    collations: Mapping[str, str] = field(default_factory=dict)
    isolation: str = ""
    journal_mode: str = ""


def read_database(engine: Engine) -> DatabaseFacts:
    """Read the facts. A database that cannot be used is part of the facts."""
    address = database.public_url(engine.url)
    try:
        pending = database.pending(engine)
        with database.reading(engine) as connection:
            if connection.dialect.name == "sqlite":
                mode = str(connection.scalar(_SQLITE_MODE))
                return DatabaseFacts(address, pending=pending, journal_mode=mode)
            rows = [row for row in connection.execute(_STORAGE) if row.name in _TABLES]
            return DatabaseFacts(
                address,
                pending=pending,
                engines={row.name: str(row.engine) for row in rows},
                collations={row.name: str(row.collation) for row in rows},
                isolation=str(connection.scalar(_SESSION)),
            )
    except DatabaseError as error:
        return DatabaseFacts(address, str(error))


def check_database(facts: DatabaseFacts) -> list[Finding]:
    """Check the facts."""
    check = "database"
    if facts.error:
        remedy = (
            "start the database, correct database_url (docs/INSTALL.md, MariaDB), or do what the "
            "error says"
        )
        return [problem(check, f"the tracking database cannot be used: {facts.error}", remedy)]
    findings = [ok(check, f"the tracking database can be used ({facts.address})")]
    migrate = "run: st2 run poundcake.migrate"
    if facts.pending:
        findings.append(warning("database.schema", facts.pending, migrate))
    else:
        what = f"the tables are those of this release (schema {schema.VERSION})"
        findings.append(ok("database.schema", what))
    wrong = [
        *[f"{name} uses {used}" for name, used in facts.engines.items() if used != _ENGINE],
        *[f"{name} uses {used}" for name, used in facts.collations.items() if used != _COLLATION],
    ]
    if wrong:
        what = f"every table needs {_ENGINE} and {_COLLATION}, but {', '.join(wrong)}"
        remedy = (
            f"for each, run: ALTER TABLE {wrong[0].split()[0]} ENGINE={_ENGINE}, "
            f"CONVERT TO CHARACTER SET utf8mb4 COLLATE {_COLLATION}"
        )
        findings.append(problem("database.storage", what, remedy))
    elif facts.engines:
        findings.append(ok("database.storage", f"all tables use {_ENGINE} and {_COLLATION}"))
    if facts.isolation and facts.isolation != _ISOLATION:
        what = f"connections use the isolation level {facts.isolation} instead of {_ISOLATION}"
        remedy = "remove the proxy or the setting that overrides the level of each session"
        findings.append(problem("database.isolation", what, remedy))
    elif facts.isolation:
        findings.append(ok("database.isolation", f"connections use {_ISOLATION}"))
    if facts.journal_mode and facts.journal_mode != "wal":
        what = f"the journal mode of SQLite is {facts.journal_mode} instead of wal"
        remedy = "move state_dir to a local disk; network file systems do not support wal"
        findings.append(warning("database.journal_mode", what, remedy))
    return findings
