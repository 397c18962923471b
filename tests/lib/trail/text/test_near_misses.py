"""A text without rows says what nearly matched."""

from __future__ import annotations

import pytest

from poundcake.trail import text
from poundcake.trail.stats import AdmittedAlerts, Figures, Stats
from tests.lib.samples import NOON, later

MISSES = [
    {"excluded_by": [{"filter": "instance", "given": "web-2", "found": ""}]},
    {
        "alert_name": "HostDown",
        "instance": "web-1:9100",
        "received_at": "2026-01-14T12:00:00.123456Z",
        "excluded_by": [
            {"filter": "severity", "given": "warning", "found": "critical"},
            {"filter": "since", "given": "2026-01-14T13:00:00Z", "found": "2026-01-14T12:00:00Z"},
        ],
    },
    {
        "alert_name": "",
        "instance": "",
        "received_at": "2026-01-14T12:00:00Z",
        "excluded_by": [
            {"filter": "alert_name", "given": "A", "found": '""'},
            {"filter": "executions", "given": "any", "found": "none"},
            {"filter": "state", "given": "open", "found": "ended"},
            {"filter": "labels", "given": "team=a", "found": "team=b\nforged"},
        ],
    },
]
LINES = [
    "no alert has instance=web-2",
    "",
    "nearly matched:",
    "  HostDown web-1:9100 at 2026-01-14 12:00:00Z: severity is critical, not warning; "
    "before since=2026-01-14T13:00:00Z",
    "  an alert without a name at 2026-01-14 12:00:00Z: alert_name is empty, not A; nothing ran for"
    " it; its incident has ended; has team=b forged, not team=a",
]

EMPTY_STATS = Stats(
    since=NOON,
    until=later(3600),
    total=Figures(),
    by_workflow={},
    by_alert_name={},
    admitted=AdmittedAlerts(),
    unmatched_names=(),
).as_json()


@pytest.mark.parametrize(
    "render, view",
    [
        (text.why, {"episodes": [], "count": 0}),
        (text.alerts_active, {"active_alerts": [], "count": 0}),
        (text.executions_recent, {"executions": [], "total": 0}),
        (text.st2_executions, {"st2_executions": [], "count": 0}),
        (text.stats, EMPTY_STATS),
    ],
)
def test_every_view_shows_near_misses(render, view):
    assert "matched:" not in render(dict(view))
    words = " ".join(render({**view, "near_misses": MISSES}).split())
    assert " ".join(" ".join(LINES).split()) in words
