"""Write the table of keys in docs/CONFIGURATION.md from config.schema.yaml.

.venv/bin/python scripts/configuration_page.py

The script keeps everything above the marker in the page, which is written manually.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Mapping

import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "CONFIGURATION.md"
SCHEMA = ROOT / "config.schema.yaml"
MARKER = (
    "<!-- The rest is generated from config.schema.yaml. "
    "To update it, run: .venv/bin/python scripts/configuration_page.py -->\n"
)


def main() -> None:
    """Update the page."""
    PAGE.write_text(update_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def update_page(page: str) -> str:
    """Return the page with a table of the current keys in config.schema.yaml.

    Raises:
        ValueError: The page has no marker.
    """
    manual_part, marker, _ = page.partition(MARKER)
    if not marker:
        raise ValueError(f"{PAGE}: the marker is missing; it is the line {MARKER.strip()}")
    return f"{manual_part}{marker}\n{format_table(SCHEMA)}"


def format_table(schema: Path) -> str:
    """Return the keys of a configuration schema as a table in Markdown, with one row per key."""
    keys = yaml.safe_load(schema.read_text(encoding="utf-8"))
    lines = ["| key | type | default | what it does |", "|---|---|---|---|"]
    lines += [format_row(name, key) for name, key in keys.items()]
    return "\n".join(lines) + "\n"


def format_row(name: str, key: Mapping[str, Any]) -> str:
    """Return the row of a key."""
    kind = f"{describe_type(key)}, secret" if has_secret(key) else describe_type(key)
    description = " ".join(key["description"].split()).replace("|", "\\|")
    return f"| `{name}` | {kind} | {format_default(key)} | {description} |"


def has_secret(key: Mapping[str, Any]) -> bool:
    """Return True if a key, or a part of it, is a secret."""
    parts = [key.get("items", {}), *key.get("properties", {}).values()]
    return bool(key.get("secret")) or any(has_secret(part) for part in parts if part)


def describe_type(key: Mapping[str, Any]) -> str:
    """Return the type of a key's value."""
    if key["type"] == "array":
        return f"list of {key['items']['type']}s"
    return str(key["type"])


def format_default(key: Mapping[str, Any]) -> str:
    """Return the default of a key as YAML, or "none" for an empty string, list or object."""
    default = key.get("default")
    if default in (None, "", [], {}):
        return "none"
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


if __name__ == "__main__":
    main()
