"""Format the views as text for a terminal.

Each function takes a view as JSON and returns its text. `layout` contains what they share.
"""

from __future__ import annotations

from poundcake.trail.text.daily_report import daily_report
from poundcake.trail.text.episodes import why
from poundcake.trail.text.health import health
from poundcake.trail.text.layout import DEFAULT_WIDTH, MAX_WIDTH, MIN_WIDTH
from poundcake.trail.text.lists import alerts_active, executions_recent, st2_executions
from poundcake.trail.text.request import status
from poundcake.trail.text.stats import stats

__all__ = [
    "DEFAULT_WIDTH",
    "MAX_WIDTH",
    "MIN_WIDTH",
    "alerts_active",
    "daily_report",
    "executions_recent",
    "health",
    "st2_executions",
    "stats",
    "status",
    "why",
]
