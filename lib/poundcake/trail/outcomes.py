"""The possible outcomes, endings and explanations of an alert.

Their values are part of the tables, the JSON responses and the triggers.
"""

from __future__ import annotations

from poundcake.string_enum import StringEnum


class Outcome(StringEnum):
    """The decision about one alert at the time it was recorded (column `outcome`)."""

    ADMITTED = "admitted"
    """A rule may start a remediation for it. It is emitted as poundcake.alert."""
    RESOLVED = "resolved"
    """It closed the open incident of its label set. It is emitted as poundcake.alert."""
    DUPLICATE = "duplicate"
    """It repeats a recorded alert, or resolves an incident that is not open."""
    COOLDOWN = "cooldown"
    """It opened an incident, but the same alert was admitted less than cooldown_seconds ago."""
    RATE_LIMITED = "rate_limited"
    """It opened an incident, but its name reached max_remediations_per_hour."""
    OBSERVED = "observed"
    """Its receiver may not start a remediation. It opened, continued or ended an incident for
    which no remediation was started."""
    UNCONFIRMED = "unconfirmed"
    """It fires shortly after its resolve, or ended an incident that did. No remediation is started
    until another notification arrives, or until six minutes pass without a resolve."""
    MALFORMED = "malformed"
    """It cannot be parsed. The reason names the field."""


EMITTED = (Outcome.ADMITTED, Outcome.RESOLVED)
"""The outcomes that are emitted to StackStorm's rules as the trigger poundcake.alert."""


class EndedBy(StringEnum):
    """How an incident ended (column `ended_by`)."""

    RESOLVE = "resolve"
    """A notification reported its alert as resolved."""
    SUPERSEDED = "superseded"
    """Its alert started again, although no resolve had been received."""
    CLOSED = "closed"
    """A person closed it with poundcake.close."""
    EXPIRED = "expired"
    """It received no notification for expire_stale_hours."""
    GONE = "gone"
    """None of the configured Alertmanagers holds its alert any more, and no resolve arrived."""


class Explanation(StringEnum):
    """What StackStorm did with an alert (column `explanation`, NULL until it has reported that)."""

    NOT_EMITTED = "none"
    """Its outcome is not in EMITTED, so StackStorm never received it."""
    EXECUTION = "execution"
    """A rule started an execution for it."""
    NO_RULE = "no_rule"
    """StackStorm processed the trigger and no rule matched."""
    FAILED = "failed"
    """A rule matched and could not start its action."""
    ENDED = "ended"
    """The incident ended before a workflow could claim the episode."""
    RETRY = "retry"
    """StackStorm lost it or cannot process it now. The endpoint emits it again."""
    LOST = "lost"
    """StackStorm kept losing it for longer than give_up_hours. It is no longer emitted."""
