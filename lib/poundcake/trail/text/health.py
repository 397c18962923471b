"""Format the health of the endpoint and its components."""

from __future__ import annotations

import json
from typing import Any, Mapping

from poundcake.trail.text.layout import counted, join_lines, sanitize, table
from poundcake.trail.text.remarks import pause_lines


def health(view: dict[str, Any]) -> str:
    """Format the health of the endpoint and its components."""
    view = sanitize(view)
    components = view["components"]
    lines = [
        *pause_lines(view),
        f"PoundCake {view['version']}: {view['status']}",
        f"endpoint {view['address'] or 'not listening'}, authentication "
        f"{view['authentication']}, database {view['database']}, "
        f"{'dry run' if view['dry_run'] else 'remediations change hosts'}",
        "",
    ]
    lines += table(
        ("part", "state", "since", "waiting", "detail"),
        [
            (name, part["state"], part["since"], part.get("waiting", ""), part["detail"])
            for name, part in components.items()
        ],
    )
    for request_id in components.get("journal", {}).get("stuck_requests", []):
        lines.append(f"stuck: request {request_id} cannot be recorded; poundcake.status shows why")
    pending = components.get("database", {}).get("pending")
    if pending:
        lines.append(f"database: {pending}")
    refusals = view.get("refused") or {}
    if refusals.get("last"):
        last_refusal = refusals["last"]
        lines.append(
            f"refused since the endpoint started: {counted(refusals['count'], 'webhook')}"
            f" (Alertmanager does not send them again); the last at"
            f" {last_refusal['refused_at']} from {last_refusal['sender']}:"
            f" {last_refusal['status']}, {last_refusal['detail']}"
        )
    lines += _configuration(view.get("configuration") or {})
    for key in view.get("literal_secrets", []):
        lines.append(
            f"{key} is in plain text in the configuration: use file:/path or env:NAME instead"
        )
    return join_lines(lines)


def _configuration(configuration: Mapping[str, Any]) -> list[str]:
    """Return a line for each problem of the endpoint's configuration."""
    problems = [configuration.get("problem"), *configuration.get("warnings", [])]
    problems += configuration.get("remediation_errors", [])
    lines = [f"configuration: {problem}" for problem in problems if problem]
    for key, values in configuration.get("differences", {}).items():
        lines.append(
            f"configuration: {key} is {json.dumps(values['actions'])} for actions and"
            f" {json.dumps(values['endpoint'])} for the endpoint, which applies a change within"
            " 30 seconds"
        )
    return lines
