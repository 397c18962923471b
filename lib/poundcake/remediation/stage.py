"""How far a remediation workflow came: the field `stage` of its output, and of the views."""

from __future__ import annotations

from enum import Enum


class Stage(str, Enum):
    """The step at which a remediation ended. The values are what the tables and answers contain."""

    NOT_CLAIMED = "not_claimed"
    """Another execution has the episode, so this one did nothing."""
    ALERT = "alert"
    """The alert could not be read from the tracking database."""
    EVIDENCE = "evidence"
    """It changed nothing, because the rule names no action or the host is not down for certain."""
    ENDED = "ended"
    """The incident was over before anything was changed."""
    REFUSED = "refused"
    """The configuration or the alert forbids the change."""
    DRY_RUN = "dry_run"
    """It would have run the action, but `dry_run` is on."""
    REMEDIATE = "remediate"
    """The action that makes the change. As the end: that action failed."""
    VERIFY = "verify"
    """The action succeeded, and the host does not accept connections again."""
    DONE = "done"
    """The action succeeded and, where that was checked, the host answers again."""

    def __str__(self) -> str:
        return str(self.value)
