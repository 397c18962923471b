"""Show what would happen for an alert, and check the configured remediations.

Nothing is changed or recorded.
"""

from __future__ import annotations

import re
from typing import Any, Mapping, NamedTuple, Sequence

from poundcake.alertmanager import FIRING
from poundcake.config import Config
from poundcake.hosts import host_from_labels
from poundcake.inert import FixedText, make_inert, mark_as_fixed
from poundcake.remediation.begin import (
    DEFAULT,
    HOST_DOWN,
    REMEDIATE,
    Alert,
    Decision,
    Request,
    SituationReader,
    decide,
    decide_entry,
    describe_obstacle,
)
from poundcake.remediation.errors import RemediationError
from poundcake.remediation.stage import Stage
from poundcake.remediations import (
    Mode,
    Remediation,
    first_match,
    label_parameters,
    nearest_misses,
)
from poundcake.shipped_remediations import SHIPPED
from poundcake.stackstorm import StackStormError
from poundcake.stackstorm.catalogue import Api, Matching, Rule, find_action, list_rules
from poundcake.trail import commands
from poundcake.trail.silences import NO_ALERTMANAGERS
from poundcake.trail.text.layout import display_width, sanitize

TRIGGER = "poundcake.alert"
_PLACEHOLDER_EPISODE = "plan-0"
_WIDTH = 80
_ENTRY_TEMPLATE = re.compile(r"\{\{.*\btrigger\b.*\bremediation\b.*\}\}")


class PlannedAlert(NamedTuple):
    """The alert to plan for: a recorded one, or one that might be sent.

    Attributes:
        labels: Its labels, as Alertmanager sends them.
        read_situation: Reads its incident, the limits, the pause and other changes.
        episode: Its episode, or '' if it is not recorded.
        status: `firing` or `resolved`.
        replay: The command that runs again what ended for its episode, if nothing does so by
            itself, or ''.
    """

    labels: Mapping[str, str]
    read_situation: SituationReader
    episode: str = ""
    status: str = FIRING
    replay: str = ""


def plan_alert(config: Config, api: Api, alert: PlannedAlert) -> dict[str, Any]:
    """Return what would happen for an alert, ready for JSON. Nothing is recorded.

    Args:
        config: The pack's configuration.
        api: StackStorm's API. If it is unavailable, the plan says so and contains no rules.
        alert: The alert.
    """
    entry = first_match(config.remediations, alert.labels) if alert.status == FIRING else None
    alert_to_decide = Alert(alert.labels, alert.read_situation)
    api_problem, rules = "", _Rules([], [], [])
    try:
        rules = _find_rules(api, _build_payload(config, alert, entry))
    except StackStormError as error:
        api_problem = str(error)
    plan = {
        "labels": dict(alert.labels),
        "episode": alert.episode,
        "host": host_from_labels(alert.labels, config.host_label),
        "remediation": None,
        "rules": [
            _describe_rule(config, alert_to_decide, rule, reason)
            for rule, reason in rules.matching
            if not _starts_entries(rule)
        ],
        "disabled_rules": [rule.ref for rule in rules.disabled if not _starts_entries(rule)],
        "failing_rules": [f"{rule.ref}: {reason}" for rule, reason in rules.failing],
        "nearest": [str(miss) for miss in nearest_misses(config.remediations, alert.labels)],
        "errors": list(config.remediation_errors),
        "stackstorm": api_problem,
        "replay": alert.replay,
    }
    if entry:
        starting_rules = [rule.ref for rule, _ in rules.matching if _starts_entries(rule)]
        plan["remediation"] = _describe_entry(
            config, api, alert_to_decide, entry, starting_rules, api_problem
        )
    return plan


