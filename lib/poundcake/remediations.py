"""Read the list `remediations` in the configuration, and find the first entry for an alert.

An invalid entry is ignored and reported; the other entries still apply.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence

from poundcake.host_checks import (
    ACTION,
    KINDS,
    READ_ONLY_ACTIONS,
    REFERENCE,
    HostCheck,
    is_host_check,
    parse_host_check,
    referenced_label,
)
from poundcake.inert import FixedText, is_evaluated, make_inert
from poundcake.matchers import Matcher, MatchType, find_contradiction, parse_matchers
from poundcake.shipped_remediations import find_steps
from poundcake.string_enum import StringEnum

MATCH_ALL = 'alertname=~".*"'
"""A matcher that matches every alert."""
MAX_WAIT = 3600
"""Maximum value of `wait`, in seconds."""
BUILT_IN_CHECKS = ("alert", "expression", "tcp")
"""The kinds of checks that need no separate task. `tcp` and `expression` may have an argument."""
CHECKS = (*BUILT_IN_CHECKS, *KINDS)
"""All kinds of checks. Those that are not built in run on a host, as StackStorm actions."""
MAX_SILENCE_MINUTES = 240
"""Maximum value of `silence_minutes`."""
NO_VERIFICATION = "none"
"""The value of `verify` for a change that is not verified."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")
_PARAMETER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_ESCAPED_DOLLAR = "$$"
# A value may be a path, a unit, a host, a device or the name of an object. It must contain no
# character that a shell, StackStorm or a list of hosts interprets, must not look like an option,
# and must not lead to a parent folder.
_SAFE_VALUE = re.compile(
    r"(?!(?:.*/)?\.\.(?:/|\Z))[A-Za-z0-9_/][A-Za-z0-9_./:@+-]{0,254}\Z", re.ASCII
)
_COMMAND_ACTIONS = re.compile(r"core\.(local|remote|winrm)")
_UNSAFE_PARAMETERS = {
    "cmd": "a shell would run the text of the label",
    "hosts": "a comma in the label would add another host; use host_parameter: hosts",
}
# Keys that people write by mistake, and the correct ones.
_SYNONYMS = {
    "parameters": "with",
    "params": "with",
    "matchers": "match",
    "labels": "match",
    "checks": "check",
    "targets": "target",
    "timeout": "wait",
    "silence": "silence_minutes",
}


class Mode(StringEnum):
    """What a remediation may do. The first mode is the strictest."""

    EVIDENCE = "evidence"
    """Check and report. Nothing is changed."""
    DRY_RUN = "dry_run"
    """Report the action, the parameters and the target. Nothing is changed."""
    ASK = "ask"
    """Run the action after one of the approvers has approved it."""
    LIVE = "live"
    """Run the action."""

    @classmethod
    def strictest(cls, *modes: Mode) -> Mode:
        """Return the strictest of several modes."""
        order = list(cls)
        return min(modes, key=order.index)


class LabelError(ValueError):
    """A label is missing, or its value cannot be used. The message has the label and the reason."""


@dataclass(frozen=True)
class LabelLimits:
    """The key `per`: limits on targets that share the value of a label, such as a rack.

    Attributes:
        label: The label.
        at_once: How many of these targets may be changed at the same time.
        storm: The number of open incidents with the same value above which nothing is changed;
            None for no limit.
    """

    label: str
    at_once: int = 1
    storm: int | None = None


