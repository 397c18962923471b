"""Say what an action has changed: until when, what that stops, and how to undo it.

A person who runs the action reads the sentence first. A program reads the keys of its result.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Mapping, Sequence

from poundcake.trail import commands
from poundcake.trail.approvals import ApprovalAnswer
from poundcake.trail.interventions import IncidentChange
from poundcake.trail.release import ReleasedClaim
from poundcake.trail.silences import SilenceChange
from poundcake.trail.text.layout import (
    DEFAULT_WIDTH,
    add_remaining,
    alert_text,
    counted,
    format_sentence,
    join_lines,
    label_text,
    sanitize,
    unbreakable,
)

# More time than an action takes.
_TOLERANCE = timedelta(seconds=30)


@dataclass(frozen=True)
class Confirmation:
    """What an action has changed.

    Attributes:
        title: The new state, in a word or two.
        headline: What has happened, in one sentence.
        effects: What follows from it, one sentence each.
        next_step: What to do next, or what `next_command` is for.
        next_command: The command that undoes the change, or shows what follows.
    """

    title: str
    headline: str
    next_step: str
    next_command: str
    effects: Sequence[str] = field(default_factory=tuple)

    def as_json(self) -> dict[str, Any]:
        """Return the keys that a result has in addition."""
        return {**asdict(self), "effects": list(self.effects)}

    def as_text(self, now: datetime | None = None, width: int = DEFAULT_WIDTH) -> str:
        """Return the text for a terminal.

        Args:
            now: The current time. Times of the same day are shown without their date.
            width: The number of columns of the terminal.
        """
        now = now or datetime.now(timezone.utc)
        parts = sanitize(self.as_json())
        # A silence for an hour ends "in 60 min", although some seconds have passed since.
        headline = add_remaining(parts["headline"], now, _TOLERANCE)
        lines = [
            f"{parts['title']}: {format_sentence(headline, now)}",
            *(f"  {format_sentence(effect, now)}" for effect in parts["effects"]),
            f"  next: {parts['next_step']}",
            "  " + unbreakable(f"run: {parts['next_command']}"),
        ]
        return join_lines(lines, width)


def confirm_pause(pause: Mapping[str, Any], has_later_end: bool = False) -> Confirmation:
    """Describe the pause that poundcake.pause has begun or extended.

    Args:
        pause: The pause, as JSON.
        has_later_end: Whether it ends later than the person requested.
    """
    end = f"until {pause['until']}" if pause["until"] else "until somebody resumes them"
    effects = [
        "no remediation changes anything; changes that are in progress continue",
        "alerts are recorded and evidence is collected as before",
        "changes that are refused because of the pause are not tried again",
    ]
    if has_later_end:
        effects.insert(0, "changes were already paused, and the later end applies")
    return Confirmation(
        "PAUSED",
        f"{pause['by']} stopped all changes {end}: {pause['reason']}",
        "to allow changes again",
        commands.RESUME,
        effects,
    )


def confirm_resume(ended_pause: Mapping[str, Any] | None, dry_run: bool) -> Confirmation:
    """Describe the end of a pause.

    Args:
        ended_pause: The pause, as JSON, or None if changes were not paused.
        dry_run: The configured value.
    """
    effects = ["changes that were refused because of the pause are not tried again"]
    if ended_pause:
        title = "RESUMED"
        headline = (
            f"changes are allowed again; {ended_pause['by']} had stopped them at "
            f"{ended_pause['at']}: {ended_pause['reason']}"
        )
    else:
        title, headline, effects = "NOT PAUSED", "changes were not paused, so nothing is new", []
    if dry_run:
        effects.append("dry_run is on in the configuration, so nothing is changed anyway")
    return Confirmation(title, headline, "see the open incidents", commands.ACTIVE, effects)


def confirm_acknowledgement(change: IncidentChange, comment: str = "") -> Confirmation:
    """Describe an acknowledgement, or its withdrawal."""
    name, episode = alert_text(change), change["episode"]
    if change["state"] != "acknowledged":
        return Confirmation(
            "WITHDRAWN",
            f"{change['by']} withdrew the acknowledgement of {name}",
            "see what would be done for it now",
            commands.plan(episode),
            ["rules and remediations may work on it again, but nothing starts because of this"],
        )
    return Confirmation(
        "ACKNOWLEDGED",
        f"{change['by']} handles {name}{_reason(comment)}",
        "to withdraw the acknowledgement",
        commands.for_episode("acknowledge", episode, "undo=true"),
        [
            "nothing new is started for it until the acknowledgement is withdrawn",
            "executions that run for it continue, and Alertmanager still notifies people",
        ],
    )


def confirm_close(change: IncidentChange, comment: str) -> Confirmation:
    """Describe an incident that a person closed."""
    return Confirmation(
        "CLOSED",
        f"{change['by']} closed the incident of {alert_text(change)}{_reason(comment)}",
        "see what happened in it",
        commands.show_episode(change["episode"]),
        [
            "nothing new is started for it; this cannot be undone",
            "if its alert still fires, the next notification opens another incident",
        ],
    )


def confirm_silence(change: SilenceChange, episode: str = "") -> Confirmation:
    """Describe a silence that poundcake.silence has created, extended or found.

    Args:
        change: The result of the action.
        episode: The episode whose alert is silenced, or '' if labels were passed.
    """
    labels = label_text(change["labels"])
    headline = f"Alertmanager is silent until {change['until']} about alerts with {labels}"
    effects = {
        "created": [],
        "extended": ["the silence existed, and now ends later"],
        "unchanged": ["the silence existed, and does not end earlier, so it is kept"],
    }[change["state"]]
    effects += [
        "it notifies nobody about them until then, not even that they have ended",
        "remediations do not change anything for them until then",
        *(f"not everywhere: {problem}" for problem in change["problems"]),
    ]
    if episode:
        command = commands.for_episode("unsilence", episode)
    else:
        command, *others = map(commands.end_silence, change["silence_ids"])
        effects += [f"another Alertmanager has its own silence: `{other}`" for other in others]
    return Confirmation("SILENCED", headline, "to end the silence", command, effects)


def confirm_end_of_silence(change: SilenceChange, episode: str = "") -> Confirmation:
    """Describe a silence that poundcake.unsilence has ended, or that had already ended.

    Args:
        change: The result of the action.
        episode: The episode whose alert was silenced, or '' if the id of the silence was passed.
    """
    labels = label_text(change["labels"])
    effects = [f"not everywhere: {problem}" for problem in change["problems"]]
    if change["state"] == "ended":
        title = "SILENCE ENDED"
        headline = (
            f"Alertmanager notifies people about alerts with {labels} again; the silence would "
            f"have lasted until {change['until']}"
        )
        effects.insert(0, "remediations may work on them again")
    else:
        title = "UNCHANGED"
        headline = f"the silence of alerts with {labels} had ended at {change['until']}"
    if episode:
        step, command = "see what would be done for it now", commands.plan(episode)
    else:
        step, command = "see the open incidents", commands.ACTIVE
    return Confirmation(title, headline, step, command, effects)


def confirm_release(
    released_claims: Sequence[ReleasedClaim], episode: str, workflow: str = ""
) -> Confirmation:
    """Describe the claims that poundcake.release has released.

    Args:
        released_claims: The claims; there may be none.
        episode: The episode, or the beginning of its name.
        workflow: The workflow whose claims were to be released, or '' for all.
    """
    if not released_claims:
        by = f" by {workflow}" if workflow else ""
        return Confirmation(
            "NOTHING RELEASED",
            f"no claim on episode {episode} is held{by}",
            "see what happened in it",
            commands.show_episode(episode),
        )
    claims = ", ".join(
        f"{claim['st2_workflow']} (execution {claim['st2_execution_id']})"
        for claim in released_claims
    )
    count = counted(len(released_claims), "claim")
    verb = "is" if len(released_claims) == 1 else "are"
    return Confirmation(
        "RELEASED",
        f"{count} on episode {episode} {verb} released: {claims}",
        "see what would be done for it now",
        commands.plan(episode),
        [
            "a workflow may claim the episode again, and may make another change",
            "nothing is started because of this",
        ],
    )


def confirm_release_of_breaker(remediation: str, failures: int) -> Confirmation:
    """Describe the release of the breaker of a remediation.

    Args:
        remediation: The name of the remediation, or the reference of its action.
        failures: The number of failures that no longer count.
    """
    step = "check every remediation"
    if not failures:
        return Confirmation(
            "NOTHING RELEASED",
            f"no failure of {remediation} counts, so no breaker stops it",
            step,
            commands.PLAN,
            ["if its name is different, the next command shows it"],
        )
    verb = "counts" if failures == 1 else "count"
    return Confirmation(
        "RELEASED",
        f"{counted(failures, 'failure')} of {remediation} no longer {verb}",
        step,
        commands.PLAN,
        [
            "it may make changes again, within the other limits",
            "nothing is started because of this",
        ],
    )


def confirm_answer(answer: ApprovalAnswer, comment: str = "") -> Confirmation:
    """Describe the answer to a request for approval."""
    change = answer["change"] or "the change"
    episode = answer["episode"]
    effects = [
        "the workflow checks everything again, and makes the change if nothing prevents it",
        "the answer cannot be taken back; until the change begins, this still prevents it: "
        f"`{commands.for_episode('acknowledge', episode)}`",
    ]
    if answer["state"] != "approved":
        effects = ["the change is not made, and is not requested again; this cannot be undone"]
    return Confirmation(
        answer["state"].upper(),
        f"{answer['by']} {answer['state']} {change} for {alert_text(answer)}{_reason(comment)}",
        "see what happens",
        commands.show_episode(episode),
        effects,
    )


def _reason(comment: str) -> str:
    return f": {comment}" if comment else ""
