"""Find rules that put alert text into a command or a list of hosts.

python scripts/check_rules.py [FILE or FOLDER ...]      (default: rules)

No escaping makes alert text safe in either. Only the fields in SAFE_FIELDS are safe there, such as
ids, times, `status` and `trigger.host`. The script needs PyYAML.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Iterator

import yaml

TRIGGERS = "poundcake."
# The parameter that a shell parses, and the one that StackStorm splits at each comma.
UNSAFE = {"cmd": "a shell evaluates it", "hosts": "a comma in it names another host"}
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
# `trigger.name` and `trigger['name']` are a field; `trigger` alone is the whole payload.
TRIGGER = re.compile(
    r"(?<![\w.'\"])trigger\b(?:\s*\.\s*(\w+)|\s*\[\s*['\"](\w+)['\"]\s*\])?(?:\.\w+|\[[^\]]*\])*"
)

NAME = re.compile(r"(?<![\w.'\"])[A-Za-z_]\w*")


def main(arguments: list[str]) -> int:
    """Print every problem. Return 1 if there is one, otherwise 0."""
    files = [file for argument in arguments or ["rules"] for file in rule_files(Path(argument))]
    problems = [f"{file}: {problem}" for file in files for problem in check_file(file)]
    print(
        "\n".join(problems) or f"no alert text in a command or a list of hosts: {len(files)} rules"
    )
    return 1 if problems else 0


def rule_files(path: Path) -> list[Path]:
    """Return the YAML files in a folder and its subfolders. For a file, return the file."""
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
    """Return a message for each use of alert text in an unsafe parameter of a rule."""
    trigger, action = (as_dict(as_dict(rule).get(key)) for key in ("trigger", "action"))
    if not str(trigger.get("type", "")).startswith(TRIGGERS):
        return []
    parameters = as_dict(action.get("parameters"))
    tainted = parameters_with_text(parameters)
    return [
        f"{action.get('ref')}: {name} contains {text}, text of an alert: {UNSAFE[name]}; "
        "use trigger.host, or an action that takes the text as one argument (docs/RULES.md)"
        for name, value in unsafe_parameters(parameters)
        for text in alert_texts(value, tainted)
    ]


def parameters_with_text(parameters: dict[str, Any]) -> set[str]:
    """Return the names of the parameters that contain alert text, directly or by reference."""
    tainted: set[str] = set()
    while True:
        extended = {name for name, value in parameters.items() if any(alert_texts(value, tainted))}
        if extended == tainted:
            return tainted
        tainted = extended


def as_dict(value: Any) -> dict[str, Any]:
    """Return the value if it is a mapping, otherwise an empty mapping."""
    return value if isinstance(value, dict) else {}


def unsafe_parameters(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each unsafe parameter, at any depth."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name in UNSAFE:
                yield name, item
            else:
                yield from unsafe_parameters(item)
    elif isinstance(value, list):
        for item in value:
            yield from unsafe_parameters(item)


def alert_texts(value: Any, tainted: set[str]) -> Iterator[str]:
    """Yield each reference to alert text in the templates of a value, at any depth.

    Args:
        value: A parameter of a rule.
        tainted: Names of other parameters that contain alert text.
    """
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for item in value:
            yield from alert_texts(item, tainted)
    elif isinstance(value, str):
        for template in TEMPLATE.findall(value):
            for match in TRIGGER.finditer(template):
                if (match[1] or match[2]) not in SAFE_FIELDS:
                    yield match[0]
            yield from (name for name in NAME.findall(template) if name in tainted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
