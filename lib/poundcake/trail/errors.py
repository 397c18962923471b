"""The errors of the tracking database. Each message is for a person and contains no secret."""

from __future__ import annotations

from poundcake.errors import PoundCakeError


class DatabaseError(PoundCakeError):
    """The tracking database cannot be used now."""


class TrackingError(PoundCakeError):
    """The trail does not allow what was asked for: something is missing, or in the way."""


class PurgeError(PoundCakeError):
    """A purge that was refused before anything was deleted."""
