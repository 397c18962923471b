"""The line at the top of every page: whether changes are made, and what prevents them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import Any

from sqlalchemy.engine import Connection

from poundcake.config import Config
from poundcake.endpoint.board.board_service import BoardService
from poundcake.endpoint.journal import JournalError
from poundcake.timestamps import format_timestamp
from poundcake.trail import commands
from poundcake.trail.database import DatabaseError
from poundcake.trail.health import newest_webhook_at
from poundcake.trail.limits import find_open_breakers
from poundcake.trail.open_counts import NameCount, find_storms
from poundcake.trail.queries.rows import format_optional
from poundcake.trail.text.health import describe_status

KEEP_SECONDS = 1.0
"""Seconds for which a status line is used again."""

MAX_NAMES = 3
"""Maximum number of storms, and of breakers, that the line names."""


@dataclass(frozen=True)
class Facts:
    """What the tracking database says about the state of the pack.

    Attributes:
        storms: The alert names that have too many open incidents.
        breakers: The remediations that are off because their changes failed.
        newest_webhook_at: When the newest recorded webhook was received.
    """

    storms: list[NameCount] = field(default_factory=list)
    breakers: list[dict[str, Any]] = field(default_factory=list)
    newest_webhook_at: datetime | None = None


def read_facts(connection: Connection, config: Config) -> Facts:
    """Return what the tracking database says about the state of the pack."""
    return Facts(
        find_storms(connection, config.storm_limit),
        read_breakers(connection, config),
        newest_webhook_at(connection),
    )


def read_breakers(connection: Connection, config: Config) -> list[dict[str, Any]]:
    """Return the remediations that are off because their changes failed."""
    return [
        {
            "remediation": failure.remediation,
            "failures": config.breaker_failures,
            "last_failed_at": format_optional(failure.ended_at),
            "episode": failure.episode,
            "command": commands.release_breaker(failure.remediation),
        }
        for failure in find_open_breakers(connection, config.breaker_failures)
    ]


class StatusLine:
    """The status line, read at most once a second.

    Args:
        config: The configuration.
        service: The endpoint.
    """

    def __init__(self, config: Config, service: BoardService) -> None:
        self._config = config
        self._service = service
        self._lock = threading.Lock()
        self._last: dict[str, Any] = {}
        self._stale_at = 0.0

    def read(self) -> dict[str, Any]:
        """Return the variables of the template `status_line.html`.

        What cannot be read is left out, and the line says so.
        """
        with self._lock:
            if monotonic() >= self._stale_at:
                self._last = self._read()
                self._stale_at = monotonic() + KEEP_SECONDS
            return self._last

    def _read(self) -> dict[str, Any]:
        facts, problem = Facts(), ""
        try:
            facts = self._service.read_recorded(read_facts, config=self._config)
        except DatabaseError as error:
            problem = str(error)
        try:
            newest_waiting_at = self._service.newest_waiting_at()
        except JournalError:  # the health view says so
            newest_waiting_at = None
        times = [time for time in (facts.newest_webhook_at, newest_waiting_at) if time]
        health = self._service.recent_health()
        storms = [{"alert_name": name, "count": count} for name, count in facts.storms]
        return {
            "status": health["status"],
            "status_text": describe_status(health),
            "dry_run": health["dry_run"],
            "paused": health["paused"],
            "storms": storms[:MAX_NAMES],
            "more_storms": len(storms[MAX_NAMES:]),
            "storm_limit": self._config.storm_limit,
            "breakers": facts.breakers[:MAX_NAMES],
            "more_breakers": len(facts.breakers[MAX_NAMES:]),
            "newest_webhook_at": format_timestamp(max(times)) if times else None,
            "problem": problem,
        }