def check_entries(config: Config, api: Api, has_alertmanagers: bool) -> dict[str, Any]:
    """Return each valid entry with its problems, and the errors of invalid ones, ready for JSON.

    Args:
        config: The configuration. It may lack the keys about monitoring servers, because an action
            that does not query them does not read their secrets.
        api: StackStorm's API.
        has_alertmanagers: Whether the configuration lists Alertmanagers.

    Raises:
        StackStormError: The API is unavailable.
    """
    has_rule = any(rule.is_enabled and _starts_entries(rule) for rule in list_rules(api, TRIGGER))
    problems = [] if has_rule else [_NO_STARTING_RULE]
    return {
        "remediations": [
            {
                "name": entry.name,
                "mode": str(entry.mode),
                "action": entry.action,
                "match": mark_as_fixed([str(matcher) for matcher in entry.match]),
                "problems": [
                    *_find_silence_problems(entry, has_alertmanagers),
                    *find_entry_problems(api, entry),
                ],
                "stopped_by": _find_permanent_obstacles(config, entry),
            }
            for entry in config.remediations
        ],
        "errors": [*config.remediation_errors, *problems],
        "warnings": [
            f"allowed_actions contains {ref}, but StackStorm has no such action: correct the name,"
            " or install its pack"
            for ref in config.allowed_actions
            if find_action(api, ref) is None
        ],
    }


def _find_silence_problems(entry: Remediation, has_alertmanagers: bool) -> list[str]:
    if entry.silence_minutes and not has_alertmanagers:
        return [f"silence_minutes needs the key {NO_ALERTMANAGERS}"]
    return []


def find_entry_problems(api: Api, entry: Remediation) -> list[str]:
    """Return why StackStorm would refuse to run the actions of an entry.

    Raises:
        StackStormError: The API is unavailable.
    """
    problems: list[str] = []
    if entry.action:
        action = find_action(api, entry.action)
        if action is None:
            problems.append(f"StackStorm has no action {entry.action}")
        else:
            host = {entry.host_parameter: ""} if entry.host_parameter else {}
            unresolved = {*host, *label_parameters(entry)}
            problems += action.find_problems({**entry.parameters, **host}, unresolved)
    for ref in dict.fromkeys([*entry.host_actions, *entry.evidence]):
        action = find_action(api, ref)
        if action is None:
            problems.append(f"StackStorm has no action {ref}")
        else:
            problems += action.find_problems({"host": ""}, {"host"})
    return problems


_DRY_RUN_IS_ON = "dry_run is on; set dry_run: false"
_CORRECT = "correct the entry, run `st2ctl reload --register-configs`, then plan again"
_NO_STARTING_RULE = "no enabled rule starts remediations: st2 rule enable poundcake.remediate"


class _Rules(NamedTuple):
    """The rules for the trigger poundcake.alert that concern an alert.

    Attributes:
        matching: Enabled rules that match or may match, each with the reason for doubt, or ''.
        disabled: Disabled rules that would match.
        failing: Enabled rules whose criteria cannot be evaluated, each with the reason.
    """

    matching: list[tuple[Rule, str]]
    disabled: list[Rule]
    failing: list[tuple[Rule, str]]


def _find_rules(api: Api, payload: Mapping[str, Any]) -> _Rules:
    """Return the rules that concern a payload.

    Backstop rules are left out if another rule certainly matches.
    """
    rules = list_rules(api, TRIGGER)
    matches = [(rule, rule.match(payload)) for rule in rules]
    may_match = (Matching.YES, Matching.UNKNOWN)
    matching, backstops, disabled, failing = [], [], [], []
    has_certain_match = False
    for rule, result in matches:
        if not rule.is_enabled:
            disabled += [rule] if result.matching is Matching.YES else []
        elif result.matching is Matching.FAILS:
            failing.append((rule, result.reason))
        elif result.matching in may_match and rule.is_backstop:
            backstops.append((rule, result.reason))
        elif result.matching in may_match:
            matching.append((rule, result.reason))
            has_certain_match |= result.matching is Matching.YES
    return _Rules(matching if has_certain_match else matching + backstops, disabled, failing)


