"""Create the tracking tables, or upgrade them; move the trail from or to another database."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.config import ConfigError
from poundcake.trail import copy_trail, database, schema


class Migrate(PackAction):
    """Run poundcake.migrate."""

    def work(self, copy_from: str = "", copy_to: str = "", st2_user: str = "") -> dict[str, Any]:
        """Migrate, and return the database, the revision of its tables and the completed steps."""
        if copy_from and copy_to:
            raise ConfigError("copy_from, copy_to: only one of them can be given")
        current, source, target = self.settings.tracking_url, "", ""
        if copy_from:
            source, target = self.settings.other_tracking_url("copy_from", copy_from), current
        if copy_to:
            source, target = current, self.settings.other_tracking_url("copy_to", copy_to)
        engine, log = self.engine(), self.logger.info
        steps = database.migrate(engine, log)
        result = {
            "database": database.kind(engine),
            "database_id": database.identify(engine),
            "schema": schema.VERSION,
            "steps": [step.as_dict() for step in steps],
        }
        if source:
            result["copy"] = copy_trail.copy_trail(
                source, target, bool(copy_from), log, self.actor(st2_user)
            )
        else:
            database.prepare(engine, create=False)  # fails if the database must not be used
        return result
