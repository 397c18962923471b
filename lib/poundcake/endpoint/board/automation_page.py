"""The page Automation: what remediations achieved over time, and which alerts no rule matched."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from poundcake.config import Config
from poundcake.endpoint.board.board_service import BoardService
from poundcake.endpoint.board.charts import Series
from poundcake.endpoint.board.paths import AUTOMATION_PATH, search_path, with_parameters
from poundcake.endpoint.board.search_form import problem_of, text_fields
from poundcake.timestamps import format_timestamp
from poundcake.trail import search
from poundcake.trail.remediation_history import (
    HistoryReader,
    RemediationHistory,
    WorkflowFigures,
    add_figures,
)
from poundcake.trail.search import FilterError

DEFAULT_SINCE = "7d"
MAX_CHARTS = 6
"""Maximum number of workflows that have charts. The others are in the table."""
MIN_BUCKETS = 6
"""The charts have at least this many hours or days, even if the first ones are empty."""
MAX_ROWS = 50
"""Maximum number of workflows, and of alert names that no rule matched."""
# The filters of the form, each with an example.
_FIELDS = {
    "since": ("Since", "24h, 30d or 2026-01-14T12:00:00Z"),
    "until": ("Until", "12h or 2026-01-15T12:00:00Z"),
    "alert_name": ("Alert name", "HostDown, or Host*"),
    "labels": ("Labels", 'team=infra,cluster=~"eu-.*"'),
    "instance": ("Instance", "web-1, with or without its port"),
    "severity": ("Severity", "critical"),
    "fingerprint": ("Fingerprint", "its first characters, at least four"),
    "annotations": ("Annotations", 'summary=~".*disk.*"'),
}
FILTERS = tuple(_FIELDS)
"""The filters of the page, which are those of the action stats."""
_PERIODS = {"24h": "24 hours", "7d": "7 days", "30d": "30 days"}
# The series of the charts of results, from the bottom to the top: the attribute of WorkflowFigures,
# the name, and the shape.
_RESULTS = (
    ("cleared", "Cleared", "solid"),
    ("undecided", "Changed, effect not known yet", "hollow"),
    ("not_cleared", "Changed, did not help", "hollow"),
    ("failed", "Failed", "narrow"),
    ("refused", "Refused", "hollow"),
    ("dry_run", "Dry run", "solid"),
    ("other", "Other", "narrow"),
)


def read_automation(
    config: Config,
    service: BoardService,
    history_reader: HistoryReader,
    parameters: Mapping[str, str],
) -> dict[str, Any]:
    """Return what the page shows.

    Args:
        config: The configuration.
        service: The endpoint.
        history_reader: Reads the history of remediations.
        parameters: The text of each of FILTERS; missing ones are empty.

    Raises:
        FilterError: A value is invalid, the time range is too long, or there are too many alerts to
            apply the matchers to.
        DatabaseError: The tracking database cannot be read.
    """
    texts = _with_default(parameters)
    history = service.read_recorded(
        history_reader.read,
        filters=search.parse(None, **texts),
        not_cleared_minutes=config.not_cleared_minutes,
    )
    return {
        **_form(texts, {}),
        "history": _as_variables(history, texts),
        "grafana_url": config.grafana_url,
    }


def invalid_form(parameters: Mapping[str, str], error: FilterError) -> dict[str, Any]:
    """Return what the page shows if a filter is invalid: the form, with the error at its field."""
    form = _form(_with_default(parameters), {error.field: problem_of(error)})
    return {**form, "history": None, "grafana_url": ""}


def _with_default(parameters: Mapping[str, str]) -> dict[str, str]:
    has_range = parameters["since"] or parameters["until"]
    return dict(parameters) if has_range else {**parameters, "since": DEFAULT_SINCE}


def _form(texts: Mapping[str, str], errors: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of the form and the links to other periods."""
    others = [name for name in FILTERS if name != "since"]
    return {
        "fields": text_fields(_FIELDS, texts, errors),
        "is_filtered": bool(errors)
        or texts["since"] not in _PERIODS
        or any(texts[name] for name in others),
        "periods": [
            {
                "name": name,
                "href": with_parameters(AUTOMATION_PATH, {**texts, "since": since, "until": ""}),
                "is_current": texts["since"] == since and not texts["until"],
            }
            for since, name in _PERIODS.items()
        ],
    }


