"""Check everything that an installation needs."""

from __future__ import annotations

import os
from typing import Any

from pack_action import PackAction
from poundcake import doctor
from poundcake.config import Config
from poundcake.trail import text

_PACK = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Doctor(PackAction):
    """Run poundcake.doctor."""

    _has_problem = False

    def run(self, fail_on: str = "never", **parameters: Any) -> tuple[bool, Any]:
        """Return the findings, as those of a failed action if there is a problem and it matters."""
        succeeded, result = super().run(**parameters)
        return succeeded and not (self._has_problem and fail_on == "problem"), result

    def load_settings(self) -> Config:
        """Return the defaults: an invalid configuration is a finding, not an error."""
        return Config()

    def work(self, format: str = "json", width: int = text.DEFAULT_WIDTH) -> dict[str, Any] | str:
        """Return the findings as JSON, or as text for a terminal."""
        findings = doctor.Examination(self.config or {}, _PACK).run()
        self._has_problem = doctor.worst_status(findings) is doctor.Status.PROBLEM
        return doctor.as_text(findings, width) if format == "text" else doctor.as_json(findings)