@dataclass(frozen=True)
class Remediation:
    """An entry of the list `remediations`. The attributes are its keys.

    Attributes:
        name: Its unique name.
        match: The matchers. An alert has to satisfy all of them.
        mode: What it may do.
        approvers: The users who may approve it in mode ask.
        action: The reference of the action that makes the change, or '' if there is none.
        parameters: The key `with`: the parameters of the action. The text `$name` stands for the
            value of a label, and `$$` for a dollar sign.
        host_parameter: The parameter of the action for the alert's host, or '' if there is none.
        check: The checks that have to confirm the alert before a change.
        only_if: A PromQL expression that has to be true before a change, or '' if there is none.
        per: The limits on targets that share a label, or None.
        wait: Seconds that the verification may take, or None for a default that fits the change.
        verify: The check that verifies the change, or '' or `none` if it is not verified.
        target: The labels that identify what is changed. Without them, the host is changed.
        evidence: The references of actions that collect evidence.
        silence_minutes: The maximum number of minutes for which the alert is silenced in
            Alertmanager during a change, or 0 if it is not silenced.
    """

    name: str
    match: tuple[Matcher, ...]
    mode: Mode
    approvers: tuple[str, ...] = ()
    action: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    host_parameter: str = ""
    check: tuple[str, ...] = ()
    only_if: str = ""
    per: LabelLimits | None = None
    wait: int | None = None
    verify: str = ""
    target: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    silence_minutes: int = 0

    @property
    def expanded(self) -> Remediation:
        """The entry with the steps of its action, if the action is a shipped remediation.

        The entry's own keys `check` and `verify` replace those of the shipped remediation.

        Raises:
            ValueError: A parameter of the shipped remediation is missing or invalid. The message
                begins with its name.
        """
        steps = find_steps(self.action, self.parameters)
        if steps is None:
            return self
        default_check = str(parse_host_check(steps.check)) if steps.check else ""
        return replace(
            self,
            action=steps.action,
            parameters=steps.parameters,
            host_parameter="host" if steps.action else "",
            check=self.check or tuple(filter(None, [default_check])),
            verify=self.verify or default_check,
            evidence=(*self.evidence, *steps.evidence),
        )

    @property
    def has_conditions(self) -> bool:
        """Whether any condition other than a check of the host is checked before a change."""
        return bool(self.built_in_checks or self.only_if)

    @property
    def built_in_checks(self) -> tuple[str, ...]:
        """The checks that need no separate task."""
        return tuple(check for check in self.check if not is_host_check(check))

    @property
    def host_actions(self) -> tuple[str, ...]:
        """The operator's actions that check the host or collect evidence, without duplicates."""
        texts = [text for text in (*self.check, self.verify) if is_host_check(text)]
        actions = (*(parse_host_check(text).action for text in texts), *self.evidence)
        return tuple(dict.fromkeys(a for a in actions if a not in READ_ONLY_ACTIONS))

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return True if the labels of an alert satisfy all matchers."""
        return all(matcher.matches(labels) for matcher in self.match)

    def resolve(self, labels: Mapping[str, str]) -> dict[str, Any]:
        """Return the parameters of the action for an alert, without the host.

        Raises:
            LabelError: A label is missing, or its value is not safe to pass to an action.
        """
        parameters: dict[str, Any] = _resolve(self.parameters, labels)
        return parameters

    def host_checks(self, labels: Mapping[str, str]) -> tuple[HostCheck, ...]:
        """Return the conditions that are checked on the host of an alert.

        Raises:
            LabelError: A label is missing, or its value is not a valid path or service name.
        """
        return tuple(_resolve_check(text, labels) for text in self.check if is_host_check(text))

    def host_verification(self, labels: Mapping[str, str]) -> HostCheck | None:
        """Return the check of the host that verifies the change, or None if none does.

        Raises:
            LabelError: A label is missing, or its value is not a valid path or service name.
        """
        return _resolve_check(self.verify, labels) if is_host_check(self.verify) else None

    def resolve_target(self, labels: Mapping[str, str], host: str) -> str:
        """Return the target of the change: `label=value,…`, or the host.

        Raises:
            LabelError: A label of the target is missing.
        """
        if not self.target:
            return host
        return ",".join(f"{name}={_safe_value(name, labels)}" for name in self.target)

    @property
    def summary(self) -> str:
        """The name, mode and action, and a digest of the whole entry. Parameters are not shown."""
        digest = hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()
        mode_and_action = ", ".join(filter(None, [str(self.mode), self.action]))
        return f"{self.name} ({mode_and_action}) {digest[:8]}"

    @property
    def in_live_mode(self) -> Remediation:
        """The same entry in mode live."""
        return replace(self, mode=Mode.LIVE)

    def as_dict(self) -> dict[str, Any]:
        """Return the entry with the keys of the configuration, without empty values."""
        entry: dict[str, Any] = {
            "name": self.name,
            "match": [str(matcher) for matcher in self.match],
            "mode": str(self.mode),
            "approvers": list(self.approvers),
            "action": self.action,
            "with": dict(self.parameters),
            "host_parameter": self.host_parameter,
            "check": list(self.check),
            "only_if": self.only_if,
            "per": vars(self.per) if self.per else {},
            "wait": self.wait,
            "verify": self.verify,
            "target": list(self.target),
            "evidence": list(self.evidence),
            "silence_minutes": self.silence_minutes or None,
        }
        return {key: value for key, value in entry.items() if value not in ("", [], {}, None)}


class NearMiss(NamedTuple):
    """An entry that does not match an alert.

    Attributes:
        name: The name of the entry.
        differences: The difference for each matcher that the alert does not satisfy.
    """

    name: str
    differences: tuple[str, ...]

    def __str__(self) -> str:
        """Return the name and the differences: `var-log (mountpoint is /data, wants /var)`."""
        return f"{self.name} ({'; '.join(self.differences)})"


def first_match(
    remediations: Sequence[Remediation], labels: Mapping[str, str]
) -> Remediation | None:
    """Return the first entry that matches the labels of an alert, or None."""
    return next((entry for entry in remediations if entry.matches(labels)), None)


def nearest_misses(
    remediations: Sequence[Remediation], labels: Mapping[str, str], count: int = 3
) -> list[NearMiss]:
    """Return entries that do not match an alert, those with the fewest differences first."""
    misses = [
        NearMiss(
            entry.name,
            tuple(_describe_difference(m, labels) for m in entry.match if not m.matches(labels)),
        )
        for entry in remediations
        if not entry.matches(labels)
    ]
    return sorted(misses, key=lambda miss: len(miss.differences))[:count]


def _describe_difference(matcher: Matcher, labels: Mapping[str, str]) -> str:
    name, value = matcher.name, labels.get(matcher.name, "")
    actual = f"{name} is {value}" if value else f"{name} is missing"
    if matcher.type is MatchType.EQUAL:
        return f"{actual}, wants {matcher.value or 'none'}"
    if matcher.type is MatchType.NOT_EQUAL:
        return f"{actual}, wants another value" if value else f"{actual}, wants any value"
    return f"{actual}, wants {matcher.type}{matcher.value}"


# -- reading the list


def read_remediations(value: Sequence[Any]) -> tuple[tuple[Remediation, ...], tuple[str, ...]]:
    """Return the valid entries of the list, in order, and a sentence for each invalid one.

    Args:
        value: The value of the key `remediations`.
    """
    remediations: dict[str, Remediation] = {}
    errors = []
    for number, entry in enumerate(value, 1):
        try:
            remediation = _read_entry(entry)
            if remediation.name in remediations:
                raise ValueError("an earlier entry has the same name")
        except ValueError as error:
            errors.append(f"remediations, {_describe_entry(number, entry)}: {error}")
        else:
            remediations[remediation.name] = remediation
    return tuple(remediations.values()), tuple(errors)


def _describe_entry(number: int, entry: Any) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    has_valid_name = isinstance(name, str) and bool(_NAME.match(name))
    return f"entry {number} ({name})" if has_valid_name else f"entry {number}"


def _read_entry(entry: Any) -> Remediation:
    if not isinstance(entry, dict):
        raise ValueError("must be a mapping with name, match and mode")
    for key in entry:
        if key not in KEYS:
            raise ValueError(f"key '{key}' is unknown; {_suggest_key(str(key))}")
    values: dict[str, Any] = {}
    for key, reader in _READERS.items():
        if entry.get(key) is not None:
            try:
                values[key] = reader(entry[key])
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
        elif key in _EXAMPLES:
            raise ValueError(f"{key}: is missing; {_EXAMPLES[key]}")
    values.setdefault("host_parameter", "" if values.get("target") else "host")
    remediation = Remediation(parameters=values.pop("with", {}), **values)
    _check_entry(remediation)
    try:
        return remediation.expanded
    except ValueError as error:
        raise ValueError(f"with.{error}") from None


_EXAMPLES = {
    "name": "write name: my-remediation",
    "match": "write match: ['alertname=\"DiskFull\"']",
    "mode": "write mode: evidence, dry_run, ask or live",
}


def _suggest_key(key: str) -> str:
    nearest = [_SYNONYMS[key]] if key in _SYNONYMS else difflib.get_close_matches(key, KEYS, n=1)
    return f"did you mean '{nearest[0]}'?" if nearest else f"the keys are {', '.join(KEYS)}"


def _check_entry(remediation: Remediation) -> None:
    """Raise ValueError if the values of several keys contradict each other."""
    action, mode = remediation.action, remediation.mode
    if mode is Mode.ASK and not remediation.approvers:
        raise ValueError(
            "approvers: is missing; the mode ask needs the StackStorm users who may approve, for "
            "example approvers: [anna, ben]"
        )
    if not action:
        if mode in (Mode.ASK, Mode.LIVE):
            raise ValueError(f"action: is missing; the mode {mode} needs the action to run")
        if remediation.parameters:
            raise ValueError("with: needs an action that takes the parameters")
        if remediation.silence_minutes:
            raise ValueError("silence_minutes: needs an action, because it applies only to changes")
    references = list(_find_references(remediation.parameters))
    if references and _COMMAND_ACTIONS.match(action):
        raise ValueError(
            f"with: {action} runs a command, so its parameters must be fixed, without a label "
            f"such as ${references[0].label}; write an action that takes the label as an argument"
        )
    for reference in references:
        if reference.parameter in _UNSAFE_PARAMETERS:
            reason = _UNSAFE_PARAMETERS[reference.parameter]
            raise ValueError(f"with.{reference.parameter}: must not contain a label: {reason}")
    if remediation.host_parameter in remediation.parameters:
        raise ValueError(
            f"with.{remediation.host_parameter}: is the parameter for the host; remove it, "
            "or set host_parameter to another name or to ''"
        )


# -- the values of the keys; each function raises ValueError, for example "must be a list"


def _read_text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"must be a string, but is {_shorten(value)}")
    return value.strip()


def _read_texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list, such as [{_shorten(value)}]")
    return tuple(map(_read_text, value))


def _read_name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.match(value):
        raise ValueError(
            "must consist of lower-case letters, digits, hyphens and underscores, begin with a "
            "letter or a digit, and have at most 64 characters"
        )
    return value


def _read_match(value: Any) -> tuple[Matcher, ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list of matchers, such as ['alertname=\"DiskFull\"']")
    if not value:
        raise ValueError(f"must not be empty; to match every alert, write ['{MATCH_ALL}']")
    for item in value:
        if not isinstance(item, str):
            raise ValueError(
                f"must be a list of strings, but contains {_shorten(item)}; put quotes around it"
            )
    matchers = tuple(matcher for item in value for matcher in parse_matchers(item))
    contradiction = find_contradiction(matchers)
    if contradiction:
        raise ValueError("can never match: no alert has both {} and {}".format(*contradiction))
    return matchers


def _read_mode(value: Any) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        raise ValueError(f"must be one of {', '.join(Mode)}, but is {_shorten(value)}") from None


def _read_action(value: Any) -> str:
    if not isinstance(value, str) or not ACTION.match(value):
        raise ValueError("must be a reference of the form pack.name, such as linux.service")
    return value


def _read_actions(value: Any) -> tuple[str, ...]:
    return tuple(map(_read_action, _read_texts(value)))


def _read_labels(value: Any) -> tuple[str, ...]:
    names = _read_texts(value)
    for name in names:
        if name.startswith("$"):
            raise ValueError(f"must be names of labels: write {name[1:]}, not {name}")
    return names


def _read_host_parameter(value: Any) -> str:
    if value != "" and (not isinstance(value, str) or not _PARAMETER_NAME.match(value)):
        raise ValueError("must be the name of a parameter of the action, or '' for none")
    return str(value)


def _read_wait(value: Any) -> int:
    return _read_whole_number(value, 0, MAX_WAIT)


def _read_silence_minutes(value: Any) -> int:
    return _read_whole_number(value, 0, MAX_SILENCE_MINUTES)


def _read_whole_number(value: Any, minimum: int, maximum: int) -> int:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not minimum <= value <= maximum:
        bounds = f"from {minimum} to {maximum}"
        raise ValueError(f"must be a whole number {bounds}, but is {_shorten(value)}")
    return int(value)


def _read_per(value: Any) -> LabelLimits:
    keys = ("label", "at_once", "storm")
    if not isinstance(value, dict) or not isinstance(value.get("label"), str):
        raise ValueError("must be a mapping such as {label: rack, at_once: 1, storm: 2}")
    for key in value:
        if key not in keys:
            raise ValueError(f"key '{key}' is unknown; the keys are {', '.join(keys)}")
    (label,) = _read_labels([value["label"]])
    at_once = _read_whole_number(value.get("at_once", 1), 1, 1000)
    storm = value.get("storm")
    return LabelLimits(
        label, at_once, None if storm is None else _read_whole_number(storm, 1, 100_000)
    )


def _read_checks(value: Any) -> tuple[str, ...]:
    return tuple(map(_read_check, _read_texts(value)))


def _read_check(value: Any) -> str:
    text = _read_text(value)
    if is_host_check(text):
        return str(parse_host_check(text))
    kind, colon, argument = text.partition(":")
    if kind not in CHECKS:
        raise ValueError(f"{text} is not a check; the checks are {', '.join(CHECKS)}")
    if (colon and not argument.strip()) or (argument and kind == "alert"):
        raise ValueError(f"{text} must have the form {_CHECK_FORMS[kind]}")
    if kind == "tcp" and argument and not (argument.isdigit() and 0 < int(argument) < 65_536):
        raise ValueError(f"{text} must have the form tcp:22, with a port from 1 to 65535")
    return text


_CHECK_FORMS = {"tcp": "tcp:22", "expression": "expression:PROMQL", "alert": "alert"}


def _read_verify(value: Any) -> str:
    text = _read_text(value)
    if text == NO_VERIFICATION:
        return text
    if text.startswith("expression:"):
        raise ValueError(
            "must be `expression` without an argument, for the expression of the alert's own rule"
        )
    return _read_check(text)


def check_parameters(value: Any) -> Mapping[str, Any]:
    """Validate and return the parameters of an action in the configuration or a rule.

    Raises:
        ValueError: A parameter is invalid. The message identifies it.
    """
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of the action's parameters, such as {act: restart}")
    for name, inner in value.items():
        if not isinstance(name, str) or not _PARAMETER_NAME.match(name):
            raise ValueError(f"{_shorten(name)} is not the name of a parameter")
        _check_value(name, inner)
    return value


def _check_value(path: str, value: Any) -> None:
    """Raise ValueError if a parameter is invalid, at any depth.

    A string must not embed a label, and must contain nothing that StackStorm evaluates.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str) or make_inert(key) != key:
                raise ValueError(f"{path}: {_shorten(key)} cannot be a key")
            _check_value(f"{path}.{key}", inner)
    elif isinstance(value, list):
        for inner in value:
            _check_value(path, inner)
    elif isinstance(value, str) and not REFERENCE.fullmatch(value):
        embedded = REFERENCE.search(value.replace(_ESCAPED_DOLLAR, ""))
        if embedded:
            raise ValueError(
                f"{path}: {_shorten(value)} embeds a label in other text, but a label must be the "
                f"whole value: {embedded[0]}; for a dollar sign, write $$"
            )
        if is_evaluated(value):
            raise ValueError(
                f"{path}: {_shorten(value)} contains an expression, which StackStorm would "
                "evaluate; put it into an action of your own"
            )
    elif not isinstance(value, (str, int, float, bool, type(None))):
        raise ValueError(f"{path}: must be a string, a number, true, false, a list or a mapping")


