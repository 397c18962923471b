"""Check Alertmanager's configuration: the receiver that notifies the endpoint, and its routes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Iterator, Mapping, Sequence

from poundcake.config import Config
from poundcake.doctor.finding import Finding, ok, problem, unknown, warning

WEBHOOK_PATH = "/api/v1/webhook"
_MASKED = "<secret>"
_DEFAULT_TIMES = {"group_interval": "5m", "repeat_interval": "4h"}
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
_DURATION = re.compile(r"(\d+)(ms|[smhdwy])")
_PAGE = "docs/ALERTMANAGER.md"


@dataclass(frozen=True)
class _Route:
    """A route with the settings that it inherits.

    Attributes:
        receiver: The name of its receiver.
        settings: Its settings, including inherited ones.
        is_alone: Whether no other route can notify a person about its alerts.
        is_reachable: Whether an alert can reach it. It cannot if another route takes every alert.
    """

    receiver: str
    settings: Mapping[str, Any]
    is_alone: bool
    is_reachable: bool


def check_routing(
    text: str, url: str, config: Config, seen_receivers: Sequence[str] = ()
) -> list[Finding]:
    """Check the configuration of an Alertmanager.

    Args:
        text: The configuration in YAML, as its API shows it: secrets are masked.
        url: The URL of the Alertmanager, for the findings.
        config: The configuration of the pack.
        seen_receivers: The names of the receivers in recorded webhooks.
    """
    # StackStorm includes this package. It is imported here because only doctor needs it.
    import yaml

    try:
        document = yaml.safe_load(text)
        receivers = {item["name"]: item for item in document["receivers"]}
        routes = list(_walk(document["route"], _DEFAULT_TIMES, len(receivers) > 1))
    except (yaml.YAMLError, AttributeError, KeyError, TypeError):
        what = f"the configuration of {url} could not be read"
        return [unknown("alertmanager", what, f"compare it with {_PAGE}")]
    names = [name for name, item in receivers.items() if _is_certain(item)]
    masked = [name for name, item in receivers.items() if _is_masked(item)]
    names = names or [name for name in masked if name in seen_receivers]
    if not names:
        return [_report_missing_receiver(url, config, masked)]
    findings = [ok("alertmanager.receiver", f"{url} has the receiver {', '.join(names)}")]
    findings += _check_listed([name for name in names if name not in config.receivers], config)
    for name in names:
        findings += _check_webhooks(receivers[name], name, config)
        used = [route for route in routes if route.receiver == name]
        findings += _check_routes(used, name, config)
    return findings


def _report_missing_receiver(url: str, config: Config, masked: Sequence[str]) -> Finding:
    check = "alertmanager.receiver"
    add = f"add a receiver with the url {config.endpoint}{WEBHOOK_PATH} and a route ({_PAGE})"
    if masked:
        what = (
            f"{url} hides the URLs of its webhooks, and no webhook from {', '.join(masked)} is "
            "recorded yet"
        )
        return unknown(check, what, f"if none of them is the endpoint, {add}")
    return problem(check, f"no receiver of {url} posts to {WEBHOOK_PATH}", add)


def _check_listed(unlisted_names: Sequence[str], config: Config) -> list[Finding]:
    if not config.receivers or not unlisted_names:
        return []
    names = ", ".join(unlisted_names)
    what = f"not listed in the key receivers, so nothing is remediated for their alerts: {names}"
    remedy = "add the receivers to this key, or remove it from the configuration"
    return [problem("alertmanager.receiver", what, remedy)]


def _check_webhooks(receiver: Mapping[str, Any], name: str, config: Config) -> list[Finding]:
    """Check the webhooks of a receiver that notifies the endpoint."""
    check = "alertmanager.receiver"
    findings = []
    for webhook in _webhooks(receiver):
        if not (_is_endpoint(webhook) or _is_hidden(webhook)):
            continue
        if webhook.get("send_resolved") is False:
            what = f"the receiver {name} has send_resolved: false, so no incident ever ends"
            findings.append(problem(check, what, f"set send_resolved: true ({_PAGE})"))
        limit = webhook.get("max_alerts") or 0
        if limit and limit < 100:
            what = f"the receiver {name} leaves out all but {limit} alerts of a group (max_alerts)"
            findings.append(warning(check, what, "set max_alerts to 5000"))
        if config.authentication and not _sends_credential(webhook):
            accepted = ", ".join(config.authentication)
            what = f"the receiver {name} sends no credential, and the endpoint accepts: {accepted}"
            remedy = f"set http_config.authorization.credentials_file ({_PAGE})"
            findings.append(problem(check, what, remedy))
    return findings or [ok(check, f"the receiver {name} sends resolves and enough alerts")]


def _check_routes(routes: Sequence[_Route], name: str, config: Config) -> list[Finding]:
    """Check the routes to a receiver that notifies the endpoint."""
    check = "alertmanager.route"
    if not routes:
        what = f"no route leads to the receiver {name}"
        return [problem(check, what, f"add a route to it ({_PAGE})")]
    if not any(route.is_reachable for route in routes):
        what = f"no alert reaches the receiver {name}, because another route takes every alert"
        remedy = "move the route to it before that route, and set continue: true"
        return [problem(check, what, remedy)]
    findings: list[Finding] = []
    for route in routes:
        findings += _check_times(route.settings, name, config)
    # A group without labels contains every alert, and is sent again whenever one of them changes.
    if any(not route.settings.get("group_by") for route in routes):
        what = f"a route to {name} has no group_by, so every change sends all alerts again"
        findings.append(warning(check, what, "set group_by: [alertname, instance]"))
    if any(route.is_alone for route in routes):
        what = f"alerts of a route to {name} notify nobody else"
        remedy = "set continue: true, and add a route to people (docs/ESCALATION.md)"
        findings.append(warning(check, what, remedy))
    return findings or [ok(check, f"the routes to {name} repeat, group and continue as needed")]


def _check_times(settings: Mapping[str, Any], name: str, config: Config) -> list[Finding]:
    check = "alertmanager.route"
    repeat = _read_seconds(settings.get("repeat_interval"))
    group = _read_seconds(settings.get("group_interval"))
    findings = []
    if repeat >= config.stale_after_hours * 3600:
        what = (
            f"a route to {name} repeats only every {settings['repeat_interval']}, and after "
            f"{config.stale_after_hours} h an alert counts as stale (stale_after_hours)"
        )
        remedy = "set repeat_interval: 1h, or raise stale_after_hours"
        findings.append(problem(check, what, remedy))
    if config.fresh_minutes and group >= config.fresh_minutes * 60:
        what = (
            f"group_interval of a route to {name} is {settings['group_interval']}, and nothing is "
            f"changed for alerts older than {config.fresh_minutes} min (fresh_minutes)"
        )
        findings.append(warning(check, what, "set group_interval: 1m, or raise fresh_minutes"))
    if config.alertmanagers and group >= config.gone_after_seconds:
        what = (
            f"group_interval of a route to {name} is {settings['group_interval']}, and an incident "
            f"is closed after {config.gone_after_seconds} s (gone_after_seconds)"
        )
        remedy = "set group_interval: 1m, or raise gone_after_seconds"
        findings.append(warning(check, what, remedy))
    return findings


def _walk(
    route: Mapping[str, Any],
    inherited: Mapping[str, Any],
    tells_others: bool,
    is_reachable: bool = True,
) -> Iterator[_Route]:
    """Yield a route and its descendants.

    Args:
        route: The route.
        inherited: The settings of its parent.
        tells_others: Whether another route may notify a person about its alerts. For the root, this
            is whether there is another receiver.
        is_reachable: Whether an alert can reach it.
    """
    own = {name: value for name, value in route.items() if name not in ("routes", "continue")}
    settings = {**inherited, **own}
    is_root = inherited is _DEFAULT_TIMES
    children = route.get("routes") or []
    # Alertmanager uses the receiver of a route only for alerts that match none of its children.
    uses_receiver = is_reachable and not any(map(_matches_all, children))
    receiver = str(settings.get("receiver", ""))
    yield _Route(receiver, settings, not tells_others, uses_receiver)
    for number, child in enumerate(children):
        # Alertmanager uses the first route that matches, and goes on after one that continues.
        before = any(other.get("continue") for other in children[:number])
        after = bool(child.get("continue") and children[number + 1 :])
        is_taken = any(_matches_all(o) and not o.get("continue") for o in children[:number])
        tells = before or after or (tells_others and not is_root)
        yield from _walk(child, settings, tells, is_reachable and not is_taken)


def _matches_all(route: Mapping[str, Any]) -> bool:
    return not any(route.get(name) for name in ("matchers", "match", "match_re"))


def _webhooks(receiver: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return receiver.get("webhook_configs") or ()


def _is_certain(receiver: Mapping[str, Any]) -> bool:
    return any(_is_endpoint(webhook) for webhook in _webhooks(receiver))


def _is_masked(receiver: Mapping[str, Any]) -> bool:
    return any(_is_hidden(webhook) for webhook in _webhooks(receiver))


def _is_endpoint(webhook: Mapping[str, Any]) -> bool:
    path = str(webhook.get("url") or "").split("?")[0].rstrip("/")
    return path.endswith(WEBHOOK_PATH)


def _is_hidden(webhook: Mapping[str, Any]) -> bool:
    """Return True if Alertmanager does not show the URL of a webhook."""
    return bool(webhook.get("url_file")) or webhook.get("url") == _MASKED


def _sends_credential(webhook: Mapping[str, Any]) -> bool:
    """Return False if a webhook certainly sends no credential."""
    http = webhook.get("http_config") or {}
    names = ("authorization", "basic_auth", "bearer_token", "bearer_token_file", "oauth2")
    has_certificate = bool((http.get("tls_config") or {}).get("cert_file"))
    # The URL may contain a user and a password.
    is_in_url = _is_hidden(webhook) or "@" in str(webhook.get("url") or "")
    return has_certificate or is_in_url or any(http.get(name) for name in names)


def _read_seconds(text: Any) -> float:
    """Return a duration as Alertmanager writes it (1h30m), in seconds."""
    return sum(int(number) * _UNITS[unit] for number, unit in _DURATION.findall(str(text or "")))
