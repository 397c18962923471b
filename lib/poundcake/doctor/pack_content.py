"""Check what StackStorm has registered of the pack, and whether it is enabled."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

from poundcake import __version__
from poundcake.doctor.account import Account
from poundcake.doctor.finding import Finding, ok, problem, warning
from poundcake.stackstorm import StackStormError, fields
from poundcake.stackstorm.catalogue import Api, list_all

PACK = "poundcake"
REQUIRED_RULES = (f"{PACK}.record", f"{PACK}.sync")
"""The rules without which nothing is recorded, or nothing is learned about what ran."""
_PURGE_RULE = f"{PACK}.purge"
# The path of each kind of content in StackStorm's API, and the word for one of the kind.
_KINDS = {
    "actions": ("/actions", "action"),
    "rules": ("/rules", "rule"),
    "triggers": ("/triggertypes", "trigger"),
    "sensors": ("/sensortypes", "sensor"),
    "policies": ("/policies", "policy"),
    "aliases": ("/actionalias", "alias"),
}
_RELOAD = "run: st2ctl reload --register-"
# The file of the sensor declares the triggers.
_REGISTERED_WITH = {"triggers": "sensors"}


@dataclass(frozen=True)
class PackFacts:
    """What StackStorm has registered of the pack.

    Attributes:
        error: Why StackStorm's API cannot be used, or ''.
        version: The registered version of the pack, or '' if it is not registered.
        user: The StackStorm user as whom the pack's actions use the API, or '' if it is unknown.
        registered: Whether each piece of content is enabled, by its kind and its reference.
        expected: The references of the content in the pack's files, by kind.
    """

    error: str = ""
    version: str = ""
    user: str = ""
    registered: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    expected: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_pack(api: Api, account: Account, pack_folder: str) -> PackFacts:
    """Read the facts. An API that cannot be used is part of the facts.

    Args:
        api: StackStorm's API.
        account: As whom the pack's actions use it.
        pack_folder: The folder of the pack on this host.
    """
    if account.error:
        return PackFacts(error=account.error)
    try:
        pack = api.get(f"/packs/{PACK}")
        if pack is not None and not isinstance(pack, dict):
            return PackFacts(error="the server that answers is not the StackStorm API")
        return PackFacts(
            version=fields.text(pack, "version"),
            user=account.name,
            registered={kind: _list_content(api, path) for kind, (path, _) in _KINDS.items()},
            expected=_read_files(pack_folder),
        )
    except StackStormError as error:
        return PackFacts(error=str(error))


def check_pack(facts: PackFacts) -> list[Finding]:
    """Check the facts."""
    check = "stackstorm"
    if facts.error:
        return [
            problem(
                check,
                f"actions cannot use the StackStorm API: {facts.error}",
                "start st2api, or correct st2_api_url and st2_api_key",
            )
        ]
    if not facts.version:
        remedy = "install it: st2 pack install file:///path/to/the/clone"
        return [problem(check, f"StackStorm has no pack {PACK}", remedy)]
    who = f" as {facts.user}" if facts.user else ""
    findings = [
        ok(check, f"actions can use the StackStorm API{who}"),
        _check_version(facts.version),
    ]
    for kind in _KINDS:
        findings += _check_kind(facts, kind)
    return findings + _check_rules(facts.registered.get("rules", {}))


def _check_version(version: str) -> Finding:
    check = "stackstorm.version"
    if version == __version__:
        return ok(check, f"StackStorm has version {version} of the pack registered")
    what = f"StackStorm has version {version} registered, and the files are of {__version__}"
    return problem(check, what, "install the pack again (docs/INSTALL.md, Upgrade)")


def _check_kind(facts: PackFacts, kind: str) -> list[Finding]:
    """Check that everything of one kind in the pack's files is registered and enabled."""
    check = f"stackstorm.{kind}"
    registered = facts.registered.get(kind, {})
    expected = facts.expected.get(kind, ())
    missing = [ref for ref in expected if ref not in registered]
    # Rules are checked one by one, because some are disabled when they are installed.
    disabled = [ref for ref in expected if registered.get(ref) is False and kind != "rules"]
    report = warning if kind == "aliases" else problem
    noun = _KINDS[kind][1]
    findings = []
    if missing:
        what = f"{kind} that are not registered: {', '.join(missing)}"
        findings.append(report(check, what, _RELOAD + _REGISTERED_WITH.get(kind, kind)))
    if disabled:
        remedy = f"run: st2 {noun} enable {disabled[0]}"
        if kind in ("policies", "aliases"):
            remedy = f"enable them in the overrides of the pack, then {_RELOAD}{kind}"
        findings.append(report(check, f"{kind} that are disabled: {', '.join(disabled)}", remedy))
    if not findings:
        words = f"1 {noun} is" if len(expected) == 1 else f"{len(expected)} {kind} are"
        findings.append(ok(check, f"{words} registered"))
    return findings


def _check_rules(registered: Mapping[str, bool]) -> list[Finding]:
    check = "stackstorm.rules"
    findings = [
        problem(
            check,
            f"the rule {rule} is disabled, so webhooks wait or their results stay unknown",
            f"run: st2 rule enable {rule}, and see docs/REMEDIATION.md to keep it enabled",
        )
        for rule in REQUIRED_RULES
        if registered.get(rule) is False
    ]
    findings = findings or [ok(check, f"the rules {' and '.join(REQUIRED_RULES)} are enabled")]
    if not registered.get(_PURGE_RULE):
        what = f"the rule {_PURGE_RULE} is disabled, so the history is kept forever"
        findings.append(ok("stackstorm.retention", what))
    return findings


def _list_content(api: Api, path: str) -> dict[str, bool]:
    """Return whether each piece of the pack's content is enabled, by its reference."""
    return {
        str(item["ref"]): item.get("enabled") is not False
        for item in list_all(api, path, pack=PACK)
        if isinstance(item, dict) and item.get("pack") == PACK and item.get("ref")
    }


def _read_files(folder: str) -> dict[str, list[str]]:
    """Return the references of the content in the pack's files, by kind."""
    # StackStorm includes this package. It is imported here because only doctor needs it.
    import yaml

    # The parser in C, if PyYAML has it, is ten times as fast.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    def load(kind: str) -> list[Mapping[str, Any]]:
        path = os.path.join(folder, kind)
        documents = []
        for name in sorted(os.listdir(path)) if os.path.isdir(path) else ():
            if name.endswith(".yaml"):
                with open(os.path.join(path, name), encoding="utf-8") as file:
                    documents.append(yaml.load(file, loader))
        return [document for document in documents if isinstance(document, dict)]

    sensors = load("sensors")
    kinds = ("actions", "rules", "policies", "aliases")
    names = {kind: [d.get("name") for d in load(kind)] for kind in kinds}
    names["sensors"] = [sensor.get("class_name") for sensor in sensors]
    names["triggers"] = [t.get("name") for s in sensors for t in s.get("trigger_types") or ()]
    return {kind: [f"{PACK}.{name}" for name in found if name] for kind, found in names.items()}