def _build_payload(
    config: Config, alert: PlannedAlert, entry: Remediation | None
) -> dict[str, Any]:
    """Return the payload of poundcake.alert for an alert."""
    labels = alert.labels
    payload: dict[str, Any] = make_inert(
        {
            "request_id": "00000000-0000-0000-0000-000000000000",
            "episode": alert.episode or _PLACEHOLDER_EPISODE,
            "status": alert.status,
            "alert_name": labels.get("alertname", ""),
            "severity": labels.get("severity", ""),
            "instance": labels.get("instance", ""),
            "host": host_from_labels(labels, config.host_label),
            "job": labels.get("job", ""),
            "labels": dict(labels),
            "receiver": "",
            "starts_at": "",
            "ends_at": "",
            "remediation": entry.name if entry else "",
        }
    )
    return payload


def _starts_entries(rule: Rule) -> bool:
    """Return True if a rule starts the entry named in the trigger's field `remediation`."""
    name = str(rule.parameters.get("remediation", ""))
    return rule.action == REMEDIATE and bool(_ENTRY_TEMPLATE.search(name))


def _describe_entry(
    config: Config,
    api: Api,
    alert: Alert,
    entry: Remediation,
    starting_rules: Sequence[str],
    api_problem: str,
) -> dict[str, Any]:
    decision = decide_entry(config, alert, entry)
    live_decision = decide_entry(config.without_dry_run, alert, entry.in_live_mode)
    stopped_by = [] if decision.may_change else _find_stop_reasons(entry, config, decision)
    # The reason in the configured mode may hide another one, which would stop the change in mode
    # live.
    if not live_decision.may_change and live_decision.message not in " ".join(stopped_by):
        stopped_by.append(live_decision.message)
    if not starting_rules and not api_problem:
        stopped_by.append(_NO_STARTING_RULE)
    if not api_problem:
        try:
            stopped_by += find_entry_problems(api, entry)
        except StackStormError as error:
            stopped_by.append(f"the action could not be checked: {error}")
    return {
        "name": entry.name,
        "mode": str(entry.mode),
        "approvers": list(decision.approvers),
        "inspects_first": bool(decision.approvers and decision.inspections),
        "started_by": list(starting_rules),
        "would_change": decision.may_change and bool(starting_rules) and not stopped_by,
        "change": live_decision.change or decision.change,
        "action": decision.action,
        "parameters": decision.masked_parameters,
        "target": decision.target,
        "host_parameter": decision.host_parameter,
        # PromQL, and checks such as disk:/var>90, are shown as written in the configuration.
        "check": mark_as_fixed(entry.check),
        "only_if": mark_as_fixed(entry.only_if),
        "verify": mark_as_fixed(entry.verify),
        "evidence": list(entry.evidence),
        "silence_minutes": entry.silence_minutes,
        "stage": str(decision.stage),
        "stopped_by": stopped_by,
    }


def _find_stop_reasons(entry: Remediation, config: Config, decision: Decision) -> list[str]:
    """Return why nothing is changed in the configured mode, and how to allow the change."""
    if decision.stage not in (Stage.DRY_RUN, Stage.EVIDENCE):
        return [decision.message]
    reasons = [_DRY_RUN_IS_ON] if config.dry_run else []
    if entry.mode in (Mode.DRY_RUN, Mode.EVIDENCE):
        reasons.append(f"mode is {entry.mode}; set mode: live")
    return reasons


def _find_permanent_obstacles(config: Config, entry: Remediation) -> list[str]:
    """Return the reasons why an entry changes nothing, whatever the alert.

    The list is empty for an entry that is not meant to change anything.
    """
    if not entry.action or entry.mode is Mode.EVIDENCE:
        return []
    reasons = []
    if config.dry_run:
        reasons.append(_DRY_RUN_IS_ON)
    if entry.action not in config.allowed_actions:
        reasons.append(f"allowed_actions does not contain {entry.action}")
    if not config.allowed_hosts:
        reasons.append('allowed_hosts is empty, so no host is allowed: list the hosts, or "*"')
    if entry.mode is Mode.DRY_RUN:
        reasons.append("mode is dry_run; set mode: live")
    return [*reasons, *filter(None, [describe_obstacle(config, entry.host_actions)])]


