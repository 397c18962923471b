"""Check the roles of the users as whom the pack uses StackStorm's API, if RBAC is enabled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, Sequence

from poundcake.doctor.account import Account
from poundcake.doctor.finding import Finding, ok, problem, unknown, warning
from poundcake.stackstorm import StackStormError, fields
from poundcake.stackstorm.catalogue import Api

SENSOR_USER = "sensor_service"
"""The user as whom a sensor uses the API. StackStorm's sensor_wrapper.py defines the name."""
_DEFAULT_SYSTEM_USER = "stanley"
_CHECK = "stackstorm.rbac"
_PAGE = "docs/INSTALL.md, RBAC"


@dataclass(frozen=True)
class RbacFacts:
    """The roles of StackStorm's users.

    Attributes:
        error: Why they cannot be read, or ''.
        is_enabled: Whether StackStorm checks the permissions of its users.
        roles: The names of each user's roles. Users without a role are missing.
    """

    error: str = ""
    is_enabled: bool = False
    roles: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_rbac(api: Api, account: Account) -> RbacFacts:
    """Read the facts. An API that does not show the roles is part of the facts.

    Args:
        api: StackStorm's API.
        account: As whom the pack's actions use it.
    """
    if account.error or not account.is_json:  # the check of the pack reports it
        return RbacFacts(account.error or "the response is not JSON")
    if not account.is_restricted:
        return RbacFacts()
    try:
        assignments = api.get("/rbac/role_assignments")
    except StackStormError as error:
        return RbacFacts(str(error), is_enabled=True)
    if not isinstance(assignments, list):
        return RbacFacts("its API does not list the roles", is_enabled=True)
    roles: dict[str, list[str]] = {}
    for assignment in assignments:
        user_name, role = fields.text(assignment, "user"), fields.text(assignment, "role")
        roles.setdefault(user_name, []).append(role)
    return RbacFacts(is_enabled=True, roles=roles)


def check_rbac(
    facts: RbacFacts, has_api_key: bool, sections: Mapping[str, Mapping[str, str]] | None
) -> list[Finding]:
    """Check that the users of the pack have a role.

    What a role permits is not checked.

    Args:
        facts: The roles.
        has_api_key: Whether st2_api_key is set. The pack then uses the API as the user of the key,
            who also runs the other checks of StackStorm's content.
        sections: The sections of st2.conf, or None if this host does not have it.
    """
    if not facts.is_enabled:
        return [ok(_CHECK, "StackStorm restricts no user: RBAC is off")] if not facts.error else []
    if has_api_key:
        return [ok(_CHECK, "RBAC is on, and the pack uses the API as the user of st2_api_key")]
    if facts.error:
        what = f"RBAC is on, and the roles of the users cannot be read: {facts.error}"
        return [unknown(_CHECK, what, f"run doctor as an administrator, or see {_PAGE}")]
    findings = []
    if not facts.roles.get(SENSOR_USER):
        what = (
            f"RBAC is on, and the user {SENSOR_USER} has no role, so that the endpoint cannot read "
            "executions: the board and the endpoint show them as of the last sync, and requests "
            "for approval without what was asked"
        )
        findings.append(
            warning(_CHECK, what, f"assign the role observer to {SENSOR_USER} ({_PAGE})")
        )
    findings += _check_system_user(facts.roles, sections)
    return findings or [ok(_CHECK, "RBAC is on, and the users of the pack have roles")]


def _check_system_user(
    roles: Mapping[str, Sequence[str]], sections: Mapping[str, Mapping[str, str]] | None
) -> list[Finding]:
    """Check the user as whom StackStorm runs what rules start."""
    name = (sections or {}).get("system_user", {}).get("user") or _DEFAULT_SYSTEM_USER
    if roles.get(name):
        return []
    remedy = f"assign the role admin to {name} ({_PAGE})"
    if sections is None:
        what = (
            f"RBAC is on, and the user {name} has no role; rules run poundcake.sync as this user, "
            "unless [system_user] in st2.conf names another one"
        )
        return [unknown(_CHECK, what, remedy)]
    what = (
        f"RBAC is on, and the user {name}, as whom rules run poundcake.sync, has no role, so that "
        "it cannot read what became of alerts and executions"
    )
    return [problem(_CHECK, what, remedy)]
