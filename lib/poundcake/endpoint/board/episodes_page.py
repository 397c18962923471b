"""The page Episodes: a search with the filters of the views, and the episodes that match."""

from __future__ import annotations

from typing import Any, Mapping

from poundcake.alertmanager import FIRING, RESOLVED
from poundcake.config import Config
from poundcake.endpoint.board.alert_rows import for_list
from poundcake.endpoint.board.board_service import BoardService
from poundcake.endpoint.board.journal_rows import JournalRows, read_journal
from poundcake.endpoint.board.now_page import test_command
from poundcake.endpoint.board.paths import search_path
from poundcake.endpoint.board.search_form import field, problem_of, text_fields
from poundcake.endpoint.query_parameters import parse_text
from poundcake.trail import queries, search
from poundcake.trail.search import FilterError
from poundcake.trail.text.near_misses import describe_near_miss

PAGE_ROWS = 20
"""Number of episodes on a page."""
# The filters of the form, each with an example. Those of the second list are shown on demand.
_MAIN_FIELDS = {
    "alert_name": ("Alert name", "HostDown, or Host*"),
    "instance": ("Instance", "web-1, with or without its port"),
    "labels": ("Labels", 'team=infra,cluster=~"eu-.*"'),
    "since": ("Since", "2h, 7d or 2026-01-14T12:00:00Z"),
}
_OTHER_FIELDS = {
    "until": ("Until", "30m or 2026-01-14T13:00:00Z"),
    "severity": ("Severity", "critical"),
    "annotations": ("Annotations", 'summary=~".*disk.*"'),
    "fingerprint": ("Fingerprint", "its first characters, at least four"),
    "episode": ("Episode", "its first characters, at least four"),
    "request_id": ("Request", "its first characters, at least four"),
}
_CHOICES = {
    "status": ("Status", (FIRING, RESOLVED)),
    "outcome": ("Outcome", search.OUTCOMES),
}
FILTERS = (*_MAIN_FIELDS, *_OTHER_FIELDS, *_CHOICES)
"""The filters of the page."""


def read_parameters(query: str) -> dict[str, str]:
    """Return the parameters of the page; missing ones are empty.

    Raises:
        ProblemError: A parameter is unknown.
    """
    return parse_text(query, (*FILTERS, "before"))


def read_episodes(
    config: Config, service: BoardService, parameters: Mapping[str, str]
) -> dict[str, Any]:
    """Return what the page shows.

    Args:
        config: The configuration.
        service: The endpoint.
        parameters: The parameters of the page, from read_parameters().

    Raises:
        FilterError: A value is invalid, a short id is ambiguous, or the cursor belongs to another
            view.
        DatabaseError: The tracking database cannot be read.
    """
    filters = search.parse(None, **parameters)
    view = service.read_recorded(
        queries.read_episodes,
        filters=filters,
        limit=PAGE_ROWS,
        web_url=config.st2_web_url,
        config=config,
    ).as_json()
    # The journal has no pages.
    journal = JournalRows([]) if filters.before else read_journal(service, filters)
    given = {name: text for name, text in parameters.items() if name != "before"}
    next_cursor = view.get("next", "")
    return {
        **_form(parameters),
        "episodes": [for_list(episode, {}) for episode in view["episodes"]],
        "at_least": bool(view.get("at_least") or next_cursor),
        "near_misses": [
            {"text": describe_near_miss(miss), "episode": miss.get("episode", "")}
            for miss in view.get("near_misses", ())
        ],
        "journal": journal.as_variables(),
        "newest_href": search_path(**given) if filters.before else "",
        "older_href": search_path(**given, before=next_cursor) if next_cursor else "",
        "test_command": test_command(config),
    }


def invalid_form(parameters: Mapping[str, str], error: FilterError) -> dict[str, Any]:
    """Return what the page shows if a filter is invalid: the form, with the error at its field."""
    return {**_form(parameters, {error.field: problem_of(error)}), "episodes": None}


def _form(parameters: Mapping[str, str], errors: Mapping[str, str] = {}) -> dict[str, Any]:
    """Return the fields of the form, with their values."""
    choices = [
        {"choices": list(choices), **field(name, label, parameters, errors)}
        for name, (label, choices) in _CHOICES.items()
    ]
    others = text_fields(_OTHER_FIELDS, parameters, errors)
    has_other = any(item["value"] or item["error"] for item in (*others, choices[1]))
    return {
        "main_fields": text_fields(_MAIN_FIELDS, parameters, errors),
        "status_field": choices[0],
        "outcome_field": choices[1],
        "other_fields": others,
        "has_other": has_other,
        "is_filtered": any(parameters[name] for name in FILTERS),
        # An error about a field that the form does not have, such as the cursor.
        "problem": "; ".join(text for name, text in errors.items() if name not in FILTERS),
    }