def _shorten(value: Any) -> str:
    text = str(value) if isinstance(value, (str, int, float)) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


_READERS: dict[str, Callable[[Any], Any]] = {
    "name": _read_name,
    "match": _read_match,
    "mode": _read_mode,
    "approvers": _read_texts,
    "action": _read_action,
    "with": check_parameters,
    "host_parameter": _read_host_parameter,
    "check": _read_checks,
    "only_if": _read_text,
    "per": _read_per,
    "wait": _read_wait,
    "verify": _read_verify,
    "target": _read_labels,
    "evidence": _read_actions,
    "silence_minutes": _read_silence_minutes,
}
KEYS = tuple(_READERS)
"""The keys of an entry."""


# -- labels in parameters


def label_parameters(remediation: Remediation) -> set[str]:
    """Return the names of the parameters that contain a label."""
    return {name for name, value in remediation.parameters.items() if any(_find_references(value))}


class _Reference(NamedTuple):
    """A label that a parameter refers to, and the name of the innermost key that contains it."""

    parameter: str
    label: str


def _find_references(value: Any, parameter: str = "") -> Iterator[_Reference]:
    """Yield the references to labels in a value, at any depth."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _find_references(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _find_references(inner, parameter)
    elif isinstance(value, str):
        label = referenced_label(value)
        if label:
            yield _Reference(parameter, label)


def _resolve(value: Any, labels: Mapping[str, str]) -> Any:
    """Return a value in which references to labels are replaced by their values, at any depth."""
    if isinstance(value, dict):
        return {name: _resolve(inner, labels) for name, inner in value.items()}
    if isinstance(value, list):
        return [_resolve(inner, labels) for inner in value]
    if not isinstance(value, str):
        return value
    label = referenced_label(value)
    if label:
        return _safe_value(label, labels)
    return FixedText(value.replace(_ESCAPED_DOLLAR, "$"))


def _resolve_check(text: str, labels: Mapping[str, str]) -> HostCheck:
    """Parse a check of a host, and replace a reference to a label with the label's value."""
    check = parse_host_check(text)
    label = referenced_label(check.subject)
    if not label:
        return check
    value = _safe_value(label, labels)
    try:
        return parse_host_check(str(check._replace(subject=value)))
    except ValueError as error:
        raise LabelError(f"the label {label}: {error}") from None


def _safe_value(name: str, labels: Mapping[str, str]) -> str:
    """Return the value of a label, or raise LabelError if it cannot be passed to an action."""
    value = labels.get(name, "")
    if not value:
        raise LabelError(f"the alert has no label {name}")
    if not _SAFE_VALUE.match(value):
        raise LabelError(
            f"the label {name} has a value that is not passed to actions: it may contain only "
            "letters, digits and _./:@+-, must not begin with one of .:@+-, and must not contain "
            ".. as part of a path"
        )
    return value
