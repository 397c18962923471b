"""The possible outcomes, endings and explanations of an alert.

Their values are part of the tables, the JSON responses and the triggers.
"""

from __future__ import annotations

from poundcake.string_enum import StringEnum


class Outcome(StringEnum):
    """The decision that was made about an alert when it was recorded (column `outcome`)."""

    ADMITTED = "admitted"
    """Rules may start a remediation for it. It is emitted as poundcake.alert."""
    RESOLVED = "resolved"
    """It closed the open incident of its label set. It is emitted as poundcake.alert."""
    DUPLICATE = "duplicate"
    """It repeats a recorded alert, or resolves an incident that is not open."""
    COOLDOWN = "cooldown"
    """It opened or continued an incident, but the same alert was admitted less than
    cooldown_seconds ago."""
    RATE_LIMITED = "rate_limited"
    """It opened or continued an incident, but its alert name had reached
    max_remediations_per_hour."""
    OBSERVED = "observed"
    """No remediations are started for its receiver. It opened, continued or ended an incident for
    which none was started."""
    UNCONFIRMED = "unconfirmed"
    """It fired shortly after its resolve, or it ended an unconfirmed incident. No remediation is
    started until another notification arrives, or until six minutes pass without a resolve."""
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
    """None of the configured Alertmanagers holds its alert any more, but no resolve arrived."""


class Explanation(StringEnum):
    """What StackStorm did with an alert (column `explanation`, NULL while that is unknown)."""

    NOT_EMITTED = "none"
    """Its outcome is not in EMITTED, so StackStorm never received it."""
    EXECUTION = "execution"
    """A rule started an execution for it."""
    NO_RULE = "no_rule"
    """StackStorm processed the trigger, but no rule matched."""
    FAILED = "failed"
    """A rule matched, but could not start its action."""
    ENDED = "ended"
    """The incident ended before a workflow could claim the episode."""
    RETRY = "retry"
    """StackStorm lost it, or currently cannot process it. The endpoint emits it again."""
    LOST = "lost"
    """StackStorm kept losing it for longer than give_up_hours. It is no longer emitted."""
