"""Upgrade the tables to the definition in schema.py: one revision per change, forward only.

The revisions form two branches, and the newest revision of each branch is its head. One branch
changes the tables, the other only builds indexes (schema.INDEX_REVISIONS). Never edit a revision
that has been released. Every revision must be repeatable: MariaDB commits each change of a table
separately, so a revision that was killed may be partly applied.

Import this package only to change a database: Alembic takes longer to load than most actions take
to run.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any, Callable, Iterable

from sqlalchemy.engine import Connection

# Alembic logs each step and, since 1.18, its own loading. Callers get the progress through `log`.
logging.getLogger("alembic").setLevel(logging.WARNING)

from alembic import command  # noqa: E402
from alembic.config import Config  # noqa: E402
from alembic.script import Script  # noqa: E402

# While a command runs, it replaces functions of Alembic's modules, so only one may run at a time.
_alembic_lock = threading.Lock()


@dataclass(frozen=True)
class Step:
    """A revision that was run, and its duration."""

    revision: str
    description: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as the result of an action."""
        return asdict(self)


def revision(number: int) -> str:
    """Return Alembic's name for the revision with this number."""
    return f"{number:04d}"


def upgrade(connection: Connection, number: int, log: Callable[[str], None]) -> list[Step]:
    """Run the pending revisions of a branch, up to and including revision `number`.

    Args:
        connection: A connection to a database in which no other migration runs.
        number: The number of the revision.
        log: Called with a line for each revision and each index.

    Returns:
        The revisions that were run, in order.
    """
    config = _config(connection)
    steps: list[Step] = []
    step_began_at = time.monotonic()

    def record_step(script: Script) -> None:
        nonlocal step_began_at
        seconds, step_began_at = round(time.monotonic() - step_began_at, 3), time.monotonic()
        steps.append(Step(script.revision, script.doc, seconds))
        log(f"revision {script.revision}: {script.doc} {seconds:.1f} s")

    config.attributes.update(applied=record_step, log=log)
    with _alembic_lock:
        command.upgrade(config, revision(number))
    return steps


def stamp(connection: Connection, heads: Iterable[int]) -> None:
    """Record these revisions as the newest of their branches, without running any revision."""
    with _alembic_lock:
        command.stamp(_config(connection), [revision(number) for number in sorted(heads)])


def _config(connection: Connection) -> Config:
    config = Config()
    # Alembic interpolates % in its configuration.
    folder = os.path.dirname(os.path.abspath(__file__)).replace("%", "%%")
    config.set_main_option("script_location", folder)
    config.attributes["connection"] = connection
    return config
