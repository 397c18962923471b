"""Check over TCP whether a host answers."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.remediation import checks


class CheckHost(PackAction):
    """Run poundcake.check_host."""

    def work(self, host: str, port: int = 0, wait: int = 0) -> dict[str, Any]:
        """Return the state of the host, the port that determined it, and the check's duration."""
        return checks.check_host(host, checks.ports_to_check(port), wait).as_action_result()
