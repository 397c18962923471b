"""The errors of the tracking database. Their messages are shown to users and contain no secrets."""

from __future__ import annotations

from poundcake.errors import PoundCakeError


class DatabaseError(PoundCakeError):
    """The tracking database is currently unusable."""


class TrackingError(PoundCakeError):
    """The state of the trail does not allow the operation."""


class NoIncidentError(TrackingError):
    """No open incident is the one that a person means."""


class PurgeError(PoundCakeError):
    """A purge was refused. Nothing was deleted."""


class CopyError(PoundCakeError):
    """The trail cannot be copied to another database, or the copy differs from the source."""
