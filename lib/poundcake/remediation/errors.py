"""The errors of a remediation's tasks."""

from __future__ import annotations

from poundcake.errors import PoundCakeError


class RemediationError(PoundCakeError):
    """A task got an invalid value, or could not do its work."""
