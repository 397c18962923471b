"""The errors that the tasks of a remediation raise."""

from __future__ import annotations

from poundcake.errors import PoundCakeError


class RemediationError(PoundCakeError):
    """A task received an invalid value, or could not do its work."""