def _as_variables(history: RemediationHistory, texts: Mapping[str, str]) -> dict[str, Any]:
    by_workflow = history.by_workflow()
    figures = {workflow: add_figures(buckets) for workflow, buckets in by_workflow.items()}
    names = history.unmatched_names()
    time_format = "%Y-%m-%d %H:%MZ" if history.is_hourly else "%Y-%m-%d"
    labels = [bucket.start.strftime(time_format) for bucket in history.buckets]
    # Figures that are not read yet look like empty buckets.
    is_read = not history.unread_until
    first = _first_shown(list(by_workflow.values()), len(labels)) if is_read else 0
    return {
        "since": format_timestamp(history.since),
        "until": format_timestamp(history.until),
        "bucket": "hour" if history.is_hourly else "day",
        "unread_until": format_timestamp(history.unread_until) if history.unread_until else "",
        "labels": labels,
        "chart_labels": labels[first:],
        "total": _totals(add_figures(list(figures.values()))),
        "rows": [
            {"workflow": workflow, **_totals(figures[workflow])}
            for workflow in list(figures)[:MAX_ROWS]
        ],
        "charts": [
            {
                "workflow": workflow,
                "totals": _totals(figures[workflow]),
                "results": _result_series(buckets[first:]),
                "times": _time_series(buckets[first:]),
            }
            for workflow, buckets in list(by_workflow.items())[:MAX_CHARTS]
        ],
        "legend": _result_series([]),
        "time_legend": _time_series([]),
        "more_workflows": max(0, len(figures) - MAX_ROWS),
        "unmatched": [
            {
                "alert_name": name.alert_name,
                "count": name.count,
                "last_at": format_timestamp(name.last_at),
                "href": search_path(**{**texts, "alert_name": name.alert_name or search.NO_VALUE}),
            }
            for name in names[:MAX_ROWS]
        ],
        "unmatched_count": sum(name.count for name in names),
        "more_names": max(0, len(names) - MAX_ROWS),
    }


def _first_shown(workflows: Sequence[Sequence[WorkflowFigures]], count: int) -> int:
    """Return the number of empty buckets that the charts leave out on the left.

    Args:
        workflows: The figures of each workflow by bucket.
        count: The number of buckets.
    """
    for number in range(count):
        if any(buckets[number].started for buckets in workflows):
            return max(0, min(number, count - MIN_BUCKETS))
    return 0


def _totals(figures: WorkflowFigures) -> dict[str, Any]:
    decided = figures.cleared + figures.not_cleared
    return {
        "started": figures.started,
        "changed": figures.changed,
        **{attribute: getattr(figures, attribute) for attribute, _, _ in _RESULTS},
        "cleared_percent": round(100 * figures.cleared / decided) if decided else None,
        "mean_seconds": figures.durations.mean_seconds,
        "mean_seconds_to_clear": figures.times_to_clear.mean_seconds,
    }


def _result_series(buckets: Sequence[WorkflowFigures]) -> list[list[Any]]:
    return [
        list(Series(name, attribute, shape, [getattr(each, attribute) for each in buckets]))
        for attribute, name, shape in _RESULTS
    ]


def _time_series(buckets: Sequence[WorkflowFigures]) -> list[list[Any]]:
    to_clear = [each.times_to_clear.median_seconds for each in buckets]
    durations = [each.durations.median_seconds for each in buckets]
    return [
        list(Series("Median time to clear", "cleared", "line", to_clear)),
        list(Series("Median duration", "duration", "dashed", durations)),
    ]
