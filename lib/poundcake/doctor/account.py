"""Read as whom the pack's actions use StackStorm's API. Several checks need it."""

from __future__ import annotations

from typing import Any, NamedTuple

from poundcake.stackstorm import StackStormError, fields
from poundcake.stackstorm.catalogue import Api


class Account(NamedTuple):
    """The user as whom the pack's actions use the API.

    Attributes:
        document: The response of the API, or None.
        error: Why it cannot be read, or ''.
    """

    document: Any = None
    error: str = ""

    @property
    def name(self) -> str:
        """The name of the user, or '' if it is unknown."""
        return fields.text(self.document, "username")

    @property
    def is_json(self) -> bool:
        """Whether the API returned an object, or nothing at all."""
        return self.document is None or isinstance(self.document, dict)

    @property
    def is_restricted(self) -> bool:
        """Whether StackStorm checks the permissions of its users: RBAC is enabled."""
        return fields.value(self.document, "rbac", "enabled") is True


def read_account(api: Api) -> Account:
    """Return the account. An API that cannot be used is part of it."""
    try:
        return Account(api.get("/user"))
    except StackStormError as error:
        return Account(error=str(error))
