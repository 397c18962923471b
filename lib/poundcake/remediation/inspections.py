"""The actions that inspect a host, before a change or for a report.

poundcake.begin lists them, and the tasks `inspect_first` and `inspect` of poundcake.change run them
as StackStorm actions. The module findings reads their results.
"""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple

from poundcake.host_checks import SSH_ACTIONS, HostCheck
from poundcake.inert import FixedText, mark_as_fixed

INSPECT_TASK = "inspect"
"""The task of poundcake.change that runs the inspections, one item each."""
INSPECT_FIRST_TASK = "inspect_first"
"""The task that runs the inspections before a person is asked for approval."""


class Inspection(NamedTuple):
    """An action that inspects a host.

    Attributes:
        action: The reference of the action.
        parameters: The parameters of the action, with the host.
        check: The check, `disk:/var>90`; '' if the action only collects evidence.
    """

    action: str
    parameters: Mapping[str, Any]
    check: str = ""

    @classmethod
    def for_check(
        cls, check: HostCheck, host: str, ssh: Mapping[str, Any], with_details: bool = True
    ) -> Inspection:
        """Return the inspection that performs a check.

        Args:
            check: The check.
            host: The canonical host.
            ssh: The parameters of the SSH connection, for the pack's own actions.
            with_details: Whether to collect details for people. They slow down a repeated check.
        """
        parameters = check.parameters(host, with_details)
        return cls(check.action, add_ssh_parameters(check.action, parameters, ssh), str(check))

    @classmethod
    def for_evidence(cls, action: str, host: str, ssh: Mapping[str, Any]) -> Inspection:
        """Return the inspection that runs an action to collect evidence."""
        return cls(action, add_ssh_parameters(action, {"host": host}, ssh))

    @property
    def name(self) -> str:
        """The key of the result in reports."""
        return self.check or self.action

    def as_dict(self) -> dict[str, Any]:
        """Return the inspection as an item of the task `inspect`."""
        # The check has been parsed, so it contains nothing that StackStorm would evaluate.
        return {
            "action": self.action,
            "parameters": dict(self.parameters),
            "check": FixedText(self.check),
        }


def add_ssh_parameters(
    action: str, parameters: Mapping[str, Any], ssh: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the parameters of an action, with those of the SSH connection if it uses SSH."""
    return {**(mark_as_fixed(ssh) if action in SSH_ACTIONS else {}), **parameters}
