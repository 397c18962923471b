"""An example of an operator's action."""

from __future__ import annotations

from st2common.runners.base_action import Action


class Work(Action):
    def run(self, note, details, host, fault):
        """Return the parameters, so that a scenario can check them."""
        if fault:
            return False, fault
        return True, {"note": note, "details": details, "host": host}
