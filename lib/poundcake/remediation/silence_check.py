"""Ask Alertmanager immediately before a change whether a person has silenced the alert."""

from __future__ import annotations

from typing import Mapping, NamedTuple, Sequence

from poundcake.matchers import MAX_LABEL_CHARACTERS, Matcher, MatchType
from poundcake.monitoring import AlertmanagerApi, MonitoringError, Silence, SilenceState
from poundcake.monitoring import Matcher as SilenceMatcher
from poundcake.trail.silences import is_for_change

_TYPES = {
    (True, False): MatchType.EQUAL,
    (False, False): MatchType.NOT_EQUAL,
    (True, True): MatchType.REGEX,
    (False, True): MatchType.NOT_REGEX,
}


class SilenceCheck(NamedTuple):
    """Whether a person has silenced an alert.

    Attributes:
        silenced_by: Who has silenced it, or ''.
        problem: Why that is not known, or ''.
    """

    silenced_by: str = ""
    problem: str = ""


def check_silences(
    alertmanagers: Sequence[AlertmanagerApi], labels: Mapping[str, str]
) -> SilenceCheck:
    """Return whether a person has silenced an alert in one of the Alertmanagers.

    One answer is enough, because the members of a cluster share their silences. Silences of other
    Alertmanagers still count as of the last sync.

    Args:
        alertmanagers: All configured Alertmanagers.
        labels: The labels of the alert.
    """
    problems = []
    for alertmanager in alertmanagers:
        try:
            silences = alertmanager.silences()
        except MonitoringError as error:
            problems.append(str(error))
            continue
        for silence in silences:
            if _mutes(silence, labels):
                return SilenceCheck(silenced_by=silence.created_by or "somebody")
    has_answer = len(problems) < len(alertmanagers)
    return SilenceCheck(problem="" if has_answer else "; ".join(problems))


def _mutes(silence: Silence, labels: Mapping[str, str]) -> bool:
    """Return True if a person's silence is active and matches the labels of an alert."""
    if silence.state != SilenceState.ACTIVE or is_for_change(silence):
        return False
    return all(_matches(matcher, labels) for matcher in silence.matchers)


def _matches(matcher: SilenceMatcher, labels: Mapping[str, str]) -> bool:
    match_type = _TYPES[matcher.is_equal, matcher.is_regex]
    if matcher.is_regex and len(labels.get(matcher.name, "")) > MAX_LABEL_CHARACTERS:
        return True  # the pack does not evaluate it, so the silence may apply
    try:
        return Matcher(matcher.name, match_type, matcher.value).matches(labels)
    except ValueError:
        return True  # the pack cannot evaluate the expression, so the silence may apply
