"""The stages of a remediation workflow: the field `stage` of its output and of the views."""

from __future__ import annotations

from poundcake.string_enum import StringEnum


class Stage(StringEnum):
    """The step at which a remediation ended. Tables and views contain the values."""

    NOT_CLAIMED = "not_claimed"
    """The execution could not claim the episode, so it did nothing."""
    ALERT = "alert"
    """The alert could not be read from the tracking database."""
    EVIDENCE = "evidence"
    """Nothing was changed: no action is configured, the mode is evidence, or the host may be up."""
    ENDED = "ended"
    """The incident ended before anything was changed."""
    REFUSED = "refused"
    """The change was refused, for example by the configuration, by a limit or by an approver."""
    DRY_RUN = "dry_run"
    """The workflow would have run the action, but `dry_run` is on."""
    REMEDIATE = "remediate"
    """The action that makes the change may run. At the end of a workflow: the action failed."""
    VERIFY = "verify"
    """The action succeeded, but the verification did not confirm that it helped."""
    DONE = "done"
    """The action succeeded, and if it was verified, the verification confirmed that it helped."""
