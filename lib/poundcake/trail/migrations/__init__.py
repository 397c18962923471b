"""How the tables came to be what schema.py says: one revision a change, forward only.

Only what changes a database imports this: Alembic takes longer to load than most actions take to
work. A revision that has been released is never edited, and each can be run again: MariaDB commits
every change of a table by itself, so that one that was killed is done in part.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any, Callable, Dict, List

from sqlalchemy.engine import Connection

# It tells of each step, and from 1.18 on of its own loading; what there is to say, `log` is told.
logging.getLogger("alembic").setLevel(logging.WARNING)

from alembic import command  # noqa: E402
from alembic.config import Config  # noqa: E402
from alembic.script import Script  # noqa: E402


def revision(number: int) -> str:
    """What Alembic calls the revision of this number."""
    return f"{number:04d}"


def upgrade(connection: Connection, number: int, log: Callable[[str], None]) -> list[dict]:
    """Brings the tables to the revision of this number; one that is there is not run again.

    The connection must be the only one that migrates. log: called with a line for each revision
    and each index. Returns [{revision, description, seconds}] of what was run.
    """
    config = _config(connection)
    steps: list[dict[str, Any]] = []
    began = time.monotonic()

    def applied(script: Script) -> None:
        nonlocal began
        seconds, began = round(time.monotonic() - began, 3), time.monotonic()
        what = {"revision": script.revision, "description": script.doc, "seconds": seconds}
        steps.append(what)
        log("revision {revision}: {description} {seconds:.1f} s".format(**what))

    config.attributes.update(applied=applied, log=log)
    command.upgrade(config, revision(number))
    return steps


def stamp(connection: Connection, number: int) -> None:
    """Writes down that the tables are at the revision of this number, and runs nothing."""
    command.stamp(_config(connection), revision(number))


def _config(connection: Connection) -> Config:
    config = Config()
    # Configuration files give % a meaning.
    folder = os.path.dirname(os.path.abspath(__file__)).replace("%", "%%")
    config.set_main_option("script_location", folder)
    config.attributes["connection"] = connection
    return config