def _describe_rule(config: Config, alert: Alert, rule: Rule, doubt: str) -> dict[str, Any]:
    view = {"rule": rule.ref, "action": rule.action, "doubt": doubt, "note": ""}
    if rule.action in (REMEDIATE, HOST_DOWN, DEFAULT, *SHIPPED):
        parameters, mode = rule.parameters.get("parameters"), str(rule.parameters.get("mode"))
        default_host_parameter = "host" if rule.action == HOST_DOWN else ""  # as in actions/*.yaml
        request = Request(
            remediation=str(rule.parameters.get("remediation") or ""),
            action=rule.action
            if rule.action in SHIPPED
            else str(rule.parameters.get("action") or ""),
            parameters=parameters if isinstance(parameters, dict) else {},
            host_parameter=str(rule.parameters.get("host_parameter") or default_host_parameter),
            mode=Mode(mode) if mode in list(Mode) else Mode.LIVE,
            workflow=rule.action,
        )
        try:
            decision = decide(config, alert, request)
            view["note"] = decision.message or f"would run {decision.change}"
        except RemediationError as error:
            view["note"] = str(error)
    return view


# -- text


def as_text(plan: Mapping[str, Any]) -> str:
    """Return a plan or a list of checked entries as inert text, at most 80 columns wide."""
    plan = sanitize(make_inert(plan))
    lines = _format_alert(plan) if "labels" in plan else _format_entries(plan)
    # `st2 run` prints "result: " before the first line, which would shift its columns.
    return FixedText("\n" + "\n".join(lines))


def _format_alert(plan: Mapping[str, Any]) -> list[str]:
    entry, labels = plan["remediation"], plan["labels"]
    names = [labels.get("alertname", "an alert without a name"), labels.get("instance", "")]
    title = " ".join([_choose_verdict(plan), "", *filter(None, names), labels.get("severity", "")])
    lines = _wrap(title.rstrip(), "")
    remarks = [
        *(_format_entry(entry) if entry else []),
        *map(_format_rule, plan["rules"]),
        *(f"rule fails: {text}" for text in plan["failing_rules"]),
        *(f"disabled rule matches: {ref}" for ref in plan["disabled_rules"]),
        *([] if entry else _format_misses(plan["nearest"])),
        *plan["errors"],
    ]
    if plan["stackstorm"]:
        remarks.append(f"rules unknown: StackStorm cannot be queried: {plan['stackstorm']}")
    if plan["replay"]:
        would_start = _choose_verdict(plan) in _STARTING_VERDICTS
        how = "; to run it now:" if would_start else ""
        remarks.append(f"nothing is started again by itself{how}")
    for remark in remarks:
        lines += _wrap(remark, "  ")
    command = _choose_next_command(plan)
    if command:
        return [*lines, f"  next: {command}"]  # a command is never broken
    return [*lines, *_wrap(f"next: {_choose_next_step(plan)}", "  ")]


def _format_entry(entry: Mapping[str, Any]) -> list[str]:
    started = f", started by {', '.join(entry['started_by'])}" if entry["started_by"] else ""
    conditions = [*entry["check"], *filter(None, [entry["only_if"]])]
    steps = {
        "change": entry["change"],
        "asks first": ", ".join(entry["approvers"])
        + (", after the host has been inspected" if entry["inspects_first"] else ""),
        "only if": " and ".join(conditions) if entry["change"] else "",
        "checks": "" if entry["change"] else ", ".join(conditions),
        "verified by": entry["verify"] if entry["change"] else "",
        "collects": ", ".join(entry["evidence"]),
        "silences the alert": f"during the change, for at most {entry['silence_minutes']} min"
        if entry["silence_minutes"]
        else "",
    }
    title = f"remediation {entry['name']}, mode {entry['mode']}{started}"
    return [
        title,
        *(f"{name}: {step}" for name, step in steps.items() if step),
        *(f"stopped: {reason}" for reason in entry["stopped_by"]),
    ]


