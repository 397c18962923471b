"""The page Now: what fires, what was done about it, and what needs a person."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Mapping, NamedTuple, Sequence

from sqlalchemy.engine import Connection

from poundcake.config import Config
from poundcake.endpoint.board.alert_rows import approvals, for_list, shared_labels
from poundcake.endpoint.board.board_service import BoardService
from poundcake.endpoint.board.journal_rows import JournalRows, read_journal
from poundcake.endpoint.board.paths import now_path, search_path
from poundcake.endpoint.board.stackstorm_state import stackstorm_problem
from poundcake.endpoint.query_parameters import parse_text
from poundcake.trail import search
from poundcake.trail.database import DatabaseError
from poundcake.trail.open_counts import NameCount, count_open_incidents
from poundcake.trail.queries.episode_verdict import EpisodeVerdict
from poundcake.trail.queries.incidents import (
    Attention,
    read_incidents,
    read_incidents_at_work,
)
from poundcake.trail.search import Filters
from poundcake.trail.text.lists import severity_rank

MAX_INCIDENTS = 200
"""Maximum number of open incidents that the page judges, besides those that wait for a person."""
MAX_AT_WORK = 50
"""Maximum number of incidents about whose executions the page asks StackStorm, in one request.

Those that wait for the answer of a person come first.
"""
MAX_CARDS = 16
"""Maximum number of incidents that the page shows in detail, one by one."""
MAX_GROUPS = 16
"""Maximum number of groups of incidents that the page shows in detail."""
MAX_ROWS = 30
"""Maximum number of incidents that these groups list."""
MAX_GROUP_ROWS = 10
"""Maximum number of incidents that one group lists."""
MAX_NAMES = 10
"""Maximum number of alert names for which a list counts the other incidents."""
_MAX_ROW_LABELS = 3
_MAX_JOURNAL_ROWS = 5
# With at most this many open incidents, all groups are open. Of the urgent sections, so are groups
# with few incidents.
_FEW = 10
_FEW_URGENT = 5

_ASKING = (EpisodeVerdict.WAITING_FOR_APPROVAL, EpisodeVerdict.WORKFLOW_PAUSED)
_WITHOUT_SUCCESS = (
    EpisodeVerdict.DID_NOT_HELP,
    EpisodeVerdict.FAILED,
    EpisodeVerdict.RESULT_UNKNOWN,
    EpisodeVerdict.CANCELED,
    EpisodeVerdict.REFUSED,
    EpisodeVerdict.RULE_FAILED,
    EpisodeVerdict.LOST,
)
_TITLES = {
    "waiting": "Waiting for your answer",
    "failed": "Failed, refused or did not help",
    "in_progress": "In progress",
    "handled": "Acknowledged or silenced",
    "other": "For you to handle",
}
_URGENT = ("waiting", "failed")
# The sections whose incidents are always grouped, because nothing about one of them is urgent.
_GROUPED = ("handled", "other")


class _Recorded(NamedTuple):
    """What the tracking database says.

    Attributes:
        incidents: The open incidents to show, as JSON: the newest ones and, on the first page,
            those that StackStorm works on.
        left_out_count: The number of open incidents that follow.
        next: The cursor of the next page, or ''.
        names: The number of open incidents by the name of their alerts, if some are not shown.
    """

    incidents: list[dict[str, Any]]
    left_out_count: int
    next: str
    names: list[NameCount]


def parse_cursor(query: str) -> Filters:
    """Return the filters that select the open incidents of a page: all, or those after a cursor.

    Raises:
        ProblemError: A parameter is unknown.
        FilterError: The cursor is invalid.
    """
    return search.parse(None, **parse_text(query, ("before",)))


def read_now(config: Config, service: BoardService, filters: Filters) -> dict[str, Any]:
    """Return what the page shows.

    If the tracking database cannot be read, the page shows that, and what waits in the journal.

    Args:
        config: The configuration.
        service: The endpoint.
        filters: The parse_cursor() of the page.

    Raises:
        FilterError: The cursor belongs to another view.
    """
    problem = stackstorm = ""
    recorded = _Recorded([], 0, "", [])
    is_first = filters.before is None
    try:
        at_work = _read_at_work(config, service) if is_first else {}
        stackstorm = at_work.get("stackstorm", "")
        incidents = at_work.get("active_alerts", [])
        recorded = service.read_recorded(
            _read, config=config, filters=filters, current_incidents=incidents
        )
    except DatabaseError as error:
        problem = str(error)
    journal = read_journal(service, Filters(), _MAX_JOURNAL_ROWS) if is_first else JournalRows([])
    hidden = shared_labels(recorded.incidents)
    return {
        "is_first": is_first,
        "problem": problem,
        "stackstorm": stackstorm,
        "shared_labels": hidden,
        "sections": _build_sections(recorded.incidents, hidden, config),
        "more": _count_more(recorded),
        "journal": journal.as_variables(),
        "test_command": test_command(config),
    }


def test_command(config: Config) -> str:
    """Return the command that posts a sample alert, as the README shows it."""
    scheme = "https" if config.tls_certificate else "http"
    token = '-H "Authorization: Bearer $TOKEN" ' if config.authentication else ""
    return (
        f"curl {token}-H 'Content-Type: application/json' "
        "--data-binary @tests/scenarios/samples/firing.json "
        f"{scheme}://127.0.0.1:{config.port}/api/v1/webhook"
    )


def _read_at_work(config: Config, service: BoardService) -> dict[str, Any]:
    """Return the incidents that StackStorm works on, with their executions as they are now.

    So a request for approval is shown as soon as it waits. While StackStorm is down, the executions
    are as of the last sync, because many people wait for this page.
    """
    query = {"limit": MAX_AT_WORK, "config": config}
    problem = stackstorm_problem(service)
    if not problem:
        return service.read(read_incidents_at_work, **query)
    view = service.read_recorded(read_incidents_at_work, **query).as_json()
    return {**view, "stackstorm": problem} if view["active_alerts"] else view


def _read(
    connection: Connection,
    config: Config,
    filters: Filters,
    current_incidents: Sequence[dict[str, Any]],
) -> _Recorded:
    newest = read_incidents(connection, filters, MAX_INCIDENTS, config=config)
    rows = [*current_incidents, *newest.as_json()["active_alerts"]]
    by_episode: dict[str, dict[str, Any]] = {}
    for row in rows:
        by_episode.setdefault(row["episode"], row)
    incidents = list(by_episode.values())
    next_cursor = newest.page.next
    return _Recorded(
        incidents,
        newest.page.total - len(incidents),
        next_cursor.format() if next_cursor else "",
        count_open_incidents(connection) if next_cursor and not filters.before else [],
    )


def _section_of(incident: Mapping[str, Any]) -> str:
    """Return the section that shows an incident."""
    if incident["attention"] == Attention.HANDLED:
        return "handled"
    if incident["verdict"] in _ASKING or incident.get("approvals"):
        return "waiting"
    if incident["attention"] == Attention.IN_PROGRESS:
        return "in_progress"
    return "failed" if incident["verdict"] in _WITHOUT_SUCCESS else "other"


@dataclass
class _Budget:
    """How many more incidents the page may show, so that it stays small."""

    cards: int = MAX_CARDS
    groups: int = MAX_GROUPS
    rows: int = MAX_ROWS


@dataclass
class _Group:
    """The incidents of a section with the same verdict and alert name."""

    section: str
    incidents: list[Mapping[str, Any]] = field(default_factory=list)

    def as_variables(
        self, hidden: Mapping[str, str], config: Config, budget: _Budget, are_few: bool
    ) -> dict[str, Any]:
        """Return the variables of a template.

        Args:
            hidden: The labels that all incidents of the page share.
            config: The configuration.
            budget: How much more the page may show. It is reduced.
            are_few: Whether the page shows only a few incidents.
        """
        first = self.incidents[0]
        if self._may_be_card(budget):
            budget.cards -= 1
            return {"card": {**for_list(first, hidden), "approvals": approvals(first, config)}}
        href = search_path(alert_name=first["alert_name"] or '""', status="firing")
        if not budget.groups:
            return {
                "verdict": first["verdict"],
                "title": first["title"],
                "alert_name": first["alert_name"],
                "count": len(self.incidents),
                "href": href,
            }
        budget.groups -= 1
        labels = {**hidden, **shared_labels(self.incidents)}
        most = MAX_AT_WORK if self.section == "waiting" else MAX_GROUP_ROWS
        count = min(budget.rows, most, len(self.incidents))
        budget.rows -= count
        rows = [for_list(row, labels, _MAX_ROW_LABELS) for row in self.incidents[:count]]
        key = "/".join((self.section, first["title"], first["alert_name"]))
        return {
            "id": f"group-{hashlib.sha256(key.encode()).hexdigest()[:10]}",
            "verdict": first["verdict"],
            "title": first["title"],
            "alert_name": first["alert_name"],
            "instance": first["instance"] if len(self.incidents) == 1 else "",
            "severity": first["severity"],
            "count": len(self.incidents),
            "is_open": are_few or (self.section in _URGENT and len(self.incidents) <= _FEW_URGENT),
            "oldest": min(filter(None, (row["starts_at"] for row in self.incidents)), default=None),
            "headline": self._common("headline"),
            "next_step": self._common("next_step"),
            "next_command": self._common("next_command"),
            "labels": {name: labels[name] for name in labels if name not in hidden},
            "has_details": not self._common("headline") or any(row["labels"] for row in rows),
            "rows": rows,
            "left_out": len(self.incidents) - count,
            "href": href,
        }

    def _may_be_card(self, budget: _Budget) -> bool:
        return len(self.incidents) == 1 and self.section not in _GROUPED and budget.cards > 0

    def _common(self, name: str) -> str:
        """Return the value that all incidents have, or ''."""
        values = {str(row[name]) for row in self.incidents}
        return values.pop() if len(values) == 1 else ""


def _build_sections(
    incidents: Sequence[Mapping[str, Any]], hidden: Mapping[str, str], config: Config
) -> list[dict[str, Any]]:
    """Return the sections that are not empty, the most urgent one first."""
    budget = _Budget()
    sections = []
    for name, title in _TITLES.items():
        rows = [incident for incident in incidents if _section_of(incident) == name]
        if name == "failed":
            rows.sort(key=lambda row: _WITHOUT_SUCCESS.index(row["verdict"]))
        rows.sort(key=severity_rank)
        if name == "waiting":
            rows.sort(key=lambda row: row["next_at"] or "~")  # without a deadline, last
        groups: dict[tuple[str, ...], _Group] = {}
        for number, row in enumerate(rows):
            # Each request for approval needs its own answer.
            is_single = name == "waiting" and number < MAX_CARDS
            key = (row["title"], row["alert_name"], row["episode"] if is_single else "")
            groups.setdefault(key, _Group(name)).incidents.append(row)
        if groups:
            are_few = len(incidents) <= _FEW
            shown = [
                group.as_variables(hidden, config, budget, are_few) for group in groups.values()
            ]
            names = [group for group in shown if not ("card" in group or "id" in group)]
            sections.append(
                {
                    "name": name,
                    "title": title,
                    "count": len(rows),
                    "groups": [group for group in shown if "card" in group or "id" in group],
                    "names": names[:MAX_NAMES],
                    "left_out": sum(group["count"] for group in names[MAX_NAMES:]),
                }
            )
    return sections


def _count_more(recorded: _Recorded) -> dict[str, Any] | None:
    """Return how many open incidents follow on other pages, or None if none does."""
    if not recorded.next or recorded.left_out_count <= 0:
        return None
    shown = Counter(incident["alert_name"] for incident in recorded.incidents)
    names = [
        {
            "alert_name": row.alert_name,
            "count": row.incidents - shown[row.alert_name],
            "href": search_path(alert_name=row.alert_name or '""', status="firing"),
        }
        for row in recorded.names
        if row.incidents > shown[row.alert_name]
    ]
    return {
        "count": recorded.left_out_count,
        "names": names[:MAX_NAMES],
        "names_left_out": max(0, len(names) - MAX_NAMES),
        "href": now_path(recorded.next),
    }
