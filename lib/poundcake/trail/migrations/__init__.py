"""How the tables became what schema.py says: one revision for each change, forward only.

The revisions form two branches, each with the newest one as its head: those of the tables, and
those that only build indexes (schema.INDEX_REVISIONS). A revision that has been released is never
edited. Each can be run again: MariaDB commits every change of a table by itself, so a revision
that was killed is done in part.

Import this only to change a database: Alembic takes longer to load than most actions take to work.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import asdict, dataclass
from typing import Any, Callable, Iterable

from sqlalchemy.engine import Connection

# Alembic logs each step, and from 1.18 on its own loading. `log` is told what there is to say.
logging.getLogger("alembic").setLevel(logging.WARNING)

from alembic import command  # noqa: E402
from alembic.config import Config  # noqa: E402
from alembic.script import Script  # noqa: E402


@dataclass(frozen=True)
class Step:
    """A revision that was run, and how long it took."""

    revision: str
    description: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as an action returns them."""
        return asdict(self)


def revision(number: int) -> str:
    """Return Alembic's name of the revision with this number."""
    return f"{number:04d}"


def upgrade(connection: Connection, number: int, log: Callable[[str], None]) -> list[Step]:
    """Run this revision and those before it on its branch, as far as they have not been run.

    Args:
        connection: The only connection that migrates.
        number: The revision.
        log: Called with a line for each revision and each index.

    Returns:
        The revisions that were run, in order.
    """
    config = _config(connection)
    steps: list[Step] = []
    began = time.monotonic()

    def applied(script: Script) -> None:
        nonlocal began
        seconds, began = round(time.monotonic() - began, 3), time.monotonic()
        steps.append(Step(script.revision, script.doc, seconds))
        log(f"revision {script.revision}: {script.doc} {seconds:.1f} s")

    config.attributes.update(applied=applied, log=log)
    command.upgrade(config, revision(number))
    return steps


def stamp(connection: Connection, heads: Iterable[int]) -> None:
    """Note that these are the newest revisions of their branches, and run nothing."""
    command.stamp(_config(connection), [revision(number) for number in sorted(heads)])


def _config(connection: Connection) -> Config:
    config = Config()
    # Configuration files give % a meaning.
    folder = os.path.dirname(os.path.abspath(__file__)).replace("%", "%%")
    config.set_main_option("script_location", folder)
    config.attributes["connection"] = connection
    return config