def _format_rule(rule: Mapping[str, Any]) -> str:
    note = f": {rule['note']}" if rule["note"] else ""
    doubt = f" (may match; {rule['doubt']})" if rule["doubt"] else ""
    return f"rule {rule['rule']} starts {rule['action']}{doubt}{note}"


def _format_misses(misses: Sequence[str]) -> list[str]:
    if not misses:
        return ["no remediation is configured"]
    return [f"nearest: {misses[0]}", *(f"also near: {miss}" for miss in misses[1:])]


_STARTING_VERDICTS = ("WOULD CHANGE", "WOULD ASK", "WOULD START A RULE")


def _choose_verdict(plan: Mapping[str, Any]) -> str:
    entry = plan["remediation"]
    if entry and entry["would_change"]:
        return "WOULD ASK" if entry["approvers"] else "WOULD CHANGE"
    if entry and entry["started_by"]:
        return "WOULD REPORT" if entry["stage"] in ("evidence", "dry_run") else "WOULD BE REFUSED"
    if plan["rules"]:
        return "WOULD START A RULE"
    return "UNKNOWN" if plan["stackstorm"] else "NOTHING WOULD RUN"


def _choose_next_command(plan: Mapping[str, Any]) -> str:
    """Return the command that is useful next, or '' if a person has to do something else."""
    entry = plan["remediation"]
    if plan["stackstorm"]:
        return commands.HEALTH
    if plan["errors"]:
        return ""
    if entry and _NO_STARTING_RULE in entry["stopped_by"]:
        return "st2 rule enable poundcake.remediate"
    if plan["replay"] and _choose_verdict(plan) in _STARTING_VERDICTS:
        return str(plan["replay"])
    if plan["episode"] and _choose_verdict(plan) in _STARTING_VERDICTS:
        return commands.show_episode(plan["episode"])
    return ""


def _choose_next_step(plan: Mapping[str, Any]) -> str:
    """Return what a person does next if no command is useful.

    No step leads back to the command that has shown the plan, or to one that names that command.
    """
    verdict = _choose_verdict(plan)
    if plan["errors"]:
        return _CORRECT
    if verdict in _STARTING_VERDICTS:
        return "nothing to be done until the alert fires"
    if plan["remediation"]:
        return "nothing to be done; to allow the change, lift what is shown as stopped"
    return "nothing to be done, or add an entry to remediations that matches the alert"


def _format_entries(plan: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for entry in plan["remediations"]:
        state = "ERROR" if entry["problems"] else "ok"
        action = f", {entry['action']}" if entry["action"] else ""
        lines += _wrap(f"{state:5}  {entry['name']}  {entry['mode']}{action}", "")
        lines += _wrap(f"matches {', '.join(entry['match'])}", "       ")
        for problem in entry["problems"]:
            lines += _wrap(problem, "       ")
        for reason in entry["stopped_by"]:
            lines += _wrap(f"stopped: {reason}", "       ")
    for error in plan["errors"]:
        lines += _wrap(f"ERROR  {error}", "")
    for text in plan["warnings"]:
        lines += _wrap(f"WARNING  {text}", "")
    has_problems = any(entry["problems"] for entry in plan["remediations"])
    if has_problems or any(error != _NO_STARTING_RULE for error in plan["errors"]):
        return [*lines, *_wrap(f"next: {_CORRECT}", "  ")]
    if not lines:
        return ["no remediation is configured", "  next: st2 run poundcake.plan --help"]
    return [
        *lines,
        "  next: st2 run poundcake.plan format=text labels=alertname=NAME,instance=HOST",
    ]


def _wrap(text: str, indent: str) -> list[str]:
    """Wrap text into lines of at most 80 columns. A longer word is not split."""
    first_word, *other_words = text.split(" ")
    lines, line = [], indent + first_word
    for word in other_words:
        if display_width(f"{line} {word}") > _WIDTH:
            lines.append(line.rstrip())
            line = f"{indent}  {word}"
        else:
            line += " " + word
    return [*lines, line.rstrip()]
