"""The errors of the tracking database. Their messages are for people and contain no secrets."""

from __future__ import annotations

from poundcake.errors import PoundCakeError


class DatabaseError(PoundCakeError):
    """The tracking database cannot be used at the moment."""


class TrackingError(PoundCakeError):
    """The state of the trail does not allow the operation."""


class PurgeError(PoundCakeError):
    """A purge was refused before it deleted anything."""


class CopyError(PoundCakeError):
    """The trail cannot be copied to another database, or did not arrive unchanged."""
