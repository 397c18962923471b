"""Create the tracking tables, or upgrade them to this release."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail import database, schema


class Migrate(PackAction):
    """Run poundcake.migrate."""

    def work(self) -> dict[str, Any]:
        """Migrate, and return the database, the revision of its tables, and the completed steps."""
        engine = self.engine()
        steps = database.migrate(engine, self.logger.info)
        return {
            "database": database.kind(engine),
            "database_id": database.prepare(engine, create=False),
            "schema": schema.VERSION,
            "steps": [step.as_dict() for step in steps],
        }
