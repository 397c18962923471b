"""Create the tracking tables, or upgrade them; move the trail from or to another database."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.config import ConfigError
from poundcake.trail import copy_trail, database, schema


class Migrate(PackAction):
    """Run poundcake.migrate."""

    def work(self, copy_from: str = "", copy_to: str = "") -> dict[str, Any]:
        """Migrate, and return the database, the revision of its tables, and the completed steps."""
        if copy_from and copy_to:
            raise ConfigError("copy_from, copy_to: only one of them can be given")
        engine = self.engine()
        steps = database.migrate(engine, self.logger.info)
        answer = {
            "database": database.kind(engine),
            "database_id": database.identify(engine),
            "schema": schema.VERSION,
            "steps": [step.as_dict() for step in steps],
        }
        if copy_from:
            answer["copy"] = self._copy("copy_from", copy_from)
        elif copy_to:
            answer["copy"] = self._copy("copy_to", copy_to)
        else:
            database.prepare(engine, create=False)  # refuses a database that must not be used
        return answer

    def _copy(self, name: str, value: str) -> copy_trail.CopyResult:
        own = self.settings.tracking_url
        other = self.settings.other_tracking_url(name, value)
        is_from = name == "copy_from"
        source, target = (other, own) if is_from else (own, other)
        return copy_trail.copy_trail(source, target, is_from, self.logger.info)
