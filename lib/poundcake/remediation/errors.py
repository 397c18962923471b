"""Errors of remediations."""

from poundcake.errors import PoundCakeError


class RemediationError(PoundCakeError):
    """A task was asked for something that does not fit what is on record."""
