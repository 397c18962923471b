"""The view why: episodes with their judgement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Sequence

from sqlalchemy.engine import Connection

from poundcake.config import Config
from poundcake.remediations import Mode
from poundcake.trail import clock
from poundcake.trail.pause import read_pause
from poundcake.trail.queries.episode import Episode
from poundcake.trail.queries.episode_timeline import list_events
from poundcake.trail.queries.episode_verdict import Circumstances, judge, list_runs
from poundcake.trail.queries.episodes import DEFAULT_LIMIT, find_episodes
from poundcake.trail.queries.near_misses import near_misses, needs_near_misses
from poundcake.trail.queries.page import JsonRow, Page
from poundcake.trail.search import Filters


@dataclass(frozen=True)
class EpisodesView:
    """A page of episodes, and what their judgements depend on.

    Attributes:
        page: The episodes, most recently seen first.
        circumstances: What their judgements depend on besides the episodes.
        stackstorm: Why open executions are shown as of the last sync, or ''.
        near_misses: The alerts that nearly match, if no episode does.
    """

    page: Page[Episode]
    circumstances: Circumstances
    stackstorm: str = ""
    near_misses: Sequence[dict[str, Any]] = ()

    def with_episodes(self, episodes: Sequence[Episode], stackstorm: str) -> EpisodesView:
        """Return the view with other versions of the same episodes."""
        return replace(self, page=self.page.with_rows(episodes), stackstorm=stackstorm)

    def as_json(self) -> dict[str, Any]:
        """Return the view as JSON, as its URL returns it."""
        rows = [_JudgedEpisode(episode, self.circumstances) for episode in self.page.rows]
        return self._page_as_json(rows, "episodes")

    def _page_as_json(self, rows: Sequence[JsonRow], rows_key: str) -> dict[str, Any]:
        view = self.page.with_rows(rows).as_json(rows_key, "count")
        if self.circumstances.pause:
            view = {"paused": self.circumstances.pause.as_json(), **view}
        if self.near_misses:
            view["near_misses"] = list(self.near_misses)
        if self.stackstorm:
            view["stackstorm"] = self.stackstorm
        return view


@dataclass(frozen=True)
class _JudgedEpisode:
    """An episode as the view shows it: with its judgement, and with what happened in it."""

    episode: Episode
    circumstances: Circumstances

    def as_json(self) -> dict[str, Any]:
        """Return the episode as JSON."""
        runs = list_runs(self.episode, self.circumstances)
        events = list_events(self.episode, runs, self.circumstances.not_cleared_minutes)
        return {
            **judge(self.episode, self.circumstances).as_json(),
            **self.episode.as_json(),
            "timeline": [event.as_json() for event in events],
        }


def read_episodes(
    connection: Connection,
    filters: Filters,
    limit: int = DEFAULT_LIMIT,
    offset: int = 0,
    web_url: str = "",
    config: Config | None = None,
) -> EpisodesView:
    """Return the episodes of the matching alerts, most recently seen first.

    Args:
        connection: A connection to the tracking database.
        filters: The filters on alerts.
        limit: The maximum number of episodes.
        offset: How many episodes to skip.
        web_url: StackStorm's web UI, for links to the executions.
        config: The configuration, on whose limits the judgements depend; None for the defaults.
    """
    page = find_episodes(connection, filters, limit, offset, web_url)
    has_misses = needs_near_misses(page.rows, filters, offset)
    return EpisodesView(
        page,
        read_circumstances(connection, config or Config()),
        near_misses=near_misses(connection, filters) if has_misses else (),
    )


def read_circumstances(connection: Connection, config: Config) -> Circumstances:
    """Return what the judgement of every episode depends on now."""
    return Circumstances(
        now=clock.database_now(connection),
        pause=read_pause(connection),
        stale_after_hours=config.stale_after_hours,
        not_cleared_minutes=config.not_cleared_minutes,
        breaker_failures=config.breaker_failures,
        settle_seconds=config.settle_seconds,
        dry_run=config.dry_run,
        dry_run_entries=frozenset(
            entry.name for entry in config.remediations if entry.mode is Mode.DRY_RUN
        ),
        allows_no_host=not config.allowed_hosts,
        entries_without_host=frozenset(
            entry.name
            for entry in config.remediations
            if entry.action and not (entry.host_parameter or entry.target)
        ),
    )
