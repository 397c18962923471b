"""Find rules that put alert text into a command or a list of hosts.

python scripts/check_rules.py [FILE or FOLDER ...]      (default: rules)

No escaping makes alert text safe there. Only the fields in SAFE_FIELDS are safe, such as ids,
times, `status` and `trigger.host`. The script needs PyYAML.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Iterator

import yaml

TRIGGER_PREFIX = "poundcake."
# The parameter that a shell parses, and the one that StackStorm splits at each comma.
UNSAFE_PARAMETERS = {"cmd": "a shell evaluates it", "hosts": "a comma in it adds another host"}
SAFE_FIELDS = {
    "request_id",
    "episode",
    "status",
    "host",
    "starts_at",
    "ends_at",
    "until",
    "group_status",
    "alerts_received",
    "open",
    "remediation",
    "event_id",
    "time",
    "result",
    "limit",
    "inquiry_id",
    "execution_id",
}
TEMPLATE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
# `trigger.name` and `trigger['name']` refer to a field; `trigger` alone is the whole payload.
TRIGGER_REFERENCE = re.compile(
    r"(?<![\w.'\"])trigger\b(?:\s*\.\s*(\w+)|\s*\[\s*['\"](\w+)['\"]\s*\])?(?:\.\w+|\[[^\]]*\])*"
)
IDENTIFIER = re.compile(r"(?<![\w.'\"])[A-Za-z_]\w*")


def main(arguments: list[str]) -> int:
    """Print every problem. Return 1 if there is one, otherwise 0."""
    files = [
        file for argument in arguments or ["rules"] for file in find_rule_files(Path(argument))
    ]
    problems = [f"{file}: {problem}" for file in files for problem in check_file(file)]
    print(
        "\n".join(problems) or f"no alert text in a command or a list of hosts: {len(files)} rules"
    )
    return 1 if problems else 0


def find_rule_files(path: Path) -> list[Path]:
    """Return the YAML files in a folder and its subfolders, or the path itself if it is a file."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix in (".yaml", ".yml"))
    return [path]


def check_file(file: Path) -> list[str]:
    """Return the problems in a file, or why it cannot be read."""
    try:
        rule = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        return [f"cannot be read: {' '.join(str(error).split())}"]
    return check_rule(rule)


def check_rule(rule: Any) -> list[str]:
    """Return a problem for each unsafe parameter of a rule that contains alert text."""
    trigger, action = (as_dict(as_dict(rule).get(key)) for key in ("trigger", "action"))
    if not str(trigger.get("type", "")).startswith(TRIGGER_PREFIX):
        return []
    parameters = as_dict(action.get("parameters"))
    tainted = find_tainted_parameters(parameters)
    return [
        f"{action.get('ref')}: {name} contains {text}, text of an alert: "
        f"{UNSAFE_PARAMETERS[name]}; use trigger.host, or an action that takes the text as one "
        "argument (docs/RULES.md)"
        for name, value in find_unsafe_parameters(parameters)
        for text in find_alert_text(value, tainted)
    ]


def find_tainted_parameters(parameters: dict[str, Any]) -> set[str]:
    """Return the names of the parameters that contain alert text, directly or by reference."""
    tainted: set[str] = set()
    while True:
        extended = {
            name for name, value in parameters.items() if any(find_alert_text(value, tainted))
        }
        if extended == tainted:
            return tainted
        tainted = extended


def as_dict(value: Any) -> dict[str, Any]:
    """Return the value if it is a mapping, otherwise an empty mapping."""
    return value if isinstance(value, dict) else {}


def find_unsafe_parameters(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each unsafe parameter, at any depth."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name in UNSAFE_PARAMETERS:
                yield name, item
            else:
                yield from find_unsafe_parameters(item)
    elif isinstance(value, list):
        for item in value:
            yield from find_unsafe_parameters(item)


def find_alert_text(value: Any, tainted: set[str]) -> Iterator[str]:
    """Yield each reference to alert text in the templates of a value, at any depth.

    Args:
        value: A parameter of a rule.
        tainted: Names of other parameters that contain alert text.
    """
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for item in value:
            yield from find_alert_text(item, tainted)
    elif isinstance(value, str):
        for template in TEMPLATE.findall(value):
            for match in TRIGGER_REFERENCE.finditer(template):
                if (match[1] or match[2]) not in SAFE_FIELDS:
                    yield match[0]
            yield from (name for name in IDENTIFIER.findall(template) if name in tainted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
